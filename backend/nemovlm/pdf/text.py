"""The text of a page: what is seen on it, in PDFium's order. Touches PDFium, so the caller holds the lock."""

import ctypes
import re

import pypdfium2
import pypdfium2.raw as pdfium

from nemovlm.pdf.metadata import clean

# PDFium's mark for a hyphen at the end of a line, behind which the word goes on. Where characters are listed one by
# one, or those in a box, the mark is U+0002, which may as well be a letter of a font that does not name its letters.
_HYPHEN = "\ufffe"
_LISTED_HYPHEN = 2
# Hyphenation parts words of letters, and leaves two of them at least at the end of a line. So a hyphen behind a digit
# or a single letter ("x-ray") belongs to the word, as one before a digit or a capital does.
_PARTED_WORD = re.compile(rf"(?<=[^\W\d_]{{2}}){_HYPHEN}(?=([^\W\d_]))")
_BLANKS_AND_MARKS = re.compile(rf"[\s\x02{_HYPHEN}]+")
_LINE_ENDS = re.compile(r"[ \r]*\n\s*")


def read_text(page: pypdfium2.PdfPage) -> str:
    """Return the text on a page: what stands apart is apart, words are whole, and nothing is outside the crop box."""
    text_page = page.get_textpage()
    try:
        return clean(_join_words(_text_inside(text_page, page.get_bbox())))
    finally:
        text_page.close()


def _join_words(text: str) -> str:
    text = _PARTED_WORD.sub(lambda parted: "-" if parted[1].isupper() else "", text)
    return text.replace(_HYPHEN, "-")


def _text_inside(text_page: pypdfium2.PdfTextPage, box: tuple[float, float, float, float]) -> str:
    """Return the text inside a box (left, bottom, right, top, in points).

    PDFium has all text with its line ends (`FPDFText_GetText`), or that inside a box without most of them
    (`FPDFText_GetBoundedText`). If these have the same letters, nothing lies outside, and the former is right.
    """
    count = pdfium.FPDFText_CountChars(text_page)
    if count <= 0:
        return ""
    buffer = (ctypes.c_ushort * (3 * count + 1))()  # a line end before each, and a NUL
    left, bottom, right, top = box
    whole = _decode(buffer, pdfium.FPDFText_GetText(text_page, 0, count, buffer) - 1)
    inside = _decode(buffer, pdfium.FPDFText_GetBoundedText(text_page, left, top, right, bottom, buffer, len(buffer)))
    if _letters(whole) == _letters(inside):
        return whole
    return _characters_inside(text_page, count, box)


def _letters(text: str) -> str:
    return clean(_BLANKS_AND_MARKS.sub("", text))


def _characters_inside(text_page: pypdfium2.PdfTextPage, count: int, box: tuple[float, float, float, float]) -> str:
    """Return the same, asked character by character, which takes longer than all the rest together."""
    left, bottom, right, top = box
    x0, x1, y0, y1 = place = [ctypes.c_double() for _ in range(4)]
    references = [ctypes.byref(number) for number in place]
    units = (ctypes.c_ushort * count)()
    seen = 0
    for n in range(count):
        unit = pdfium.FPDFText_GetUnicode(text_page, n)
        if unit > ord(" "):
            pdfium.FPDFText_GetCharBox(text_page, n, *references)
            if x0.value > right or x1.value < left or y0.value > top or y1.value < bottom:
                continue
        elif unit == _LISTED_HYPHEN and pdfium.FPDFText_IsHyphen(text_page, n):
            unit = ord(_HYPHEN)
        units[seen] = unit
        seen += 1
    return _LINE_ENDS.sub("\n", _decode(units, seen))


def _decode(buffer: "ctypes.Array[ctypes.c_ushort]", length: int) -> str:
    """Return the first UTF-16 units of a buffer as text. What is half a character stays one."""
    return bytes(memoryview(buffer)[: max(length, 0)]).decode("utf-16-le", "surrogatepass")
