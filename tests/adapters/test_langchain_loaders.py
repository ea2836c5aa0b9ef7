"""PDFs in LangChain: documents of pages, their pictures as content blocks, and the retriever that hands those over."""

import base64
import errno
import json
import re
import shutil
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import numpy as np
import pytest
from langchain_classic.retrievers import MultiVectorRetriever
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.document_loaders import Blob
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.stores import InMemoryStore
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests
from PIL import Image
from reportlab.lib.pdfencrypt import StandardEncryption  # type: ignore[import-untyped]
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

from langchain_nemovlm import (
    NemoVLMEmbeddings,
    NemoVLMPageRetriever,
    NemoVLMPDFLoader,
    NemoVLMPDFParser,
    page_to_content_block,
    pages_to_message,
)
from langchain_nemovlm.pages import passage_of
from nemovlm import Embedder
from nemovlm.errors import (
    ConfigurationError,
    ImageError,
    InputError,
    NemoVLMError,
    PdfError,
    PdfFormatError,
    PdfPageError,
    PdfPasswordError,
)
from nemovlm.images import data_url, encode_jpeg, load_image, measure
from nemovlm.pdf import iter_pages
from nemovlm.pdf.workers import OpenPdf
from tests.support.checkpoints import case_image

Door = Callable[..., Awaitable[Any]]

# langchain_community, of which some of the framework's loaders are still a part, says so when it is imported.
SUNSET = pytest.mark.filterwarnings("ignore:.langchain-community. is being sunset:DeprecationWarning")


def numbered(count: int, **options: Any) -> bytes:
    """A PDF of `count` pages that say "number 0" and so on, each with a bar of its own length."""
    file = BytesIO()
    canvas = Canvas(file, pagesize=(200, 300), invariant=1, **options)
    for number in range(count):
        canvas.drawString(20, 250, f"number {number}")
        canvas.rect(20, 100, 10 + 150 * number / count, 30, fill=1)
        canvas.showPage()
    canvas.save()
    return file.getvalue()


def broken() -> bytes:
    """A PDF of three pages, the second of which is not there."""
    data, count = re.subn(rb"(/Kids \[ \d+ 0 R )\d+ 0 R", rb"\g<1>99 9 R", numbered(3))
    assert count == 1
    return data


@pytest.fixture
def pdf(tmp_path: Path) -> Path:
    """A PDF of four pages."""
    path = tmp_path / "four.pdf"
    path.write_bytes(numbered(4))
    return path


def texts(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


def picture(block: Any) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(block["base64"], validate=True)))


# Documents


async def test_documents_of_pages(samples: Path, tmp_path: Path, call: Door) -> None:
    """One document a page, with its text, and flat metadata: exactly those that the parser's docstring names."""
    path = samples / "annual-report.pdf"
    documents = await call(NemoVLMPDFLoader(str(path), image_dir=tmp_path), "load")
    assert [d.metadata["page"] for d in documents] == list(range(8))
    assert [d.metadata["page_label"] for d in documents] == ["i", "ii", "iii", "1", "2", "3", "4", "5"]
    assert "Revenue" in " ".join(texts(documents))
    words = re.findall(r"`(\w+)`", (NemoVLMPDFParser.__doc__ or "").split("Args:")[0])
    for document in documents:
        assert set(document.metadata) == set(words) - {"MultiVectorRetriever"}
        assert all(type(value) in {str, int, float} for value in document.metadata.values())
        assert Document.model_validate_json(document.model_dump_json()) == document
        assert json.loads(json.dumps(document.metadata)) == document.metadata
        assert document.metadata["source"] == document.metadata["file_path"] == str(path)
        assert (document.metadata["total_pages"], document.metadata["mime_type"]) == (8, "image/png")
        assert document.metadata["title"]
    assert len({d.metadata["image_sha256"] for d in documents}) == 8


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("D:20240229", "2024-02-29T00:00:00"),
        ("D:20240101120000+01'00'", "2024-01-01T12:00:00+01:00"),
        ("D:20240101120000-08'30", "2024-01-01T12:00:00-08:30"),
        ("D:20240101120000Z", "2024-01-01T12:00:00+00:00"),
        ("D:2024", "2024-01-01T00:00:00"),
        ("202401011200", "2024-01-01T12:00:00"),
        ("D:20230229", "D:20230229"),
        ("Monday", "Monday"),
        ("", ""),
    ],
)
def test_dates_are_iso_8601(written: str, expected: str) -> None:
    """As much as the PDF says of its date; what is none stays as it is."""
    old = b"/CreationDate (D:20000101000000+00'00')"
    data = numbered(1)
    assert old in data
    new = f"/CreationDate ({written})".encode().ljust(len(old))
    (document,) = NemoVLMPDFParser().parse(Blob.from_data(data.replace(old, new)))
    assert document.metadata["creationdate"] == expected
    assert document.metadata["moddate"] == "2000-01-01T00:00:00+00:00"


async def test_ids_stay_the_same(pdf: Path, tmp_path: Path, call: Door) -> None:
    """A page has the same UUID at every load and in every form, and no other page has it."""
    other = tmp_path / "other.pdf"
    other.write_bytes(numbered(2))
    ids = [d.id for d in await call(NemoVLMPDFLoader(tmp_path), "load")]
    assert len(ids) == len(set(ids)) == 6
    assert [str(UUID(identity)) for identity in ids] == ids
    for content in ("base64", "empty", "markdown"):
        again = await call(NemoVLMPDFLoader(pdf, content=content, image_dir=tmp_path / "p", pages=[3, 0]), "load")
        assert [d.id for d in again] == [d.metadata["doc_id"] for d in again] == [ids[3], ids[0]]


async def test_four_contents(pdf: Path, tmp_path: Path, call: Door) -> None:
    """The text, the picture as bare base64 of a PNG, the text and the picture's name, or nothing."""
    expected = [page.image for page in iter_pages(pdf)]

    async def load(content: str, **options: Any) -> list[Document]:
        documents: list[Document] = await call(NemoVLMPDFLoader(pdf, content=content, **options), "load")
        return documents

    assert texts(await load("text")) == [f"number {number}" for number in range(4)]
    assert texts(await load("empty")) == [""] * 4
    for document, image in zip(await load("base64"), expected, strict=True):
        assert np.array_equal(picture({"base64": document.page_content}), image)
        assert document.metadata["mime_type"] == "image/png"
    for number, document in enumerate(await load("markdown", image_dir=tmp_path / "my pictures")):
        text, name = document.page_content.split("\n\n")
        assert text == f"number {number}"
        digest = document.metadata["image_sha256"]
        assert re.fullmatch(rf"!\[four\.pdf page {number + 1}\]\(\S*/my%20pictures/{digest}\.png\)", name)
    assert "image_path" not in (await load("text"))[0].metadata


def test_an_address_is_no_path() -> None:
    """It is said to be one, whoever is asked, and nothing is fetched."""
    address = "https://example.com/a.pdf"
    for ask in (NemoVLMPDFLoader, lambda path: list(iter_pages(path))):
        with pytest.raises(PdfError, match=r"^https://example\.com/a\.pdf: addresses are not fetched"):
            ask(address)


@pytest.mark.parametrize("name", ["a [b](c).pdf", "two\nlines.pdf", "![x](y).pdf", "a\\b\u2028c.pdf", "%41:).pdf"])
def test_names_of_files_do_not_matter(pdf: Path, tmp_path: Path, name: str) -> None:
    """Whatever the PDF and the folder of pictures are called, the name of the picture is found again."""
    odd = shutil.copy(pdf, tmp_path / name)
    folder = tmp_path / f"pictures of {name}"
    for document in NemoVLMPDFLoader(odd, image_dir=folder, content="markdown").load():
        found = passage_of(document.page_content, folder, "text_image")
        assert found is not None
        assert (found.text, found.image) == (
            f"number {document.metadata['page']}",
            Path(document.metadata["image_path"]),
        )


def test_pictures_are_written_once(pdf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole PNGs with the pixels of the page, by several loaders at once; the next load writes nothing."""
    folder = tmp_path / "new" / "pictures"

    def load() -> list[Document]:
        return NemoVLMPDFLoader(pdf, image_dir=folder).load()

    with ThreadPoolExecutor(2) as pool:
        first, second = (future.result() for future in [pool.submit(load) for _ in range(2)])
    assert first == second
    files = [Path(document.metadata["image_path"]) for document in first]
    assert sorted(folder.iterdir()) == sorted(files)
    for file, page in zip(files, iter_pages(pdf), strict=True):
        assert file.name == f"{page.image_sha256}.png"
        assert np.array_equal(load_image(file), page.image)
    monkeypatch.setattr(Image.Image, "save", None)  # whoever writes, fails
    assert load() == first


def test_a_disk_that_is_full(pdf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that cannot be written is an ImageError, whatever `on_error` says, and nothing half is left."""

    def full(_: Image.Image, path: Path, *__: object, **___: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ImageError, match=r"cannot be written to .*No space left"):
        NemoVLMPDFLoader(pdf, image_dir=tmp_path / "pictures", on_error="skip").load()
    assert not list((tmp_path / "pictures").iterdir())


def test_a_folder_that_is_a_file(pdf: Path) -> None:
    """An image_dir that is a file is an ImageError as well."""
    with pytest.raises(ImageError, match="cannot be written"):
        NemoVLMPDFLoader(pdf, image_dir=pdf).load()


@pytest.mark.parametrize(
    "options", [{"content": "markdown"}, {"content": "bogus"}, {"content": "bogus", "image_dir": "x"}], ids=str
)
def test_contents_that_are_none(options: dict[str, Any]) -> None:
    """They are errors of the constructor."""
    for make in (NemoVLMPDFParser, lambda **o: NemoVLMPDFLoader("x.pdf", **o)):
        with pytest.raises(ConfigurationError, match="content="):
            make(**options)


# Streams


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The indexes of the pages that were rendered."""
    indexes: list[int] = []
    deal = OpenPdf._deal
    monkeypatch.setattr(OpenPdf, "_deal", lambda pdf, page: indexes.append(page) or deal(pdf, page))
    return indexes


async def test_pages_are_rendered_when_they_are_asked_for(tmp_path: Path, rendered: list[int]) -> None:
    """Taking one document renders it and a few after it, also in async code, and all of them come in the end."""
    (tmp_path / "long.pdf").write_bytes(numbered(30))
    sync = NemoVLMPDFLoader(tmp_path / "long.pdf").lazy_load()
    assert not rendered
    next(sync)
    assert len(rendered) < 10
    rendered.clear()
    stream = NemoVLMPDFLoader(tmp_path / "long.pdf").alazy_load()
    first = await anext(stream)
    assert len(rendered) < 10
    assert texts([first, *[document async for document in stream]]) == [f"number {n}" for n in range(30)]
    assert rendered == [None, *range(30)]


def test_a_half_read_loader_blocks_nobody(pdf: Path) -> None:
    """While one loader rests between two pages, another one reads the same file in another thread."""
    half = NemoVLMPDFLoader(pdf).lazy_load()
    next(half)
    others: list[Document] = []
    thread = threading.Thread(target=lambda: others.extend(NemoVLMPDFLoader(pdf).load()), daemon=True)
    thread.start()
    thread.join(60)
    assert len(others) == 4
    assert len(list(half)) == 3


# Options


@pytest.mark.usefixtures("pdf")
async def test_some_pages_at_some_resolution(tmp_path: Path, call: Door) -> None:
    """`pages` of every file, in their order, read once though they come as an iterator; `dpi` for their pictures."""
    (tmp_path / "other.pdf").write_bytes(numbered(3))
    loader = NemoVLMPDFLoader(tmp_path, pages=iter([2, 0]), dpi=36, image_dir=tmp_path / "p")
    for _ in range(2):
        documents = await call(loader, "load")
        assert texts(documents) == ["number 2", "number 0"] * 2
        assert {measure(Path(d.metadata["image_path"]).read_bytes()) for d in documents} == {(100, 150)}


async def test_encrypted_files(tmp_path: Path, call: Door) -> None:
    """A password opens them; a wrong one, or none, is an error that names the file."""
    path = tmp_path / "secret.pdf"
    path.write_bytes(numbered(2, encrypt=StandardEncryption("sesame", ownerPassword="owner", strength=128)))
    documents = await call(NemoVLMPDFLoader(path, password="sesame"), "load")
    assert texts(documents) == ["number 0", "number 1"]
    for password, words in (("wrong", "password is wrong"), (None, "pass password=")):
        with pytest.raises(PdfPasswordError, match=f"secret.pdf: .*{words}"):
            await call(NemoVLMPDFLoader(path, password=password), "load")
    message = pages_to_message("?", documents, password="sesame")
    assert np.array_equal(picture(message.content_blocks[1]), next(iter_pages(path, password="sesame")).image)
    with pytest.raises(PdfPasswordError):
        pages_to_message("?", documents)


async def test_a_folder(tmp_path: Path, call: Door) -> None:
    """All PDFs in it and below, in order of their paths, whatever the case of their names, and nothing else."""
    for name in ("b.pdf", "a.PDF", "sub/deep/c.pdf", "notes.txt", "d.pdf.bak"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(numbered(1))
    (tmp_path / "folder.pdf").mkdir()
    documents = await call(NemoVLMPDFLoader(tmp_path), "load")
    assert [d.metadata["file_path"] for d in documents] == [
        str(tmp_path / name) for name in ("a.PDF", "b.pdf", "sub/deep/c.pdf")
    ]
    with pytest.raises(PdfError, match="no PDF in this folder"):
        await call(NemoVLMPDFLoader(tmp_path / "folder.pdf"), "load")


async def test_what_lies_in_folders(tmp_path: Path, call: Door, caplog: pytest.LogCaptureFixture) -> None:
    """What is hidden is left out, links are followed, a file comes once; a link to nothing is an error like others."""
    for name in ("lib/b.pdf", "lib/._b.pdf", "lib/~$b.pdf", "lib/..data/c.pdf", "other/d.pdf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(numbered(1))
    (lib := tmp_path / "lib").joinpath("c.pdf").symlink_to("..data/c.pdf")
    lib.joinpath("archive").symlink_to(tmp_path / "other")
    lib.joinpath("a.pdf").symlink_to("b.pdf")
    found = ["archive/d.pdf", "b.pdf", "c.pdf"]
    assert [d.metadata["source"] for d in await call(NemoVLMPDFLoader(lib), "load")] == [str(lib / n) for n in found]
    lib.joinpath("gone.pdf").symlink_to(tmp_path / "nothing")
    with pytest.raises(PdfError, match=r"gone\.pdf: the link cannot be followed"):
        await call(NemoVLMPDFLoader(lib), "load")
    seen: list[NemoVLMError] = []
    assert len(await call(NemoVLMPDFLoader(lib, on_error=seen.append), "load")) == 3
    assert [error.item for error in seen] == [str(lib / "gone.pdf")]
    assert len(await call(NemoVLMPDFLoader(lib, on_error="skip"), "load")) == 3
    assert "gone.pdf" in caplog.text


async def test_missing_files_and_other_files(tmp_path: Path, call: Door) -> None:
    """They are typed errors when pages are asked for, not before."""
    (tmp_path / "junk.pdf").write_bytes(b"no PDF")
    for name, error in (("none.pdf", PdfError), (f"{'x' * 300}.pdf", PdfError), ("junk.pdf", PdfFormatError)):
        loader = NemoVLMPDFLoader(tmp_path / name)
        with pytest.raises(error, match=name):
            await call(loader, "load")


async def test_what_becomes_of_errors(tmp_path: Path, call: Door, caplog: pytest.LogCaptureFixture) -> None:
    """A page or file that cannot be read is raised, or left out with a warning, or reported; the others come."""
    (tmp_path / "a.pdf").write_bytes(broken())
    (tmp_path / "b.pdf").write_bytes(b"no PDF")
    (tmp_path / "c.pdf").write_bytes(numbered(1))
    rest = [("a.pdf", 0), ("a.pdf", 2), ("c.pdf", 0)]

    async def load(on_error: Any) -> list[tuple[str, int]]:
        documents = await call(NemoVLMPDFLoader(tmp_path, on_error=on_error), "load")
        return [(Path(d.metadata["source"]).name, d.metadata["page"]) for d in documents]

    errors: list[NemoVLMError] = []
    assert await load(errors.append) == rest
    assert [type(error) for error in errors] == [PdfPageError, PdfFormatError]
    assert not caplog.records
    assert await load("skip") == rest
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "a.pdf page 2: " in caplog.messages[0]
    assert "b.pdf: " in caplog.messages[1]
    with pytest.raises(PdfPageError, match=r"a\.pdf page 2"):
        await load("raise")


def test_a_function_for_errors_may_raise() -> None:
    """An error is reported once, also to a function that raises it."""
    errors: list[NemoVLMError] = []

    def report(error: NemoVLMError) -> None:
        errors.append(error)
        raise error

    with pytest.raises(PdfPageError):
        NemoVLMPDFParser(on_error=report).parse(Blob.from_data(broken()))
    assert len(errors) == 1


def test_a_misspelt_on_error() -> None:
    """`on_error` that is none of its values is an error, and leaves out nothing."""
    with pytest.raises(ConfigurationError, match="on_error"):
        NemoVLMPDFParser(on_error="stop").parse(Blob.from_data(b"no PDF"))  # type: ignore[arg-type]


# Blobs, and the framework's own loaders


def test_parsing_blobs(pdf: Path) -> None:
    """A blob of bytes and a blob of a path give the same pages, with the metadata of the blob."""
    parser = NemoVLMPDFParser()
    from_path = parser.parse(Blob.from_path(pdf, metadata={"tag": "x"}))
    from_bytes = parser.parse(Blob.from_data(pdf.read_bytes(), metadata={"source": "mail:7", "tag": "x"}))
    assert texts(from_path) == texts(from_bytes) == [f"number {number}" for number in range(4)]
    assert {d.metadata["tag"] for d in from_path + from_bytes} == {"x"}
    assert {(d.metadata["source"], d.metadata.get("file_path")) for d in from_path} == {(str(pdf), str(pdf))}
    assert {(d.metadata["source"], d.metadata.get("file_path")) for d in from_bytes} == {("mail:7", None)}
    assert not {d.id for d in from_path} & {d.id for d in from_bytes}


def test_a_blob_with_data_and_a_path(pdf: Path) -> None:
    """The data are read: the path says where they are from, as of a file in a bucket."""
    blob = Blob.from_data(pdf.read_bytes(), path="s3://bucket/four.pdf")
    assert len(NemoVLMPDFParser().parse(blob)) == 4


def test_nameless_blobs_are_told_apart() -> None:
    """Pages of different bytes never have the same id, or one would replace the other in a store."""
    parser = NemoVLMPDFParser()
    one, other = (parser.parse(Blob.from_data(numbered(1, lang=lang)))[0] for lang in ("en", "de"))
    assert one.id != other.id


@SUNSET
async def test_the_framework_s_own_loaders(tmp_path: Path, call: Door) -> None:
    """GenericLoader and FileSystemBlobLoader with the parser, DirectoryLoader with the loader."""
    from langchain_community.document_loaders import DirectoryLoader, FileSystemBlobLoader
    from langchain_community.document_loaders.generic import GenericLoader

    for name in ("a.pdf", "sub/b.pdf", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(numbered(2))
    parser = NemoVLMPDFParser()
    expected = NemoVLMPDFLoader(tmp_path).load()
    for loader in (
        GenericLoader.from_filesystem(tmp_path, glob="**/*.pdf", parser=parser),
        GenericLoader(FileSystemBlobLoader(tmp_path, suffixes=[".pdf"]), parser),
        DirectoryLoader(str(tmp_path), glob="**/*.pdf", loader_cls=NemoVLMPDFLoader),  # type: ignore[arg-type]
    ):
        documents = await call(loader, "load")
        assert sorted(documents, key=lambda d: (d.metadata["source"], d.metadata["page"])) == expected
    assert len(GenericLoader.from_filesystem(tmp_path, glob="*.pdf", parser=parser).load()) == 2


# Pages for a chat model


def test_the_picture_of_a_page(pdf: Path, tmp_path: Path) -> None:
    """From the written picture, from `page_content`, or rendered anew, the block is the picture of that page."""
    expected = list(iter_pages(pdf))[1].image
    for options in ({"image_dir": tmp_path / "p"}, {}, {"content": "base64"}, {"content": "empty"}):
        document = NemoVLMPDFLoader(pdf, **options).load()[1]
        if options == {"content": "base64"}:
            document.metadata["file_path"] = document.metadata["source"] = "gone.pdf"
        if not options:
            document.metadata["source"] = "a table of some store"
        block = page_to_content_block(document)
        assert (block["type"], block["mime_type"]) == ("image", "image/png")
        assert np.array_equal(picture(block), expected)
        assert HumanMessage(content_blocks=[block]).content_blocks == [block]


@pytest.mark.parametrize("page", [1.0, "1"])
def test_a_page_from_a_store_without_integers(pdf: Path, page: Any) -> None:
    """Some stores give numbers back as floats or as text: it is the same page."""
    document = Document("number 1", metadata={"file_path": str(pdf), "page": page})
    assert np.array_equal(picture(page_to_content_block(document)), list(iter_pages(pdf))[1].image)


def test_pictures_of_other_formats(tmp_path: Path) -> None:
    """A file or data URL is handed on as it is, under the type that it has, whatever it is called."""
    photo = encode_jpeg(case_image("square"), longest_edge=64)
    (tmp_path / "photo.png").write_bytes(photo)
    for document in (
        Document("a photo", metadata={"image_path": str(tmp_path / "photo.png")}),
        Document(data_url(photo, "image/png")),
        Document(base64.b64encode(photo).decode()),
    ):
        block = page_to_content_block(document)
        assert (block["mime_type"], base64.b64decode(block["base64"])) == ("image/jpeg", photo)


def test_what_is_no_page(pdf: Path, tmp_path: Path) -> None:
    """Typed errors, and a file that is no picture is not handed on."""
    (tmp_path / "passwd").write_text("root:secret")
    for document, error, words in (
        (Document("no page"), InputError, "no page"),
        (Document("", metadata={"source": str(pdf)}), InputError, "no page"),
        (Document("", metadata={"page": 0}), InputError, "no page"),
        (Document("", metadata={"image_path": str(tmp_path / "none.png")}), ImageError, "none.png"),
        (Document("", metadata={"image_path": str(tmp_path / "passwd")}), ImageError, "no image"),
        (Document(data_url(b"root:secret", "image/png")), ImageError, "no image"),
        (Document("", metadata={"file_path": "none.pdf", "page": 0}), PdfError, "none.pdf"),
        (Document("", metadata={"file_path": str(pdf), "page": 4}), PdfPageError, "four.pdf page 5"),
        (Document("cGxhaW4gdGV4dA==", metadata={}), InputError, "no page"),
    ):
        with pytest.raises(error, match=words) as caught:
            page_to_content_block(document)
        assert "secret" not in str(caught.value)


def test_a_message_of_pages(pdf: Path, tmp_path: Path) -> None:
    """Each page's name, then its picture, then the question; no path of this machine leaves it."""
    documents = NemoVLMPDFLoader(pdf, image_dir=tmp_path / "p", pages=[2, 0]).load()
    plain = Document("", metadata={"image_path": documents[0].metadata["image_path"]})
    message = pages_to_message("How many?", [*documents, plain])
    blocks = message.content_blocks
    assert [block["type"] for block in blocks] == ["text", "image"] * 3 + ["text"]
    assert [block["text"] for block in blocks if block["type"] == "text"] == [
        "four.pdf, page 3:",
        "four.pdf, page 1:",
        f"{documents[0].metadata['image_sha256']}.png:",
        "How many?",
    ]
    for block, index in zip(blocks[1::2], (2, 0, 2), strict=True):
        assert np.array_equal(picture(block), list(iter_pages(pdf))[index].image)
    assert str(tmp_path) not in message.model_dump_json()
    (converted,) = convert_to_openai_messages([message])
    urls = [part["image_url"]["url"] for part in converted["content"] if part["type"] == "image_url"]
    assert urls == [f"data:image/png;base64,{block['base64']}" for block in blocks[1::2]]  # type: ignore[typeddict-item]


# The retriever


@pytest.fixture(scope="module")
def handbook(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> InMemoryVectorStore:
    """The staff handbook, by its text; its pictures lie on disk."""
    store = InMemoryVectorStore(NemoVLMEmbeddings(model="nemovlm/pocket", truncate="END"))
    store.add_documents(
        NemoVLMPDFLoader(samples / "staff-handbook.pdf", image_dir=tmp_path_factory.mktemp("pictures")).load()
    )
    return store


QUESTION = "How much does the cooperative pay towards a bicycle for commuting?"  # page 2 says it


class TestRetriever(RetrieversIntegrationTests):
    store: ClassVar[InMemoryVectorStore]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _this_store(cls, handbook: InMemoryVectorStore) -> None:
        cls.store = handbook

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return NemoVLMPageRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"vectorstore": self.store}

    @property
    def retriever_query_example(self) -> str:
        return QUESTION


async def test_how_many_pages(handbook: InMemoryVectorStore, call: Door) -> None:
    """Four, or `k`, over which `search_kwargs` win, over which the call wins; the best page comes first."""
    for fields, asked, count in (
        ({}, {}, 4),
        ({"k": 2}, {}, 2),
        ({"k": 2, "search_kwargs": {"k": 3}}, {}, 3),
        ({"k": 2, "search_kwargs": {"k": 3}}, {"k": 1}, 1),
        ({"k": 2, "search_type": "mmr"}, {}, 2),
    ):
        found = await call(NemoVLMPageRetriever(vectorstore=handbook, **fields), "invoke", QUESTION, **asked)
        assert (len(found), found[0].metadata["page"]) == (count, 2)


class Recording(BaseChatModel):
    """A chat model that answers "Seen." and keeps what it was asked."""

    asked: list[list[BaseMessage]]

    @property
    def _llm_type(self) -> str:
        return "recording"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> ChatResult:
        self.asked.append(messages)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("Seen."))])


async def test_from_a_question_to_an_answer(handbook: InMemoryVectorStore, samples: Path, call: Door) -> None:
    """The chat model sees the pictures of the pages that were found, and the question, in every call of a batch."""
    model = Recording(asked=[])
    retriever = NemoVLMPageRetriever(vectorstore=handbook, k=2)
    answers = await call(retriever.as_prompt() | model, "batch", [QUESTION, "When is the office closed?"])
    assert [answer.content for answer in answers] == ["Seen."] * 2
    pages = list(iter_pages(samples / "staff-handbook.pdf"))
    prompts = {messages[-1].content_blocks[-1]["text"]: messages for messages in model.asked}
    assert set(prompts) == {QUESTION, "When is the office closed?"}
    for question, (message,) in prompts.items():
        found = [document.metadata["page"] for document in handbook.similarity_search(question, k=2)]
        shown = [picture(block) for block in message.content_blocks if block["type"] == "image"]
        assert len(shown) == 2
        for image, index in zip(shown, found, strict=True):
            assert np.array_equal(image, pages[index].image)
    assert np.array_equal(picture(prompts[QUESTION][0].content_blocks[1]), pages[2].image)


async def test_pictures_find_texts(pdf: Path, tmp_path: Path, vl_folder: Path, vl: Embedder, call: Door) -> None:
    """MultiVectorRetriever searches the vectors of pictures and returns whole documents, by `doc_id`."""
    folder = tmp_path / "p"
    pictures = NemoVLMPDFLoader(pdf, content="markdown", image_dir=folder).load()
    store = InMemoryVectorStore(NemoVLMEmbeddings(model=str(vl_folder), image_dir=folder))
    await call(store, "add_documents", pictures)
    vectors = [store.store[document.id]["vector"] for document in pictures]
    assert np.abs(np.array(vectors) - vl.embed([page.image for page in iter_pages(pdf)])).max() <= 1e-5
    originals = InMemoryStore()
    originals.mset([(page.id, page) for page in NemoVLMPDFLoader(pdf).load()])
    retriever = MultiVectorRetriever(vectorstore=store, docstore=originals, search_kwargs={"k": 3})
    nearest = np.argsort(-(np.array(vectors) @ vl.embed_query("a")))[:3]
    assert texts(await call(retriever, "invoke", "a")) == [f"number {index}" for index in nearest]
