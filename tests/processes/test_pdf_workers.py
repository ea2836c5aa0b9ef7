"""Pages of a PDF rendered in other processes: the same pages in the same order, and nothing is left of them."""

import itertools
import multiprocessing
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from reportlab.lib.pdfencrypt import StandardEncryption

from nemovlm.errors import PdfError, PdfPageError
from nemovlm.pdf import Page, iter_pages, read_pages
from tests.support.books import box, numbered, write
from tests.support.reading import DAMAGE, QUICK, failure, noted, read_all


@pytest.fixture(scope="module")
def document() -> bytes:
    """Twelve pages."""
    return numbered(12)


def in_processes(source: Any, **options: Any) -> Iterator[Page]:
    return iter_pages(source, workers=2, **options)


def test_processes_give_the_same_pages() -> None:
    """Two workers give the pixels and facts of one, in the order asked for: errors and repeated pages too."""
    small = [(box(0, 0, 200 + 40 * n, 300), f"0 0 {20 * n} 90 re f") for n in range(6)]
    wanted = [5, 0, 0, 99, 3, -1, 1, 4, 2, 5]
    outcomes: list[list[Any]] = []
    for workers in (1, 2):
        seen: list[Any] = []
        report = lambda error, seen=seen: seen.append((type(error), str(error), error.page))  # noqa: E731
        for page in iter_pages(write(*small), pages=wanted, workers=workers, on_error=report):
            seen.append((page.sha256, page.image.size, page.index, page.label, page.total, page.width, page.dpi))
        outcomes.append(seen)
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0]) == len(wanted)


def test_processes_raise_in_turn(document: bytes) -> None:
    """The pages before a failed one come first, and then its error."""
    stream = in_processes(document, pages=[0, 1, 99, 2], tiling=QUICK)
    assert [next(stream).index, next(stream).index] == [0, 1]
    with pytest.raises(PdfPageError, match="page 100"):
        next(stream)
    assert multiprocessing.active_children() == []


def test_processes_open_encrypted_files(tmp_path: Path) -> None:
    """The password goes along, for a file as for bytes."""
    data = numbered(3, encrypt=StandardEncryption("user", ownerPassword="owner", strength=128))
    (tmp_path / "a.pdf").write_bytes(data)
    for source in (data, tmp_path / "a.pdf"):
        pages = in_processes(source, password="user", tiling=QUICK)
        assert [page.text for page in pages] == ["number 0", "number 1", "number 2"]


@pytest.mark.parametrize(
    "source", [b"no PDF", Path("none.pdf"), numbered(1, encrypt="secret")], ids=["junk", "missing", "locked"]
)
def test_processes_refuse_what_cannot_be_opened(source: Any) -> None:
    """What is wrong with a file is found before any process is started, and said in the same words."""
    errors = [failure(source, workers=workers) for workers in (1, 2)]
    assert [type(error) for error in errors] == [type(errors[0])] * 2
    assert str(errors[0]) == str(errors[1])


def test_processes_do_not_run_away(document: bytes) -> None:
    """Only a few pages are rendered ahead of the reader, however many are wanted."""
    asked: list[int] = []
    stream = in_processes(document, pages=noted(itertools.cycle(range(12)), asked), tiling=QUICK)
    assert [page.index for page in itertools.islice(stream, 20)] == [n % 12 for n in range(20)]
    assert len(asked) < 40
    stream.close()  # type: ignore[attr-defined]


def shared_memory() -> set[str]:
    """Files behind the shared memory that this process has mapped."""
    return {place.path for place in psutil.Process().memory_maps() if place.path.startswith("/dev/shm/")}


@pytest.mark.skipif(sys.platform != "linux", reason="shared memory is a file on Linux only")
@pytest.mark.parametrize("ending", ["close", "del", "exhaust"])
def test_nothing_is_left_of_the_processes(ending: str, document: bytes) -> None:
    """However a stream ends, its processes and their shared memory are gone."""
    before = shared_memory()
    stream = in_processes(document, tiling=QUICK)
    next(stream)
    used = shared_memory() - before
    assert used
    assert multiprocessing.active_children()
    if ending == "close":
        stream.close()  # type: ignore[attr-defined]
    elif ending == "exhaust":
        list(stream)
    del stream
    assert multiprocessing.active_children() == []
    assert not [path for path in used if Path(path).exists()]


@pytest.mark.parametrize("noticed", [False, True])
def test_a_process_that_dies_is_a_pdf_error(noticed: bool) -> None:
    """If PDFium takes its process down, the reader gets an error that says so."""
    stream = in_processes(numbered(100), tiling=QUICK)
    next(stream)
    for child in multiprocessing.active_children():
        child.kill()
    if noticed:
        time.sleep(0.3)  # then it is at handing out more pages that the pool is found dead
    with pytest.raises(PdfError, match="process died"):
        list(stream)
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_is_the_last_value() -> None:
    """`read_pages` yields the pages before it, and then its error."""
    stream = read_pages(numbered(100), workers=2, tiling=QUICK)
    next(stream)
    for child in multiprocessing.active_children():
        child.kill()
    *pages, error = stream
    assert all(isinstance(page, Page) for page in pages)
    assert type(error) is PdfError
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("damage", list(DAMAGE)[::16])
def test_damage_is_the_same_in_processes(damage: str) -> None:
    """Workers find in a broken file what one process finds."""
    found = [
        [item.sha256 if isinstance(item, Page) else str(item) for item in result]
        if isinstance(result, list)
        else str(result)
        for result in (read_all(DAMAGE[damage]()), read_all(DAMAGE[damage](), workers=2))
    ]
    assert found[0] == found[1]
