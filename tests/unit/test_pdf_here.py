"""PDFs where no process can be had: rendered in the process of the caller, without its bounds, and otherwise alike."""

import logging

import pytest

from nemovlm.errors import PdfError, PdfFormatError
from nemovlm.models.tiling import Tiling
from nemovlm.pdf import iter_pages, read_pages, renderer, workers
from tests.support.books import numbered, with_attached
from tests.support.foreign import POLISH, pdf
from tests.support.reading import QUICK


@pytest.fixture(autouse=True)
def _warnings() -> None:
    """Warnings that come once come in each test."""
    workers.warn_once.cache_clear()


def test_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """That a page cannot be given up, with the reason, however many documents are read."""
    for _ in range(3):
        assert len(list(iter_pages(numbered(2), tiling=QUICK))) == 2
    (said,) = caplog.messages
    assert said.startswith("a page that takes for ever cannot be given up")
    assert said.endswith("(this is a unit test)")


def test_attached_pdfs_are_read() -> None:
    """Like in another process; one that is damaged is an error in its place."""
    data = with_attached(numbered(1), {"a.pdf": numbered(2), "b.pdf": b"no PDF"})
    *pages, error = read_pages(data, name="x.pdf", embedded=True, tiling=QUICK)
    assert [page.source for page in pages if not isinstance(page, PdfError)] == ["x.pdf", *["x.pdf/a.pdf"] * 2]
    assert isinstance(error, PdfFormatError)


def test_attachments_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with one concerns no other."""
    data = with_attached(numbered(1), {"a.pdf": numbered(2)})
    monkeypatch.setattr(renderer.pdfium, "FPDFAttachment_GetFile", lambda *_: 0)
    first, error = read_pages(data, name="x.pdf", embedded=True, tiling=QUICK)
    assert not isinstance(first, PdfError)
    assert str(error) == "x.pdf: it is too damaged to be read (its content is missing or damaged)"


def test_missing_letters_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """Fonts of the system are not taken here, because they would be taken for all that the program does with PDFium."""
    with caplog.at_level(logging.WARNING):
        (page,) = iter_pages(pdf("A B C", letters=POLISH), name="x.pdf", tiling=QUICK)
    assert page.text
    assert "x.pdf: letters of Helvetica are missing in the picture" in caplog.text


def test_a_tiling_that_cannot_be_sent() -> None:
    """A class of somebody else's may be known nowhere else: then it is used here."""

    class Own(Tiling):
        pass

    (page,) = iter_pages(numbered(1), tiling=Own(tile=64))
    assert page.image.size == next(iter_pages(numbered(1), tiling=QUICK)).image.size
