"""PDFs with letters of other alphabets, in fonts that are not embedded."""

from tests.support.books import assemble

POLISH = "/Lslash/eogonek/cacute/zdotaccent/Ccaron/rcaron/Aogonek"
CYRILLIC = "/afii10017/afii10018/afii10019/afii10020/afii10021/afii10022/afii10023"
UNDERLINE = "20 40 300 2 re f"


def pdf(*pages: str, kind: str = "Type1", name: str = "Helvetica", letters: str = POLISH, mode: int = 0) -> bytes:
    """Pages that show letters of a font that is not embedded. The codes of "ABCDEFG" are those of the letters named."""
    kids = b" ".join(b"%d 0 R" % (5 + 2 * n) for n in range(len(pages)))
    metrics = (
        "/FirstChar 0/LastChar 255/Widths[" + "600 " * 256 + "]/FontDescriptor 4 0 R" if kind == "TrueType" else ""
    )
    encoding = f"/Encoding<</Type/Encoding/Differences[65{letters}]>>"
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(pages), kids),
        f"<</Type/Font/Subtype/{kind}/BaseFont/{name}{metrics}{encoding}>>".encode(),
        f"<</Type/FontDescriptor/FontName/{name}/Flags 32/StemV 80>>".encode(),
    ]
    for n, text in enumerate(pages):
        content = f"BT {mode} Tr /F 30 Tf 20 60 Td ({text}) Tj ET {UNDERLINE}".encode()
        entries = b"/MediaBox[0 0 400 100]/Resources<</Font<</F 3 0 R>>>>/Contents %d 0 R" % (6 + 2 * n)
        objects += [
            b"<</Type/Page/Parent 2 0 R%s>>" % entries,
            b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
        ]
    return assemble(*objects)
