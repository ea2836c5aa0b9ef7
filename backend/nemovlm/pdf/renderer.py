"""PDFium draws pages. The only file that touches it.

PDFium is not thread-safe, so every call is made under one lock, which is never held longer than for one page.
"""

import ctypes
import hashlib
import logging
import math
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pypdfium2
import pypdfium2.raw as pdfium
from PIL import Image

from nemovlm.errors import PdfError, PdfFormatError, PdfPageError, PdfPasswordError, PdfSecurityError
from nemovlm.images import MAX_PIXELS, save_png
from nemovlm.inputs import Modality, Passage
from nemovlm.models.tiling import NEMOTRON_TILING, Tiling

_log = logging.getLogger("nemovlm")

_POINTS_PER_INCH = 72
# PDFium's marks for a hyphen at the end of a line, behind which the word goes on, and stray NULs.
_NO_TEXT = str.maketrans("", "", "\ufffe\x02\x00")
_CHANNELS = 3
# PDFium remembers something of every page, some 25 kB, until the document is closed; so that is done now and then.
_REOPEN = 100
_RENDER_FLAGS = pdfium.FPDF_ANNOT | pdfium.FPDF_REVERSE_BYTE_ORDER  # annotations too; RGB instead of BGR

_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603 - in a forked child the old one may be held by a thread that is gone
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@dataclass(frozen=True, eq=False)
class Page:
    """One page of a PDF."""

    source: str
    """The name that was given, the path as given, or `<bytes>`."""
    index: int
    """0-based."""
    label: str
    """What the document calls the page ("iv"), or else its number, 1-based."""
    total: int
    """Pages of the document."""
    image: Image.Image
    """RGB."""
    text: str
    """The text layer; empty where there is none."""
    width: float
    """Points (1/72 inch), as displayed: rotated and cropped."""
    height: float
    dpi: float
    """Pixels per inch of `image`, along its width."""
    info: Mapping[str, str] = field(default_factory=dict)
    """What the document says of itself: `title`, `author`, `subject`, `keywords`, `creator`, `producer`, `creationdate`
    and `moddate`, all of them, empty where it does not say. Dates are ISO 8601."""

    @cached_property
    def image_sha256(self) -> str:
        """Digest of what is seen: size and pixels."""
        digest = hashlib.sha256(f"{self.image.size}\0".encode())
        digest.update(self.image.tobytes())
        return digest.hexdigest()

    @cached_property
    def sha256(self) -> str:
        """Digest of what is seen and read: picture and text. Pages with the same digest embed alike."""
        return hashlib.sha256(f"{self.image_sha256}\0{self.text}".encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def metadata(self) -> dict[str, str | int | float]:
        """The facts of the page as flat scalars, under the names that LangChain and LlamaIndex loaders use."""
        return {
            **self.info,
            "page": self.index,
            "page_label": self.label,
            "total_pages": self.total,
            "width": self.width,
            "height": self.height,
            "dpi": self.dpi,
            "image_sha256": self.image_sha256,
        }

    @property
    def name(self) -> str:
        """What people call it: `report.pdf page 3`."""
        return f"{Path(self.source).name} page {self.index + 1}"

    def save_image(self, folder: Path) -> Path:
        """Write the picture into `folder` as a PNG, named by its digest, unless it is there; return the file.

        Whoever reads while it is written sees a whole file or none. Raises `ImageError`.
        """
        path = folder / f"{self.image_sha256}.png"
        save_png(self.image, path)
        return path

    def passage(self, modality: Modality = "text_image") -> Passage:
        """Return the page as something to embed; `text_image` is the image alone where there is no text."""
        return Passage(
            text=None if modality == "image" else self.text,
            image=None if modality == "text" else self.image,
            label=self.name,
        )


@dataclass(frozen=True)
class RenderedPage:
    """A page whose pixels, (rows, columns, 3) uint8, lie in somebody's buffer."""

    columns: int
    rows: int
    facts: dict[str, Any]

    def page(self, pixels: Any) -> Page:
        """Return the page. Its image is a copy (Pillow holds RGB in another layout), so the buffer is free again."""
        image = Image.new("RGB", (self.columns, self.rows), None)  # None: not filled, since all of it is written
        image.frombytes(pixels[: self.columns * self.rows * _CHANNELS], "raw", "RGB")
        return Page(image=image, **self.facts)


class Renderer:
    """An open document that draws one page at a time, and goes to another process by being opened there."""

    def __init__(
        self,
        source: Path | bytes,
        password: str | None = None,
        tiling: Tiling = NEMOTRON_TILING,
        dpi: float | None = None,
        name: str | None = None,
    ) -> None:
        self._recipe = (source, password, tiling, dpi, name)
        self.name = name or (str(source) if isinstance(source, Path) else "<bytes>")
        self._tiling = tiling
        self._dpi = dpi
        self._canvas = bytearray()  # kept from page to page: the first touch of fresh memory costs as much as drawing
        self._drawn = 0
        with _lock:
            self._document = _open(source, password, self.name)
            self._version = _version(source)
            self.total = len(self._document)
            self._info = _info(self._document)
        if not self.total:
            self.close()
            raise PdfFormatError("the PDF has no pages; it is empty or damaged").at(self.name)

    def __reduce__(self) -> Any:
        return Renderer, self._recipe

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the document. Closing twice is harmless."""
        with _lock:
            self._document.close()

    def page(self, index: int) -> Page:
        """Draw a page in this process. Raises `PdfPageError`."""
        if len(self._canvas) < (needed := self.bytes_needed(index)):
            self._canvas = bytearray(needed)
        return self.draw(index, self._canvas).page(memoryview(self._canvas))

    def bytes_needed(self, index: int) -> int:
        """Return how large a buffer the pixels of a page take. Raises `PdfPageError`."""
        with self._failing(index), _lock:
            if not 0 <= index < self.total:
                raise IndexError(f"the PDF has {self.total} pages, counted from 0")
            columns, rows = self._pixels(*self._document.get_page_size(index))
            return columns * rows * _CHANNELS

    def draw(self, index: int, buffer: Any) -> RenderedPage:
        """Draw a page into `buffer`, which is at least as large as `bytes_needed` said. Raises `PdfPageError`."""
        if len(buffer) < self.bytes_needed(index):  # which also says what is wrong with an index, as in one process
            raise ValueError("the buffer is too small")
        with self._failing(index), _lock:
            self._forget()
            page = self._document[index]
            try:
                width, height = page.get_size()
                columns, rows = self._pixels(width, height)
                self._paint(page, columns, rows, buffer)
                return RenderedPage(
                    columns,
                    rows,
                    {
                        "source": self.name,
                        "index": index,
                        "label": self._document.get_page_label(index) or str(index + 1),
                        "total": self.total,
                        "text": _text(page),
                        "width": width,
                        "height": height,
                        "dpi": columns / width * _POINTS_PER_INCH,
                        "info": self._info,
                    },
                )
            finally:
                page.close()

    def _forget(self) -> None:
        """Open the document anew after some pages, unless its file was changed: then the old one stays open."""
        self._drawn += 1
        source, password, *_ = self._recipe
        if self._drawn % _REOPEN == 0 and _version(source) == self._version:
            old, self._document = self._document, _open(source, password, self.name)
            old.close()

    def _paint(self, page: pypdfium2.PdfPage, columns: int, rows: int, buffer: Any) -> None:
        pixels = (ctypes.c_ubyte * (columns * rows * _CHANNELS)).from_buffer(buffer)
        ctypes.memset(pixels, 0xFF, len(pixels))  # white, far faster than PDFium fills
        bitmap = pypdfium2.PdfBitmap.new_native(columns, rows, pdfium.FPDFBitmap_BGR, buffer=pixels)
        try:
            place = (bitmap, page, 0, 0, columns, rows, 0, _RENDER_FLAGS)
            pdfium.FPDF_RenderPageBitmap(*place)
            if page.formenv:
                pdfium.FPDF_FFLDraw(page.formenv, *place)
        finally:
            bitmap.close()

    def _pixels(self, width: float, height: float) -> tuple[int, int]:
        if not (0 < width < math.inf and 0 < height < math.inf):
            raise ValueError(f"its size is {width} x {height} points")
        if self._dpi is None:
            return self._tiling.render_size(width, height)
        scale = self._dpi / _POINTS_PER_INCH
        if width * scale * height * scale > MAX_PIXELS:
            raise ValueError(f"it would have {width * scale:.0f} x {height * scale:.0f} pixels at {self._dpi} dpi")
        return max(1, round(width * scale)), max(1, round(height * scale))

    @contextmanager
    def _failing(self, index: int) -> Iterator[None]:
        """Turn whatever goes wrong with a page into a `PdfPageError`: the other pages are not concerned.

        PDFium's own errors are RuntimeErrors, but damaged pages raise ValueError, OverflowError, ctypes errors
        and AssertionError as well.
        """
        try:
            yield
        except Exception as error:
            reason = str(error) or type(error).__name__
            failure = PdfPageError(f"the page cannot be read ({reason})", page=index)
            raise failure.at(f"{self.name} page {index + 1}") from error


def _text(page: pypdfium2.PdfPage) -> str:
    text_page = page.get_textpage()
    try:
        text: str = text_page.get_text_bounded()
    finally:
        text_page.close()
    return text.translate(_NO_TEXT).replace("\r\n", "\n").strip()


# PDF 32000-1, 7.9.4: (D:YYYYMMDDHHmmSSOHH'mm), of which all but the year may be left out.
_DATE = re.compile(r"(?:D:)?(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:Z.*|([+-]\d\d)'?(\d\d)?'?)?")


def _info(document: pypdfium2.PdfDocument) -> dict[str, str]:
    found = {}
    for name in document.METADATA_KEYS:
        try:
            value = document.get_metadata_value(name).replace("\0", "").strip()
        except UnicodeDecodeError:  # half a character, in damaged files
            value = ""
        found[name.lower()] = _iso(value) if name.endswith("Date") else value
    return found


def _iso(date: str) -> str:
    """Return a PDF's date as ISO 8601, or as it is if it is none."""
    if not (match := _DATE.fullmatch(date)):
        return date
    year, *parts, zone_hours, zone_minutes = match.groups()
    month, day, *time = (part or least for part, least in zip(parts, ("01", "01", "00", "00", "00"), strict=True))
    zone = f"{zone_hours}:{zone_minutes or '00'}" if zone_hours else "+00:00" if "Z" in date else ""
    try:
        return datetime.fromisoformat(f"{year}-{month}-{day}T{':'.join(time)}{zone}").isoformat()
    except ValueError:
        return date


def _open(source: Path | bytes, password: str | None, name: str) -> pypdfium2.PdfDocument:
    if isinstance(source, Path):
        try:
            with source.open("rb") as file:  # PDFium tells an unreadable file from a missing one no better than ""
                empty = not file.read(1)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = getattr(error, "strerror", None) or error
            raise PdfError(f"the file cannot be read: {reason}").at(name) from error
    else:
        empty = not source
    if empty:
        raise PdfFormatError("the file is empty (0 bytes)").at(name)
    try:
        document = pypdfium2.PdfDocument(source, password=password)
    except pypdfium2.PdfiumError as error:
        raise _open_error(error.err_code, password).at(name) from error
    try:
        document.init_forms()  # before any page is opened, or its fields are not drawn
    except pypdfium2.PdfiumError:
        _log.warning("%s: its form fields cannot be drawn", name)
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
