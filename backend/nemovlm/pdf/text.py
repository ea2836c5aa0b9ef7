"""The text of a page: what is seen on it, in PDFium's order. Touches PDFium, so the caller holds the lock."""

import ctypes
import re
from collections.abc import Container, Sequence
from contextlib import closing
from typing import NamedTuple

import pypdfium2
import pypdfium2.raw as pdfium

from nemovlm.pdf.annotations import Annotation, Box, read_annotations
from nemovlm.pdf.cells import find_cells
from nemovlm.pdf.layers import deactivate_hidden_text
from nemovlm.pdf.metadata import clean

# PDFium's mark for a hyphen at the end of a line, behind which the word goes on. Where characters are listed one by
# one, or those in a box, the mark is U+0002, which may as well be a letter of a font that does not name its letters.
_HYPHEN = "\ufffe"
_LISTED_HYPHEN = 2
# Hyphenation parts words of letters, and leaves two of them at least at the end of a line. So a hyphen behind a digit
# or a single letter ("x-ray") belongs to the word, as one before a digit or a capital does.
_PARTED_WORD = re.compile(rf"{_HYPHEN}(?<=[^\W\d_]{{2}}{_HYPHEN})(?=([^\W\d_]))")
# Points. A label of a field is not further from it, and not larger.
_LABEL_DISTANCE = 200
_LINE_HEIGHT = 16
_LINE_ENDS = re.compile(r"[ \r]*\n\s*")


def read_text(page: pypdfium2.PdfPage, index: int, has_layers: bool) -> str:
    """Return the text on a page: what stands apart is apart, words are whole, and what is not seen is left out.

    Args:
        page: A page that was drawn. It cannot be drawn again.
        index: Of the page, 0-based.
        has_layers: Whether there may be some that are off.
    """
    if has_layers:
        deactivate_hidden_text(page)
    annotations = [one for one in read_annotations(page, index, _read_page) if one.text.strip()]
    return clean(_join_words(_read_page(page, annotations)))


def _read_page(page: pypdfium2.PdfPage, annotations: Sequence[Annotation] = ()) -> str:
    """Return the text of a page with that of annotations behind the lines that label them, or else at its end.

    PDFium has all text with its line ends (`FPDFText_GetText`), or that inside a box without most of them
    (`FPDFText_GetBoundedText`). If these have the same letters, nothing lies outside, and the former is right.
    """
    with closing(page.get_textpage()) as text_page:
        count, box = pdfium.FPDFText_CountChars(text_page), page.get_bbox()
        text = _all_text(text_page, count)
        cells = find_cells(text, text_page)
        if _same_letters(text, _text_inside(text_page, count, box)):
            labels = [_end_of_label(annotation.box, text, text_page) for annotation in annotations]
            inserted = [_Inserted(start.place, 0, 0, 0, "\n") for start in cells]
        else:
            text = _characters_inside(text_page, count, box, {start.character for start in cells})
            labels, inserted = [None] * len(annotations), []
    for (said, (left, _, _, top)), label in zip(annotations, labels, strict=True):
        blank = "\n" if label is None or "\n" in said else " "
        place, order = (len(text), 1) if label is None else (label, 0)
        inserted.append(_Inserted(place, order, -top, left, blank + said))
    parts, start = [], 0
    for insertion in sorted(inserted):
        parts += [text[start : insertion.place], insertion.text]
        start = insertion.place
    return "".join([*parts, text[start:]])


class _Inserted(NamedTuple):
    """A text that goes into another."""

    place: int
    """In the other text."""
    order: int
    """At the same place, those of a line are first, then those without one; of either, those further up and left."""
    down: float
    right: float
    text: str


def _end_of_label(box: Box, text: str, text_page: pypdfium2.PdfTextPage) -> int | None:
    """Return where the line ends that labels a box: the one on its left at its first line, or the one above it."""
    left, bottom, _, top = box
    height = min(top - bottom, _LINE_HEIGHT)
    # The nearest character is found whose box is within half of a width and a height from a place.
    beside = (left, top - height / 2, 2 * _LABEL_DISTANCE, height)
    above = (left, top, _LINE_HEIGHT, 3 * _LINE_HEIGHT)
    for place in (beside, above):
        if (character := pdfium.FPDFText_GetCharIndexAtPos(text_page, *place)) >= 0:
            unit = pdfium.FPDFText_GetTextIndexFromCharIndex(text_page, character)
            before = text.encode("utf-16-le", "surrogatepass")[: 2 * max(unit, 0)].decode("utf-16-le", "ignore")
            end = text.find("\r\n", len(before))
            return end if end >= 0 else len(text)
    return None


def _join_words(text: str) -> str:
    text = _PARTED_WORD.sub(lambda parted: "-" if parted[1].isupper() else "", text)
    return text.replace(_HYPHEN, "-")


def _all_text(text_page: pypdfium2.PdfTextPage, count: int) -> str:
    buffer = (ctypes.c_ushort * (count + 1))()
    return _decode(buffer, pdfium.FPDFText_GetText(text_page, 0, count, buffer) - 1)


def _text_inside(text_page: pypdfium2.PdfTextPage, count: int, box: Box) -> str:
    buffer = (ctypes.c_ushort * (3 * count + 1))()  # a line end before each, and a NUL
    left, bottom, right, top = box
    length = pdfium.FPDFText_GetBoundedText(text_page, left, top, right, bottom, buffer, len(buffer))
    return _decode(buffer, length)


def _same_letters(one: str, other: str) -> bool:
    """Compare texts without what is no text, blanks, and marks of hyphens."""
    for letter in (" ", "\r", "\n", _HYPHEN, chr(_LISTED_HYPHEN)):
        one, other = one.replace(letter, ""), other.replace(letter, "")
    return one == other or clean(one) == clean(other)


def _characters_inside(text_page: pypdfium2.PdfTextPage, count: int, box: Box, cells: Container[int]) -> str:
    """Return what is inside a box, asked character by character, which takes longer than all the rest together.

    Args:
        text_page: What is read.
        count: Of its characters.
        box: That they are in.
        cells: Characters at which a cell starts.
    """
    raw, (left, bottom, right, top) = text_page.raw, box
    x0, x1, y0, y1 = place = [ctypes.c_double() for _ in range(4)]
    references = [ctypes.byref(number) for number in place]
    units = (ctypes.c_ushort * (2 * count))()
    seen = 0
    for n in range(count):
        unit = pdfium.FPDFText_GetUnicode(raw, n)
        if unit > ord(" "):
            pdfium.FPDFText_GetCharBox(raw, n, *references)
            if x0.value > right or x1.value < left or y0.value > top or y1.value < bottom:
                continue
        elif unit == _LISTED_HYPHEN and pdfium.FPDFText_IsHyphen(raw, n):
            unit = ord(_HYPHEN)
        if n in cells:
            units[seen] = ord("\n")
            seen += 1
        units[seen] = unit
        seen += 1
    return _LINE_ENDS.sub("\n", _decode(units, seen))


def _decode(buffer: "ctypes.Array[ctypes.c_ushort]", length: int) -> str:
    """Return the first UTF-16 units of a buffer as text. What is half a character stays one."""
    return bytes(memoryview(buffer)[: max(length, 0)]).decode("utf-16-le", "surrogatepass")
