"""Pages per second of `iter_pages`, rendered by one process and by two, against a bare pypdfium2 loop.

The baseline opens the PDF with pypdfium2, draws every page with `page.render(scale=...).to_pil()` at the pixels
that `iter_pages` chooses, and closes it. It reads no text, which `iter_pages` does. The process that reads renders
nothing itself. The start of the others counts in the first round. Without `--pdf` the pages are those of the sample
library (needs reportlab), repeated.

    python benchmarks/rendering.py --pages 1000
    python benchmarks/rendering.py --pdf report.pdf
"""

import argparse
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pypdfium2
from common import in_turns, machine, ratios, sample_pdf, seconds, show, spread

from nemovlm import iter_pages
from nemovlm.models.tiling import NEMOTRON_TILING


def bare(path: Path, count: int) -> list[tuple[int, int]]:
    """Draw pages with nothing but pypdfium2; return the size of each."""
    sizes = []
    with closing(pypdfium2.PdfDocument(path)) as document:
        for page in islice(document, count):
            width, height = page.get_size()
            columns, rows = NEMOTRON_TILING.render_size(width, height)
            sizes.append(page.render(scale=min(columns / width, rows / height)).to_pil().size)
            page.close()
    return sizes


def ours(path: Path, count: int, workers: int = 1) -> list[tuple[int, int]]:
    """Draw pages with `iter_pages`; return the size of each."""
    return [page.image.size for page in iter_pages(path, pages=range(count), workers=workers)]


def measure(path: Path, count: int, rounds: int) -> None:
    """Print the table."""
    ways: dict[str, Callable[[], object]] = {
        "bare pypdfium2 loop": partial(bare, path, count),
        "`iter_pages`": partial(ours, path, count),
        "`iter_pages`, `workers=2`": partial(ours, path, count, workers=2),
    }
    some = min(count, 50)
    drawn, wanted = (sum(columns * rows for columns, rows in sizes) for sizes in (bare(path, some), ours(path, some)))
    if abs(drawn / wanted - 1) > 1e-3:  # a row more or less, from rounding, is no difference
        raise SystemExit(f"not comparable: the bare loop drew {drawn} pixels, and iter_pages {wanted}")
    rates = {
        name: [count / time for time in times]
        for name, times in in_turns({name: partial(seconds, way) for name, way in ways.items()}, rounds).items()
    }
    loop, one, two = rates.values()
    rows = [["", "pages/s, median (min..max)"], *([name, spread(rate, 1)] for name, rate in rates.items())]
    show(
        f"Rendering {count} pages, {rounds} rounds",
        rows,
        [
            f"one process / bare loop: {spread(ratios(one, loop))}; promised: at least 0.9",
            f"two processes / one: {spread(ratios(two, one))}",
            machine("pypdfium2", "pillow"),
        ],
    )


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pdf", type=Path, help="render this one instead of the sample library")
    parser.add_argument("--pages", type=int, default=1000, help="so many pages (of --pdf: at the most)")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        path = given.pdf or sample_pdf(Path(folder) / "samples.pdf", given.pages)
        with closing(pypdfium2.PdfDocument(path)) as document:
            count = min(given.pages, len(document))
        measure(path, count, given.rounds)


if __name__ == "__main__":
    main()
