"""Small PDFs whose pages are known by a colour and a text."""

from io import BytesIO
from typing import Any

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
