"""Pages in LlamaIndex's pipelines, indexes and vector stores by the vectors of their pictures, and on to answers."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromadb import PersistentClient
from llama_index.core import QueryBundle, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.indices import MultiModalVectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import BaseNode, Document, ImageNode, MetadataMode, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.vector_stores.chroma import ChromaVectorStore
from llama_index.vector_stores.lancedb import LanceDBVectorStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import AsyncQdrantClient, QdrantClient

from llamaindex_nemovlm import NemoVLMEmbedding, NemoVLMPageParser, NemoVLMPDFReader
from nemovlm import Embedder, Passage
from tests.support import books
from tests.support.books import BOOK, Pages
from tests.support.chat import Eyes

pytestmark = [
    pytest.mark.filterwarnings("ignore:table_names.. is deprecated:DeprecationWarning"),  # LlamaIndex's LanceDB store
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning"),
]

Door = Callable[..., Awaitable[Any]]
CHANGED: Pages = [BOOK[0], ("black", None), BOOK[2]]
LONGER: Pages = [*CHANGED, ("orange", None)]
PAGES: Any = NemoVLMPageParser()
Reader: Any = partial(NemoVLMPDFReader, dpi=40)


def book(path: Path, pages: Pages = BOOK) -> Path:
    """Write a book there."""
    path.write_bytes(books.book(pages))
    return path


def pictures(items: Sequence[Any], vl: Embedder) -> dict[str, Any]:
    """The vectors of the pictures of nodes, by their ids, from the embedder itself."""
    return dict(zip([item.id_ for item in items], vl.embed([Path(item.image_path) for item in items]), strict=True))


def assert_same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """The same ids, each with its own vector: no two of those expected are alike."""
    assert got.keys() == expected.keys()
    rows = np.array(list(expected.values()))
    near = np.abs(rows[:, None] - np.array([got[key] for key in expected])[None]).max(axis=2) < 1e-4
    assert np.array_equal(near, np.eye(len(rows), dtype=bool))


@pytest.fixture(scope="module")
def embedding(vl_folder: Path) -> NemoVLMEmbedding:
    return NemoVLMEmbedding(model=str(vl_folder), truncate="END")


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures of nodes that are embedded, or their texts, from the start of the test on."""
    seen: list[str] = []

    def spy(original: Any, embedder: Embedder, items: Iterable[Passage], **options: Any) -> Any:
        passages = list(items)
        seen.extend(str(p.text) if p.image is None else Path(str(p.image)).name for p in passages)
        return original(embedder, passages, **options)

    for name in ("stream", "astream"):
        monkeypatch.setattr(Embedder, name, partialmethod(partial(spy, getattr(Embedder, name))))
    return seen


# Pipelines


def pipeline(embedding: NemoVLMEmbedding, **options: Any) -> IngestionPipeline:
    return IngestionPipeline(transformations=[PAGES, embedding], **options)


@pytest.mark.parametrize("strategy", DocstoreStrategy)
async def test_pipelines_do_again_what_has_changed(
    strategy: DocstoreStrategy,
    embedding: NemoVLMEmbedding,
    embedded: list[str],
    vl: Embedder,
    tmp_path: Path,
    call: Door,
) -> None:
    """All pages, none, the one that changed, the one that is new; the store has the vector of what is there now."""
    store = SimpleVectorStore()

    async def run(line: IngestionPipeline, pages: Pages) -> list[int]:
        documents = Reader().load_data(book(tmp_path / "a.pdf", pages))
        embedded.clear()
        await call(line, "run", documents=documents)
        nodes, kept = PAGES(documents), store.data.embedding_dict
        assert_same({node.id_: kept[node.id_] for node in nodes}, pictures(nodes, vl))
        names = [Path(document.image_path).name for document in documents]
        return [names.index(name) for name in embedded]

    options: dict[str, Any] = {"vector_store": store, "docstore_strategy": strategy}
    first = pipeline(embedding, docstore=SimpleDocumentStore(), **options)
    assert [await run(first, pages) for pages in (BOOK, BOOK, CHANGED, LONGER)] == [[0, 1, 2], [], [1], [3]]
    first.persist(str(tmp_path / "saved"))
    again = pipeline(embedding, **options)
    again.load(str(tmp_path / "saved"))
    assert [await run(again, pages) for pages in (LONGER, LONGER[:2], [*LONGER[:2], ("gold", None)])] == [[], [], [2]]
    states = {DocstoreStrategy.UPSERTS_AND_DELETE: 3, DocstoreStrategy.UPSERTS: 4, DocstoreStrategy.DUPLICATES_ONLY: 6}
    assert len(store.data.embedding_dict) == states[strategy]


async def test_a_cache_alone_mixes_no_pages_up(
    embedding: NemoVLMEmbedding, embedded: list[str], vl: Embedder, tmp_path: Path, call: Door
) -> None:
    """PDFs without text, of as many pages, one of them changed later: each comes back from the cache as itself."""
    line = pipeline(embedding)
    red: Pages = [("red", None), ("green", None)]
    blue: Pages = [("blue", None), ("black", None)]
    for name, pages, count in (("a", red, 2), ("b", blue, 2), ("a", red, 0), ("a", blue, 2), ("a", blue[:1], 1)):
        documents = Reader().load_data(book(tmp_path / f"{name}.pdf", pages))
        embedded.clear()
        nodes = await call(line, "run", documents=documents)
        assert_same({node.id_: node.embedding for node in nodes}, pictures(PAGES(documents), vl))
        assert [node.ref_doc_id for node in nodes] == [document.id_ for document in documents]
        assert [node.image_path for node in nodes] == [document.image_path for document in documents]
        assert {type(node) for node in nodes} == {ImageNode}
        assert len(embedded) == count


def test_pipelines_in_processes(embedding: NemoVLMEmbedding, vl: Embedder, tmp_path: Path) -> None:
    """With `num_workers` the nodes come in order, each with the vector of its picture."""
    documents = Reader().load_data(book(tmp_path / "a.pdf", LONGER))
    nodes = pipeline(embedding).run(documents=documents, num_workers=2)
    assert [node.ref_doc_id for node in nodes] == [document.id_ for document in documents]
    assert_same({node.id_: node.embedding for node in nodes}, pictures(PAGES(documents), vl))


# VectorStoreIndex, over any store


class Shelf:
    """One kind of vector store in one folder."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder, self._clients = kind, folder, list[QdrantClient]()

    def store(self) -> Any:
        """Open it; what was opened before is closed."""
        self.close()
        match self.kind:
            case "simple":
                return SimpleVectorStore()
            case "chroma":
                client = PersistentClient(str(self.folder))
                return ChromaVectorStore(chroma_collection=client.get_or_create_collection("pages"))
            case "lancedb":
                return LanceDBVectorStore(uri=str(self.folder))
        place: dict[str, Any] = {"path": str(self.folder)} if self.kind == "qdrant" else {"location": ":memory:"}
        self._clients.append(QdrantClient(**place))
        return QdrantVectorStore(client=self._clients[-1], collection_name="pages")

    def index(self, documents: list[Document], embedding: NemoVLMEmbedding) -> VectorStoreIndex:
        context = StorageContext.from_defaults(vector_store=self.store())
        return VectorStoreIndex.from_documents(
            documents, transformations=[PAGES, embedding], embed_model=embedding, storage_context=context
        )

    def reopened(self, index: VectorStoreIndex, embedding: NemoVLMEmbedding) -> VectorStoreIndex:
        if self.kind == "simple":
            index.storage_context.persist(str(self.folder))
            saved = StorageContext.from_defaults(persist_dir=str(self.folder))
            return load_index_from_storage(saved, embed_model=embedding)  # type: ignore[return-value]
        if self.kind == "qdrant in memory":
            return VectorStoreIndex.from_vector_store(index.vector_store, embed_model=embedding)
        return VectorStoreIndex.from_vector_store(self.store(), embed_model=embedding)

    def close(self) -> None:
        while self._clients:
            self._clients.pop().close()


@pytest.fixture(params=["simple", "chroma", "lancedb", "qdrant", "qdrant in memory"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    if request.node.callspec.params.get("call") == "async" and request.param.startswith("qdrant"):
        pytest.skip("Qdrant's async client shares no folder with the sync one: see test_qdrant_for_async_code")
    (folder := tmp_path / "store").mkdir()
    yield (shelf := Shelf(request.param, folder))
    shelf.close()


def assert_holds(index: VectorStoreIndex, documents: list[Any], embedding: NemoVLMEmbedding) -> None:
    """These pages and no others, each where its picture is."""
    pages = {document.metadata["page"]: document.metadata["image_sha256"] for document in documents}
    retriever = index.as_retriever(similarity_top_k=100)
    for document in documents:
        hits = retriever.retrieve(QueryBundle("", embedding=embedding.get_image_embedding(document.image_path)))
        assert {hit.node.metadata["page"]: hit.node.metadata["image_sha256"] for hit in hits} == pages
        assert len(hits) == len(pages)
        assert hits[0].node.metadata["page"] == document.metadata["page"]
        assert hits[0].score == pytest.approx(1, abs=1e-3)


async def test_qdrant_for_async_code(embedding: NemoVLMEmbedding, tmp_path: Path) -> None:
    """Filled, asked and emptied through its async client alone, it finds each page by its picture."""
    documents = Reader().load_data(book(tmp_path / "a.pdf", LONGER))
    client = AsyncQdrantClient(location=":memory:")
    store = QdrantVectorStore("pages", aclient=client)
    await pipeline(embedding, vector_store=store).arun(documents=documents)
    index = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
    for document in documents:
        query = QueryBundle("", embedding=await embedding.aget_image_embedding(document.image_path))
        (hit,) = await index.as_retriever(similarity_top_k=1).aretrieve(query)
        assert (hit.node.ref_doc_id, hit.node.image_path) == (document.id_, document.image_path)
        assert hit.score == pytest.approx(1, abs=1e-5)
    await index.adelete_ref_doc(documents[1].id_)
    assert len(await index.as_retriever(similarity_top_k=9).aretrieve("x")) == len(documents) - 1
    await client.close()


async def test_every_store_finds_pages_by_their_pictures(
    shelf: Shelf, embedding: NemoVLMEmbedding, vl: Embedder, tmp_path: Path, call: Door
) -> None:
    """Each by its own, whole, after reopening as well; questions rank pages as the vectors say."""
    documents = Reader().load_data(book(tmp_path / "a.pdf", LONGER))
    index = shelf.index(documents, embedding)
    vectors = vl.embed([Path(document.image_path) for document in documents])
    nodes = PAGES(documents)
    for again in (False, True):
        made = shelf.reopened(index, embedding) if again else index
        assert_holds(made, documents, embedding)
        for question in ("one", "What is the colour of heat?", "x" * 30):
            hits = await call(made.as_retriever(similarity_top_k=4), "retrieve", question)
            ranks = np.argsort(-(vectors @ vl.embed_query(question)))
            assert [hit.node.metadata["page"] for hit in hits] == ranks.tolist()
            for hit, page in zip(hits, ranks, strict=True):
                assert type(hit.node) is ImageNode
                for name in ("id_", "text", "metadata", "image_path", "image_mimetype", "ref_doc_id"):
                    assert getattr(hit.node, name) == getattr(nodes[page], name)
                assert hit.node.get_content(MetadataMode.LLM) == documents[page].get_content(MetadataMode.LLM)


async def test_pages_come_and_go_one_by_one(
    shelf: Shelf, embedding: NemoVLMEmbedding, embedded: list[str], tmp_path: Path, call: Door
) -> None:
    """Insert, refresh, update and delete go by the id of the document, embed that page, and leave the others."""
    path = tmp_path / "a.pdf"
    index = shelf.index(Reader().load_data(book(path)), embedding)
    longer = Reader().load_data(book(path, [*BOOK, ("orange", None)]))
    embedded.clear()
    await call(index, "insert", longer[3])
    assert await call(index, "refresh_ref_docs", longer) == [False] * 4
    assert embedded == [Path(longer[3].image_path).name]
    assert_holds(index, longer, embedding)
    changed = Reader().load_data(book(path, LONGER))
    if shelf.kind == "lancedb":  # 0.6.0 quotes the id with ", and LanceDB takes that for the name of a column
        for method, item in (("delete_ref_doc", changed[1].id_), ("update_ref_doc", changed[1])):
            with pytest.raises(ValueError, match="No field named"):
                await call(index, method, item)
        return
    embedded.clear()
    assert await call(index, "refresh_ref_docs", changed) == [False, True, False, False]
    assert embedded == [Path(changed[1].image_path).name]
    assert_holds(index, changed, embedding)
    await call(index, "update_ref_doc", longer[1])
    assert_holds(index, longer, embedding)
    await call(index, "delete_ref_doc", longer.pop(1).id_)
    assert_holds(index, longer, embedding)
    assert_holds(shelf.reopened(index, embedding), longer, embedding)


@pytest.mark.parametrize("shelf", ["chroma", "lancedb", "qdrant"], indirect=True)
async def test_pipelines_keep_any_store_up_to_date(
    shelf: Shelf, embedding: NemoVLMEmbedding, tmp_path: Path, call: Door
) -> None:
    """A page that changed is replaced, one that is gone is gone: the store finds the pages that are there."""
    store = shelf.store()
    both = DocstoreStrategy.UPSERTS_AND_DELETE
    line = pipeline(embedding, docstore=SimpleDocumentStore(), vector_store=store, docstore_strategy=both)
    for pages in (BOOK, CHANGED, CHANGED[:2]):
        documents = Reader().load_data(book(tmp_path / "a.pdf", pages))
        if shelf.kind == "lancedb" and pages != BOOK:  # the fault of `delete_ref_doc`
            with pytest.raises(ValueError, match="No field named"):
                await call(line, "run", documents=documents)
            return
        await call(line, "run", documents=documents)
        assert_holds(VectorStoreIndex.from_vector_store(store, embed_model=embedding), documents, embedding)


# MultiModalVectorStoreIndex


def multimodal(embedding: NemoVLMEmbedding, **options: Any) -> MultiModalVectorStoreIndex:
    return MultiModalVectorStoreIndex(embed_model=embedding, image_embed_model=embedding, **options)


def stored(index: MultiModalVectorStoreIndex) -> list[set[str]]:
    """The ids of the vectors of texts, and of those of pictures."""
    stores: list[Any] = [index.vector_store, index.image_vector_store]
    return [set(store.data.embedding_dict) for store in stores]


async def test_pages_by_text_and_by_picture(
    embedding: NemoVLMEmbedding, vl: Embedder, tmp_path: Path, call: Door
) -> None:
    """Questions find texts and pictures, pictures find themselves, each as the vectors say, after loading as well."""
    nodes = Reader().load_nodes(book(tmp_path / "a.pdf", LONGER))
    index = multimodal(embedding, nodes=nodes, use_async=True)
    index.storage_context.persist(str(tmp_path / "saved"))
    context = StorageContext.from_defaults(persist_dir=str(tmp_path / "saved"))
    loaded = load_index_from_storage(context, embed_model=embedding, image_embed_model=embedding)
    seen = vl.embed([Path(node.image_path) for node in nodes])
    read = vl.embed([node.get_content(MetadataMode.EMBED) for node in nodes])
    for made in (index, loaded):
        retriever = made.as_retriever(similarity_top_k=9, image_similarity_top_k=9)
        for question in ("one", "heat sales"):
            query = vl.embed_query(question)
            hits = await call(retriever, "text_to_image_retrieve", question)
            assert [hit.node.metadata["page"] for hit in hits] == np.argsort(-(seen @ query)).tolist()
            texts = sorted((0, 2), key=lambda page: -(read[page] @ query))
            images = sorted((1, 3), key=lambda page: -(seen[page] @ query))
            scores = [read[page] @ query for page in texts] + [seen[page] @ query for page in images]
            hits = await call(retriever, "retrieve", question)
            assert [hit.node.metadata["page"] for hit in hits] == texts + images  # as docs/llamaindex.md says
            assert [hit.score for hit in hits] == pytest.approx(scores, abs=1e-4)
            assert {type(hit.node) for hit in hits} == {ImageNode}
        for page, node in enumerate(nodes):
            hits = await call(retriever, "image_to_image_retrieve", node.image_path)
            assert (hits[0].node.metadata["page"], hits[0].score) == (page, pytest.approx(1, abs=1e-4))


def test_text_pages_in_a_multimodal_index(samples: Path) -> None:
    """Pages read without pictures are found by their text; the question finds the right one."""
    embedding = NemoVLMEmbedding(model="nemovlm/pocket", truncate="END")
    nodes = NemoVLMPDFReader(images=False).load_nodes(samples / "staff-handbook.pdf")
    retriever = multimodal(embedding, nodes=nodes).as_retriever(similarity_top_k=1)
    question = "How much does the cooperative pay towards a bicycle for commuting?"
    assert [hit.node.metadata["page"] for hit in retriever.retrieve(question)] == [2]


def test_a_text_model_in_a_multimodal_index(text_folder: Path, samples: Path) -> None:
    """A model that reads text only finds pages by it: every page, in the order of the embedder's own scores."""
    embedding = NemoVLMEmbedding(model=str(text_folder), truncate="END")
    nodes = NemoVLMPDFReader(images=False).load_nodes(samples / "staff-handbook.pdf")
    hits = multimodal(embedding, nodes=nodes).as_retriever(similarity_top_k=9).retrieve("leave")
    with Embedder(text_folder, truncate="END") as embedder:
        scores = embedder.embed([n.get_content(MetadataMode.EMBED) for n in nodes]) @ embedder.embed_query("leave")
    assert [hit.node.metadata["page"] for hit in hits] == np.argsort(-scores).tolist()
    assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1], abs=1e-4)


async def test_pages_come_and_go_in_a_multimodal_index(
    embedding: NemoVLMEmbedding, vl: Embedder, tmp_path: Path, call: Door
) -> None:
    """Insert and refresh, page by page; `delete_ref_doc` takes a page of `load_data`, or all those of `load_nodes`."""
    path = book(tmp_path / "a.pdf", BOOK)
    index = MultiModalVectorStoreIndex.from_documents(
        Reader().load_data(path), transformations=[PAGES], embed_model=embedding, image_embed_model=embedding
    )
    repainted = Reader().load_data(book(path, [("gold", "one"), *BOOK[1:], ("black", "four")]))
    ids = [node.id_ for node in PAGES(repainted)]
    (old,) = set(index.docstore.docs) - set(ids)  # the first page, as it was
    await call(index, "insert", repainted[3])
    assert stored(index) == [{old, ids[2], ids[3]}, {old, *ids[1:]}]
    assert index.refresh_ref_docs(repainted) == [True, False, False, False]
    assert_same(index.image_vector_store.data.embedding_dict, pictures(PAGES(repainted), vl))  # type: ignore[attr-defined]
    index.delete_ref_doc(repainted[0].id_)
    assert stored(index) == [{ids[2], ids[3]}, {*ids[1:]}]
    index = multimodal(embedding, nodes=[*Reader().load_nodes(path), *Reader().load_nodes(book(tmp_path / "b.pdf"))])
    index.delete_ref_doc(str(path))
    left = [node.id_ for node in Reader().load_nodes(tmp_path / "b.pdf")]
    assert stored(index) == [{left[0], left[2]}, {*left}]


async def test_known_faults_of_multimodal_indexes(embedding: NemoVLMEmbedding, tmp_path: Path) -> None:
    """What docs/llamaindex.md warns of is still so: when this fails, a release has mended it, and a line can go."""
    path = book(tmp_path / "a.pdf")
    texts, image = [TextNode(text="note")], Reader(pages=[1]).load_nodes(path)
    index = multimodal(embedding, nodes=[*texts, *image])
    assert len(index.as_retriever().retrieve("x")) == 2
    index.insert_nodes([TextNode(text="another")])
    index.insert_nodes(Reader(pages=[1]).load_nodes(book(tmp_path / "b.pdf")))
    assert index.as_retriever().retrieve("x") == []
    assert [len(ids) for ids in stored(index)] == [2, 2]
    index = multimodal(embedding, nodes=Reader().load_nodes(path))
    await index.adelete_ref_doc(str(path))
    assert [len(ids) for ids in stored(index)] == [0, 3]
    assert stored(multimodal(embedding, nodes=Reader().load_data(path))) == [set(), set()]
    with pytest.raises(ImportError, match="clip"):
        MultiModalVectorStoreIndex(Reader().load_nodes(path), embed_model=embedding)


# Answers


@pytest.mark.parametrize("kind", ["one vector", "multimodal", "inline"])
async def test_answers_are_made_from_the_pictures_of_pages(
    kind: str, embedding: NemoVLMEmbedding, tmp_path: Path, call: Door
) -> None:
    """The model is shown the PNGs of the pages that were retrieved, whole and no others."""
    nodes: Sequence[BaseNode] = Reader(inline=kind == "inline").load_nodes(book(tmp_path / "a.pdf", LONGER))
    if kind == "multimodal":
        retriever: Any = multimodal(embedding, nodes=nodes).as_retriever(image_similarity_top_k=2, similarity_top_k=1)
    else:
        index = VectorStoreIndex(embedding(nodes), embed_model=embedding)
        retriever = index.as_retriever(similarity_top_k=2)
    engine = RetrieverQueryEngine.from_args(retriever, llm=(llm := Eyes(max_tokens=None)), multimodal=True)
    response = await call(engine, "query", "Which page is blue?")
    assert str(response) == "answer"
    hits = await call(retriever, "retrieve", "Which page is blue?")
    shown = {node.node_id: node for node in Reader().load_nodes(tmp_path / "a.pdf")}
    assert 2 <= len(hits) < len(shown)
    assert llm._pictures == [Path(shown[hit.node.node_id].image_path).read_bytes() for hit in hits]


async def test_a_picture_that_is_gone(embedding: NemoVLMEmbedding, tmp_path: Path, call: Door) -> None:
    """Retrieval goes on, and the answer is LlamaIndex's own error about the file."""
    nodes = Reader(image_dir=tmp_path / "p").load_nodes(book(tmp_path / "a.pdf"))
    retriever = VectorStoreIndex(embedding(nodes), embed_model=embedding).as_retriever(similarity_top_k=1)
    (hit,) = await call(retriever, "retrieve", "x")
    Path(hit.node.image_path).unlink()
    assert await call(retriever, "retrieve", "x") == [hit]
    engine = RetrieverQueryEngine.from_args(retriever, llm=Eyes(max_tokens=None), multimodal=True)
    with pytest.raises(ValueError, match=r"(?s)Path does not point to a file.*\.png"):
        await call(engine, "query", "x")


async def test_from_pdf_to_answer_on_a_server(served_vl: str, vl: Embedder, tmp_path: Path, call: Door) -> None:
    """Pipeline, store, index and answer over sockets: the same vectors, pages and pictures as on this machine."""
    embedding = NemoVLMEmbedding(base_url=f"{served_vl}/v1", model="tiny-vl")
    documents = Reader().load_data(book(tmp_path / "a.pdf", LONGER))
    client = PersistentClient(str(tmp_path / "store"))
    store = ChromaVectorStore(chroma_collection=client.create_collection("pages"))
    line = pipeline(embedding, docstore=SimpleDocumentStore(), vector_store=store)
    nodes = await call(line, "run", documents=documents)
    vectors = pictures(nodes, vl)
    assert_same({node.id_: node.embedding for node in nodes}, vectors)
    assert await call(line, "run", documents=documents) == []
    retriever = VectorStoreIndex.from_vector_store(store, embed_model=embedding).as_retriever(similarity_top_k=2)
    hits = await call(retriever, "retrieve", "What is red?")
    query = vl.embed_query("What is red?")
    assert [hit.node.node_id for hit in hits] == sorted(vectors, key=lambda key: -(vectors[key] @ query))[:2]
    engine = RetrieverQueryEngine.from_args(retriever, llm=(llm := Eyes(max_tokens=None)), multimodal=True)
    assert str(await call(engine, "query", "What is red?")) == "answer"
    assert llm._pictures == [Path(hit.node.image_path).read_bytes() for hit in hits]
