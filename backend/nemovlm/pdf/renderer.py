"""PDFium renders pages. The only file that touches it.

PDFium is not thread-safe, so every call is made under one lock, which is never held longer than for one page.
"""

import ctypes
import logging
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

import pypdfium2
import pypdfium2.raw as pdfium

from nemovlm.errors import PdfError, PdfFormatError, PdfPageError, PdfPasswordError, PdfSecurityError, one_line
from nemovlm.images import MAX_PIXELS
from nemovlm.models.tiling import NEMOTRON_TILING
from nemovlm.models.vision import Vision
from nemovlm.paths import readable_name
from nemovlm.pdf.metadata import clean, read_info
from nemovlm.pdf.page import POINTS_PER_INCH, Page, PageSize, RenderedPage

T = TypeVar("T")

_log = logging.getLogger("nemovlm")

# PDFium remembers something of every page, some 25 kB, until the document is closed; so that is done now and then.
_PAGES_PER_OPENING = 100
_RENDER_FLAGS = pdfium.FPDF_ANNOT | pdfium.FPDF_REVERSE_BYTE_ORDER  # annotations too; RGB instead of BGR

_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603 - in a forked child the old one may be held by a thread that is gone
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Renderer:
    """An open PDF that renders one page at a time.

    Args:
        source: The path of a PDF, or its content.
        password: For an encrypted PDF.
        vision: Says how many pixels a page gets, unless `dpi` does.
        dpi: Pixels per inch.
        name: What pages and errors call the PDF. Default: its path, or `<bytes>`.

    Raises:
        PdfError: The PDF cannot be opened; the subclasses say why.
    """

    def __init__(
        self,
        source: Path | bytes,
        password: str | None = None,
        vision: Vision = NEMOTRON_TILING,
        dpi: float | None = None,
        name: str | None = None,
    ) -> None:
        self.source = source
        self.password = password
        self.name = readable_name(name or (source if isinstance(source, Path) else "<bytes>"))
        self._vision = vision
        self._dpi = dpi
        self._canvas = bytearray()  # kept from page to page: to touch fresh memory first costs as much as rendering
        self._rendered = 0
        with _lock:
            self._document = _open(source, password, self.name)
            self.version = _version(source)
            """What tells its file from another that takes its place."""
            self.total = len(self._document)
            self._info = read_info(lambda key: _read(pdfium.FPDF_GetMetaText, self._document, key.encode()))
        if not self.total:
            self.close()
            raise PdfFormatError("the PDF has no pages; it is empty or damaged").at(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the document. Closing twice is harmless."""
        with _lock:
            self._document.close()

    def page(self, index: int) -> Page | PdfPageError:
        """Render a page (0-based) in this process."""

        def render() -> RenderedPage:
            size = self._measure(index)
            if len(self._canvas) < size.nbytes:
                self._canvas = bytearray(size.nbytes)
            return self._render(index, size, self._canvas)

        rendered = self._attempt(index, render)
        return self.finish(rendered, memoryview(self._canvas)) if isinstance(rendered, RenderedPage) else rendered

    # The same in steps, for a page that another process renders: `measure` and `finish` here, `render_into` there.

    def measure(self, index: int) -> PageSize | PdfPageError:
        """Return how large a page (0-based) is, and so how large a buffer its pixels take."""
        return self._attempt(index, lambda: self._measure(index))

    def render_into(self, index: int, size: PageSize, buffer: memoryview) -> RenderedPage | PdfPageError:
        """Render a page (0-based) of a `size` that was measured, into a buffer of `size.nbytes` at least."""
        return self._attempt(index, lambda: self._render(index, size, buffer))

    def finish(self, rendered: RenderedPage, pixels: memoryview) -> Page:
        """Return the page whose pixels lie in a buffer. They are copied, so the buffer is free again."""
        return Page(
            source=self.name,
            index=rendered.index,
            label=rendered.label,
            total=self.total,
            image=rendered.copy_image(pixels),
            text=rendered.text,
            width=rendered.size.width,
            height=rendered.size.height,
            dpi=rendered.size.dpi,
            info=self._info,
        )

    def _attempt(self, index: int, work: Callable[[], T]) -> T | PdfPageError:
        """Do some work on a page under the lock. Whatever goes wrong concerns this page alone.

        PDFium's own errors are RuntimeErrors, but damaged pages raise ValueError, OverflowError, ctypes errors
        and AssertionError as well.
        """
        try:
            with _lock:
                return work()
        except Exception as error:
            failure = PdfPageError(f"the page cannot be read ({one_line(error)})", page=index)
            failure.__cause__ = error
            return failure.at(f"{self.name} page {index + 1}")

    def _measure(self, index: int) -> PageSize:
        if not 0 <= index < self.total:
            raise IndexError(f"the PDF has {self.total} pages, counted from 0")
        width, height = self._document.get_page_size(index)
        return PageSize(width, height, *self._pixels(width, height))

    def _pixels(self, width: float, height: float) -> tuple[int, int]:
        if not (0 < width < math.inf and 0 < height < math.inf):
            raise ValueError(f"its size is {width} x {height} points")
        if self._dpi is None:
            return self._vision.render_size(width, height)
        scale = self._dpi / POINTS_PER_INCH
        if width * scale * height * scale > MAX_PIXELS:
            raise ValueError(f"it would have {width * scale:.0f} x {height * scale:.0f} pixels at {self._dpi} dpi")
        return max(1, round(width * scale)), max(1, round(height * scale))

    def _render(self, index: int, size: PageSize, buffer: bytearray | memoryview) -> RenderedPage:
        self._reopen_if_due()
        page = self._document[index]
        try:
            _paint(page, size, buffer)
            return RenderedPage(index, self._label(index), _text(page), size)
        finally:
            page.close()

    def _label(self, index: int) -> str:
        """Return the label in one line, or the number where there is none or only a damaged one."""
        label = " ".join(_read(pdfium.FPDF_GetPageLabel, self._document, index).split())
        return label if label and "\ufffd" not in label else str(index + 1)

    def _reopen_if_due(self) -> None:
        """Open the document anew after some pages, unless its file was changed: then the old one stays open."""
        self._rendered += 1
        if self._rendered % _PAGES_PER_OPENING == 0 and _version(self.source) == self.version:
            old, self._document = self._document, _open(self.source, self.password, self.name)
            old.close()


def _paint(page: pypdfium2.PdfPage, size: PageSize, buffer: bytearray | memoryview) -> None:
    pixels = (ctypes.c_ubyte * size.nbytes).from_buffer(buffer)
    ctypes.memset(pixels, 0xFF, len(pixels))  # white, far faster than PDFium fills
    bitmap = pypdfium2.PdfBitmap.new_native(size.columns, size.rows, pdfium.FPDFBitmap_BGR, buffer=pixels)
    try:
        place = (bitmap, page, 0, 0, size.columns, size.rows, 0, _RENDER_FLAGS)
        pdfium.FPDF_RenderPageBitmap(*place)
        if page.formenv:
            pdfium.FPDF_FFLDraw(page.formenv, *place)
    finally:
        bitmap.close()


def _text(page: pypdfium2.PdfPage) -> str:
    text_page = page.get_textpage()
    try:
        return clean(text_page.get_text_bounded(errors="replace"))
    finally:
        text_page.close()


def _read(function: Callable[..., int], *arguments: object) -> str:
    """Return what a function of PDFium's writes: UTF-16 and a NUL. pypdfium2 would fail on half a character in it."""
    buffer = ctypes.create_string_buffer(function(*arguments, None, 0))
    function(*arguments, buffer, len(buffer))
    return clean(buffer.raw[:-2].decode("utf-16-le", "replace"))


def _open(source: Path | bytes, password: str | None, name: str) -> pypdfium2.PdfDocument:
    if isinstance(source, Path):
        try:
            with source.open("rb") as file:  # PDFium tells an unreadable file from a missing one no better than ""
                empty = not file.read(1)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise PdfError(f"the file cannot be read: {one_line(error)}").at(name) from error
        if readable_name(source) != str(source):
            source = source.read_bytes()  # older versions of pypdfium2 open no names that are not UTF-8
    else:
        empty = not source
    if empty:
        raise PdfFormatError("the file is empty (0 bytes)").at(name)
    try:
        document = pypdfium2.PdfDocument(source, password=password)
    except pypdfium2.PdfiumError as error:
        raise _open_error(error.err_code, password).at(name) from error
    try:
        document.init_forms()  # before any page is opened, or its fields are not rendered
    except pypdfium2.PdfiumError:
        _log.warning("%s: its form fields cannot be rendered", name)
    return document


def _version(source: Path | bytes) -> object:
    """What tells a file from another that has taken its place: a page must never come from that one."""
    if isinstance(source, bytes):
        return None
    try:
        stat = source.stat()
    except OSError:  # it is gone, while the open document still has it
        return "gone"
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _open_error(code: int | None, password: str | None) -> PdfError:
    if code == pdfium.FPDF_ERR_PASSWORD:
        what = "the password is wrong" if password else "the PDF is encrypted; pass password=..."
        return PdfPasswordError(what)
    if code == pdfium.FPDF_ERR_SECURITY:
        return PdfSecurityError("the PDF is protected in a way that PDFium cannot undo; save an unprotected copy")
    return PdfFormatError("this is no PDF, or it is too damaged to be opened")
