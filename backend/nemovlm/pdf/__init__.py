"""A PDF as a stream of pages: each with its image and its text layer. No lock is held across a `yield`."""

import math
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, TypeAlias
from uuid import NAMESPACE_URL, uuid5

from nemovlm.errors import ConfigurationError, PageIndexError, PdfError, PdfPageError, one_line
from nemovlm.models.tiling import NEMOTRON_TILING
from nemovlm.models.vision import Vision
from nemovlm.on_error import OnError, apply_on_error, check_on_error
from nemovlm.paths import local_path, read_binary, readable_name
from nemovlm.pdf.page import Page
from nemovlm.pdf.renderer import Renderer
from nemovlm.pdf.workers import in_processes

__all__ = [
    "Page",
    "PdfSource",
    "count_pages",
    "find_pdfs",
    "iter_pages",
    "page_id",
    "pdfs_below",
    "read_pages",
    "require_local_path",
]

PdfSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""A path, the content of a PDF, or an open binary file (which is read from its start and stays open)."""


def iter_pages(
    source: PdfSource,
    *,
    pages: Iterable[int] | None = None,
    password: str | None = None,
    tiling: Vision = NEMOTRON_TILING,
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
        tiling: How a model sees images: pages are rendered at the size that it can use. Default: the tiling of the
            Nemotron VL models.
        dpi: Render at this many pixels per inch instead.
        workers: Processes to render in, this one included. The others are kept for half a minute, for the next PDF.
        on_error: What to do with a page that fails: `"raise"`, `"skip"` it with a warning in the log, or call
            a function with the `PdfPageError`. The other pages come in any case but the first.
        name: What pages and errors call the PDF, instead of its path or `<bytes>`.

    Raises:
        PdfError: The file cannot be read; `PdfPasswordError`, `PdfSecurityError`, `PdfFormatError` say why.
        PdfPageError: A page failed.
        ConfigurationError: An argument is none that there is, or the source is no PDF's, such as a file opened as text.
    """
    check_on_error(on_error)
    results = read_pages(source, pages=pages, password=password, tiling=tiling, dpi=dpi, workers=workers, name=name)
    with closing(results):
        for result in results:
            if isinstance(result, PdfError) and not isinstance(result, PdfPageError):
                raise result
            if page := apply_on_error(result, on_error):
                yield page


def read_pages(
    source: PdfSource,
    *,
    pages: Iterable[int] | None = None,
    password: str | None = None,
    tiling: Vision = NEMOTRON_TILING,
    dpi: float | None = None,
    workers: int = 1,
    name: str | None = None,
) -> Generator[Page | PdfError, None, None]:
    """Yield the pages of a PDF, and in the place of one that failed its `PdfPageError`.

    The arguments are those of `iter_pages`. If the PDF cannot be opened, the one value is a `PdfError` that is no
    `PdfPageError`. Close the generator, or read it to its end: it holds the file and processes.

    Raises:
        ConfigurationError: As in `iter_pages`.
    """
    if dpi is not None and not 0 < dpi < math.inf:
        raise ConfigurationError(f"dpi must be a positive number, not {dpi}")
    if workers < 1:
        raise ConfigurationError(f"workers={workers}: one process at least has to render")
    try:
        with Renderer(_path_or_bytes(source), password, tiling, dpi, name) as renderer:
            wanted = range(renderer.total) if pages is None else pages
            yield from in_processes(renderer, wanted, workers) if workers > 1 else map(renderer.page, wanted)
    except PdfError as error:
        yield error


def count_pages(source: PdfSource, *, password: str | None = None) -> int:
    """Return how many pages a PDF has, without rendering any.

    Raises:
        PdfError: The file cannot be read, as in `iter_pages`.
        ConfigurationError: The source is no PDF's.
    """
    with Renderer(_path_or_bytes(source), password) as renderer:
        return renderer.total


def page_id(source: str, index: int) -> str:
    """Return the id of a page (0-based) of a PDF: a UUID, since some stores take nothing else, and always the same."""
    return str(uuid5(NAMESPACE_URL, f"{source}#page={index + 1}"))


def find_pdfs(sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the PDFs that files and folders stand for: absolute, each once, those of a folder in order of name.

    A file is taken whatever its name, and whether or not it exists.

    Raises:
        PageIndexError: There is none.
    """
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    found: dict[Path, None] = {}
    folders = []
    for source in map(local_path, sources):
        if source.is_dir():
            folders.append(readable_name(source))
            found.update(dict.fromkeys(path.resolve() for path in pdfs_below(source)))
        else:
            found[source.resolve()] = None
    if not found:
        raise PageIndexError(f"there is no PDF in {', '.join(folders) or 'an empty list'}")
    return list(found)


def pdfs_below(folder: Path) -> list[Path]:
    """Return the PDFs in a folder and below, in order of their paths."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".pdf" and path.is_file())


def require_local_path(path: str | os.PathLike[str], instead: str = "pass its bytes") -> Path:
    """Return the path of a file or folder here.

    Args:
        path: As it was passed.
        instead: What to do with something else.

    Raises:
        PdfError: It is an address.
        ConfigurationError: It is no path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigurationError(f"a {type(path).__name__} is no path of a PDF; {instead}")
    if isinstance(path, str) and "://" in path:
        raise PdfError("addresses are not fetched: download the PDF, and pass its path or its bytes").at(path)
    return local_path(path)


def _path_or_bytes(source: PdfSource) -> Path | bytes:
    if isinstance(source, (str, os.PathLike)):
        return require_local_path(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    try:
        return read_binary(source)
    except OSError as error:
        raise PdfError(f"the open file cannot be read: {one_line(error)}").at("<bytes>") from error
    except (AttributeError, TypeError) as error:
        why = f"; {error}" if hasattr(source, "read") else ""
        raise ConfigurationError(
            f"a PDF is read from a path, from bytes, or from a file opened as binary, not from a "
            f"{type(source).__name__}{why}"
        ) from error
