"""What people and web frameworks pass: names that are not UTF-8, `~`, uploads, phones' pictures, half a character."""

import asyncio
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from nemovlm.errors import ConfigurationError, ImageError, PageIndexError, PdfError
from nemovlm.images import encode_png, for_chat, image_source, image_type, load_image
from nemovlm.inputs import Item, replace_surrogates
from nemovlm.paths import local_path, readable_name
from nemovlm.pdf import find_pdfs, iter_pages
from tests.support.books import numbered
from tests.support.reading import QUICK

GRADIENT = Image.radial_gradient("L").convert("RGB")

# Text that is no Unicode


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_text_becomes_unicode(text: str) -> None:
    """Whatever it was, it can be encoded; and what could be encoded stays as it is."""
    clean = replace_surrogates(text)
    clean.encode()
    assert Item("query", text, None, "NONE").text == clean
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        assert clean == text


def test_halves_that_belong_together_are_joined() -> None:
    """JSON of JavaScript has characters in two halves; one alone becomes the mark for that."""
    assert replace_surrogates("\ud83d\ude00 \ud83d!") == "\N{GRINNING FACE} \N{REPLACEMENT CHARACTER}!"


def pdf_that_says(label: bytes, title: bytes) -> bytes:
    """A PDF written by hand, of one page, with a label and a title of any bytes."""
    objects = [
        b"<</Type/Catalog/Pages 2 0 R/PageLabels<</Nums[0<</S/D/P(" + label + b")>>]>>>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]>>",
        b"<</Title(" + title + b")>>",
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer<</Size 5/Root 1 0 R/Info 4 0 R>>\nstartxref\n%d\n%%%%EOF\n" % len(out)
    return out + b"xref\n0 5\n0000000000 65535 f \n" + table + trailer


UTF_16 = b"\\376\\377"


@pytest.mark.parametrize(
    ("written", "label"),
    [
        (b"A\\000B-", "AB-1"),
        (UTF_16 + b"\\330\\075", "1"),  # which PDFium cannot give: so the page has its number
        (UTF_16 + b"\\330\\075\\336\\000", "\N{GRINNING FACE}1"),
        (UTF_16 + b"\\000A\\330", None),
    ],
    ids=["NUL", "half a character", "two halves", "half a code unit"],
)
def test_every_string_of_a_pdf_is_text(written: bytes, label: str | None) -> None:
    """Labels and titles have neither NULs, which no database takes, nor halves of characters."""
    (page,) = iter_pages(pdf_that_says(written, written), tiling=QUICK)
    json.dumps(page.metadata, ensure_ascii=False).encode()
    assert "\0" not in f"{page.label}{page.info['title']}"
    assert label is None or page.label == label


# Names and paths

LATIN = b"caf\xe9.pdf"
needs_bytes_in_names = pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="names are Unicode")


@needs_bytes_in_names
def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    """Its pages come, under a name that can be written; an error names the file in the same way."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + LATIN))
    path.write_bytes(numbered(1))
    assert find_pdfs(tmp_path) == [path]
    (page,) = iter_pages(path, tiling=QUICK)
    assert page.source == f"{tmp_path}/caf\\xe9.pdf"
    assert page.name == "caf\\xe9.pdf page 1"
    path.unlink()
    for call in (lambda: list(iter_pages(path)), lambda: load_image(path)):
        with pytest.raises((PdfError, ImageError), match=r"caf\\xe9.pdf") as caught:
            call()
        str(caught.value).encode()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_other_names_stay_as_they_are(name: str) -> None:
    """Only what cannot be encoded is escaped."""
    assert readable_name(name) == name


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a PDF and a picture in it, and another folder to be in."""
    monkeypatch.setenv("HOME" if os.name != "nt" else "USERPROFILE", str(tmp_path))
    (tmp_path / "x.pdf").write_bytes(numbered(1))
    (tmp_path / "x.png").write_bytes(encode_png(GRADIENT))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_a_tilde_is_the_home(home: Path) -> None:
    """In every path: of PDFs, of folders, of pictures, as text or as Path. No folder is made that is called so."""
    assert local_path("~/x.pdf") == home / "x.pdf"
    for path in ("~/x.pdf", Path("~/x.pdf")):
        assert len(list(iter_pages(path, tiling=QUICK))) == 1
        assert find_pdfs(path) == [home / "x.pdf"]
    assert find_pdfs("~") == [home / "x.pdf"]
    for reference in ("~/x.png", Path("~/x.png")):
        assert load_image(image_source(reference)).size == GRADIENT.size
    assert load_image(Path("~/x.png")).size == GRADIENT.size
    assert list(Path().iterdir()) == []


class Somewhere(os.PathLike[str]):
    """A path of a class of its own, as frameworks have them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


def test_any_path_is_a_path(home: Path) -> None:
    """Whatever has `__fspath__` is taken where a Path is."""
    assert len(list(iter_pages(Somewhere(home / "x.pdf"), tiling=QUICK))) == 1
    assert find_pdfs([Somewhere(home / "x.pdf")]) == [home / "x.pdf"]
    assert load_image(image_source(Somewhere(home / "x.png"))).size == GRADIENT.size  # type: ignore[arg-type]


# Open files and uploads


class Upload:
    """What Starlette and FastAPI hand over: its methods are coroutines."""

    def __init__(self, content: bytes) -> None:
        self.file = io.BytesIO(content)

    async def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    async def seek(self, offset: int) -> None:
        self.file.seek(offset)


class Stream(io.RawIOBase):
    """What comes over a network: it cannot go back."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._content[: len(buffer)]
        buffer[: len(part)], self._content = part, self._content[len(part) :]
        return len(part)


def read_before(content: bytes) -> io.BytesIO:
    file = io.BytesIO(content)
    file.read(7)
    return file


class Proxy:
    """What Flask hands over: it has a file, and what that can do."""

    def __init__(self, content: bytes) -> None:
        self.stream = io.BytesIO(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


WAYS: list[Callable[[bytes], Any]] = [io.BytesIO, read_before, Proxy, Stream, bytearray, memoryview]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_holds_bytes_is_read(way: Callable[[bytes], Any]) -> None:
    """From its start, whoever has looked into it before."""
    assert [page.text for page in iter_pages(way(numbered(2)), tiling=QUICK)] == ["number 0", "number 1"]
    assert load_image(image_source(way(encode_png(GRADIENT)))).tobytes() == GRADIENT.tobytes()


def closed_file(content: bytes) -> io.BytesIO:
    file = io.BytesIO(content)
    file.close()
    return file


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        (Upload, r"\.file"),
        (lambda content: asyncio.run(Upload(content).read()).decode("latin-1").splitlines(), "bytes"),
        (lambda content: io.StringIO(content.decode("latin-1")), "binary"),
        (closed_file, "closed"),
        (lambda _: 42, "bytes"),
        (lambda _: None, "bytes"),
        (lambda _: object(), "bytes"),
    ],
    ids=["async upload", "list", "text file", "closed", "int", "None", "object"],
)
def test_what_cannot_be_read_says_what_to_pass(source: Callable[[bytes], Any], advice: str) -> None:
    """With an error of the package, and without a coroutine that nobody waits for."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((ConfigurationError, PdfError), match=advice):
            list(iter_pages(source(numbered(1))))
        with pytest.raises(ImageError, match=advice):
            load_image(image_source(source(encode_png(GRADIENT))))


# Pictures


def saved(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    GRADIENT.save(file, kind, **options)
    return file.getvalue()


def test_photographs_of_phones_are_jpegs() -> None:
    """Pillow calls a JPEG with more behind it MPO; chat models call it JPEG, and take it as it is."""
    photo = saved("MPO", save_all=True, append_images=[GRADIENT.rotate(90)])
    assert image_type(photo) == "image/jpeg"
    assert for_chat(photo) == (photo, "image/jpeg")


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "PPM", "TGA", "JPEG2000"])
def test_what_no_chat_model_takes_becomes_a_png(kind: str) -> None:
    """With the same pixels."""
    chat = for_chat(saved(kind))
    assert chat.mime_type == "image/png"
    assert load_image(chat.data).tobytes() == load_image(saved(kind)).tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_what_chat_models_take_stays(kind: str) -> None:
    """Byte for byte."""
    assert for_chat(saved(kind)) == (saved(kind), f"image/{kind.lower()}")


class _Toy(ImageFile.ImageFile):
    format, format_description = "TOY", "made up"

    def _open(self) -> None:
        self._mode, self._size = "L", (8, 8)
        self.tile = [ImageFile._Tile("raw", (0, 0, 8, 8), 4, ("L", 0, 1))]


@pytest.fixture
def taught() -> Iterator[None]:
    """Pillow has been taught a format, as pillow-heif does."""
    Image.register_open("TOY", _Toy, lambda prefix: prefix.startswith(b"TOY!"))
    yield
    del Image.OPEN["TOY"]
    Image.ID.remove("TOY")


@pytest.mark.usefixtures("taught")
def test_a_format_that_pillow_was_taught_is_read() -> None:
    """Whoever registers one means it."""
    assert load_image(b"TOY!" + bytes(64)).size == (8, 8)
    assert for_chat(b"TOY!" + bytes(64)).mime_type == "image/png"


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow-heif"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", r"Image\.open"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "as a PNG"),
    ],
    ids=["HEIC", "EPS", "SVG"],
)
def test_a_format_that_is_not_read_has_a_way_out(data: bytes, advice: str) -> None:
    """EPS, for one, would start another program."""
    with pytest.raises(ImageError, match=advice):
        load_image(data)


def test_an_empty_folder_in_a_home_is_named(home: Path) -> None:
    """By its whole path."""
    with pytest.raises(PageIndexError, match=str(home / "here")):
        find_pdfs("~/here")
