"""PDFium renders pages. It is touched here, and in the files beneath this one that say so.

PDFium is not thread-safe, so every call is made under one lock, which is never held longer than for one page.
"""

import ctypes
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property

import pypdfium2
import pypdfium2.raw as pdfium

from nemovlm.errors import PdfError, PdfFormatError, PdfPageError, PdfPasswordError, PdfSecurityError, one_line
from nemovlm.images import MAX_PIXELS
from nemovlm.models.tiling import NEMOTRON_TILING
from nemovlm.models.vision import Vision
from nemovlm.pdf.annotation_layers import hide_annotations
from nemovlm.pdf.attachments import attached_pdfs, read_attachment
from nemovlm.pdf.fonts import SystemFonts, fonts_without_letters
from nemovlm.pdf.layers import LAYERS
from nemovlm.pdf.mentions import mentioned
from nemovlm.pdf.metadata import read_info
from nemovlm.pdf.page import POINTS_PER_INCH, PageSize, RenderedPage, page_failure
from nemovlm.pdf.source import File, version_of
from nemovlm.pdf.strings import read_string
from nemovlm.pdf.text import read_text
from nemovlm.pdf.user_unit import USER_UNIT, user_unit

# PDFium remembers something of every page, some 25 kB, until the document is closed; so that is done now and then.
_PAGES_PER_OPENING = 100
_RENDER_FLAGS = pdfium.FPDF_ANNOT | pdfium.FPDF_REVERSE_BYTE_ORDER  # annotations too; RGB instead of BGR

# Reentrant: a garbage collection or a signal may close a document while this very thread renders another.
_lock = threading.RLock()


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603 - in a forked child the old one may be held by a thread that is gone
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Renderer:
    """An open PDF that renders one page at a time.

    Args:
        file: The PDF.
        passwords: For an encrypted PDF, to be tried one after the other.
        vision: Says how many pixels a page gets, unless `dpi` does.
        dpi: Pixels per inch.
        fonts: The fonts of the system, which take the place of PDFium's own on pages that these have not all letters
            for. Only in a process that does nothing else with PDFium.

    Raises:
        PdfError: The PDF cannot be opened; the subclasses say why.
        OSError: There is no such file, or it cannot be read here.
    """

    def __init__(
        self,
        file: File,
        passwords: Sequence[str] = (),
        vision: Vision = NEMOTRON_TILING,
        dpi: float | None = None,
        fonts: SystemFonts | None = None,
    ) -> None:
        self._file = file
        self._fonts = fonts
        self._vision = vision
        self._dpi = dpi
        self._rendered = 0
        with _lock, self._damage_told():
            self._document, self._password = self._open((None, *passwords))
            self.notes = _init_forms(self._document)
            """What whoever reads it should know, a sentence each."""
            self.total = len(self._document)
            """Pages."""
            self.info = read_info(lambda key: read_string(pdfium.FPDF_GetMetaText, self._document, key.encode()))
            """What the document says of itself."""
            self.attached = attached_pdfs(self._document)
            """PDFs that are attached: which attachment it is, 0-based, and its name."""
        if not self.total:
            self.close()
            raise PdfFormatError("the PDF has no pages; it is empty or damaged").at(file.name)

    def close(self) -> None:
        """Close the document. Closing twice is harmless."""
        with _lock:
            self._document.close()

    def render(self, index: int, buffer: Callable[[int], bytearray | memoryview]) -> RenderedPage | PdfPageError:
        """Render a page (0-based). Whatever goes wrong concerns this page alone.

        PDFium's own errors are RuntimeErrors, but damaged pages raise ValueError, OverflowError, ctypes errors and
        AssertionError as well.

        Args:
            index: Of the page.
            buffer: Bytes -> a buffer of as many at least, for the pixels.
        """
        try:
            with _lock:
                size = self._measure(index)
                return self._render(index, size, buffer(size.nbytes))
        except Exception as error:
            failure = page_failure(self._file.name, index, f" ({one_line(error)})")
            failure.__cause__ = error
            return failure

    def attachment(self, number: int) -> bytes | PdfError:
        """Return the content of an attachment (0-based)."""
        try:
            with _lock, self._damage_told():
                return read_attachment(self._document, number)
        except PdfError as error:
            return error

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        """Have what goes wrong within be a `PdfError`, but for files that cannot be read: damage is of every kind."""
        try:
            yield
        except (PdfError, OSError):
            raise
        except Exception as error:
            raise PdfFormatError(f"it is too damaged to be read ({one_line(error)})").at(self._file.name) from error

    @cached_property
    def _mentioned(self) -> set[bytes]:
        return mentioned(self._file.path, [LAYERS, USER_UNIT])

    def _measure(self, index: int) -> PageSize:
        if not 0 <= index < self.total:
            raise IndexError(f"the PDF has {self.total} pages, counted from 0")
        unit = user_unit(self._document, index) if USER_UNIT in self._mentioned else 1
        width, height = (unit * side for side in self._document.get_page_size(index))
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
        rendered = self._draw(self._document, index, size, buffer)
        if rendered.lacking and self._fonts:
            with self._fonts.preferred():
                document, _ = self._open([self._password])
                with closing(document):
                    _init_forms(document)
                    rendered = self._draw(document, index, size, buffer)
        return rendered

    def _draw(
        self, document: pypdfium2.PdfDocument, index: int, size: PageSize, buffer: bytearray | memoryview
    ) -> RenderedPage:
        with closing(document[index]) as page:
            has_layers = LAYERS in self._mentioned
            if has_layers:
                hide_annotations(page)
            _paint(page, size, buffer)
            text = read_text(page, index, has_layers)
            return RenderedPage(index, self._label(index), text, size, fonts_without_letters(page, text))

    def _label(self, index: int) -> str:
        """Return the label in one line, or the number where there is none or only a damaged one."""
        label = " ".join(read_string(pdfium.FPDF_GetPageLabel, self._document, index).split())
        return label if label and "\ufffd" not in label else str(index + 1)

    def _reopen_if_due(self) -> None:
        """Open the document anew after some pages, unless its path leads elsewhere now: then the old one stays open."""
        self._rendered += 1
        if self._rendered % _PAGES_PER_OPENING == 0:
            try:
                new = self._open([self._password])[0]
            except (OSError, PdfError):
                return
            _init_forms(new)
            old, self._document = self._document, new
            old.close()

    def _open(self, passwords: Sequence[str | None]) -> tuple[pypdfium2.PdfDocument, str | None]:
        """Return the document, and the password that opens it, None if it needs none."""
        code = pdfium.FPDF_ERR_SUCCESS
        for password in passwords:
            handle = pdfium.FPDF_LoadDocument(
                os.fsencode(self._file.path), password.encode("utf-8", "surrogatepass") if password else None
            )
            if handle or (code := pdfium.FPDF_GetLastError()) != pdfium.FPDF_ERR_PASSWORD:
                break
        if version_of(self._file.path) != self._file.version:
            if handle:
                pdfium.FPDF_CloseDocument(handle)
            raise changed(self._file.name)
        if code == pdfium.FPDF_ERR_FILE:
            raise OSError("PDFium cannot open it")
        if not handle:
            raise _open_error(code, len(passwords) - 1).at(self._file.name)
        return pypdfium2.PdfDocument(handle), password


def changed(name: str) -> PdfError:
    """Return the error of a file that is not what it was when it was opened."""
    return PdfError("the file was changed while it was read; read it again").at(name)


def _init_forms(document: pypdfium2.PdfDocument) -> list[str]:
    """Have form fields drawn. It comes before any page is opened. Return what cannot be had."""
    notes = []
    try:
        document.init_forms()
    except pypdfium2.PdfiumError:
        notes.append("its form fields cannot be rendered")
    if document.get_formtype() == pdfium.FORMTYPE_XFA_FULL:  # of the other kind, pages are there as well
        notes.append(
            "this is an XFA form, which Adobe's programs alone can show: its pages may be no more than a notice that "
            "says so; print it to a PDF there"
        )
    return notes


def _paint(page: pypdfium2.PdfPage, size: PageSize, buffer: bytearray | memoryview) -> None:
    pixels = (ctypes.c_ubyte * size.nbytes).from_buffer(buffer)
    ctypes.memset(pixels, 0xFF, len(pixels))  # white, far faster than PDFium fills
    bitmap = pypdfium2.PdfBitmap.new_native(size.columns, size.rows, pdfium.FPDFBitmap_BGRx, buffer=pixels)
    try:
        place = (bitmap, page, 0, 0, size.columns, size.rows, 0, _RENDER_FLAGS)
        pdfium.FPDF_RenderPageBitmap(*place)
        if page.formenv:
            pdfium.FPDF_FFLDraw(page.formenv, *place)
    finally:
        bitmap.close()


def _open_error(code: int, passwords: int) -> PdfError:
    if code == pdfium.FPDF_ERR_PASSWORD:
        wrong = "the password is wrong" if passwords == 1 else f"none of the {passwords} passwords is right"
        return PdfPasswordError(wrong if passwords else "the PDF is encrypted; pass password=...")
    if code == pdfium.FPDF_ERR_SECURITY:
        return PdfSecurityError("the PDF is protected in a way that PDFium cannot undo; save an unprotected copy")
    return PdfFormatError("this is no PDF, or it is too damaged to be opened")
