"""How fast does it start? CPU seconds (user and system) of each command, as ratios to `import torch`.

    python benchmarks/start.py [--rounds 5] [--before PYTHON]

Every command is a process of its own, in turns with all others; a round before the first fills the caches of files. The
index has the five pages of one PDF, and the server is `nemovlm serve` with the pocket model. `--before` runs the same
commands with another interpreter in turn, such as that of an environment with another version, on an index that it
has made itself; the server is the same.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx
from common import in_turns, machine, ratios, show, spread

from tests.support.samples import make_samples

DOOR = "import sys; from nemovlm.cli import main; sys.argv[0] = 'nemovlm'; main()"
QUESTION = "How many days of leave do I get?"
TORCH, READY = "python -c 'import torch'", "nemovlm serve, until it is ready"
AIMS = {
    "nemovlm --help": 0.15,
    "nemovlm models": 0.15,
    "nemovlm doctor": 1.2,
    "nemovlm search": 1.8,
    "nemovlm search --base-url": 0.6,
    READY: 2.0,
}


class Walls:
    """CPU seconds of processes that were run, and beside them what a clock on the wall says."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {}

    def run(self, name: str, command: list[str]) -> float:
        begun, before = time.perf_counter(), _children()
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        self.of.setdefault(name, []).append(time.perf_counter() - begun)
        return _children() - before

    def serve(self, name: str, python: str) -> float:
        begun = time.perf_counter()
        with _served(python) as (process, _):
            self.of.setdefault(name, []).append(time.perf_counter() - begun)
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # of the process itself, so far


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _nemovlm(python: str, *arguments: object) -> list[str]:
    return [python, "-c", DOOR, *map(str, arguments)]


@contextmanager
def _served(python: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run `nemovlm serve`, and hand out its process and its address once it is ready."""
    command = _nemovlm(python, "serve", "--model", "nemovlm/pocket", "--port", 0)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = next(
                found[1] for line in process.stderr or () if (found := re.match(r"listening at (\S+)/v1", line))
            )
            with httpx.Client() as client:
                while True:
                    with suppress(httpx.TransportError):
                        if client.get(f"{address}/v1/health/ready").is_success:
                            break
                    time.sleep(0.02)
            yield process, address
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def _ways(python: str, db: Path, address: str, mark: str, walls: Walls) -> dict[str, Callable[[], float]]:
    search = ("search", QUESTION, "--db", db)
    commands = {
        TORCH: [python, "-c", "import torch"],
        "nemovlm --help": _nemovlm(python, "--help"),
        "nemovlm models": _nemovlm(python, "models"),
        "nemovlm doctor": _nemovlm(python, "doctor"),
        "nemovlm search": _nemovlm(python, *search),
        "nemovlm search --base-url": _nemovlm(python, *search, "--base-url", address),
    }
    ways = {name + mark: partial(walls.run, name + mark, command) for name, command in commands.items()}
    return {**ways, READY + mark: partial(walls.serve, READY + mark, python)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", metavar="PYTHON", help="the interpreter of another environment, to compare with")
    options = parser.parse_args()
    pythons = {"": sys.executable} | ({" (before)": options.before} if options.before else {})
    walls = Walls()
    with TemporaryDirectory() as folder, _served(sys.executable) as (_, address):
        samples = Path(folder) / "samples"
        samples.mkdir()
        pdf = next(path for path in make_samples(samples) if path.name == "staff-handbook.pdf")
        ways: dict[str, Callable[[], float]] = {}
        for mark, python in pythons.items():
            db = Path(folder) / f"db{mark}"
            subprocess.run(_nemovlm(python, "index", pdf, "--db", db), check=True, capture_output=True)
            ways |= _ways(python, db, address, mark, walls)
        in_turns(ways, 1)
        walls.of.clear()
        measured = in_turns(ways, options.rounds)
    head = ["", "aim", "ratio to `import torch`", "CPU s", "wall s"]
    rows = [head + [f"{name}, before" for name in head[2:]] * (len(pythons) - 1)]
    for name in [TORCH, *AIMS]:
        row = [
            f"`{name}`" if name != READY else "`nemovlm serve`, until it is ready",
            f"{AIMS[name]}" if name in AIMS else "",
        ]
        for mark in pythons:
            cpu = measured[name + mark]
            row += [
                spread(ratios(cpu, measured[TORCH + mark])),
                f"{median(cpu):.2f}",
                f"{median(walls.of[name + mark]):.2f}",
            ]
        rows.append(row)
    show("From nothing to an answer", rows, [f"rounds: {options.rounds}", machine("torch", "pylance", "typer")])


if __name__ == "__main__":
    main()
