"""What the benchmarks share: turns, medians, the machine, tables, and a PDF as long as one likes.

Whatever is compared runs in turns, A B A B: a machine that gets slower or faster meanwhile does so for both.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pypdfium2
import pypdfium2.raw as pdfium

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT)]  # for tests.support


def in_turns(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call each of `ways` once a round; return {name: what it measured, by round}."""
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            measured[name].append(way())
    return measured


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Divide round by round, so that a ratio is one of neighbours in time."""
    return [a / b for a, b in zip(over, under, strict=True)]


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Format a median, and the least and the most: `2.10 (1.98..2.31)`."""
    values = list(values)
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def machine(*libraries: str) -> str:
    """Say what this runs on: processor, cores that may be used, Python, and the versions of `libraries`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or an ARM
        processor = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    return f"{processor}, {cores} cores, {platform.system()}, Python {platform.python_version()}, {versions}"


def show(title: str, rows: Sequence[Sequence[str]], notes: Iterable[str] = ()) -> None:
    """Print a Markdown table, the first of `rows` being its head, and the notes below it."""
    head, *body = rows
    print(f"### {title}\n")
    for row in (head, ["---"] * len(head), *body):
        print(f"| {' | '.join(row)} |")
    print()
    for note in notes:
        print(f"- {note}")


def sample_pdf(path: Path, pages: int, *, numbered: bool = False) -> Path:
    """Write a PDF of the sample library's pages, over and over, `pages` of them in all.

    `numbered` stamps a text of its own on each, so that no two are equal.
    """
    from tests.support.samples import make_samples

    with closing(pypdfium2.PdfDocument.new()) as library, closing(pypdfium2.PdfDocument.new()) as made:
        with TemporaryDirectory() as folder:
            for sample in make_samples(Path(folder)):
                with closing(pypdfium2.PdfDocument(sample)) as document:
                    library.import_pages(document)
        while missing := pages - len(made):
            # One copy at a time, because stamping a page makes PDFium go through its whole document.
            with closing(pypdfium2.PdfDocument.new()) as copy:
                copy.import_pages(library, list(range(min(missing, len(library)))))
                if numbered:
                    _stamp(copy, len(made))
                made.import_pages(copy)
        made.save(path)
    return path


def _stamp(document: pypdfium2.PdfDocument, start: int) -> None:
    """Write a number at the foot of every page, counting on from `start`."""
    font = pypdfium2.PdfFont.load_standard(document, "Helvetica")
    for number, page in enumerate(document, start + 1):
        letters = f"Sheet {number}\0".encode("utf-16-le")
        text = pdfium.FPDFPageObj_CreateTextObj(document, font, 9)
        pdfium.FPDFText_SetText(text, (pdfium.FPDF_WCHAR * (len(letters) // 2)).from_buffer_copy(letters))
        pdfium.FPDFPageObj_Transform(text, 1, 0, 0, 1, 60, 8)
        page.insert_obj(pypdfium2.PdfObject(text, pdf=document))
        page.gen_content()
        page.close()
