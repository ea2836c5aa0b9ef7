"""Pages in LangChain's vector stores: whatever the store, it holds the vector of the picture of each page."""

import base64
import json
import shutil
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lancedb import connect
from langchain_core import indexing
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import InMemoryRecordManager
from langchain_core.vectorstores import InMemoryVectorStore
from numpy.typing import ArrayLike
from reportlab.lib.utils import ImageReader  # type: ignore[import-untyped]
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

from langchain_nemovlm import NemoVLMEmbeddings, NemoVLMPDFLoader
from nemovlm import Embedder, Passage
from nemovlm.errors import ImageError
from nemovlm.images import encode_png
from nemovlm.pdf import page_id
from tests.support.checkpoints import case_image

Door = Callable[..., Awaitable[Any]]

# What `index` says of its own default, the one key_encoder whose ids Qdrant takes.
pytestmark = pytest.mark.filterwarnings("ignore:Using SHA-1 for document hashing:UserWarning")

STORES = {
    "memory": ("langchain_core.vectorstores", "InMemoryVectorStore"),
    "faiss": ("langchain_community.vectorstores", "FAISS"),
    "chroma": ("langchain_chroma", "Chroma"),
    "qdrant": ("langchain_qdrant", "QdrantVectorStore"),
    "lancedb": ("langchain_lancedb", "LanceDB"),
    "community lancedb": ("langchain_community.vectorstores", "LanceDB"),
}


class Shelf:
    """One kind of store in one folder: made, read back as it lies there, and opened anew."""

    def __init__(self, kind: str, folder: Path, closing: ExitStack) -> None:
        self.kind, self.folder, self._closing = kind, folder, closing
        module, name = STORES[kind.removesuffix(" in memory")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # langchain_community's own sunset; faiss has some too
            self.store: Any = getattr(import_module(module), name)
        path = str(folder)
        self.place: dict[str, Any] = {
            "chroma": {"persist_directory": path},
            "qdrant": {"path": path, "collection_name": "pages"},
            "qdrant in memory": {"location": ":memory:", "collection_name": "pages"},
            "lancedb": {"uri": path},
            "community lancedb": {"uri": path},
        }.get(kind, {})

    def open(self, embeddings: Embeddings) -> Any:
        """Open what is in the folder, or make an empty store."""
        saved = self.folder / ("saved.json" if self.kind == "memory" else "index.faiss")
        if self.kind == "memory":
            return self.store.load(str(saved), embeddings) if saved.exists() else self.store(embeddings)
        if self.kind == "faiss":
            if saved.exists():
                return self.store.load_local(str(self.folder), embeddings, allow_dangerous_deserialization=True)
            from faiss import IndexFlatL2
            from langchain_community.docstore import InMemoryDocstore

            return self.store(embeddings, IndexFlatL2(128), InMemoryDocstore(), {})
        if self.kind.startswith("qdrant"):
            return self.kept(self.store.from_texts([], embeddings, **self.place))
        if self.kind == "community lancedb":  # which empties the table at every call, unless told to append
            return self.store(embedding=embeddings, mode="append", **self.place)
        return self.store(embedding_function=embeddings, **self.place)

    def kept(self, store: Any) -> Any:
        """Have it closed when the test is over."""
        if self.kind.startswith("qdrant"):
            self._closing.callback(store.client.close)
        return store

    def rows(self, store: Any) -> dict[str, tuple[list[float], dict[str, Any]]]:
        """Return the vectors and metadata that the store holds, by page_content, from what lies beneath it."""
        rows: list[tuple[str, list[float], dict[str, Any]]]
        match self.kind:
            case "memory":
                rows = [(row["text"], row["vector"], row["metadata"]) for row in store.store.values()]
            case "faiss":
                found = {n: store.docstore.search(key) for n, key in store.index_to_docstore_id.items()}
                rows = [(d.page_content, store.index.reconstruct(n), d.metadata) for n, d in found.items()]
            case "chroma":
                got = store.get(include=["documents", "embeddings", "metadatas"])
                rows = list(zip(got["documents"], got["embeddings"], got["metadatas"], strict=True))
            case "qdrant" | "qdrant in memory":
                points, _ = store.client.scroll("pages", limit=1000, with_vectors=True)
                rows = [(p.payload["page_content"], p.vector, p.payload["metadata"]) for p in points]
            case _:
                table = connect(self.folder).open_table("documents" if self.kind == "lancedb" else "vectorstore")
                rows = [(row["text"], row["vector"], row["metadata"]) for row in table.to_arrow().to_pylist()]
                if self.kind == "lancedb":
                    rows = [(text, vector, json.loads(metadata)) for text, vector, metadata in rows]  # type: ignore[arg-type]
        assert len({row[0] for row in rows}) == len(rows)
        return {content: (vector, metadata) for content, vector, metadata in rows}

    def moved(self, store: Any, folder: Path) -> "Shelf":
        """Save the store, let go of it and copy the folder, so that nothing of the old object is in the new one."""
        match self.kind:
            case "memory":
                store.dump(str(self.folder / "saved.json"))
            case "faiss":
                store.save_local(str(self.folder))
            case "qdrant":
                store.client.close()
        shutil.copytree(self.folder, folder)
        return Shelf(self.kind, folder, self._closing)


@pytest.fixture(params=STORES)
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    (folder := tmp_path / "store").mkdir()
    with ExitStack() as closing:
        yield Shelf(request.param, folder, closing)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pictures. Read only."""
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def pages(samples: Path, pictures: Path) -> list[Document]:
    """Five pages with text, by their pictures."""
    return NemoVLMPDFLoader(samples / "staff-handbook.pdf", image_dir=pictures, content="markdown", dpi=40).load()


@pytest.fixture(scope="module")
def embeddings(vl_folder: Path, pictures: Path) -> NemoVLMEmbeddings:
    return NemoVLMEmbeddings(model=str(vl_folder), image_dir=pictures, truncate="END")


@pytest.fixture(scope="module")
def plain(vl_folder: Path) -> NemoVLMEmbeddings:
    """Embeddings that know of no pictures."""
    return NemoVLMEmbeddings(model=str(vl_folder), truncate="END")


def seen(pages: list[Document], vl: Embedder) -> dict[str, Any]:
    """The vectors of the pictures of pages, by page_content, from the embedder itself."""
    vectors = vl.embed([Path(page.metadata["image_path"]) for page in pages])
    return dict(zip([page.page_content for page in pages], vectors, strict=True))


@pytest.fixture(scope="module")
def expected(pages: list[Document], vl: Embedder) -> dict[str, Any]:
    """The vectors of their pictures; those of their words are others."""
    vectors = seen(pages, vl)
    for content, text_vector in zip(vectors, vl.embed(list(vectors), truncate="END"), strict=True):
        assert apart(text_vector, vectors[content]) > 1e-2
    return vectors


def apart(one: ArrayLike, other: ArrayLike) -> float:
    return float(np.abs(np.asarray(one) - np.asarray(other)).max())


def assert_holds(shelf: Shelf, store: Any, expected: dict[str, Any]) -> None:
    """The store holds these contents and no others, each with its vector."""
    rows = shelf.rows(store)
    assert rows.keys() == expected.keys()
    for content, (vector, _) in rows.items():
        assert apart(vector, expected[content]) <= 1e-5, content


def known(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata without what stores add at a search: Qdrant's `_id`, and langchain-lancedb's own idea of `source`."""
    return {key: value for key, value in metadata.items() if not key.startswith("_") and key != "source"}


# By their pictures


@pytest.mark.parametrize("shelf", [*STORES, "qdrant in memory"], indirect=True)
async def test_stores_hold_the_vectors_of_pictures(
    shelf: Shelf, pages: list[Document], expected: dict[str, Any], embeddings: NemoVLMEmbeddings, call: Door
) -> None:
    """Added page by page or all at once, each page lies there with its picture's vector, its text and its metadata."""
    store = shelf.open(embeddings)
    await call(store, "add_documents", pages[:1])
    await call(store, "add_documents", pages[1:])
    assert_holds(shelf, store, expected)
    rows = shelf.rows(store)
    for page in pages:
        assert rows[page.page_content][1] == page.metadata
        if shelf.kind != "lancedb":  # it has no such search
            vector = await call(embeddings, "embed_image_query", page.metadata["image_path"])
            (found,) = await call(store, "similarity_search_by_vector", vector, k=1)
            assert (found.page_content, known(found.metadata)) == (page.page_content, known(page.metadata))


@pytest.mark.parametrize("shelf", [*STORES, "qdrant in memory"], indirect=True)
async def test_stores_made_of_pages(
    shelf: Shelf, pages: list[Document], expected: dict[str, Any], embeddings: NemoVLMEmbeddings, call: Door
) -> None:
    """`from_documents` as well; only the LanceDB of langchain-community takes no documents that have ids there."""
    if shelf.kind == "community lancedb":
        with pytest.raises(TypeError, match="ids"):
            await call(shelf.store, "from_documents", pages, embeddings, **shelf.place)
        pages = [Document(page.page_content, metadata=page.metadata) for page in pages]
    store = shelf.kept(await call(shelf.store, "from_documents", pages, embeddings, **shelf.place))
    assert_holds(shelf, store, expected)


@pytest.fixture(scope="module")
def by_modality(
    samples: Path, pages: list[Document], embeddings: NemoVLMEmbeddings
) -> dict[str, tuple[NemoVLMEmbeddings, dict[str, Any]]]:
    """Embeddings of another `page_modality`, and the vectors of two pages with that."""
    texts = NemoVLMPDFLoader(samples / "staff-handbook.pdf", content="text", dpi=40, pages=[0, 1]).load()
    passages = {
        "text_image": [
            Passage(t.page_content, Path(p.metadata["image_path"])) for t, p in zip(texts, pages[:2], strict=True)
        ],
        "text": [Passage(t.page_content) for t in texts],
    }
    contents = [page.page_content for page in pages[:2]]
    made = {name: NemoVLMEmbeddings(**{**embeddings.model_dump(), "page_modality": name}) for name in passages}
    return {
        name: (made[name], dict(zip(contents, embeddings.embed_passages(passages[name]), strict=True))) for name in made
    }


@pytest.mark.parametrize(
    ("shelf", "modality"), [*((name, "text_image") for name in STORES), ("memory", "text")], indirect=["shelf"]
)
async def test_stores_hold_the_modality_asked_for(
    modality: str, shelf: Shelf, pages: list[Document], by_modality: dict[str, Any], call: Door
) -> None:
    """`page_modality`: the picture with the text of the page, or the text without the picture's name."""
    made, vectors = by_modality[modality]
    store = shelf.open(made)
    await call(store, "add_documents", pages[:2])
    assert_holds(shelf, store, vectors)


# Later


async def test_what_was_saved_is_searched_without_pictures(
    shelf: Shelf,
    pages: list[Document],
    expected: dict[str, Any],
    embeddings: NemoVLMEmbeddings,
    plain: NemoVLMEmbeddings,
    vl: Embedder,
    tmp_path: Path,
    call: Door,
) -> None:
    """Opened again, elsewhere, by embeddings without `image_dir`, a store ranks the pictures for each question."""
    store = shelf.open(embeddings)
    await call(store, "add_documents", pages)
    there = shelf.moved(store, tmp_path / "moved")
    store = there.open(plain)
    assert_holds(there, store, expected)
    vectors = np.array([expected[page.page_content] for page in pages])
    metadata = {page.page_content: known(page.metadata) for page in pages}
    for question in ("How much is paid towards a bicycle?", "holidays", "the pumping station"):
        order = np.argsort(-vectors @ vl.embed_query(question))
        ranked = [pages[index].page_content for index in order]
        found = await call(store, "similarity_search", question, k=len(pages))
        assert [document.page_content for document in found] == ranked
        assert {document.page_content: known(document.metadata) for document in found} == metadata
        found = await call(store.as_retriever(search_kwargs={"k": 2}), "invoke", question)
        assert [document.page_content for document in found] == ranked[:2]


async def test_a_page_is_deleted(
    shelf: Shelf, pages: list[Document], expected: dict[str, Any], embeddings: NemoVLMEmbeddings, call: Door
) -> None:
    """By the id of its document, and no other goes with it."""
    store = shelf.open(embeddings)
    await call(store, "add_documents", pages)
    await call(store, "delete", [pages[2].id])
    assert_holds(shelf, store, {c: vector for c, vector in expected.items() if c != pages[2].page_content})


# Beside texts


@pytest.fixture(scope="module")
def texts(pages: list[Document], pictures: Path, vl: Embedder) -> dict[str, Any]:
    """75 texts that are no pages, and their vectors."""
    picture = Path(pages[0].metadata["image_path"])
    (pictures.parent / "secret.png").write_bytes(encode_png(case_image("icon")))
    texts = [
        "![x](/etc/passwd)",
        "See\n\n![x](../secret.png)",
        f"See\n\n![x]({pictures.parent / 'secret.png'})",
        f"![x]({picture}) in the middle",
        f"Before.\n\n![x](pages/{picture.name})\n\nAfter.",
        f"In a line ![x]({picture})",
        f"Elsewhere:\n\n![x](https://example.com/{picture.name})",
        f"[x]({picture})",
        str(picture),
        picture.as_uri(),
        picture.name,
        *(f"number {number}" for number in range(65)),
    ]
    return dict(zip(texts, vl.embed(texts, truncate="END"), strict=True))


async def test_texts_stay_texts_beside_pages(
    shelf: Shelf,
    pages: list[Document],
    expected: dict[str, Any],
    texts: dict[str, Any],
    embeddings: NemoVLMEmbeddings,
    call: Door,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 80 documents at once (Qdrant sends 64) each has its own vector, and what only speaks of a file opens none."""
    documents = [Document(text, id=page_id("text", n), metadata={"page": n}) for n, text in enumerate(texts)]
    for place, page in zip((0, 11, 40, 63, 79), pages, strict=True):
        documents.insert(place, page)
    opened: list[Path] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path) or read(path))
    store = shelf.open(embeddings)
    ids = await call(store, "add_documents", documents)
    assert {path for path in opened if path.suffix == ".png"} == {Path(p.metadata["image_path"]) for p in pages}
    assert ids == [document.id for document in documents]
    assert_holds(shelf, store, texts | expected)


async def test_a_missing_picture(
    shelf: Shelf, pages: list[Document], pictures: Path, embeddings: NemoVLMEmbeddings, tmp_path: Path, call: Door
) -> None:
    """The error names the page, and nothing of that call is stored."""
    shutil.copytree(pictures, folder := tmp_path / "incomplete")
    (folder / Path(pages[2].metadata["image_path"]).name).unlink()
    store = shelf.open(NemoVLMEmbeddings(**{**embeddings.model_dump(), "image_dir": folder}))
    await call(store, "add_documents", pages[:1])
    before = shelf.rows(store)
    for added in (pages[1:], pages[2:3]):
        with pytest.raises(ImageError, match=r"staff-handbook\.pdf page 3: "):
            await call(store, "add_documents", added)
        assert shelf.rows(store).keys() == before.keys() == {pages[0].page_content}


# Stores with doors for images


@pytest.mark.parametrize("shelf", ["chroma", "community lancedb"], indirect=True)
@pytest.mark.parametrize("path", [str, Path])
def test_images_are_added(
    path: Callable[[Path], str | Path],
    shelf: Shelf,
    expected: dict[str, Any],
    pages: list[Document],
    plain: NemoVLMEmbeddings,
) -> None:
    """`add_images` takes paths, as str or Path, without `image_dir`."""
    files = [path(Path(page.metadata["image_path"])) for page in pages]
    store: Any = shelf.open(plain)
    store.add_images(files)
    contents = [base64.b64encode(Path(file).read_bytes()).decode() for file in files]
    assert_holds(shelf, store, dict(zip(contents, expected.values(), strict=True)))


@pytest.mark.parametrize("shelf", ["chroma"], indirect=True)
@pytest.mark.parametrize("path", [str, Path])
async def test_chroma_is_searched_by_image(
    path: Callable[[Path], str | Path], shelf: Shelf, pages: list[Document], embeddings: NemoVLMEmbeddings
) -> None:
    """`similarity_search_by_image` finds the page of a picture."""
    store: Any = shelf.open(embeddings)
    store.add_documents(pages)
    for page in pages:
        picture = path(Path(page.metadata["image_path"]))
        (found,) = store.similarity_search_by_image(picture, k=1)
        assert (found.id, found.metadata) == (page.id, page.metadata)
        # It passes the list of the one vector on, as if that were the vector.
        with pytest.raises(ValueError, match="Expected embeddings to be a list"):
            store.similarity_search_by_image_with_relevance_score(picture, k=1)


# `index` and `aindex`


def scan(file: Path, *colours: str) -> None:
    """Write a PDF of pages that are pictures only: no text, and no date that would change."""
    canvas = Canvas(str(file), pagesize=(200, 300), invariant=1)
    for colour in colours:
        image = case_image("portrait")
        image.paste(colour, (40, 60, 240, 300))
        canvas.drawImage(ImageReader(image), 0, 0, 200, 300)
        canvas.showPage()
    canvas.save()


@pytest.mark.parametrize(
    ("shelf", "cleanup"), [*((name, "incremental") for name in STORES), ("memory", "full")], indirect=["shelf"]
)
async def test_index_follows_the_pixels(
    cleanup: str, shelf: Shelf, vl_folder: Path, vl: Embedder, tmp_path: Path, call: Door
) -> None:
    """All pages of a scan are added, also if alike; then a page whose pixels changed takes the place of the old one."""
    made = NemoVLMEmbeddings(model=str(vl_folder), image_dir=tmp_path / "scanned")
    manager, store = InMemoryRecordManager("pages"), shelf.open(made)
    manager.create_schema()
    held: dict[str, dict[str, Any]] = {}
    for name, colours, (added, skipped, deleted) in (
        ("a.pdf", ("red", "red", "blue"), (3, 0, 0)),
        ("a.pdf", ("red", "red", "blue"), (0, 3, 0)),
        ("a.pdf", ("red", "green", "blue"), (1, 2, 1)),
        ("b.pdf", ("red",), (1, 0, 3 if cleanup == "full" else 0)),
    ):
        scan(tmp_path / name, *colours)
        loader = NemoVLMPDFLoader(tmp_path / name, image_dir=tmp_path / "scanned", content="markdown", dpi=40)
        before = made.embedder.usage.items
        result = await call(indexing, "index", loader, manager, store, cleanup=cleanup, source_id_key="source")
        assert result == {"num_added": added, "num_updated": 0, "num_skipped": skipped, "num_deleted": deleted}
        assert made.embedder.usage.items - before == added
        held = {name: seen(loader.load(), vl)} if cleanup == "full" else {**held, name: seen(loader.load(), vl)}
        assert_holds(shelf, store, {content: vector for pages in held.values() for content, vector in pages.items()})


async def test_index_with_a_database(
    pages: list[Document], embeddings: NemoVLMEmbeddings, tmp_path: Path, call: Door, request: pytest.FixtureRequest
) -> None:
    """So it does with the record manager that keeps its records in a database."""
    from langchain_classic.indexes import SQLRecordManager

    is_async = request.node.callspec.params["call"] == "async"
    url = f"sqlite{'+aiosqlite' if is_async else ''}:///{tmp_path / 'records.db'}"
    manager, store = SQLRecordManager("pages", db_url=url, async_mode=is_async), InMemoryVectorStore(embeddings)
    await call(manager, "create_schema")
    for documents, (added, skipped, deleted) in (
        (pages, (5, 0, 0)),
        (pages, (0, 5, 0)),
        (pages[1:], (0, 4, 1)),
    ):
        result = await call(indexing, "index", documents, manager, store, cleanup="full")
        assert result == {"num_added": added, "num_updated": 0, "num_skipped": skipped, "num_deleted": deleted}
        assert {row["text"] for row in store.store.values()} == {page.page_content for page in documents}
    await manager.engine.dispose() if is_async else manager.engine.dispose()
