"""PDFs in LlamaIndex: what documents and nodes of pages hold, and the readers that they come through."""

import json
import os
import pickle
import re
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
from llama_index.core import SimpleDirectoryReader
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    ImageNode,
    MediaResource,
    MetadataMode,
    NodeRelationship,
    TextNode,
)
from PIL import Image
from pydantic import AnyUrl
from reportlab.lib.pdfencrypt import StandardEncryption  # type: ignore[import-untyped]

from llamaindex_nemovlm import NemoVLMPageParser, NemoVLMPDFReader
from nemovlm.errors import PdfError, PdfFormatError, PdfPageError, PdfPasswordError
from nemovlm.pdf import iter_pages
from nemovlm.pdf.workers import OpenPdf
from tests.support.books import BOOK, book, numbered

Door = Callable[..., Awaitable[Any]]

Reader: Any = partial(NemoVLMPDFReader, dpi=40)
TABLE = (Path(__file__).parents[2] / "docs" / "llamaindex.md").read_text("utf-8").split("| metadata | |\n")[1]
SHOWN, HIDDEN = ([word for word in re.findall(r"`(\w+)`", row) if word != "points"] for row in TABLE.splitlines()[1:3])
DATE = b"/CreationDate (D:20000101000000+00'00')"


def broken() -> bytes:
    """A PDF of three pages, the second of which is not there."""
    data, count = re.subn(rb"(/Kids \[ \d+ 0 R )\d+ 0 R", rb"\g<1>99 9 R", book())
    assert count == 1
    return data


@pytest.fixture
def pdf(tmp_path: Path) -> Path:
    """Three pages, the second without text."""
    path = tmp_path / "book.pdf"
    path.write_bytes(book())
    return path


def same_pixels(file: Any, image: Image.Image) -> bool:
    with Image.open(file) as read:
        return np.array_equal(np.asarray(read), np.asarray(image))


def numbers(documents: list[Document]) -> list[int]:
    return [document.metadata["page"] for document in documents]


def hashes(path: Path, content: bytes, **options: Any) -> list[str]:
    path.write_bytes(content)
    return [document.hash for document in Reader(**options).load_data(path)]


# Documents


async def test_documents_of_pages(pdf: Path, call: Door) -> None:
    """One document a page, with its text and the metadata that docs/llamaindex.md names: flat, and JSON."""
    documents = await call(Reader(), "load_data", pdf)
    assert numbers(documents) == [0, 1, 2]
    assert [document.text for document in documents] == ["one", "", "three"]
    for number, document in enumerate(documents):
        assert isinstance(document, ImageDocument)
        assert set(document.metadata) == {*SHOWN, *HIDDEN}
        assert all(type(value) in {str, int, float} for value in document.metadata.values())
        assert json.loads(json.dumps(document.metadata)) == document.metadata
        told = {"file_name": "book.pdf", "file_path": str(pdf), "page_label": str(number + 1), "total_pages": 3}
        told |= {"width": 200.0, "height": 300.0, "title": "a Title", "creationdate": "2000-01-01T00:00:00+00:00"}
        assert document.metadata | told == document.metadata
        assert document.metadata["dpi"] == pytest.approx(40, rel=0.02)
        assert document.ref_doc_id is None  # by which refresh and upserts go page by page


def test_what_models_read(pdf: Path) -> None:
    """The text and the metadata that docs/llamaindex.md says; more metadata wins, and is shown; no empty page."""
    for document in [*Reader().load_data(pdf), *Reader(images=False).load_data(pdf)]:
        for mode in (MetadataMode.EMBED, MetadataMode.LLM):
            head, _, text = document.get_content(mode).partition("\n\n")
            assert {line.split(": ")[0] for line in head.splitlines()} == set(SHOWN)
            assert (text, document.get_content(MetadataMode.NONE)) == (document.text, document.text)
        assert document.metadata["image_sha256"] in document.get_content(MetadataMode.ALL)  # LlamaIndex's cache keys
    (document,) = Reader(pages=[1]).load_data(pdf, extra_info={"file_name": "mine", "title": "other", "shelf": 7})
    shown = document.get_content(MetadataMode.LLM)
    assert {"file_name: mine", "title: other", "shelf: 7"} <= {*shown.splitlines()}


async def test_ids_stay_the_same(pdf: Path, tmp_path: Path, call: Door) -> None:
    """UUIDs, the same at every load and in every form, and no other page's, nor those of a copy elsewhere."""
    (other := tmp_path / "elsewhere" / pdf.name).parent.mkdir()
    other.write_bytes(book())
    ids = [document.id_ for document in await call(Reader(), "load_data", pdf)]
    others = [document.id_ for document in await call(Reader(), "load_data", other)]
    assert len({*ids, *others}) == 6
    assert [str(UUID(identity)) for identity in ids] == ids
    for reader in (Reader(inline=True), Reader(images=False), NemoVLMPDFReader(pages=[0, 1, 2])):
        assert [document.id_ for document in await call(reader, "load_data", str(pdf))] == ids


@pytest.mark.parametrize("options", [{}, {"inline": True}, {"images": False}], ids=["files", "inline", "text"])
def test_hashes_change_with_what_is_seen(options: dict[str, Any], pdf: Path, tmp_path: Path) -> None:
    """Not with dates, or pages appended; with pixels, text, the place of a page, and the file."""
    first = hashes(pdf, book(), **options)
    assert len(set(first)) == 3
    assert DATE in book()
    assert hashes(pdf, book().replace(DATE, DATE.replace(b"2000", b"2031")), **options) == first
    unseen = options.get("images") is False
    for pages, same in (
        ([*BOOK, ("red", None)], [True, True, True]),
        ([BOOK[0], ("black", None), BOOK[2]], [True, unseen, True]),
        ([("red", "two"), BOOK[1], BOOK[2]], [False, True, True]),
        ([BOOK[1], BOOK[0], BOOK[2]], [False, False, True]),
    ):
        again = hashes(pdf, book(pages), **options)[:3]
        assert [old == new for old, new in zip(first, again, strict=True)] == same
        assert len({*first, *again}) == 3 + same.count(False)
    assert not {*hashes(tmp_path / "other.pdf", book(), **options)} & {*first}
    document = Reader(**options, pages=[0]).load_data(pdf)[0]
    document.set_content(document.text + "!")  # a page that looks the same and reads otherwise
    assert document.hash not in hashes(pdf, pdf.read_bytes(), **options)


def test_pictures_are_files_named_by_digest(pdf: Path, tmp_path: Path) -> None:
    """Whole PNGs, by default below LlamaIndex's cache; the same picture is one file, and no load writes it again."""
    default = Path(os.environ["LLAMA_INDEX_CACHE_DIR"]) / "nemovlm-pages"
    for reader, folder in ((Reader(), default), (Reader(image_dir=tmp_path / "new" / "p"), tmp_path / "new" / "p")):
        documents = reader.load_data(pdf)
        for document, page in zip(documents, iter_pages(pdf, dpi=40), strict=True):
            path = Path(document.image_path)
            assert path == folder / f"{page.image_sha256}.png"
            assert document.metadata["image_sha256"] == page.image_sha256
            assert document.image_resource.mimetype == document.image_mimetype == "image/png"
            assert path.read_bytes().startswith(b"\x89PNG")
            assert same_pixels(path, page.image)
            assert document.image_resource.data is None
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "new" / "p").iterdir()}
    (tmp_path / "twin.pdf").write_bytes(book([*BOOK, BOOK[0]]))
    Reader(image_dir=tmp_path / "new" / "p").load_data(tmp_path / "twin.pdf")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "new" / "p").iterdir()} == before


def test_pictures_inside_documents(pdf: Path, tmp_path: Path) -> None:
    """With `inline=True` documents and nodes hold the PNG, and nothing is written; `images=False` has none at all."""
    folder = tmp_path / "unused"
    inline = Reader(inline=True, image_dir=folder)
    for document, node, page in zip(
        inline.load_data(pdf), inline.load_nodes(pdf), iter_pages(pdf, dpi=40), strict=True
    ):
        for item in (document, node):
            assert same_pixels(item.resolve_image(), page.image)
            assert item.image_path is None
    texts = Reader(images=False, image_dir=folder)
    assert [type(node) for node in texts.load_nodes(pdf)] == [TextNode] * 3
    assert [isinstance(document, ImageDocument) for document in texts.load_data(pdf)] == [False] * 3
    assert not folder.exists()


# Options, errors, laziness


async def test_some_pages(pdf: Path, call: Door) -> None:
    """The `pages` asked for, in that order, with their own labels; one that is not there is an error."""
    last, first = await call(Reader(pages=[2, 0]), "load_data", pdf)
    assert (last.metadata["page"], last.metadata["page_label"], last.text) == (2, "3", "three")
    assert (first.metadata["page"], first.metadata["page_label"], first.text) == (0, "1", "one")
    with pytest.raises(PdfPageError, match=r"book\.pdf.*page 10.*3 pages"):
        await call(Reader(pages=[0, 9]), "load_data", pdf)


async def test_encrypted_files(tmp_path: Path, call: Door) -> None:
    """A password opens them; a wrong one, or none, is an error that names the file. The password is told to nobody."""
    path = tmp_path / "secret.pdf"
    path.write_bytes(book(encrypt=StandardEncryption("sesame", ownerPassword="owner", strength=128)))
    reader = Reader(password="sesame")
    assert numbers(await call(reader, "load_data", path)) == [0, 1, 2]
    assert numbers(await call(pickle.loads(pickle.dumps(reader)), "load_data", path)) == [0, 1, 2]
    assert "sesame" not in f"{reader.to_dict()} {reader!r} {reader} {reader.to_json()}"
    for password, words in (("wrong", "password is wrong"), (None, "pass password=")):
        with pytest.raises(PdfPasswordError, match=f"secret.pdf: .*{words}"):
            await call(Reader(password=password), "load_data", path)


async def test_bad_pages_and_files(tmp_path: Path, caplog: pytest.LogCaptureFixture, call: Door) -> None:
    """Raised by default; with `on_error="skip"` a warning names what is left out, and the other pages come."""
    page, junk, none = tmp_path / "page.pdf", tmp_path / "junk.pdf", tmp_path / "none.pdf"
    page.write_bytes(broken())
    junk.write_bytes(b"no PDF")
    for path, kind, words in (
        (page, PdfPageError, "page.pdf page 2"),
        (junk, PdfFormatError, "junk.pdf"),
        (none, PdfError, "none.pdf: .*No such file"),
    ):
        with pytest.raises(kind, match=words):
            await call(Reader(), "load_data", path)
        caplog.clear()
        assert numbers(await call(Reader(on_error="skip"), "load_data", path)) == ([0, 2] if path == page else [])
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert re.search(words, caplog.text)
    assert [node.metadata["page"] for node in Reader(on_error="skip").load_nodes(page)] == [0, 2]


async def test_pages_are_rendered_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first document costs a few pages, and not even those before it is wanted."""
    (tmp_path / "long.pdf").write_bytes(numbered(30))
    rendered: list[int | None] = []
    deal = OpenPdf._deal

    def counted(pdf: OpenPdf, page: int | None) -> Any:
        rendered.append(page)
        return deal(pdf, page)

    monkeypatch.setattr(OpenPdf, "_deal", counted)
    for lazy in (Reader().lazy_load_data(tmp_path / "long.pdf"), await Reader().alazy_load_data(tmp_path / "long.pdf")):
        rendered.clear()
        stream = iter(lazy)
        assert rendered == []
        assert numbers([next(stream)]) == [0]
        assert len(rendered) < 10
        assert numbers(list(stream)) == list(range(1, 30))
        assert rendered == [None, *range(30)]


def test_a_half_read_file_blocks_nobody(pdf: Path) -> None:
    """While one stream rests between two pages, or is dropped there, another thread reads the same file."""
    resting, dropped = (iter(Reader().lazy_load_data(pdf)) for _ in range(2))
    assert numbers([next(resting), next(dropped)]) == [0, 0]
    del dropped
    others: list[Document] = []
    thread = threading.Thread(target=lambda: others.extend(Reader().load_data(pdf)), daemon=True)
    thread.start()
    thread.join(60)
    assert numbers(others) == [0, 1, 2]
    assert numbers(list(resting)) == [1, 2]


# Other doors


async def test_a_folder(tmp_path: Path, call: Door, capsys: pytest.CaptureFixture[str]) -> None:
    """The reader takes what a folder shows, once; SimpleDirectoryReader what it can, and nothing silently."""
    for name in ("lib/b.pdf", "lib/._b.pdf", "lib/sub/e.PDF", "lib/..data/c.pdf", "other/d.pdf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(book())
    (lib := tmp_path / "lib").joinpath("c.pdf").symlink_to("..data/c.pdf")
    lib.joinpath("archive").symlink_to(tmp_path / "other")
    lib.joinpath("~$b.pdf").write_bytes(b"Owner")
    paths = [str(lib / name) for name in ("archive/d.pdf", "b.pdf", "c.pdf", "sub/e.PDF")]
    documents = await call(Reader(images=False), "load_data", lib)
    assert [document.metadata["file_path"] for document in documents] == [path for path in paths for _ in range(3)]
    nodes = Reader(images=False).load_nodes(lib)
    assert [node.ref_doc_id for node in nodes] == [path for path in paths for _ in range(3)]
    assert [node.prev_node is None for node in nodes] == [True, False, False] * 4
    assert [n.id_ for n in nodes[3:6]] == [n.id_ for n in Reader(images=False).load_nodes(lib / "b.pdf")]
    through = SimpleDirectoryReader(lib, recursive=True, file_extractor={".pdf": Reader(images=False)})
    assert {document.metadata["file_path"] for document in await call(through, "load_data")} == set(paths[1:])
    assert "Failed to load file" in (printed := capsys.readouterr().out)
    assert "~$b.pdf" in printed
    lib.joinpath("gone.pdf").symlink_to(tmp_path / "nothing")
    assert len(await call(Reader(images=False, on_error="skip"), "load_data", lib)) == 12
    with pytest.raises(PdfError, match=r"gone\.pdf: the link cannot be followed"):
        await call(Reader(images=False), "load_data", lib)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PdfError, match="no PDF in this folder"):
        await call(Reader(), "load_data", tmp_path / "empty")


@pytest.mark.parametrize("num_workers", [None, 2])
async def test_through_simple_directory_reader(num_workers: int | None, tmp_path: Path, call: Door) -> None:
    """As a file extractor it adds the framework's metadata, without another hash; in processes as well."""
    for name in ("a.pdf", "b.PDF"):
        (tmp_path / name).write_bytes(book())
    reader = SimpleDirectoryReader(tmp_path, file_extractor={".pdf": Reader()}, raise_on_error=True)
    first = await call(reader, "load_data", num_workers=num_workers)
    assert [(d.metadata["file_name"], d.metadata["page"]) for d in first] == [
        (name, page) for name in ("a.pdf", "b.PDF") for page in range(3)
    ]
    assert {d.metadata["file_type"] for d in first} == {"application/pdf"}
    assert [d.id_ for d in first[:3]] == [d.id_ for d in Reader().load_data(tmp_path / "a.pdf")]
    os.utime(tmp_path / "a.pdf", (10**9, 10**9))
    again = await call(reader, "load_data", num_workers=num_workers)
    assert again[0].metadata != first[0].metadata
    assert [d.hash for d in again] == [d.hash for d in first]


def box(**files: bytes) -> MemoryFileSystem:
    """A file system of its own, with these PDFs."""
    fs = MemoryFileSystem()
    fs.store.clear()
    for name, content in files.items():
        fs.pipe(f"/box/{name}.pdf", content)
    return fs


async def test_from_another_file_system(call: Door) -> None:
    """PDFs are read through fsspec, by LlamaIndex's reader or alone, under the names that they have there."""
    fs = box(a=book())
    through = SimpleDirectoryReader("/box", fs=fs, file_extractor={".pdf": Reader()}, raise_on_error=True)
    alone = await call(Reader(), "load_data", "/box/a.pdf", fs=fs)
    for documents in (await call(through, "load_data"), alone):
        assert numbers(documents) == [0, 1, 2]
        assert {(d.metadata["file_path"], d.metadata["file_name"]) for d in documents} == {("/box/a.pdf", "a.pdf")}
    nodes = Reader().load_nodes("/box/a.pdf", fs=fs)
    assert [node.metadata for node in nodes] == [document.metadata for document in alone]


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("none", PdfError, "/box/none.pdf: the file cannot be read"),
        ("junk", PdfFormatError, "/box/junk.pdf: "),
        ("page", PdfPageError, "/box/page.pdf page 2: "),
    ],
)
async def test_errors_of_another_file_system(
    name: str, kind: type[PdfError], words: str, caplog: pytest.LogCaptureFixture, call: Door
) -> None:
    """They are those of local files: of type PdfError, with the name of the file, or warnings."""
    fs = box(junk=b"no PDF", page=broken())
    with pytest.raises(kind, match=words):
        await call(Reader(), "load_data", f"/box/{name}.pdf", fs=fs)
    caplog.clear()
    skipping = await call(Reader(on_error="skip"), "load_data", f"/box/{name}.pdf", fs=fs)
    assert numbers(skipping) == ([0, 2] if name == "page" else [])
    assert words in caplog.text


def test_documents_travel(pdf: Path) -> None:
    """Readers, documents and nodes go through pickle, and documents through JSON, with picture, text and ids."""
    reader = pickle.loads(pickle.dumps(Reader(pages=[0, 1])))
    assert NemoVLMPDFReader.from_dict(reader.to_dict()) == reader
    for options in ({}, {"inline": True}, {"images": False}):
        for document in Reader(**options).load_data(pdf):
            copy = pickle.loads(pickle.dumps(document))
            assert (copy, copy.hash) == (document, document.hash)
    for document in reader.load_data(pdf):
        stored = ImageDocument.from_dict(json.loads(document.to_json()))
        for name in ("id_", "text", "metadata", "image_path", "image_mimetype", "excluded_llm_metadata_keys"):
            assert getattr(stored, name) == getattr(document, name)
        assert stored.get_content(MetadataMode.EMBED) == document.get_content(MetadataMode.EMBED)


# Nodes


def test_nodes_are_chained_pages_of_one_source(pdf: Path) -> None:
    """`load_nodes` gives ImageNodes with ids of their own; neighbours know one another, all know the PDF."""
    nodes, documents = Reader().load_nodes(pdf, {"shelf": 7}), Reader().load_data(pdf, {"shelf": 7})
    for node, document in zip(nodes, documents, strict=True):
        assert type(node) is ImageNode
        same = ("text", "metadata", "image_path", "image_mimetype", "excluded_embed_metadata_keys")
        assert [getattr(node, name) for name in same] == [getattr(document, name) for name in same]
        assert node.get_content(MetadataMode.EMBED) == document.get_content(MetadataMode.EMBED)
    assert {node.ref_doc_id for node in nodes} == {str(pdf)}
    assert len({str(UUID(node.id_)) for node in nodes}) == len(nodes)
    assert [node.id_ for node in Reader().load_nodes(pdf)] == [node.id_ for node in nodes]
    for left, right in pairwise(nodes):
        assert left.next_node is not None
        assert right.prev_node is not None
        assert (left.next_node.node_id, right.prev_node.node_id) == (right.node_id, left.node_id)
    assert (nodes[0].prev_node, nodes[-1].next_node) == (None, None)


async def test_the_parser_makes_one_node_a_page(tmp_path: Path, call: Door) -> None:
    """However long its text is, where LlamaIndex's own splitter cuts; picture, metadata and source are kept."""
    path = tmp_path / "long.pdf"
    path.write_bytes(book(BOOK[:2]))
    documents = Reader().load_data(path)
    documents[0].set_content("word " * 3000)
    assert len(SentenceSplitter().get_nodes_from_documents(documents)) > len(documents)
    nodes = await call(NemoVLMPageParser(), "get_nodes_from_documents", documents)
    for node, document in zip(nodes, documents, strict=True):
        assert type(node) is ImageNode
        same = ["text", "metadata", "image_path", "image_mimetype"]
        same += ["excluded_embed_metadata_keys", "excluded_llm_metadata_keys"]
        assert [getattr(node, name) for name in same] == [getattr(document, name) for name in same]
        assert node.image_mimetype == "image/png"
        assert node.relationships[NodeRelationship.SOURCE] == document.as_related_node_info()
        assert str(UUID(node.id_)) == node.id_ != document.id_
    again = await call(NemoVLMPageParser(), "get_nodes_from_documents", Reader().load_data(path))
    assert nodes[1].id_ == again[1].id_
    assert len({node.id_ for node in (*nodes, *again)}) == 3  # other content, other id


def test_the_parser_takes_any_document(pdf: Path) -> None:
    """Those with text alone become TextNodes; pictures inside documents, or at an address, stay with theirs."""

    def parsed(*documents: Document) -> list[BaseNode]:
        return NemoVLMPageParser().get_nodes_from_documents(list(documents))

    texts = parsed(*Reader(images=False).load_data(pdf), Document(text="note", metadata={"a": 1}, id_="n"))
    assert [type(node) for node in texts] == [TextNode] * 4
    assert (texts[-1].get_content(MetadataMode.EMBED), texts[-1].ref_doc_id) == ("a: 1\n\nnote", "n")
    (inside,) = parsed(*Reader(inline=True, pages=[1]).load_data(pdf))
    (page,) = iter_pages(pdf, pages=[1], dpi=40)
    assert isinstance(inside, ImageNode)
    assert same_pixels(inside.resolve_image(), page.image)
    (away,) = parsed(ImageDocument(image_resource=MediaResource(url=AnyUrl("http://example.com/a.png")), text="x"))
    assert (type(away), away.image_url) == (ImageNode, "http://example.com/a.png")  # type: ignore[attr-defined]
    assert NodeRelationship.SOURCE in away.relationships
