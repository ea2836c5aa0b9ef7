"""Reading PDFs in tests: quickly, with everything that comes of them, and PDFs that are damaged in many ways."""

import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nemovlm.errors import PdfError, PdfPageError
from nemovlm.models.tiling import Tiling
from nemovlm.pdf import Page, count_pages, iter_pages
from tests.support.books import A4, draw

NO_FILE = "Permission denied" if os.name == "nt" else "directory"
"""What the system says of a folder that is read as a file."""

QUICK = Tiling(tile=64)  # small pictures, where it does not matter what is on them


def failure(source: Any, **options: Any) -> PdfError:
    """The error that reading `source` ends in, after a round trip through pickle, as from another process."""
    with pytest.raises(PdfError) as caught:
        list(iter_pages(source, tiling=QUICK, **options))
    copy: PdfError = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy), copy.__dict__) == (type(caught.value), str(caught.value), caught.value.__dict__)
    return copy


def noted(numbers: Iterable[int], asked: list[int]) -> Iterator[int]:
    """The numbers, each noted when it is asked for."""
    for number in numbers:
        asked.append(number)
        yield number


def read_all(source: Any, **options: Any) -> list[Page | PdfPageError] | PdfError:
    """All that comes of a PDF: its pages and their errors, or the one error that it ends in.

    Any other exception goes through, and fails the test.
    """
    seen: list[Any] = []
    try:
        few = range(min(count_pages(source), 20))  # a damaged file may claim a million
        for page in iter_pages(source, pages=few, on_error=seen.append, tiling=QUICK, **options):
            assert page.image.mode == "RGB"
            seen.append(page)
    except PdfError as error:
        return error
    assert all(isinstance(item, (Page, PdfPageError)) for item in seen)
    return seen


SOUND = draw(
    lambda canvas: canvas.drawString(72, 700, "a page that will be damaged"),
    lambda canvas: canvas.acroForm.textfield(value="filled", x=100, y=600),
    size=A4,
    pageCompression=0,
)
WORDS = (
    *("%PDF", " obj", "endobj", "stream", "endstream", "xref", "trailer", "startxref", "%%EOF", "/Root", "/Pages"),
    *("/Kids", "/Count", "/MediaBox", "/Type", "/Length", "/Contents", "/Font", "/Resources", "<<", ">>", "[", "]"),
)


def cut(start: float, end: float, data: bytes) -> bytes:
    """The part of `data` between two shares of its length."""
    return data[int(start * len(data)) : int(end * len(data))]


def flip(step: int, data: bytes) -> bytes:
    return bytes(byte ^ 32 if place % step == 5 else byte for place, byte in enumerate(data))


def exchange(old: bytes, new: bytes, data: bytes) -> bytes:
    return data.replace(old, new)


_CHANGES: dict[str, Callable[[bytes], bytes]] = {
    **{f"without {word}": partial(exchange, word.encode(), b"") for word in WORDS},
    **{f"{word} twice": partial(exchange, word.encode(), 2 * word.encode()) for word in WORDS},
    **{f"cut at {share}": partial(cut, 0, share) for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)},
    **{f"begins at {share}": partial(cut, share, 1) for share in (0.01, 0.1, 0.5)},
    **{f"every {step}th byte flipped": partial(flip, step) for step in (23, 97, 401)},
    "zeros in the middle": lambda data: data[:600] + bytes(500) + data[1100:],
    "backwards": lambda data: data[::-1],
    "other line ends": partial(exchange, b"\n", b"\r\n"),
    "itself behind it": lambda data: data * 2,
    "a million pages": partial(exchange, b"/Count 2", b"/Count 1000000"),
    "less than no pages": partial(exchange, b"/Count 2", b"/Count -2"),
    "a tree that is its own branch": partial(exchange, b"/Kids [ ", b"/Kids [ 1 0 R 2 0 R 3 0 R 4 0 R 5 0 R 6 0 R "),
    "other objects": partial(exchange, b"5 0 R", b"1 0 R"),
    "a negative box": partial(exchange, b"595", b"-95"),
    "an endless number": partial(exchange, b"842", b"9" * 400),
}
# The files of a folder of the tester's choice, too.
_FOLDER = os.environ.get("NEMOVLM_BROKEN_PDFS")
DAMAGE: dict[str, Callable[[], bytes | Path]] = {name: partial(change, SOUND) for name, change in _CHANGES.items()} | {
    path.stem: partial(Path, path) for path in sorted(Path(_FOLDER).glob("*.pdf") if _FOLDER else ())
}
