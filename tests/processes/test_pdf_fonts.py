"""Letters of fonts that are not embedded: drawn with a font of the system that has them, or reported once."""

import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest
from PIL import Image, ImageChops, ImageFont

from nemovlm.pdf import Page, iter_pages, processes, workers
from tests.support.foreign import CYRILLIC, POLISH, pdf

FONTS = [("Type1", "Helvetica"), ("Type1", "Times-Roman"), ("TrueType", "Arial,Bold"), ("TrueType", "Calibri")]
WITHOUT_FONTS = "from nemovlm.pdf import fonts, worker; fonts._FAMILIES = (); worker.main()"


@pytest.fixture(autouse=True)
def _begin() -> Iterator[None]:
    """Warnings that come once come in each test, and processes end with it."""
    workers.warn_once.cache_clear()
    processes._end_all()
    yield
    processes._end_all()


def read(data: bytes) -> list[Page]:
    return list(iter_pages(data, name="x.pdf", dpi=72))


def letters_drawn(page: Page) -> int:
    """How many columns of letters there are, with blanks between them."""
    line = page.image.convert("L").crop((0, 0, 400, 50)).point(lambda shade: 255 * (shade < 128))
    columns = line.resize((400, 1), Image.Resampling.BOX).point(lambda share: 255 * (share > 0)).tobytes()
    return sum(before < after for before, after in zip(b"\0" + columns, columns, strict=False))


def has_letters() -> bool:
    """Whether the system has one of the fonts that are looked for."""
    with suppress(OSError):
        return bool(ImageFont.truetype("LiberationSans-Regular.ttf"))
    return False


@pytest.mark.parametrize("letters", [POLISH, CYRILLIC], ids=["Polish", "Cyrillic"])
@pytest.mark.parametrize(("kind", "name"), FONTS)
def test_letters_are_drawn_or_missed(kind: str, name: str, letters: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where the system has a font with the letters they are there; where not, the font is named. Never neither."""
    (page,) = read(pdf("A B C D E F G", kind=kind, name=name, letters=letters))
    assert len("".join(page.text.split())) == 7
    drawn = letters_drawn(page) >= 7
    assert drawn != ("letters of" in caplog.text)
    assert drawn or not has_letters()


def test_a_font_that_is_nowhere_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the document and the font, however many pages have it."""
    monkeypatch.setattr(processes, "_command", lambda: [sys.executable, "-c", WITHOUT_FONTS])
    pages = read(pdf("A B C D E F G", "xyz", "G F", kind="TrueType", name="Calibri"))
    assert letters_drawn(pages[0]) < 7
    (said,) = caplog.messages
    assert said.startswith("x.pdf: letters of Calibri are missing in the picture")


def test_other_pages_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that PDFium has all letters for looks the same, whatever pages and fonts there are beside."""
    alone, with_others = read(pdf("xyz"))[0], read(pdf("A B C", "xyz", "A B C", "xyz"))
    assert alone.image_sha256 == with_others[1].image_sha256 == with_others[3].image_sha256
    assert with_others[0].image_sha256 == with_others[2].image_sha256
    processes._end_all()
    monkeypatch.setattr(processes, "_command", lambda: [sys.executable, "-c", WITHOUT_FONTS])
    assert read(pdf("xyz"))[0].image_sha256 == alone.image_sha256


def test_nobody_is_alarmed_for_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters that PDFium has, and those that nobody is to see, as a scan has beneath it, are not missed."""
    monkeypatch.setattr(processes, "_command", lambda: [sys.executable, "-c", WITHOUT_FONTS])
    read(pdf("A B C", letters="/Adieresis/Euro/quotedblleft"))
    (invisible,) = read(pdf("A B C D E F G", mode=3))
    assert invisible.text
    assert not caplog.messages
    blank = Image.new("RGB", invisible.image.size, "white")
    assert ImageChops.difference(invisible.image, blank).getbbox() == (20, 58, 320, 60)
