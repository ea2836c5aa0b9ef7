"""PDFs that take for ever, or all memory, though they are small."""

import zlib

from tests.support.books import assemble

ENDLESS_PAGE = 0
"""Which of the two pages of `endless` and `bomb` is none that ends well. The other says "sound"."""

_PAGE = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents %d 0 R/Resources<<%s>>>>"
_FONT = b"/Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>"
_SOUND = b"BT /F 12 Tf 20 100 Td (sound) Tj ET"


def endless() -> bytes:
    """A form that is drawn ten times draws another ten times, and so on, twelve deep: 10^12 squares."""
    depth, first = 12, 7
    forms = [
        _stream(
            b"/Form Do " * 10 if level < depth else b"0 0 9 9 re f",
            b"/Type/XObject/Subtype/Form/BBox[0 0 200 200]/Resources<</XObject<</Form %d 0 R>>>>" % (first + level),
        )
        for level in range(1, depth + 1)
    ]
    return _two_pages(_stream(b"/Form Do"), b"/XObject<</Form %d 0 R>>" % first, *forms)


def bomb(megabytes: int) -> bytes:
    """A content of blanks, compressed twice: some 2 kB for each GB."""
    packer = zlib.compressobj()
    million = b" " * 2**20
    packed = b"".join(packer.compress(million) for _ in range(megabytes)) + packer.flush()
    return _two_pages(_stream(zlib.compress(packed), b"/Filter[/FlateDecode/FlateDecode]"), b"")


def _two_pages(content: bytes, resources: bytes, *more: bytes) -> bytes:
    return assemble(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count 2/Kids[3 0 R 4 0 R]>>",
        _PAGE % (5, resources),
        _PAGE % (6, _FONT),
        content,
        _stream(_SOUND),
        *more,
    )


def _stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<<%s/Length %d>>stream\n%s\nendstream" % (entries, len(content), content)
