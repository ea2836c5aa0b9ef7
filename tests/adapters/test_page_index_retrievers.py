"""Retrievers over a `PageIndex`: pages from an index that is there, in LangChain and in LlamaIndex."""

import asyncio
import base64
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from blockbuster import blockbuster_ctx
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.load import dumps
from langchain_core.messages import HumanMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_tests.integration_tests import RetrieversIntegrationTests
from llama_index.core import QueryBundle, VectorStoreIndex
from llama_index.core.base.response.schema import Response
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import LongContextReorder, SimilarityPostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import ImageNode, NodeWithScore, TextNode
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from PIL import Image
from pydantic import ValidationError

import langchain_nemovlm
import llamaindex_nemovlm
from langchain_nemovlm import NemoVLMPageIndexRetriever as LangChainRetriever
from langchain_nemovlm import NemoVLMPDFLoader, pages_to_message
from llamaindex_nemovlm import NemoVLMEmbedding, NemoVLMPDFReader
from llamaindex_nemovlm import NemoVLMPageIndexRetriever as LlamaIndexRetriever
from nemovlm import Embedder, Field, PageIndex, iter_pages
from nemovlm.errors import ConfigurationError, IndexStorageError, InputError, NemoVLMError, PdfError
from tests.support.books import book
from tests.support.chat import Eyes

Door = Callable[..., Awaitable[Any]]

PAGES = {
    "harbour": [("red", "the ferry leaves at noon"), ("green", "bread is baked at night"), ("blue", "heat was sold")],
    "mill": [("orange", "the wheel turns at noon"), ("black", "bread is sold here"), ("cyan", "heat was lost")],
}
QUESTION = "bread baked at night"  # page 1 of the harbour says it
MODES = ("vector", "text", "hybrid")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, vl: Embedder) -> Path:
    """A folder with `db`, an index of two PDFs of two tenants, made with the tiny checkpoint. Read only."""
    folder = tmp_path_factory.mktemp("index")
    for name, pages in PAGES.items():
        (folder / f"{name}.pdf").write_bytes(book(pages))
    index = PageIndex(folder / "db", vl)
    for year, name in enumerate(PAGES, 2023):
        index.add(folder / f"{name}.pdf", metadata={"tenant": name, "year": year})
    return folder


@pytest.fixture(scope="module")
def index(folder: Path) -> PageIndex:
    return PageIndex(folder / "db")


def places(found: Iterable[Document | NodeWithScore]) -> list[tuple[str, int]]:
    """The names and pages of what was found."""
    return [(Path(each.metadata["file_path"]).stem, each.metadata["page"]) for each in found]


def expected(index: PageIndex, *asked: Any, **options: Any) -> list[tuple[str, int]]:
    return [(Path(hit.document).stem, hit.page) for hit in index.search(*asked, **options)]


# In LangChain


class TestRetriever(RetrieversIntegrationTests):
    params: ClassVar[dict[str, Any]]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _this_index(cls, folder: Path) -> None:
        cls.params = {"folder": folder / "db"}

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return LangChainRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return self.params

    @property
    def retriever_query_example(self) -> str:
        return QUESTION


async def test_documents_are_those_of_the_loader(folder: Path, index: PageIndex, call: Door) -> None:
    """Text, id and metadata are the same; what was said of the document is among them, and so are score and ranks."""
    loaded = {page.id: page for page in NemoVLMPDFLoader(folder / "harbour.pdf").load()}
    found = await call(LangChainRetriever(index=index, where={"tenant": "harbour"}), "invoke", QUESTION)
    assert len(found) == 3
    hits = {hit.page: hit for hit in index.search(QUESTION, 4, where={"tenant": "harbour"})}
    for document in found:
        same = loaded[document.id]
        assert document.page_content == same.page_content
        own = {key: value for key, value in document.metadata.items() if key not in same.metadata}
        assert {key: same.metadata[key] for key in document.metadata if key not in own} == {
            key: value for key, value in document.metadata.items() if key not in own
        }
        assert set(document.metadata) >= {"source", "file_path", "page", "page_label", "total_pages", "doc_id"}
        hit = hits[document.metadata["page"]]
        ranks = {
            f"{name}_{what}": getattr(place, what)
            for name, place in (("vector", hit.by_vector), ("text", hit.by_text))
            if place
            for what in ("rank", "score")
        }
        assert own == {"tenant": "harbour", "year": 2023, "score": hit.score, **ranks}
    assert found[0].metadata["text_rank"] == 1


@pytest.mark.parametrize("mode", [None, *MODES])
async def test_a_call_says_what_is_searched(mode: Any, index: PageIndex, call: Door) -> None:
    """k, mode and where of the call go before those of the object, and find what the index finds."""
    made = LangChainRetriever(index=index, k=1, mode="text")
    assert places(await call(made, "invoke", QUESTION)) == [("harbour", 1)]
    found = await call(made, "invoke", QUESTION, k=5, mode=mode, where=Field("year") > 2023)
    assert places(found) == expected(index, QUESTION, 5, mode=mode or "text", where=Field("year") > 2023)
    assert {name for name, _ in places(found)} == {"mill"}


@pytest.mark.parametrize("where", [{"tenant": "harbour"}, Field("tenant") == "harbour"], ids=["dict", "filter"])
@pytest.mark.parametrize("mode", MODES)
async def test_no_call_reaches_another_tenant(mode: Any, where: Any, index: PageIndex, call: Door) -> None:
    """What a retriever is told to leave out is found by no mode, no number, and no condition of a call."""
    made = LangChainRetriever(index=index, where=where, mode=mode, k=6)
    for retriever in (made, pickle.loads(pickle.dumps(made)), made.model_copy(update={"k": 100})):
        for more in (
            None,
            {"year": 2023},
            {"tenant": ["harbour", "mill"]},
            ~Field("tenant").exists() | {"page": [0, 1]},
        ):
            found = await call(retriever, "invoke", "bread heat ferry wheel noon", where=more)
            assert {document.metadata["tenant"] for document in found} <= {"harbour"}
            assert found
        assert await call(retriever, "invoke", "bread", where={"tenant": "mill"}) == []
    for nothing in ({}, Field("tenant").is_in([])):
        try:
            assert await call(LangChainRetriever(index=index, where=nothing), "invoke", "bread") == []
        except InputError:
            assert nothing == {}


async def test_wrong_calls_are_errors(index: PageIndex, call: Door) -> None:
    """A misspelt argument, a mode or a field that is not there, no page at all, and no question."""
    made = LangChainRetriever(index=index)
    with pytest.raises(TypeError, match="wher"):
        await call(made, "invoke", QUESTION, wher={"tenant": "mill"})
    for asked in ({"mode": "magic"}, {"where": {"tenat": "mill"}}, {"k": 0}):
        with pytest.raises(InputError):
            await call(made, "invoke", QUESTION, **asked)
    with pytest.raises(InputError, match="empty"):
        await call(made, "invoke", " ")


async def test_pictures_go_to_a_chat_model(folder: Path, index: PageIndex, call: Door) -> None:
    """`as_prompt` and `pages_to_message` show the pages that were found, rendered from their PDFs."""
    made = LangChainRetriever(index=index, mode="text", k=2)
    found = await call(made, "invoke", QUESTION)
    prompt = made.as_prompt() | RunnableLambda(lambda messages: messages[0])
    for message in (await call(prompt, "invoke", QUESTION), pages_to_message(QUESTION, found)):
        assert isinstance(message, HumanMessage)
        shown = [block for block in message.content_blocks if block["type"] == "image"]
        for block, (name, page) in zip(shown, places(found), strict=True):
            image = Image.open(BytesIO(base64.b64decode(block["base64"])))  # type: ignore[typeddict-item]
            assert np.array_equal(image, next(iter_pages(folder / f"{name}.pdf", pages=[page])).image)
        assert message.content_blocks[-1]["text"] == QUESTION  # type: ignore[typeddict-item]
    protected = folder / "locked.pdf"
    protected.write_bytes(book(encrypt="secret"))
    locked = PageIndex(folder / "locked-db", index.embedder)
    locked.add(protected, password="secret")
    made = LangChainRetriever(index=locked, mode="text")
    assert len((await call(made.as_prompt(password="secret"), "invoke", "three"))[0].content_blocks) == 3
    with pytest.raises(PdfError):
        await call(made.as_prompt(), "invoke", "three")


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="names are Unicode")
async def test_names_that_are_not_utf_8(index: PageIndex, tmp_path: Path, call: Door) -> None:
    """Their pages are found and shown, in both frameworks."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.pdf"))
    path.write_bytes(book())
    own = PageIndex(tmp_path / "db", index.embedder)
    own.add(path)
    (message,) = await call(LangChainRetriever(index=own, mode="text").as_prompt(), "invoke", "three")
    assert [block["type"] for block in message.content_blocks] == ["text", "image", "text"]
    (hit,) = await call(LlamaIndexRetriever(index=own, mode="text"), "retrieve", "three")
    assert hit.node.metadata["file_name"] == "caf\\xe9.pdf"


class Seen(BaseCallbackHandler):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_retriever_start(self, _: Any, query: str, *, tags: Any = None, **more: Any) -> None:
        self.told.append((query, tags[-1], more.get("metadata", {}).get("user")))

    def on_retriever_end(self, documents: Sequence[Document], **_: Any) -> None:
        self.told.append(len(documents))


async def test_it_is_a_part_of_chains(index: PageIndex, call: Door) -> None:
    """Pipes, `bind`, `with_config`, tags, callbacks and `batch` work as with any retriever."""
    seen = Seen()
    made = LangChainRetriever(index=index, mode="text", tags=["pages"])
    chain = made.bind(k=1).with_config(callbacks=[seen], metadata={"user": 7}) | RunnableLambda(places)
    assert await call(chain, "invoke", QUESTION) == [("harbour", 1)]
    assert seen.told == [(QUESTION, "pages", 7), 1]
    both = await call(made, "batch", ["ferry", "wheel"])
    assert [places(found) for found in both] == [[("harbour", 0)], [("mill", 0)]]


def test_configurable_fields_keep_the_index_open(folder: Path) -> None:
    """A chain that sets a field at run time makes another object, which loads no other model."""
    made = LangChainRetriever(folder=folder / "db", device="cpu")
    opened = made.index
    chain = made.configurable_fields(k=ConfigurableField("k"))
    configured, _ = chain.prepare({"configurable": {"k": 2}})
    assert (configured.index is opened, configured.k) == (True, 2)
    assert len(chain.invoke(QUESTION, {"configurable": {"k": 2}})) == 2


def test_copies_search_the_same_index(folder: Path) -> None:
    """A retriever can be pickled, before and after its first search, and nothing that is printed shows a key."""
    made = LangChainRetriever(folder=folder / "db", api_key="nvapi-secret", k=2)
    before = pickle.loads(pickle.dumps(made))
    found = made.invoke(QUESTION)
    after = pickle.loads(pickle.dumps(made))
    assert before.invoke(QUESTION) == after.invoke(QUESTION) == found
    assert after.index.embedder.settings == made.index.embedder.settings  # type: ignore[union-attr]
    assert "nvapi-secret" not in repr(made) + str(made) + dumps(made) + str(made.model_dump()) + made.model_dump_json()
    assert len(pickle.loads(pickle.dumps(LlamaIndexRetriever(folder / "db", device="cpu"))).retrieve(QUESTION)) == 4


# What both are made of

RETRIEVERS = pytest.mark.parametrize("made_of", [LangChainRetriever, LlamaIndexRetriever])


@RETRIEVERS
def test_an_index_is_there_or_nothing_is_made(made_of: Any, folder: Path, index: PageIndex, tmp_path: Path) -> None:
    """No index in the folder, neither folder nor index, settings beside an index: all are errors of the constructor."""
    wrong: list[dict[str, Any]] = [
        {"folder": tmp_path / "none"},
        {},
        {"index": index, "device": "cpu"},
        {"index": index, "folder": tmp_path},
    ]
    for fields in wrong:
        with pytest.raises(ConfigurationError, match="index"):
            made_of(**fields)
    (tmp_path / "pages.lance").mkdir()
    with pytest.raises((ConfigurationError, IndexStorageError)):
        made_of(folder=tmp_path)
    with pytest.raises(ValueError, match="timeout"):
        made_of(folder=folder / "db", device="cpu", timeout=-1)


def test_wrong_fields_are_errors(index: PageIndex) -> None:
    """A misspelt field, a mode and a number of pages that are none."""
    for fields in ({"kk": 3}, {"mode": "magic"}, {"k": 0}, {"where": "tenant"}):
        with pytest.raises(ValidationError):
            LangChainRetriever(index=index, **fields)


@RETRIEVERS
def test_nothing_is_loaded_before_the_first_search(made_of: Any, folder: Path, tmp_path: Path) -> None:
    """A retriever whose server is not there can be made, and searches by words all the same."""
    made = made_of(folder=folder / "db", base_url="http://127.0.0.1:9", max_retries=0, mode="text")
    assert len(made.invoke("ferry") if made_of is LangChainRetriever else made.retrieve("ferry")) == 1
    shutil.copytree(folder / "db", tmp_path / "db")
    assert made_of(folder=str(tmp_path / "db"))
    os.environ["HOME"], home = str(tmp_path), os.environ.get("HOME", "")
    try:
        assert made_of(folder="~/db")
    finally:
        os.environ["HOME"] = home


@RETRIEVERS
async def test_many_at_the_same_time(made_of: Any, folder: Path) -> None:
    """More questions at once than there are threads are all answered, from a model that is loaded once."""
    made = made_of(folder=folder / "db")
    ask = made.ainvoke if made_of is LangChainRetriever else made.aretrieve
    async with asyncio.timeout(60):
        found = await asyncio.gather(*(ask(f"{QUESTION} {number}") for number in range(50)))
    assert {len(each) for each in found} == {4}
    assert made.index.embedder.usage.items == 50


def test_langgraph_dev_finds_nothing_that_blocks(folder: Path) -> None:
    """It fails a run in which an event loop waits for a file, a lock or a socket, in the first use or a later one."""
    langchain, llamaindex = LangChainRetriever(folder=folder / "db"), LlamaIndexRetriever(folder / "db")
    prompts = langchain.as_prompt()

    async def use() -> None:
        for _ in range(2):
            await langchain.ainvoke(QUESTION)
            await prompts.ainvoke(QUESTION)
            await llamaindex.aretrieve(QUESTION)

    with blockbuster_ctx():
        asyncio.run(use())


@pytest.mark.parametrize("package", [langchain_nemovlm, llamaindex_nemovlm], ids=lambda package: package.__name__)
def test_lance_is_loaded_for_the_retriever_alone(package: Any) -> None:
    """Who has not installed it uses the rest of the package."""
    code = (
        f"import sys, {package.__name__} as package; print('lance' in sys.modules); package.NemoVLMPageIndexRetriever"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('lance' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="NemoVLMPageIndexRetreiver"):
        _ = package.NemoVLMPageIndexRetreiver


# In LlamaIndex


async def test_nodes_are_those_of_the_reader(folder: Path, index: PageIndex, tmp_path: Path, call: Door) -> None:
    """Pages come as the image nodes that `load_nodes` makes, by the same ids, with what was said of the document."""
    reader = NemoVLMPDFReader(image_dir=tmp_path)
    nodes = {node.id_: node for name in PAGES for node in reader.load_nodes(folder / f"{name}.pdf")}
    found = await call(LlamaIndexRetriever(index=index, reader=reader, similarity_top_k=6), "retrieve", QUESTION)
    assert {hit.node.id_ for hit in found} == set(nodes)
    for hit, best in zip(found, index.search(QUESTION, 6), strict=True):
        node = nodes[hit.node.id_]
        assert isinstance(hit.node, ImageNode)
        said = {"tenant": Path(best.document).stem, "year": best.metadata["year"]}
        assert (hit.score, hit.node.metadata) == (best.score, node.metadata | said)
        assert (hit.node.text, hit.node.image_path) == (node.text, node.image_path)
        assert (hit.node.hash, hit.node.ref_doc_id) == (node.hash, node.ref_doc_id)


async def test_without_images_no_pdf_is_opened(folder: Path, index: PageIndex, tmp_path: Path, call: Door) -> None:
    """Nodes are texts from the index then, the same ones for each question, though the PDFs are gone."""
    shutil.copytree(folder, tmp_path / "copy")
    own = PageIndex(tmp_path / "copy" / "own", index.embedder)
    own.add(tmp_path / "copy" / "harbour.pdf", metadata={"tenant": "harbour"})
    (tmp_path / "copy" / "harbour.pdf").unlink()
    made = LlamaIndexRetriever(index=own, reader=NemoVLMPDFReader(images=False))
    first, second = [await call(made, "retrieve", question) for question in (QUESTION, "the ferry")]
    assert {hit.node.hash for hit in first} == {hit.node.hash for hit in second}
    node = first[0].node
    assert type(node) is TextNode
    assert node.text.strip() == PAGES["harbour"][1][1]
    name = str(tmp_path / "copy" / "harbour.pdf")
    assert node.metadata == {
        **{"file_name": "harbour.pdf", "file_path": name, "page": 1, "page_label": "2", "total_pages": 3},
        "tenant": "harbour",
    }
    assert node.ref_doc_id == name
    with pytest.raises(PdfError):
        await call(LlamaIndexRetriever(index=own), "retrieve", QUESTION)
    assert (
        await call(LlamaIndexRetriever(index=own, reader=NemoVLMPDFReader(on_error="skip")), "retrieve", "ferry") == []
    )


@pytest.mark.parametrize("mode", [None, *MODES])
async def test_a_picture_finds_its_page(mode: Any, index: PageIndex, folder: Path, tmp_path: Path, call: Door) -> None:
    """A query bundle with a picture is looked for by the picture, whatever is the mode and the text."""
    image = next(iter_pages(folder / "mill.pdf", pages=[2])).save_image(tmp_path)
    made = LlamaIndexRetriever(index=index, mode=mode, similarity_top_k=3)
    for text in ("", "What is this?"):
        for reference in (str(image), image.as_uri()):
            found = await call(made, "retrieve", QueryBundle(text, image_path=reference))
            assert places(found) == expected(index, image, 3)
            assert found[0].score == pytest.approx(index.search(image, 1)[0].score, abs=1e-6)
    with pytest.raises(NemoVLMError):
        await call(made, "retrieve", QueryBundle("", image_path=str(tmp_path / "none.png")))


def one(key: str, value: Any, operator: FilterOperator = FilterOperator.EQ) -> MetadataFilter:
    return MetadataFilter(key=key, value=value, operator=operator)


def several(*filters: Any, condition: FilterCondition = FilterCondition.AND) -> MetadataFilters:
    return MetadataFilters(filters=list(filters), condition=condition)


HARBOUR, FIRST = one("tenant", "harbour"), one("page", 0)


@pytest.mark.parametrize(
    ("filters", "where"),
    [
        (several(HARBOUR), Field("tenant") == "harbour"),
        (several(one("year", 2023, FilterOperator.NE)), Field("year") != 2023),
        (several(one("year", 2024, FilterOperator.LT)), Field("year") < 2024),
        (several(one("page", 1, FilterOperator.LTE)), Field("page") <= 1),
        (several(one("page", 1, FilterOperator.GT)), Field("page") > 1),
        (several(one("page", 1, FilterOperator.GTE)), Field("page") >= 1),
        (several(one("page", [0, 2], FilterOperator.IN)), Field("page").is_in([0, 2])),
        (several(one("tenant", ["mill", "x"], FilterOperator.NIN)), ~Field("tenant").is_in(["mill", "x"])),
        (several(HARBOUR, FIRST), (Field("tenant") == "harbour") & (Field("page") == 0)),
        (several(HARBOUR, FIRST, condition=FilterCondition.OR), (Field("tenant") == "harbour") | {"page": 0}),
        (several(HARBOUR, FIRST, condition=FilterCondition.NOT), ~((Field("tenant") == "harbour") | {"page": 0})),
        (
            several(HARBOUR, several(FIRST, one("page", 2), condition=FilterCondition.OR)),
            {**{"tenant": "harbour"}, "page": [0, 2]},
        ),
        (several(one("page_label", "2"), one("total_pages", 3)), {"label": "2"}),
    ],
    ids=lambda value: "",
)
async def test_filters_of_llamaindex(filters: MetadataFilters, where: Any, index: PageIndex, call: Door) -> None:
    """Each operator and condition means the pages that ours means; keys are those of nodes; `where` narrows them."""
    reader = NemoVLMPDFReader(images=False)
    made = LlamaIndexRetriever(index=index, filters=filters, reader=reader, similarity_top_k=6)
    found = places(await call(made, "retrieve", QUESTION))
    assert found == expected(index, QUESTION, 6, where=where)
    assert 0 < len(found) < 6
    made = LlamaIndexRetriever(index=index, filters=filters, where={"path": "none"}, reader=reader)
    assert await call(made, "retrieve", QUESTION) == []


def test_a_key_of_nodes_that_documents_have_themselves(index: PageIndex, tmp_path: Path) -> None:
    """What `add` was told goes before what nodes call a field of the index."""
    (tmp_path / "a.pdf").write_bytes(book())
    own = PageIndex(tmp_path / "db", index.embedder)
    own.add(tmp_path / "a.pdf", metadata={"page_label": "appendix"})
    made = LlamaIndexRetriever(index=own, filters=several(one("page_label", "appendix")))
    assert {hit.node.metadata["page_label"] for hit in made.retrieve("three")} == {"appendix"}


@pytest.mark.parametrize("operator", sorted(set(FilterOperator) - set(list(FilterOperator)[:8])))
def test_operators_that_there_are_not(operator: FilterOperator, index: PageIndex) -> None:
    """They are refused by name when the retriever is made, wherever they stand."""
    for filters in (several(one("tenant", "x", operator)), several(HARBOUR, several(one("tenant", "x", operator)))):
        with pytest.raises(InputError, match=f"'{operator.value}'.*'tenant'"):
            LlamaIndexRetriever(index=index, filters=filters)


def test_filters_that_mean_nothing(index: PageIndex) -> None:
    """No conditions, no value, a value for several or several for one, and a field that is not there, are errors."""
    wrong = (
        several(),
        several(HARBOUR, several(condition=FilterCondition.NOT)),
        several(one("tenant", None)),
        several(one("tenant", "mill", FilterOperator.IN)),
        several(one("tenant", ["mill"])),
    )
    for filters in wrong:
        with pytest.raises(InputError):
            LlamaIndexRetriever(index=index, filters=filters)
    for filters in (several(one("file_name", "mill.pdf")), several(one("year", "2023"))):
        with pytest.raises(InputError):
            LlamaIndexRetriever(index=index, filters=filters).retrieve(QUESTION)


@pytest.mark.parametrize("mode", MODES)
async def test_no_query_reaches_another_tenant(mode: Any, index: PageIndex, folder: Path, call: Door) -> None:
    """What the filters of a retriever leave out is found by no mode, question or picture."""
    image = str(next(iter_pages(folder / "mill.pdf", pages=[1])).save_image(folder))
    for fields in (
        {"filters": several(HARBOUR)},
        {"where": {"tenant": "harbour"}},
        {"filters": several(HARBOUR), "where": Field("year") > 2000},
        {"filters": several(one("year", 2000, FilterOperator.GT), HARBOUR), "where": {"tenant": ["harbour", "mill"]}},
    ):
        made = LlamaIndexRetriever(index=index, mode=mode, similarity_top_k=100, **fields)
        for query in ("bread heat ferry wheel noon", QueryBundle("bread", image_path=image)):
            found = await call(made, "retrieve", query)
            assert {hit.node.metadata["tenant"] for hit in found} == {"harbour"}


async def test_query_engines(index: PageIndex, call: Door) -> None:
    """A text engine reads what was found, a multimodal one sees it, and postprocessors go by its scores."""
    made = LlamaIndexRetriever(index=index, mode="vector")
    best = index.search(QUESTION, 4, mode="vector")
    answer: Response = await call(RetrieverQueryEngine.from_args(made, llm=MockLLM()), "query", QUESTION)
    assert best[0].text.strip() in str(answer)
    engine = RetrieverQueryEngine.from_args(made, llm=(llm := Eyes(max_tokens=None)), multimodal=True)
    answer = await call(engine, "query", QUESTION)
    assert places(answer.source_nodes) == [(Path(hit.document).stem, hit.page) for hit in best]
    assert llm._pictures == [Path(hit.node.image_path).read_bytes() for hit in answer.source_nodes]
    cutoff = (best[1].score + best[2].score) / 2
    engine = RetrieverQueryEngine.from_args(
        made,
        llm=MockLLM(),
        node_postprocessors=[SimilarityPostprocessor(similarity_cutoff=cutoff), LongContextReorder()],
    )
    answer = await call(engine, "query", QUESTION)
    assert sorted(hit.score or 0 for hit in answer.source_nodes) == sorted(hit.score for hit in best[:2])


@pytest.mark.parametrize("mode", ["reciprocal_rerank", "relative_score", "simple"])
async def test_fused_with_another_retriever(
    mode: Any, index: PageIndex, folder: Path, vl_folder: Path, call: Door
) -> None:
    """A page that a vector store found as well is there once, because its node is the same."""
    embedding = NemoVLMEmbedding(model=str(vl_folder), truncate="END")
    nodes = [node for name in PAGES for node in NemoVLMPDFReader().load_nodes(folder / f"{name}.pdf")]
    store = VectorStoreIndex(nodes, embed_model=embedding)
    retrievers = [LlamaIndexRetriever(index=index, similarity_top_k=6), store.as_retriever(similarity_top_k=6)]
    fused = QueryFusionRetriever(
        retrievers, llm=MockLLM(), num_queries=1, mode=mode, similarity_top_k=20, use_async=False
    )
    found = await call(fused, "retrieve", QUESTION)
    assert sorted(places(found)) == sorted((name, page) for name in PAGES for page in range(3))
