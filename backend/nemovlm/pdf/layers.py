"""What layers that are off hide (optional content, PDF 32000-1, 8.11). Touches PDFium, as `text` does.

PDFium does not draw what a layer hides, but reads it, and does not say which layers are on. So it is asked to draw.
"""

import ctypes
import math
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import pypdfium2
import pypdfium2.raw as pdfium

LAYERS = b"/OCProperties"
"""A key of the catalog of every document that has layers."""
_LONGEST_SIDE = 400  # pixels of a picture that shows whether anything is drawn: some gray of each letter, if small


class _Group(NamedTuple):
    """Text that the same layers hide or show."""

    forms: tuple[Any, ...]
    """That it is in, from the page inwards."""
    texts: list[Any]


def deactivate_hidden_text(page: pypdfium2.PdfPage) -> None:
    """Make text that layers hide inactive, so that PDFium does not read it, and whatever else is no text.

    Args:
        page: A page that was drawn. It cannot be drawn again.
    """
    count, get = pdfium.FPDFPage_CountObjects(page), pdfium.FPDFPage_GetObject
    groups: dict[tuple[int, ...], _Group] = {}
    _collect(groups, (), (), (get(page, number) for number in range(count)))
    seen = [group for key, group in groups.items() if not key or _is_seen(page, group)]
    for group in seen:
        _set_active(group, True)


def _collect(
    groups: dict[tuple[int, ...], _Group], key: tuple[int, ...], forms: tuple[Any, ...], objects: Iterator[Any]
) -> None:
    """Group texts by what may hide them: marks, and forms, whose dictionaries may name a layer. All become inactive."""
    for item in objects:
        pdfium.FPDFPageObj_SetIsActive(item, False)
        kind = pdfium.FPDFPageObj_GetType(item)
        if kind == pdfium.FPDF_PAGEOBJ_TEXT:
            groups.setdefault((*key, *_marks(item)), _Group(forms, [])).texts.append(item)
        elif kind == pdfium.FPDF_PAGEOBJ_FORM:
            inside = (pdfium.FPDFFormObj_GetObject(item, n) for n in range(pdfium.FPDFFormObj_CountObjects(item)))
            _collect(groups, (*key, *_marks(item), _address(item)), (*forms, item), inside)


def _marks(item: Any) -> Iterator[int]:
    """Yield the addresses of an object's marks that name a layer. Objects between the same operators share them."""
    name, length = (ctypes.c_ushort * 3)(), ctypes.c_ulong()
    for number in range(pdfium.FPDFPageObj_CountMarks(item)):
        mark = pdfium.FPDFPageObj_GetMark(item, number)
        if pdfium.FPDFPageObjMark_GetName(mark, name, ctypes.sizeof(name), length) and bytes(name) == b"O\0C\0\0\0":
            yield _address(mark)


def _address(handle: Any) -> int:
    return ctypes.addressof(handle.contents)


def _set_active(group: _Group, active: bool) -> None:
    for item in (*group.forms, *group.texts):
        pdfium.FPDFPageObj_SetIsActive(item, active)


def _is_seen(page: pypdfium2.PdfPage, group: _Group) -> bool:
    """Return whether PDFium draws any of the texts, or else none of them has anything to draw.

    They are made black, and those that lie invisibly behind a scanned page are drawn, too.
    """
    for text in group.texts:
        pdfium.FPDFTextObj_SetTextRenderMode(text, pdfium.FPDF_TEXTRENDERMODE_FILL)
        pdfium.FPDFPageObj_SetFillColor(text, 0, 0, 0, 255)
    _set_active(group, True)
    drawn = _draws(page)
    _set_active(group, False)
    return drawn or not any(_has_ink(page, text) for text in group.texts)


def _draws(page: pypdfium2.PdfPage) -> bool:
    """Return whether anything is drawn of what is active on a page."""
    width, height = page.get_size()
    scale = _LONGEST_SIDE / max(width, height)
    columns, rows = 4 * math.ceil(width * scale / 4), math.ceil(height * scale)  # PDFium's rows are of whole words
    white = b"\xff" * (columns * rows)
    pixels = (ctypes.c_ubyte * len(white)).from_buffer_copy(white)
    with closing(pypdfium2.PdfBitmap.new_native(columns, rows, pdfium.FPDFBitmap_Gray, buffer=pixels)) as bitmap:
        pdfium.FPDF_RenderPageBitmap(bitmap, page, 0, 0, columns, rows, 0, 0)
    drawn: bool = bytes(pixels) != white
    return drawn


def _has_ink(page: pypdfium2.PdfPage, text: Any) -> bool:
    """Return whether a text, whatever hides it, has anything to draw: blanks and fonts without glyphs have not."""
    bitmap = pdfium.FPDFTextObj_GetRenderedBitmap(page.pdf, page, text, 1)
    if not bitmap:
        return False
    try:
        size = pdfium.FPDFBitmap_GetStride(bitmap) * pdfium.FPDFBitmap_GetHeight(bitmap)
        return any(ctypes.string_at(pdfium.FPDFBitmap_GetBuffer(bitmap), size))
    finally:
        pdfium.FPDFBitmap_Destroy(bitmap)
