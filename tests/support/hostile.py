"""PDFs that take for ever, or all memory, though they are small. A second page, which says "sound", is sound."""

import zlib

from tests.support.books import assemble

_PAGE = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents %d 0 R/Resources<<%s>>>>"
_FONT = b"/Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>"
_SOUND = b"BT /F 12 Tf 20 100 Td (sound) Tj ET"


def endless() -> bytes:
    """A million and a half lines across a page, in 70 kB: half a minute if it is tiny, else as good as for ever."""
    lines = b"0 0 m 200 199 l S\n" * 1_500_000
    return _two_pages(_stream(zlib.compress(lines), b"/Filter/FlateDecode"))


def bomb(megabytes: int) -> bytes:
    """A content of blanks, compressed twice: some 2 kB for each GB."""
    packer = zlib.compressobj()
    million = b" " * 2**20
    packed = b"".join(packer.compress(million) for _ in range(megabytes)) + packer.flush()
    return _two_pages(_stream(zlib.compress(packed), b"/Filter[/FlateDecode/FlateDecode]"))


def _two_pages(content: bytes) -> bytes:
    return assemble(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count 2/Kids[3 0 R 4 0 R]>>",
        _PAGE % (5, b""),
        _PAGE % (6, _FONT),
        content,
        _stream(_SOUND),
    )


def _stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<<%s/Length %d>>stream\n%s\nendstream" % (entries, len(content), content)
