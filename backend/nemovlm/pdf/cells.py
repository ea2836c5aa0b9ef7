"""Cells that PDFium reads as one word are parted. Touches PDFium, as `text` does.

PDFium takes a table of single characters for a text that runs downwards, and digits at equal distances for one that is
spaced out. To ask for every place on a page would take as long as to draw it, so words are asked for their ends alone,
and only those that may be cells.
"""

import ctypes
import math
import re
from typing import NamedTuple

import pypdfium2
import pypdfium2.raw as pdfium

_WORD = re.compile(r"[^\s\ufffe]{2,}")
_NUMBER = re.compile(r"[^\s\ufffe\d]*\d[^\s\ufffe]+|[^\s\ufffe\d]+\d")
_FEW_WORDS = 150
_LAST_OF_ONE_UNIT = "\uffff"
_NOT_SPACED = "\u0590"  # from here on scripts run to the left, downwards, or without blanks
# Of the height of a line in that font, which is 1.2 times its size or so. A letter takes up half of it, and spaced out
# the whole; a raised figure stands higher by a third.
_STEP = 1.0
_GAP = 1.5
_RAISED = 0.6


class Start(NamedTuple):
    """A cell that starts within what PDFium has for a word."""

    place: int
    """In the text, 0-based."""
    character: int
    """As PDFium counts them."""


def find_cells(text: str, text_page: pypdfium2.PdfTextPage) -> list[Start]:
    """Return where cells start within the words of the whole text of a page, in its order."""
    if max(text, default="") > _LAST_OF_ONE_UNIT:
        return []  # PDFium counts otherwise
    words = list(_WORD.finditer(text))
    if len(words) > _FEW_WORDS:
        words = list(_NUMBER.finditer(text))
    return [start for word in words if max(word[0]) < _NOT_SPACED for start in _starts_within(word, text_page)]


def _starts_within(word: re.Match[str], text_page: pypdfium2.PdfTextPage) -> list[Start]:
    first = pdfium.FPDFText_GetCharIndexFromTextIndex(text_page, word.start())
    last = pdfium.FPDFText_GetCharIndexFromTextIndex(text_page, word.end() - 1)
    if first < 0 or last - first != word.end() - 1 - word.start():
        return []
    box = pdfium.FS_RECTF()
    pdfium.FPDFText_GetLooseCharBox(text_page, first, box)
    height = max(abs(box.top - box.bottom), abs(box.right - box.left))
    angle = pdfium.FPDFText_GetCharAngle(text_page, first)
    along, across = _way(text_page, first, last, angle)
    if not height or (across < _RAISED * height and along < _STEP * height * (last - first)):
        return []
    starts = []
    for character in range(first + 1, last + 1):
        along, across = _way(text_page, character - 1, character, angle)
        if across > _RAISED * height or along > _GAP * height:
            starts.append(Start(word.start() + character - first, character))
    return starts


def _way(text_page: pypdfium2.PdfTextPage, one: int, other: int, angle: float) -> tuple[float, float]:
    """Return how far a letter is from another along its line, and how far it is from that line; in points.

    The line runs at an angle, in radians, clockwise.
    """
    x0, y0, x1, y1 = (ctypes.c_double() for _ in range(4))
    pdfium.FPDFText_GetCharOrigin(text_page, one, x0, y0)
    pdfium.FPDFText_GetCharOrigin(text_page, other, x1, y1)
    right, up = x1.value - x0.value, y1.value - y0.value
    cos, sin = math.cos(angle), -math.sin(angle)
    return abs(right * cos + up * sin), abs(up * cos - right * sin)
