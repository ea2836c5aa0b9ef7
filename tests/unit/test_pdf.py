"""A PDF comes as a stream of pages, each as people see it; whatever is wrong with one is a `PdfError`."""

import gc
import logging
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pypdfium2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reportlab.lib.pdfencrypt import StandardEncryption  # type: ignore[import-untyped]
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

from nemovlm.errors import (
    ConfigurationError,
    InputTooLongError,
    NemoVLMError,
    PdfError,
    PdfFormatError,
    PdfPageError,
    PdfPasswordError,
    PdfSecurityError,
)
from nemovlm.models.tiling import NEMOTRON_TILING, Tiling
from nemovlm.pdf import Page, count_pages, iter_pages, read_pages
from tests.support.books import A4, box, draw, numbered, write
from tests.support.reading import DAMAGE, NO_FILE, QUICK, SOUND, failure, read_all

RED, WHITE = (255, 0, 0), (255, 255, 255)


def only(source: Any, **options: Any) -> Page:
    (page,) = iter_pages(source, **options)
    return page


def pixels(page: Page) -> NDArray[np.uint8]:
    return np.asarray(page.image)


def is_red(page: Page) -> NDArray[np.bool_]:
    return np.asarray((pixels(page) == RED).all(axis=2))


@pytest.fixture(scope="module")
def document() -> bytes:
    """Twelve pages."""
    return numbered(12)


# A page, its picture and its text


def test_pages_come_in_order_with_their_facts(tmp_path: Path) -> None:
    """Index, label, total, text, size and source of every page."""
    data = numbered(3)
    (tmp_path / "a.pdf").write_bytes(data)
    pages = list(iter_pages(tmp_path / "a.pdf", tiling=QUICK))
    assert [page.index for page in pages] == [0, 1, 2]
    assert [page.label for page in pages] == ["1", "2", "3"]
    assert [page.text for page in pages] == ["number 0", "number 1", "number 2"]
    assert {(page.total, page.width, page.height) for page in pages} == {(3, *A4)}
    assert {page.source for page in pages} == {str(tmp_path / "a.pdf")}


def test_labels_are_those_of_the_document() -> None:
    """A book with roman front matter calls its third page "1"."""

    def label(canvas: Canvas) -> None:
        canvas.addPageLabel(0, style="ROMAN_LOWER")
        canvas.addPageLabel(2, style="ARABIC")

    pages = iter_pages(draw(label, lambda _: None, lambda _: None), tiling=QUICK)
    assert [page.label for page in pages] == ["i", "ii", "1"]


def test_an_a4_page_fills_two_by_three_tiles() -> None:
    """A portrait page covers 1024 x 1536 pixels, and the model cuts it into that grid."""
    page = only(numbered(1))
    assert page.image.size == NEMOTRON_TILING.render_size(*A4) == (1086, 1536)
    assert page.image.mode == "RGB"
    assert NEMOTRON_TILING.grid(*page.image.size) == (2, 3)


@pytest.mark.parametrize("size", [(595, 842), (842, 595), (612, 792), (720, 405), (300, 300), (100, 1000), (37.5, 1)])
@pytest.mark.parametrize("tiling", [NEMOTRON_TILING, Tiling(max_tiles=2), QUICK])
def test_pages_have_exactly_the_render_size(size: tuple[float, float], tiling: Tiling) -> None:
    """The picture of a page has the size that its tiling asks for, and `dpi` is what that comes to."""
    page = only(write((box(0, 0, *size), "")), tiling=tiling)
    assert page.image.size == tiling.render_size(*size)
    assert page.dpi == pytest.approx(page.image.width / size[0] * 72)


@pytest.mark.parametrize(("dpi", "size"), [(72, (595, 842)), (144, (1190, 1684)), (10, (83, 117)), (0.01, (1, 1))])
def test_dpi_sets_the_resolution(dpi: float, size: tuple[int, int]) -> None:
    """With `dpi`, pages are as large as the paper says."""
    page = only(numbered(1), dpi=dpi)
    assert page.image.size == size
    if dpi > 1:
        assert page.dpi == pytest.approx(dpi, rel=0.01)


@pytest.mark.parametrize("dpi", [0, -72, float("nan"), float("inf")])
def test_a_resolution_that_is_none_is_refused(dpi: float, document: bytes) -> None:
    """No page is made from a resolution that means nothing."""
    with pytest.raises(NemoVLMError):
        list(iter_pages(document, dpi=dpi))


@pytest.mark.parametrize(("rotate", "corner"), [(0, (0, -1)), (90, (0, 0)), (180, (-1, 0)), (270, (-1, -1))])
def test_rotation_is_honoured(rotate: int, corner: tuple[int, int]) -> None:
    """What is drawn at the bottom left goes round clockwise, and so does the paper."""
    page = only(write((f"{box(0, 0, 300, 600)}/Rotate {rotate}", "1 0 0 rg 0 0 50 50 re f")))
    sideways = rotate in {90, 270}
    assert (page.width, page.height) == ((600, 300) if sideways else (300, 600))
    assert (page.image.width > page.image.height) == sideways
    x, y = corner
    assert pixels(page)[y, x].tolist() == list(RED)
    assert is_red(page).mean() == pytest.approx(50 * 50 / (300 * 600), rel=0.05)


def test_the_crop_box_is_honoured() -> None:
    """Only what is inside the crop box is seen, at the size of the box."""
    outside, inside = "0 0 1 rg 0 0 600 800 re f", "1 0 0 rg 100 200 300 300 re f"
    page = only(write((f"{box(0, 0, 600, 800)}/CropBox[100 200 400 500]", f"{outside} {inside}")))
    assert (page.width, page.height) == (300, 300)
    assert is_red(page).all()


def test_a_page_without_background_is_white() -> None:
    """Paper is white, and half-transparent ink is laid on it."""

    def tint(canvas: Canvas) -> None:
        canvas.setFillColorRGB(1, 0, 0, alpha=0.5)
        canvas.rect(0, 0, 100, 100, stroke=0, fill=1)

    page = only(draw(tint))
    assert page.image.getpixel((page.image.width - 1, 0)) == WHITE
    assert page.image.getpixel((5, page.image.height - 5)) == pytest.approx((255, 127, 127), abs=1)


def test_colours_are_not_swapped() -> None:
    """Red is red, and not blue."""
    page = only(write((box(0, 0, 90, 90), "1 0 0 rg 0 0 90 90 re f")))
    assert is_red(page).all()


def test_a_page_never_shows_the_one_before() -> None:
    """A blank page behind a full one is blank, and a smaller one is its own size."""
    full, blank = (box(0, 0, *A4), "0 0 595 842 re f"), (box(0, 0, *A4), "")
    small = (box(0, 0, 300, 300), "1 0 0 rg 0 0 300 300 re f")
    pages = list(iter_pages(write(full, blank, small, blank), tiling=QUICK))
    assert [pixels(page).mean() for page in pages] == [0, 255, 85, 255]


@pytest.mark.parametrize("value", ["", "MMMMMMMM"])
def test_form_fields_show_their_values(value: str) -> None:
    """What was filled in is in the picture."""

    def form(canvas: Canvas) -> None:
        canvas.acroForm.textfield(value=value, x=100, y=600, width=300, height=40, borderWidth=0)

    dark = pixels(only(draw(form))).max(axis=2) < 100
    assert (dark.sum() > 200) == bool(value)


def test_annotations_are_drawn() -> None:
    """A highlight that a reader left is in the picture."""

    def mark(canvas: Canvas) -> None:
        rect = [100, 600, 400, 650]
        corners = [100, 650, 400, 650, 100, 600, 400, 600]
        canvas.highlightAnnotation("look", Rect=rect, QuadPoints=corners, Color=[1, 0, 0])

    page = only(draw(mark))
    assert is_red(page).sum() > 1000


def test_hyphens_at_line_ends_are_mended() -> None:
    """A word that was parted is one word, without the mark that PDFium leaves in it."""
    data = write((box(0, 0, 500, 500), "BT /F 20 Tf 20 400 Td (the embed-) Tj 0 -24 Td (ding of pages) Tj ET"))
    raw = pypdfium2.PdfDocument(data)[0].get_textpage().get_text_bounded()
    assert "\x02" in raw or "\ufffe" in raw  # or else this test tests nothing
    assert only(data).text == "the embedding of pages"


def test_lines_of_text_end_with_a_newline() -> None:
    """Lines are parted by a newline alone, on every system, and nothing hangs on at the ends."""
    data = draw(lambda canvas: (canvas.drawString(72, 700, "one"), canvas.drawString(72, 600, "two")))
    assert only(data).text == "one\ntwo"


def test_a_picture_without_text_has_no_text() -> None:
    """A page with no text layer has the empty text, and is embedded as an image alone."""
    page = only(write((box(0, 0, 90, 90), "0 0 9 9 re f")), tiling=QUICK)
    assert page.text == ""
    assert page.passage().modality == "image"


def test_a_page_is_a_passage(tmp_path: Path) -> None:
    """A page can be embedded by its text, its picture or both, and errors name file and page."""
    (tmp_path / "a.pdf").write_bytes(numbered(2))
    page = list(iter_pages(tmp_path / "a.pdf", tiling=QUICK))[1]
    assert page.passage().modality == "text_image"
    assert (page.passage("text").text, page.passage("text").image) == ("number 1", None)
    assert (page.passage("image").text, page.passage("image").image) == (None, page.image)
    assert page.passage().label == "a.pdf page 2"


def test_equal_pages_have_equal_digests(document: bytes) -> None:
    """The same page has the same digest every time it is read."""
    digests = [[page.sha256 for page in iter_pages(document, tiling=QUICK)] for _ in range(2)]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 12


def test_pages_that_differ_have_other_digests() -> None:
    """Another text behind the same picture, another picture and another size are all told apart."""
    hidden = "BT 3 Tr /F 9 Tf 20 20 Td ({}) Tj ET"  # text that is not seen
    pages = [hidden.format("one"), hidden.format("two"), "0 0 9 9 re f", "1 0 0 rg 0 0 9 9 re f", ""]
    data = write(*((box(0, 0, 90, 90), content) for content in pages), (box(0, 0, 90, 120), ""))
    assert len({page.sha256 for page in iter_pages(data, tiling=QUICK)}) == 6


# Which pages


@pytest.mark.parametrize("wanted", [[3, 1, 2], [5, 5, 0, 5], [], range(11, -1, -1), iter([7]), {4}])
def test_pages_come_as_asked_for(wanted: Any, document: bytes) -> None:
    """In the order asked for, and as often."""
    expected = list(wanted) if not hasattr(wanted, "__next__") else [7]
    assert [page.text for page in iter_pages(document, pages=wanted, tiling=QUICK)] == [f"number {n}" for n in expected]


@pytest.mark.parametrize("index", [12, -1, 10**30])
def test_a_page_that_is_not_there_is_an_error(index: int, document: bytes) -> None:
    """The error has the index, and says how many pages there are."""
    error = failure(document, pages=[0, index])
    assert isinstance(error, PdfPageError)
    assert error.page == index
    assert "12 pages" in str(error)


def test_the_other_pages_still_come(document: bytes) -> None:
    """With a function as `on_error`, failed pages are reported to it, in their turn, and the rest are there."""
    seen: list[Any] = []
    for page in iter_pages(document, pages=[0, 99, 2, -5], tiling=QUICK, on_error=seen.append):
        seen.append(page.index)
    assert [x if isinstance(x, int) else x.page for x in seen] == [0, 99, 2, -5]


def test_skipped_pages_are_logged(document: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """With "skip", what was left out can be read in the log."""
    with caplog.at_level(logging.WARNING, "nemovlm"):
        pages = list(iter_pages(document, pages=[0, 99], tiling=QUICK, on_error="skip"))
    assert [page.index for page in pages] == [0]
    assert "page 100" in caplog.text


def test_errors_stay_in_the_stream(document: bytes) -> None:
    """`read_pages` yields the error of a page in its place, and that of a whole PDF as the only value."""
    first, error, last = read_pages(document, pages=[0, 99, 2], tiling=QUICK)
    assert isinstance(first, Page)
    assert isinstance(error, PdfPageError)
    assert isinstance(last, Page)
    assert (first.index, error.page, last.index) == (0, 99, 2)
    assert [type(result) for result in read_pages(b"no PDF")] == [PdfFormatError]


def test_the_first_page_of_a_big_file_comes_at_once() -> None:
    """The time to the first page does not grow with the document."""
    data = numbered(1000)
    start = time.perf_counter()
    next(iter_pages(data))
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("count", [1, 12])
def test_pages_are_counted_without_rendering(count: int) -> None:
    """`count_pages` says what `Page.total` says."""
    assert count_pages(numbered(count)) == count


# Where a PDF comes from


def test_every_kind_of_source_is_the_same_document(document: bytes, tmp_path: Path) -> None:
    """A path, its text, the bytes and an open file give equal pages."""
    path = tmp_path / "ünï côdé.pdf"
    path.write_bytes(document)
    with path.open("rb") as file:
        streams = [iter_pages(source, pages=[3], tiling=QUICK) for source in (path, str(path), document, file)]
        pages = [page for stream in streams for page in stream]
        assert not file.closed
    assert len({page.sha256 for page in pages}) == 1
    assert [page.source for page in pages] == [str(path), str(path), "<bytes>", "<bytes>"]


@pytest.mark.parametrize(
    ("content", "kind", "what"),
    [
        (b"", PdfFormatError, "empty"),
        (b"%PDF-1.7", PdfFormatError, "no PDF"),
        (b"this is a text", PdfFormatError, "no PDF"),
        (b"\x89PNG\r\n\x1a\n", PdfFormatError, "no PDF"),
        (b"PK\x03\x04", PdfFormatError, "no PDF"),
    ],
)
@pytest.mark.parametrize("as_file", [True, False])
def test_what_is_no_pdf_is_said_to_be_none(
    content: bytes, kind: type[PdfError], what: str, as_file: bool, tmp_path: Path
) -> None:
    """Bytes and files that are no PDF are refused by name."""
    (tmp_path / "a.pdf").write_bytes(content)
    error = failure(tmp_path / "a.pdf" if as_file else content)
    assert type(error) is kind
    assert what in str(error)
    assert ("a.pdf" if as_file else "<bytes>") in str(error)


def test_a_pdf_without_pages_is_refused() -> None:
    """There is nothing to read in a document of no pages."""
    assert isinstance(failure(write()), PdfFormatError)


@pytest.mark.parametrize(("name", "what"), [("none.pdf", "No such file"), (".", NO_FILE), ("a\0.pdf", "a\0.pdf")])
def test_a_file_that_cannot_be_read_is_named(name: str, what: str, tmp_path: Path) -> None:
    """The path and the reason are in the message; nothing is wrong with the format."""
    error = failure(tmp_path / name)
    assert not isinstance(error, PdfFormatError)
    assert str(tmp_path) in str(error)
    assert what in str(error)


def test_a_file_opened_as_text_is_not_taken_for_a_path(document: bytes, tmp_path: Path) -> None:
    """What an open file holds is never the name of another file."""
    path = tmp_path / "a.pdf"
    path.write_bytes(document)
    (tmp_path / "name.txt").write_text(str(path), encoding="utf-8")
    with (tmp_path / "name.txt").open(encoding="utf-8") as file, pytest.raises(ConfigurationError, match="as binary"):
        next(iter_pages(file))  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=[40, 128], ids=["rc4-40", "rc4-128"])
def locked(request: pytest.FixtureRequest) -> bytes:
    """An encrypted document of one page."""
    return numbered(1, encrypt=StandardEncryption("user", ownerPassword="owner", strength=request.param))


@pytest.mark.parametrize("password", ["user", "owner"])
def test_the_right_password_opens(password: str, locked: bytes) -> None:
    """Both of a document's passwords do."""
    assert only(locked, password=password, tiling=QUICK).text == "number 0"
    assert count_pages(locked, password=password) == 1


@pytest.mark.parametrize(
    ("password", "what"),
    [
        (None, "pass password="),
        ("", "pass password="),
        ([], "pass password="),
        ("guess", "wrong"),
        (["guess"], "the password is wrong"),
        (["guess", "guess again"], "none of the 2 passwords is right"),
        ("\xfc\0x", "wrong"),
        ("\udce9", "wrong"),
    ],
)
def test_another_password_does_not_open(password: Any, what: str, locked: bytes) -> None:
    """A missing password is told apart from a wrong one, and neither is repeated."""
    error = failure(locked, password=password)
    assert isinstance(error, PdfPasswordError)
    assert what in str(error)
    assert "guess" not in str(error)


def test_a_needless_password_does_no_harm(document: bytes) -> None:
    """One password can be given for a whole library: for what is not locked, or by its owner's password alone."""
    restricted = StandardEncryption("", ownerPassword="owner", canPrint=0, strength=128)
    for data in (document, numbered(12, encrypt=restricted)):
        for password in (None, "owner", "user", ["some", "other"]):
            assert only(data, password=password, pages=[0], tiling=QUICK).text == "number 0"


def test_several_passwords_open_several_documents(locked: bytes, document: bytes) -> None:
    """Each is tried in turn; a long document is opened anew with the one that was right."""
    passwords = ["guess", "user", "secret"]
    for data in (locked, document, numbered(250, encrypt="secret")):
        pages = list(iter_pages(data, password=passwords, tiling=QUICK))
        assert [page.text for page in pages] == [f"number {n}" for n in range(len(pages))]


def test_another_protection_is_told_apart_from_a_password(locked: bytes) -> None:
    """A protection that PDFium does not know is said to be one: no password would help."""
    error = failure(locked.replace(b"/Filter /Standard", b"/Filter /Anything"), password="user")
    assert isinstance(error, PdfSecurityError)


# Hostile and broken pages


@pytest.mark.parametrize(
    "corners", [(0, 0, 595, 2147483648), (0, 0, 2147483648, 595), (0, 0, 1, 100000), (0, 0, 1e-3, 1e-3)]
)
def test_a_hostile_page_size_is_bounded(corners: tuple[float, ...]) -> None:
    """A page of any size is a picture of some megapixels at most, and comes soon."""
    start = time.perf_counter()
    page = only(write((box(*corners), "1 0 0 rg 0 0 595 842 re f")))
    assert page.image.width * page.image.height <= 2 * 6 * 512**2
    assert time.perf_counter() - start < 5


def test_a_hostile_page_size_is_refused_at_a_resolution(document: bytes) -> None:
    """Where the resolution is given, a page that would be too large is an error of that page."""
    error = failure(write((box(0, 0, 595, 2147483648), "")), dpi=100)
    assert isinstance(error, PdfPageError)
    assert "pixels" in str(error)
    assert isinstance(failure(document, dpi=1_000_000), PdfPageError)


@pytest.mark.parametrize("content", ["BT ((( Tj", "q " * 5000, "1 0 0 rg 1e99 -1e99 re f \x00\x01", "/None Do BI ID"])
def test_broken_content_is_a_page_as_far_as_it_goes(content: str) -> None:
    """A page with nonsense in its content is still a page, and its neighbour is not concerned."""
    pages = list(iter_pages(write((box(0, 0, 90, 90), content), (box(0, 0, 90, 90), "0 0 90 90 re f")), tiling=QUICK))
    assert len(pages) == 2
    assert pixels(pages[1]).max() == 0


def test_a_missing_page_object_is_an_error_of_that_page() -> None:
    """If an object of the page tree is not there, the other pages come."""
    blank = (box(0, 0, 90, 90), "")
    data = write(blank, blank, blank).replace(b"[3 0 R 5 0 R", b"[3 0 R 9 9 R")
    errors: list[NemoVLMError] = []
    pages = list(iter_pages(data, tiling=QUICK, on_error=errors.append))
    assert [page.index for page in pages] == [0, 2]
    assert [(type(error), error.page) for error in errors] == [(PdfPageError, 1)]  # type: ignore[attr-defined]


def every_error(base: type[NemoVLMError] = NemoVLMError) -> Iterator[type[NemoVLMError]]:
    yield base
    for kind in base.__subclasses__():
        yield from every_error(kind)


@pytest.mark.parametrize("kind", sorted(set(every_error()), key=repr))
def test_every_error_survives_pickling(kind: type[NemoVLMError]) -> None:
    """Errors come out of other processes whole: message, item, and what else they carry."""
    error = kind("it went wrong").at("a.pdf page 3")
    error.__dict__.update({PdfPageError: {"page": 2}, InputTooLongError: {"tokens": 9, "limit": 8}}.get(kind, {}))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.__dict__) == (kind, "a.pdf page 3: it went wrong", error.__dict__)


# What a stream holds, and lets go


def test_a_half_read_document_blocks_nobody(document: bytes) -> None:
    """No lock is held between two pages."""
    half = iter_pages(document, tiling=QUICK)
    next(half)
    counted: list[int] = []
    thread = threading.Thread(target=lambda: counted.extend(p.index for p in iter_pages(document, tiling=QUICK)))
    thread.daemon = True
    thread.start()
    thread.join(20)
    assert counted == list(range(12))
    assert len(list(half)) == 11


def test_threads_may_read_at_the_same_time(document: bytes) -> None:
    """Documents read in several threads give the pages they give alone."""
    expected = [page.sha256 for page in iter_pages(document, tiling=QUICK)]
    results: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: results.append([p.sha256 for p in iter_pages(document, tiling=QUICK)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [expected] * 4


def open_files() -> set[str]:
    return {file.path for file in psutil.Process().open_files()}


@pytest.mark.skipif(sys.platform == "win32", reason="open files are listed with other names there")
def test_the_file_is_closed_with_the_stream(document: bytes, tmp_path: Path) -> None:
    """Closing a stream that was not read to its end closes the file."""
    path = (tmp_path / "a.pdf").resolve()
    path.write_bytes(document)
    stream = iter_pages(path, tiling=QUICK)
    next(stream)
    assert str(path) in open_files()
    stream.close()  # type: ignore[attr-defined]
    assert str(path) not in open_files()


@pytest.mark.parametrize("pages", [None, [0, 99]], ids=["read to its end", "failed"])
def test_the_file_is_closed_after_the_last_page(pages: list[int] | None, document: bytes, tmp_path: Path) -> None:
    """A stream that is over, one way or the other, holds no file."""
    path = (tmp_path / "a.pdf").resolve()
    path.write_bytes(document)
    try:
        list(iter_pages(path, pages=pages, tiling=QUICK))
    except PdfPageError:
        assert pages
    assert str(path) not in open_files()


def test_memory_does_not_grow_with_the_document() -> None:
    """After 300 pages no more memory is held than after 30."""
    process, early = psutil.Process(), 0
    for page in iter_pages(numbered(300)):
        if page.index == 30:
            gc.collect()
            early = process.memory_info().rss
    gc.collect()
    assert process.memory_info().rss - early < 40 * 2**20  # eight pictures; 270 would be 1350 MB


# Files that are broken


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_ends_in_pages_or_in_a_pdf_error(damage: str) -> None:
    """However a file was damaged, what comes is pages and errors of this package."""
    damaged = DAMAGE[damage]()
    assert damaged != SOUND
    assert read_all(damaged) is not None


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from(["set", "cut", "put"]), st.binary(max_size=9)),
        min_size=1,
        max_size=12,
    )
)
def test_random_damage_ends_in_pages_or_in_a_pdf_error(edits: list[tuple[float, str, bytes]]) -> None:
    """Bytes overwritten, cut out or put in, anywhere."""
    data = bytearray(SOUND)
    for place, how, content in edits:
        start = int(place * len(data))
        end = start if how == "put" else start + len(content)
        data[start:end] = b"" if how == "cut" else content
    assert read_all(bytes(data)) is not None


@pytest.mark.skipif(sys.platform == "win32", reason="there a file that is open can be neither replaced nor deleted")
@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_a_file_that_changes_underway_is_read_as_it_was(change: str, tmp_path: Path) -> None:
    """A long document is opened anew now and then, but never as another file that has taken its place."""
    path, other = tmp_path / "a.pdf", tmp_path / "b.pdf"
    path.write_bytes(numbered(250))
    other.write_bytes(numbered(300, encrypt="secret"))
    stream = iter_pages(path, tiling=QUICK)
    assert next(stream).text == "number 0"
    if change == "replaced":
        other.replace(path)
    else:
        path.unlink()
    assert [page.text for page in stream] == [f"number {n}" for n in range(1, 250)]


# Sizes


def test_a_page_may_have_larger_points() -> None:
    """With `/UserUnit` the size is in points of 1/72 inch all the same, and so is the resolution; other pages stay."""
    entries = f"{box(0, 0, 200, 100)}/UserUnit "
    pages = [(entries + "4", "0 0 100 50 re f"), (box(0, 0, 200, 100), ""), (entries + "0", ""), (entries + "2.5", "")]
    read = list(iter_pages(write(*pages), dpi=72))
    sizes = [(800, 400), (200, 100), (200, 100), (500, 250)]
    assert [(page.width, page.height) for page in read] == [page.image.size for page in read] == sizes
    assert {page.dpi for page in read} == {72}
    assert read[0].image.getpixel((390, 390)) == (0, 0, 0)
    (page,) = iter_pages(write(*pages), pages=[0])
    assert page.dpi == pytest.approx(page.image.width / (800 / 72))
