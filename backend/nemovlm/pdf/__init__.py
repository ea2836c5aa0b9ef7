"""A PDF as a stream of pages: each with its image and its text layer. No lock is held across a `yield`."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Unpack
from uuid import NAMESPACE_URL, uuid5

from nemovlm.choices import PAGE_MEMORY, PAGE_TIMEOUT
from nemovlm.errors import PdfError
from nemovlm.models.tiling import NEMOTRON_TILING
from nemovlm.models.vision import Vision
from nemovlm.on_error import OnError, apply_on_error, check_on_error
from nemovlm.pdf.folders import find_pdfs, pdfs_at, pdfs_below
from nemovlm.pdf.page import TEXT_VERSION, Page
from nemovlm.pdf.source import PdfSource, require_local_path
from nemovlm.pdf.workers import OpenPdf, Password, ReadOptions, warn_once

__all__ = [
    "PAGE_MEMORY",
    "PAGE_TIMEOUT",
    "TEXT_VERSION",
    "Page",
    "Password",
    "PdfSource",
    "ReadOptions",
    "count_pages",
    "find_pdfs",
    "iter_pages",
    "page_id",
    "pdfs_at",
    "pdfs_below",
    "read_pages",
    "require_local_path",
]


def iter_pages(
    source: PdfSource,
    *,
    pages: Iterable[int] | None = None,
    password: Password = None,
    tiling: Vision = NEMOTRON_TILING,
    dpi: float | None = None,
    workers: int = 1,
    page_timeout: float | None = PAGE_TIMEOUT,
    page_memory: int | None = PAGE_MEMORY,
    embedded: bool = False,
    on_error: OnError = "raise",
    name: str | None = None,
) -> Iterator[Page]:
    """Yield the pages of a PDF, in order, one at a time: memory does not grow with the document.

    Pages are rendered as people see them: rotated and cropped, with annotations and form fields, on white. They are
    rendered in processes of their own, which are kept for half a minute, for the next PDF.

    Args:
        source: A path, bytes, or an open binary file.
        pages: 0-based indexes, in the order wanted. Default: all.
        password: For an encrypted PDF; several are tried one after the other.
        tiling: How a model sees images: pages are rendered at the size that it can use. Default: the tiling of the
            Nemotron VL models.
        dpi: Render at this many pixels per inch instead.
        workers: Processes to render in.
        page_timeout: Seconds that a page may take; then it is given up, and has failed. None: any time.
        page_memory: Bytes that rendering may take (known on Linux alone); then the page has failed. None: any.
        embedded: After the document's own pages, yield all pages of the PDFs that are attached to it, as they are to a
            portfolio. Otherwise they are named in the log.
        on_error: What to do with a page that fails, or an attached PDF: `"raise"`, `"skip"` it with a warning in the
            log, or call a function with the error. The others come in any case but the first.
        name: What pages and errors call the PDF, instead of its path or `<bytes>`.

    Raises:
        PdfError: The file cannot be read, or was changed while it was read; `PdfPasswordError`, `PdfSecurityError`,
            `PdfFormatError` say why it cannot be opened.
        PdfPageError: A page failed.
        ConfigurationError: An argument is none that there is, or the source is no PDF's, such as a file opened as text.
    """
    check_on_error(on_error)
    results = _read(
        source,
        name,
        pages,
        embedded,
        password=password,
        tiling=tiling,
        dpi=dpi,
        workers=workers,
        page_timeout=page_timeout,
        page_memory=page_memory,
    )
    with closing(results):
        for result in results:
            if page := apply_on_error(result, on_error):
                yield page


def read_pages(
    source: PdfSource,
    *,
    pages: Iterable[int] | None = None,
    embedded: bool = False,
    name: str | None = None,
    **options: Unpack[ReadOptions],
) -> Generator[Page | PdfError, None, None]:
    """Yield the pages of a PDF, and in the place of one that failed its `PdfPageError`.

    The arguments are those of `iter_pages`. If the PDF cannot be opened, or read any further, the last value is a
    `PdfError` that is no `PdfPageError`. Close the generator, or read it to its end: it holds the file and processes.

    Raises:
        ConfigurationError: As in `iter_pages`.
    """
    try:
        yield from _read(source, name, pages, embedded, **options)
    except PdfError as error:
        yield error


def _read(
    source: PdfSource, name: str | None, pages: Iterable[int] | None, embedded: bool, **options: Unpack[ReadOptions]
) -> Generator[Page | PdfError, None, None]:
    """Yield pages, and errors of pages and of attached PDFs. What is wrong with the document itself is raised."""
    with OpenPdf(source, name, **options) as pdf:
        yield from pdf.pages(range(pdf.total) if pages is None else pages)
        if embedded:
            yield from _read_attached(pdf, **options)
        elif pdf.attached_names:
            names = ", ".join(pdf.attached_names.values())
            warn_once(f"{pdf.name}: PDFs are attached to it that are not read; embedded=True reads them: {names}")


def _read_attached(pdf: OpenPdf, **options: Unpack[ReadOptions]) -> Iterator[Page | PdfError]:
    """Yield the pages of attached PDFs. Those that are attached to these in turn are named in the log alone."""
    for name, content in pdf.attached():
        if isinstance(content, PdfError):
            yield content.at(f"{pdf.name}/{name}")
            continue
        for result in read_pages(content, name=f"{pdf.name}/{name}", **options):
            yield replace(result, embedded=name) if isinstance(result, Page) else result


def count_pages(source: PdfSource, **options: Unpack[ReadOptions]) -> int:
    """Return how many pages a PDF has, without rendering any.

    The options are those of `iter_pages`.

    Raises:
        PdfError: The file cannot be read, as in `iter_pages`.
        ConfigurationError: The source is no PDF's.
    """
    with OpenPdf(source, **options) as pdf:
        return pdf.total


def page_id(source: str, index: int) -> str:
    """Return the id of a page (0-based) of a PDF: a UUID, since some stores take nothing else, and always the same."""
    return str(uuid5(NAMESPACE_URL, f"{source}#page={index + 1}"))
