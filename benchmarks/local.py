"""Items per second of the two local engines: vLLM against transformers, in one run, by how many items a call has.

Both compute in float32 on the same device, over the same random model (about 23 million weights); their vectors must
agree. Loading does not count, and every size of call is warmed up first, because vLLM compiles. Needs vLLM and
reportlab.

    python benchmarks/local.py
    python benchmarks/local.py --texts 4096 --pages 256 --dtype bfloat16
"""

import argparse
import sys
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import in_turns, machine, ratios, sample_pdf, seconds, show, spread
from engine import workloads, write_checkpoint

from nemovlm import Embedder, Passage
from nemovlm.inputs import Vector

SIZES = (1, 4, 16, 64)
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.02}


def embed(embedder: Embedder, items: list[Passage], size: int) -> Vector:
    """Return the vectors (n, d), from calls with `size` items each."""
    return np.concatenate([embedder.embed(items[start : start + size]) for start in range(0, len(items), size)])


def measure(kind: str, size: int, items: list[Passage], plain: Embedder, vllm: Embedder, given: Any) -> list[str]:
    """Return a row of the table."""
    engines = {"transformers": plain, "vllm": vllm}
    theirs, ours = (embed(engine, items, size) for engine in engines.values())  # warms up as well
    difference = float(np.abs(ours - theirs).max())
    if difference > TOLERANCE[given.dtype]:
        raise SystemExit(f"{kind}: not comparable, the vectors differ by {difference:.1e}")
    ways = {name: partial(seconds, partial(embed, engine, items, size)) for name, engine in engines.items()}
    slow, fast = ([len(items) / time for time in times] for times in in_turns(ways, given.rounds).values())
    return [kind, str(size), spread(slow, 1), spread(fast, 1), spread(ratios(fast, slow)), f"{difference:.0e}"]


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=128, help="or as many as a call has, if that is more")
    parser.add_argument("--pages", type=int, default=16, help="likewise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=TOLERANCE, default="float32")
    given = parser.parse_args()
    rows = []
    with TemporaryDirectory() as name:
        folder = write_checkpoint(Path(name) / "random-vl")
        pdf = sample_pdf(Path(name) / "samples.pdf", max(SIZES))
        with (
            Embedder(folder, engine="transformers", dtype=given.dtype) as plain,
            Embedder(folder, engine="vllm", dtype=given.dtype) as vllm,
        ):
            assert plain.tiling
            for kind in ("short texts", "pages"):
                for size in SIZES:
                    works = workloads(pdf, plain.tiling, max(given.texts, size), max(given.pages, size))
                    rows.append(measure(kind, size, works[kind], plain, vllm, given))
                    print(*rows[-1], sep="  ", file=sys.stderr)
            device = vllm.describe().device
    show(
        f"Local engines, {given.texts} short texts and {given.pages} pages (or a call's worth), {given.rounds} rounds",
        [
            ["", "items a call", "transformers, items/s", "vLLM, items/s", "vLLM / transformers", "largest difference"],
            *rows,
        ],
        [
            "median (min..max)",
            f"device: {device}, {given.dtype}",
            machine(packages_distributions()["vllm"][0], "torch", "transformers"),
        ],
    )


if __name__ == "__main__":
    main()
