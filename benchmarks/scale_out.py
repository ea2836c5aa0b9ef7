"""Items per second through vLLM's own server: one, two behind two addresses, and one with two copies of the model.

Each copy of the model has one core of its own, so two can do twice what one does, less what client and HTTP server take
of the same cores. The baseline is one server with one copy. All vectors must be those of the transformers engine. Needs
vLLM's CPU build, reportlab, and two cores.

    python benchmarks/scale_out.py
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from common import in_turns, machine, ratios, sample_pdf, seconds, show, spread
from engine import workloads, write_checkpoint

from nemovlm import Embedder

CORES = sorted(os.sched_getaffinity(0))[:2]
OPTIONS = '{"enforce_eager": true, "gpu_memory_utilization": 0.05}'
TOLERANCE = 1e-5


@contextmanager
def server(folder: Path, binding: str, *flags: str) -> Iterator[str]:
    """Run `nemovlm serve --vllm-server`; yield its address."""
    command = [str(Path(sys.executable).with_name("nemovlm")), "serve", "--vllm-server", "--model", str(folder)]
    environment = {
        **os.environ,
        "NEMOVLM_ENGINE_OPTIONS": OPTIONS,
        "NEMOVLM_DTYPE": "float32",
        "VLLM_CPU_OMP_THREADS_BIND": binding,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    process = subprocess.Popen([*command, "--port", "0", *flags], env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        for line in process.stderr:
            if line.startswith("listening at "):
                yield line.split()[2].rstrip(";")
                break
        else:
            raise SystemExit("the server did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--pages", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rows = []
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = write_checkpoint(Path(scratch) / "random-vl")
        plain = stack.enter_context(Embedder(folder, engine="transformers", dtype="float32"))
        assert plain.tiling
        works = workloads(
            sample_pdf(Path(scratch) / "samples.pdf", given.pages), plain.tiling, given.texts, given.pages
        )
        one, other = (stack.enter_context(server(folder, str(core))) for core in CORES)
        both = stack.enter_context(server(folder, "|".join(map(str, CORES)), "--", "--data-parallel-size", "2"))
        addresses = {"one server": [one], "two servers": [one, other], "--data-parallel-size 2": [both]}
        embedders = {
            name: stack.enter_context(Embedder("random-vl", engine="vllm-server", base_url=urls))
            for name, urls in addresses.items()
        }
        for kind in ("short texts", "pages"):
            items = works[kind]
            right = plain.embed(items)
            for name, embedder in embedders.items():
                if (difference := float(np.abs(embedder.embed(items) - right).max())) > TOLERANCE:
                    raise SystemExit(f"{name}, {kind}: the vectors differ by {difference:.1e}")
            ways = {name: partial(seconds, partial(it.embed, items)) for name, it in embedders.items()}
            speeds = {
                name: [len(items) / time for time in times] for name, times in in_turns(ways, given.rounds).items()
            }
            rows += [
                [f"{len(items)} {kind}", name, spread(speed, 1), spread(ratios(speed, speeds["one server"]))]
                for name, speed in speeds.items()
            ]
    show(
        f"Copies of a model on vLLM's server, a core each, {given.rounds} rounds",
        [["", "", "items/s", "of one server"], *rows],
        ["median (min..max)", "device: cpu, float32", machine(packages_distributions()["vllm"][0], "torch")],
    )


if __name__ == "__main__":
    main()
