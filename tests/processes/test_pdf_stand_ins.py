"""PDFs that stand for something else: a form that Adobe's programs alone can show, and other PDFs that are attached."""

from pathlib import Path
from typing import Any

import pytest

from langchain_nemovlm import NemoVLMPDFLoader
from llamaindex_nemovlm import NemoVLMPDFReader
from nemovlm.errors import PdfError, PdfFormatError, PdfPasswordError
from nemovlm.pdf import count_pages, iter_pages, read_pages, workers
from tests.support.books import assemble, numbered, with_attached
from tests.support.reading import QUICK


@pytest.fixture(autouse=True)
def _warnings() -> None:
    """Warnings that come once come in each test."""
    workers.warn_once.cache_clear()


def form(needs_rendering: bool) -> bytes:
    """An XFA form: one that is to be rendered from its template, or one with pages of its own."""
    return assemble(
        b"<</Type/Catalog/Pages 2 0 R/AcroForm<</Fields[]/XFA 4 0 R>>%s>>"
        % (b"/NeedsRendering true" * needs_rendering),
        b"<</Type/Pages/Count 1/Kids[3 0 R]>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]>>",
        b"<</Length 5>>stream\n<xdp>\nendstream",
    )


PORTFOLIO = with_attached(
    numbered(1),
    {"a.pdf": numbered(2), "notes.txt": b"%PDF-1.7 no", "broken.PDF": b"no PDF", "\u4e2d.pdf": numbered(3)},
)


def test_a_form_without_pages_of_its_own_is_named(caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    """Once, with the file's name and what to do; one with pages of its own is like any other PDF."""
    for _ in range(2):
        assert len(list(iter_pages(form(True), name="form.pdf"))) == 1
        assert count_pages(form(True)) == 1
    list(iter_pages(form(False), name="other.pdf"))
    (said,) = caplog.messages
    assert said.startswith("form.pdf: this is an XFA form")
    assert capfd.readouterr() == ("", "")


def test_attached_pdfs_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """Once, with the file's name and what reads them; attached files of other kinds are none of a page reader's."""
    assert len(list(iter_pages(PORTFOLIO, name="portfolio.pdf"))) == 1
    list(iter_pages(with_attached(numbered(1), {"invoice.xml": b"<invoice/>"})))
    (said,) = caplog.messages
    assert said.startswith("portfolio.pdf: PDFs are attached to it that are not read; embedded=True reads them: ")
    assert said.endswith(": a.pdf, broken.PDF, \u4e2d.pdf")


@pytest.mark.parametrize("on_error", ["skip", "raise"])
def test_attached_pdfs_are_read(on_error: Any, caplog: pytest.LogCaptureFixture) -> None:
    """After the document's own pages, in order, each with its name; one that is broken concerns no other."""
    stream = iter_pages(PORTFOLIO, name="portfolio.pdf", embedded=True, on_error=on_error, tiling=QUICK)
    seen = [next(stream) for _ in range(3)]
    if on_error == "raise":
        with pytest.raises(PdfFormatError, match=r"^portfolio.pdf/broken.PDF: "):
            next(stream)
        return
    seen += stream
    assert [(page.source, page.embedded, page.index, page.total) for page in seen] == [
        ("portfolio.pdf", "", 0, 1),
        *(("portfolio.pdf/a.pdf", "a.pdf", index, 2) for index in range(2)),
        *(("portfolio.pdf/\u4e2d.pdf", "\u4e2d.pdf", index, 3) for index in range(3)),
    ]
    assert [page.text for page in seen[3:]] == ["number 0", "number 1", "number 2"]
    assert "left out: portfolio.pdf/broken.PDF: this is no PDF" in caplog.text


def test_attached_pdfs_of_attached_pdfs_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is read without end: of a PDF in a PDF in a PDF the name is told."""
    outer = with_attached(numbered(1), {"portfolio.pdf": PORTFOLIO})
    assert len(list(iter_pages(outer, name="outer.pdf", embedded=True))) == 2
    assert "outer.pdf/portfolio.pdf: PDFs are attached to it" in caplog.text


def test_the_document_itself_is_still_an_error() -> None:
    """`embedded` changes nothing for a PDF that cannot be opened, and the password goes along."""
    with pytest.raises(PdfPasswordError):
        next(iter_pages(numbered(1, encrypt="secret"), embedded=True, on_error="skip"))
    locked = with_attached(numbered(1), {"locked.pdf": numbered(2, encrypt="secret")})
    results = list(read_pages(locked, embedded=True, password=["no", "secret"], tiling=QUICK))
    assert len(results) == 3
    assert isinstance(list(read_pages(locked, embedded=True, tiling=QUICK))[1], PdfError)


def test_attached_pdfs_through_the_loaders(tmp_path: Path) -> None:
    """Pages of attached PDFs have ids and names of their own, and the path of the file that they are in."""
    path = tmp_path / "portfolio.pdf"
    path.write_bytes(PORTFOLIO)
    documents = NemoVLMPDFLoader(path, embedded=True, on_error="skip", dpi=20).load()
    assert [document.metadata["source"] for document in documents] == [
        str(path),
        *[f"{path}/a.pdf"] * 2,
        *[f"{path}/\u4e2d.pdf"] * 3,
    ]
    assert {document.metadata["file_path"] for document in documents} == {str(path)}
    assert len({document.id for document in documents}) == 6
    read = NemoVLMPDFReader(embedded=True, on_error="skip", images=False, dpi=20).load_data(path)
    assert [document.metadata.get("embedded", "") for document in read] == ["", *["a.pdf"] * 2, *["\u4e2d.pdf"] * 3]
    assert [document.node_id for document in read] == [document.id for document in documents]
