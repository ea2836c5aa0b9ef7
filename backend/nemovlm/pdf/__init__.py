"""A PDF as a stream of pages: each with its picture and its text layer. Nothing is held across a `yield`."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias
from uuid import NAMESPACE_URL, uuid5

from nemovlm.errors import ConfigurationError, PdfError, PdfPageError
from nemovlm.models.tiling import NEMOTRON_TILING, Tiling
from nemovlm.on_error import OnError, apply_on_error, check_on_error
from nemovlm.pdf.renderer import Page, Renderer
from nemovlm.pdf.workers import in_processes, in_turn

__all__ = ["Page", "PdfSource", "count_pages", "iter_pages", "local", "page_id", "pdfs_below", "unreadable"]

PdfSource: TypeAlias = str | Path | bytes | BinaryIO
"""A path, the content of a PDF, or an open binary file (which is read to its end and stays open)."""


def iter_pages(
    source: PdfSource,
    *,
    pages: Iterable[int] | None = None,
    password: str | None = None,
    tiling: Tiling = NEMOTRON_TILING,
    dpi: float | None = None,
    workers: int = 1,
    on_error: OnError = "raise",
    name: str | None = None,
) -> Iterator[Page]:
    """Yield the pages of a PDF, in order, one at a time: memory does not grow with the document.

    Pages are rendered as people see them: rotated and cropped, with annotations and form fields, on white.

    Args:
        source: A path, bytes, or an open binary file.
        pages: 0-based indexes, in the order wanted. Default: all.
        password: For an encrypted PDF.
        tiling: Render at the size that fills this grid of tiles. Default: that of the Nemotron VL models.
        dpi: Render at this resolution instead.
        workers: Processes to render in, this one included. More than one wants the usual
            `if __name__ == "__main__":` in scripts.
        on_error: What to do with a page that fails: `"raise"`, `"skip"` it with a warning in the log, or call
            a function with the `PdfPageError`. The other pages come in any case but the first.
        name: What pages and errors call the PDF, instead of its path or `<bytes>`.

    Raises:
        PdfError: The file cannot be read; `PdfPasswordError`, `PdfSecurityError`, `PdfFormatError` say why.
        PdfPageError: A page failed.
        ConfigurationError: An argument is none that there is.
    """
    check_on_error(on_error)
    if dpi is not None and not 0 < dpi < math.inf:
        raise ConfigurationError(f"dpi must be a positive number, not {dpi}")
    if workers < 1:
        raise ConfigurationError(f"workers={workers}: one process at least has to render")
    with Renderer(_path_or_bytes(source), password, tiling, dpi, name) as renderer:
        wanted = range(renderer.total) if pages is None else pages
        for render in in_processes(renderer, wanted, workers) if workers > 1 else in_turn(renderer, wanted):
            try:
                page = render()
            except PdfPageError as error:
                apply_on_error(error, on_error)
            else:
                yield page


@contextmanager
def unreadable(on_error: OnError) -> Iterator[None]:
    """Do with the error of a whole PDF what `on_error` says; those of pages went there before, in `iter_pages`."""
    try:
        yield
    except PdfPageError:
        raise
    except PdfError as error:
        apply_on_error(error, on_error)


def count_pages(source: PdfSource, *, password: str | None = None) -> int:
    """Return how many pages a PDF has. Raises like `iter_pages`."""
    with Renderer(_path_or_bytes(source), password) as renderer:
        return renderer.total


def page_id(source: str, index: int) -> str:
    """Return the id of a page (0-based) of a PDF: a UUID, since some stores take nothing else, and always the same."""
    return str(uuid5(NAMESPACE_URL, f"{source}#page={index + 1}"))


def pdfs_below(folder: Path) -> list[Path]:
    """Return the PDFs in a folder and below, in order of their paths."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".pdf" and path.is_file())


def local(path: str | Path) -> Path:
    """Return the path of a file or folder here. Raises `PdfError` for an address."""
    if isinstance(path, str) and "://" in path:
        raise PdfError("addresses are not fetched: download the PDF, and pass its path or its bytes").at(path)
    return Path(path)


def _path_or_bytes(source: PdfSource) -> Path | bytes:
    if isinstance(source, (str, Path)):
        return local(source)
    content = source if isinstance(source, bytes) else source.read()
    if not isinstance(content, bytes):  # of a text file: PDFium would take it for a path
        raise TypeError("a PDF is read from a path, from bytes, or from a file opened as binary")
    return content
