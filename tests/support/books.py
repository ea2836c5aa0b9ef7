"""Small PDFs whose pages are known: by a colour and a text, by what a function draws, or by what is written by hand."""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

from pypdfium2 import PdfDocument
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

Pages = list[tuple[str, str | None]]  # colours and texts

BOOK: Pages = [("red", "one"), ("green", None), ("blue", "three")]


def book(pages: Pages = BOOK, **options: Any) -> bytes:
    """A PDF of pages of one colour and one text, or none, with all that a PDF says of itself."""
    file = BytesIO()
    canvas = Canvas(file, pagesize=(200, 300), invariant=1, **options)
    for name in ("Title", "Author", "Subject", "Keywords", "Creator", "Producer"):
        getattr(canvas, f"set{name}")(f"a {name}")
    for colour, text in pages:
        canvas.setFillColor(colour)
        canvas.rect(20, 100, 150, 100, fill=1)
        if text is not None:
            canvas.drawString(20, 250, text)
        canvas.showPage()
    canvas.save()
    return file.getvalue()


A4 = (595.0, 842.0)


def draw(*pages: Callable[[Canvas], object], size: tuple[float, float] = A4, **options: Any) -> bytes:
    """A PDF with one page for each function that draws on a canvas."""
    file = BytesIO()
    canvas = Canvas(file, pagesize=size, invariant=1, **options)
    for page in pages:
        page(canvas)
        canvas.showPage()
    canvas.save()
    return file.getvalue()


def numbered(count: int, **options: Any) -> bytes:
    """A PDF of `count` pages that say "number 0" and so on, each with a bar of its own length."""

    def one(number: int, canvas: Canvas) -> None:
        canvas.drawString(72, 700, f"number {number}")
        canvas.rect(72, 300, 10 + 440 * number / count, 90, fill=1)

    return draw(*(partial(one, number) for number in range(count)), **options)


def write(*pages: tuple[str, str]) -> bytes:
    """A PDF written by hand: for each page the entries of its dictionary and its content stream."""
    kids = " ".join(f"{3 + 2 * n} 0 R" for n in range(len(pages)))
    objects = ["<</Type/Catalog/Pages 2 0 R>>", f"<</Type/Pages/Count {len(pages)}/Kids[{kids}]>>"]
    font = "/Resources<</Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    for n, (entries, content) in enumerate(pages):
        objects.append(f"<</Type/Page/Parent 2 0 R/Contents {4 + 2 * n} 0 R{font}{entries}>>")
        objects.append(f"<</Length {len(content)}>>stream\n{content}\nendstream")
    return assemble(*(body.encode() for body in objects))


def assemble(*objects: bytes) -> bytes:
    """A PDF of objects that are written by hand: 1 is the catalog."""
    out, offsets = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size, start = len(objects) + 1, len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table)
    return out + b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (size, start)


def box(*corners: float) -> str:
    return f"/MediaBox[{' '.join(map(str, corners))}]"


def with_attached(content: bytes, attached: dict[str, bytes]) -> bytes:
    """A PDF to which files are attached."""
    document, file = PdfDocument(content), BytesIO()
    for name, data in attached.items():
        document.new_attachment(name).set_data(data)
    document.save(file)
    document.close()
    return file.getvalue()
