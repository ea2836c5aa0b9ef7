"""Peak memory of `nemovlm index` on a long PDF against the same command on a short one.

Every run is the real command in a fresh process with an index of its own; its peak is what the operating system
reports when it ends (`ru_maxrss`). The PDFs repeat the pages of the sample library (needs reportlab) with a number
on each, since the index takes the vector of an equal page over instead of embedding it. The process that renders pages
for the command is measured by itself (on Linux): its peak when all pages of the PDF have been read.

    python benchmarks/memory.py --pages 2000 --few 100
    python benchmarks/memory.py --model path/to/checkpoint --modality text
"""

import argparse
import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from common import in_turns, machine, ratios, sample_pdf, show, spread

from nemovlm.inputs import Modality

COMMAND = [sys.executable, "-c", "from nemovlm.cli import main; main()", "index"]
UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
MIB = 2**20


def peak(pdf: Path, model: str, modality: str | None) -> float:
    """Index `pdf` in a process of its own and return the most memory it had, in MiB."""
    with TemporaryDirectory() as folder:
        arguments = [str(pdf), "--db", f"{folder}/index", "--model", model]
        if modality:
            arguments += ["--modality", modality]
        process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"`nemovlm index` failed:\n{said}")
    # Linux passes the peak of the process that starts a command on to it.
    if usage.ru_maxrss <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
        raise SystemExit("cannot be measured: this process has more memory than the command")
    return usage.ru_maxrss * UNIT / MIB


RENDERING = """
import re, sys
from pathlib import Path
from nemovlm import iter_pages
for page in iter_pages(sys.argv[1]):
    pass
(child,) = (child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split())
print(re.search(r"VmHWM:\\s*(\\d+)", Path(f"/proc/{child}/status").read_text())[1])
"""


def rendering_peak(pdf: Path) -> float:
    """Read `pdf` to its end, and return the most memory that the process that renders had, in MiB."""
    command = [sys.executable, "-c", RENDERING, str(pdf)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=2000, help="of the long PDF")
    parser.add_argument("--few", type=int, default=100, help="of the short PDF")
    parser.add_argument("--model", default="nemovlm/pocket", help="model id or checkpoint folder")
    parser.add_argument("--modality", choices=get_args(Modality), help="what of a page is embedded; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        pdfs = {n: sample_pdf(Path(folder) / f"{n}.pdf", n, numbered=True) for n in (given.few, given.pages)}
        sizes = {f"{n} pages, {pdf.stat().st_size / MIB:.1f} MiB": pdf for n, pdf in pdfs.items()}
        runs = {name: partial(peak, pdf, given.model, given.modality) for name, pdf in sizes.items()}
        peaks = in_turns(runs, given.rounds)
        rendering = in_turns({name: partial(rendering_peak, pdf) for name, pdf in sizes.items()}, given.rounds)
    few, many = peaks.values()
    show(
        f"Peak memory of `nemovlm index`, {given.rounds} rounds",
        [
            ["PDF", "MiB, median (min..max)", "of the process that renders, MiB"],
            *([name, spread(values, 0), spread(rendering[name], 0)] for name, values in peaks.items()),
        ],
        [
            f"long / short: {spread(ratios(many, few), 3)}; promised: at most 1.15",
            f"of the process that renders: {spread(ratios(*reversed(rendering.values())), 3)}; promised: at most 1.15",
            f"model: {given.model}",
            machine("torch", "pylance", "pypdfium2"),
        ],
    )


if __name__ == "__main__":
    main()
