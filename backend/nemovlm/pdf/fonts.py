"""Letters of fonts that are not embedded. Touches PDFium, so the caller holds the lock.

PDFium draws such letters with fonts of its own, which have those of Western Europe, and any other letter as nothing.
"""

import ctypes
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from unicodedata import category

import pypdfium2
import pypdfium2.raw as pdfium

from nemovlm.pdf.strings import read_string

_OWN_LETTERS = frozenset(bytes(range(0x20, 0x100)).decode("cp1252", "ignore") + "\n\t")
_INVISIBLE = ("C", "Z")  # general categories of Unicode: control characters and separators
# Sans, serif and fixed width: what systems have that covers more. The first are as wide as Arial, Times and Courier.
_FAMILIES = (
    ("Liberation Sans", "Liberation Serif", "Liberation Mono"),
    ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono"),
    ("Noto Sans", "Noto Serif", "Noto Sans Mono"),
    ("FreeSans", "FreeSerif", "FreeMono"),
    ("Arial", "Times New Roman", "Courier New"),
)
_FIXED_WIDTH, _SERIF = 1, 16  # fpdf_sysfontinfo.h: FXFONT_FF_FIXEDPITCH, FXFONT_FF_ROMAN
_BOLD = 600  # of a weight, from here on
_GLYPH_SIZE = 12.0  # any


def fonts_without_letters(page: pypdfium2.PdfPage, text: str) -> set[str]:
    """Return the names of fonts that are not embedded, and have no picture of a letter on a page that is to be seen.

    Args:
        page: A page.
        text: What is on it.
    """
    if not (foreign := set(text) - _OWN_LETTERS):
        return set()
    used: dict[int, set[str]] = defaultdict(set)
    fonts = {}
    with closing(page.get_textpage()) as text_page:
        for item in page.get_objects([pdfium.FPDF_PAGEOBJ_TEXT]):
            font = pdfium.FPDFTextObj_GetFont(item)
            if not font or pdfium.FPDFFont_GetIsEmbedded(font):
                continue
            if pdfium.FPDFTextObj_GetTextRenderMode(item) == pdfium.FPDF_TEXTRENDERMODE_INVISIBLE:
                continue
            address = ctypes.addressof(font.contents)
            fonts[address] = font
            used[address] |= foreign.intersection(read_string(pdfium.FPDFTextObj_GetText, item, text_page))
    return {_name_of(fonts[address]) for address, letters in used.items() if _cannot_draw(fonts[address], letters)}


def _cannot_draw(font: object, letters: set[str]) -> bool:
    return any(
        not pdfium.FPDFFont_GetGlyphPath(font, ord(letter), _GLYPH_SIZE)
        for letter in letters
        if not category(letter).startswith(_INVISIBLE)
    )


def _name_of(font: object) -> str:
    buffer = ctypes.create_string_buffer(pdfium.FPDFFont_GetBaseFontName(font, None, 0))
    pdfium.FPDFFont_GetBaseFontName(font, buffer, len(buffer))
    try:
        return buffer.value.decode()
    except UnicodeDecodeError:  # Chinese systems wrote names in their own encoding
        return buffer.value.decode("gb18030", "replace")


class SystemFonts(pypdfium2.PdfSysfontBase):  # type: ignore[misc] # pypdfium2 has no types
    """PDFium's way to the fonts of the system, which it may be told to prefer to its own.

    It is one for the whole process, also for other users of PDFium: so for a process of ours alone.
    """

    _preferred = False

    @contextmanager
    def preferred(self) -> Iterator[None]:
        """Have documents that are opened within drawn with fonts of the system, where they are not embedded."""
        self._preferred = True
        try:
            yield
        finally:
            self._preferred = False

    def MapFont(  # noqa: N802 - the name that PDFium calls
        self, _: object, weight: int, italic: int, charset: int, pitch: int, face: object, exact: object
    ) -> object:
        """Return a font of the system, or nothing: then PDFium takes one of its own."""
        found = self.default.MapFont(self.default, weight, italic, charset, pitch, face, exact)
        names = iter(_names(weight, bool(italic), pitch) if self._preferred else ())
        while not found and (name := next(names, None)):
            found = self.default.GetFont(self.default, name.encode())
        return found


def _names(weight: int, italic: bool, pitch: int) -> Iterator[str]:
    """Yield the names, as PDFium puts them together, of fonts that may take the place of one that is not there."""
    bold = " Bold" if weight >= _BOLD else ""
    styles = [f"{bold} Italic", f"{bold} Oblique"] if italic else []
    for families in _FAMILIES:
        family = families[2 if pitch & _FIXED_WIDTH else 1 if pitch & _SERIF else 0]
        for style in (*styles, bold, "", " Book"):
            yield family + style
