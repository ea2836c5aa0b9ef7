"""Cells that PDFium reads as one word are parted. Touches PDFium, as `text` does.

PDFium takes a table of single characters for a text that runs downwards, and digits at equal distances for one that is
spaced out. To ask for every place on a page would take as long as to draw it, so words are asked for their ends alone,
and only those that may be cells.
"""

import ctypes
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import pypdfium2
import pypdfium2.raw as pdfium

_BLANKS = " \t\r\n\ufffe"  # and PDFium's mark of a hyphen
_WORD = re.compile(rf"[^{_BLANKS}]{{2,}}")
_FROM_DIGIT = re.compile(rf"\d[^{_BLANKS}]*")
_FEW_WORDS = 80
_LAST_OF_ONE_UNIT = "\uffff"
_NOT_SPACED = "\u0590"  # from here on scripts run to the left, downwards, or without blanks
# Of the height of a line in that font, which is 1.2 times its size or so. A letter takes up half of it, and spaced out
# the whole; a raised figure stands higher by a third.
_STEP = 0.8
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
    places = _Places(text_page)
    return [
        Start(start + step, character)
        for start, end in _spans(text)
        if end - start > 1 and max(text[start:end]) < _NOT_SPACED
        for step, character in places.find_cells(start, end - start - 1)
    ]


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield where words start and end: all if there are few, and those with a digit if there are many."""
    if text.count(" ") + text.count("\n") < _FEW_WORDS:
        yield from (word.span() for word in _WORD.finditer(text))
        return
    for number in _FROM_DIGIT.finditer(text):
        start, end = number.span()
        while start and text[start - 1] not in _BLANKS:
            start -= 1
        yield start, end


class _Places:
    """Where the letters of a page are. What PDFium writes that to is made once: it is asked often."""

    def __init__(self, text_page: pypdfium2.PdfTextPage) -> None:
        self._page = text_page.raw
        self._box = pdfium.FS_RECTF()
        self._x, self._y = ctypes.c_double(), ctypes.c_double()
        self._cos, self._sin = 1.0, 0.0  # of the direction of the last line that was asked for it

    def find_cells(self, place: int, steps: int) -> Iterator[tuple[int, int]]:
        """Yield where cells start within a word: steps from its first letter, and the character there.

        Args:
            place: Of its first letter in the text.
            steps: From there to its last.
        """
        first = pdfium.FPDFText_GetCharIndexFromTextIndex(self._page, place)
        begin, end = self._origin(first), self._origin(first + steps)
        pdfium.FPDFText_GetLooseCharBox(self._page, first, self._box)
        height = max(self._box.top - self._box.bottom, self._box.right - self._box.left)
        along, across = self._way(begin, end)
        if across < _RAISED * height and along < _STEP * height * steps:
            return  # nearly all end here
        if height <= 0 or pdfium.FPDFText_GetTextIndexFromCharIndex(self._page, first + steps) != place + steps:
            return
        angle = pdfium.FPDFText_GetCharAngle(self._page, first)  # radians, clockwise
        self._cos, self._sin = math.cos(angle), -math.sin(angle)
        for step in range(1, steps + 1):
            end = self._origin(first + step)
            along, across = self._way(begin, end)
            if across > _RAISED * height or along > _GAP * height:
                yield step, first + step
            begin = end

    def _way(self, begin: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
        right, up = end[0] - begin[0], end[1] - begin[1]
        return abs(right * self._cos + up * self._sin), abs(up * self._cos - right * self._sin)

    def _origin(self, character: int) -> tuple[float, float]:
        pdfium.FPDFText_GetCharOrigin(self._page, character, self._x, self._y)
        return self._x.value, self._y.value
