"""An embedder in a process that was forked."""

import subprocess
import sys
from pathlib import Path

FORKING = """
import multiprocessing, sys
import numpy as np, torch
from nemovlm import Embedder

torch.set_num_threads(2)
embedder = Embedder(sys.argv[1])
expected = embedder.embed(["some text"] * 40)  # enough work for torch to start its threads
context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
child = context.Process(target=lambda: queue.put(embedder.embed(["some text"] * 40)))
child.start()
assert np.abs(queue.get() - expected).max() <= 1e-5
child.join()
assert np.array_equal(embedder.embed(["some text"] * 40), expected)
"""


def test_a_forked_child_works(vl_folder: Path) -> None:
    """An embedder that was in use, on several threads, works in a forked child as well as in the parent."""
    subprocess.run([sys.executable, "-c", FORKING, str(vl_folder)], check=True, timeout=120)
