"""A hundred thousand short texts through `Embedder.stream`, from a server that fails one request in twenty.

Every vector is checked against the expected one as it arrives. The faults are drawn at random with a fixed seed: 503,
429 with `Retry-After: 0`, 500, connections that are reset or closed within the reply, and replies that end within
their JSON. The memory of this process at the end is compared with that after the first tenth. Ends with code 1 if a
vector is wrong or missing, if there is an error, or if memory has grown by more than 15 %.

    python benchmarks/soak.py
    python benchmarks/soak.py --items 10000 --fail 0.2
"""

import argparse
import sys
import time
from statistics import median

import numpy as np
import psutil
from common import machine, show
from slow_server import FAULTS, serving, vectors_of

from nemovlm import Embedder, NemoVLMError

DIMENSION = 64
TOLERANCE = 1e-6
MOST_GROWTH = 1.15
SAMPLES = 200  # of memory
MIB = 2**20


def text(number: int) -> str:
    """Return a text that there is once."""
    return f"Line {number} of the log: pump {number % 17} of station {number % 101} was read."


def main() -> int:
    """Read the command line and measure; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--fail", type=float, default=0.05, help="the share of requests that fail")
    parser.add_argument("--batch", type=int, default=16, help="items in one request")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at once")
    given = parser.parse_args()
    process = psutil.Process()
    memory: list[float] = []
    errors: list[NemoVLMError] = []
    seen = right = 0
    every = max(1, given.items // SAMPLES)
    with (
        serving(fail=given.fail, dimension=DIMENSION) as server,
        Embedder(
            "made-up/soak", base_url=server.url, max_batch_size=given.batch, max_concurrency=given.concurrency
        ) as embedder,
    ):
        start, cpu = time.perf_counter(), time.process_time()
        for number, vector in enumerate(embedder.stream(map(text, range(given.items)), on_error=errors.append)):
            seen += 1
            if vector is not None:
                difference = np.abs(vector - vectors_of([text(number)], DIMENSION)[0]).max()
                right += bool(difference <= TOLERANCE)
            if number % every == 0:
                memory.append(process.memory_info().rss / MIB)
        took, cpu = time.perf_counter() - start, time.process_time() - cpu
        stats = server.stats()
    tenth = max(1, len(memory) // 10)
    warm, end = median(memory[tenth : 2 * tenth]), median(memory[-tenth:])
    faults = stats["faults"]
    show(
        f"{given.items} texts from a server that fails {given.fail:.0%} of requests",
        [
            ["", ""],
            ["vectors right", f"{right} of {given.items}"],
            ["wrong or missing", f"{seen - right}, and {given.items - seen} that never came"],
            ["errors", f"{len(errors)}"],
            ["requests", f"{len(stats['sizes'])}"],
            ["of them failed", f"{sum(faults.values())}"],
            *([f"- {name}", f"{faults.get(name, 0)}"] for name in FAULTS),
            ["seconds", f"{took:.1f}, of them {cpu:.1f} of CPU, checks included"],
            ["memory after a tenth, MiB", f"{warm:.1f}"],
            ["memory at the end, MiB", f"{end:.1f}"],
            ["end / after a tenth", f"{end / warm:.3f}"],
        ],
        [
            f"requests of {given.batch} texts, {given.concurrency} at once, {DIMENSION} components, else by default",
            machine("httpx", "numpy"),
            *(f"{type(error).__name__}: {error}" for error in errors[:5]),
        ],
    )
    good = right == seen == given.items and not errors and end / warm <= MOST_GROWTH
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
