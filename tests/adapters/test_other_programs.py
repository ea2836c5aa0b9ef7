"""In other people's programs: what LangChain, LlamaIndex and what is built on them pass, and how they run it."""

import asyncio
import io
import json
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blockbuster import blockbuster_ctx
from langchain_core.document_loaders import Blob
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core.schema import BaseNode, ImageDocument, ImageNode, MediaResource, TextNode
from pydantic import SecretStr

from langchain_nemovlm import (
    NemoVLMEmbeddings,
    NemoVLMPageRetriever,
    NemoVLMPDFLoader,
    NemoVLMPDFParser,
    page_to_content_block,
)
from langchain_nemovlm.pages import passage_of
from llamaindex_nemovlm import NemoVLMEmbedding, NemoVLMPDFReader
from nemovlm import Embedder
from nemovlm.errors import ConfigurationError, NemoVLMError
from nemovlm.images import data_url, encode_png
from nemovlm.integrations import Adapter
from tests.support.books import numbered
from tests.support.checkpoints import case_image

Call = Callable[..., Awaitable[Any]]

ICON = encode_png(case_image("icon"))
HALF = "half an emoji \ud83d, cut by JavaScript"


@pytest.fixture
def pdf(tmp_path: Path) -> Path:
    path = tmp_path / "x.pdf"
    path.write_bytes(numbered(3))
    return path


# Text that is no Unicode


async def test_half_a_character_costs_no_other_text(vl_folder: Path, vl: Embedder, call: Call) -> None:
    """Through every door it is embedded with the mark for what is missing; the others are as ever."""
    whole = HALF.replace("\ud83d", "\N{REPLACEMENT CHARACTER}")
    expected = vl.embed(["good", whole, "good too"])
    texts = ["good", HALF, "good too"]
    langchain, llamaindex = NemoVLMEmbeddings(model=str(vl_folder)), NemoVLMEmbedding(model=str(vl_folder))
    assert np.abs(np.array(await call(langchain, "embed_documents", texts)) - expected).max() < 1e-5
    assert np.abs(np.array(await call(llamaindex, "get_text_embedding_batch", texts)) - expected).max() < 1e-5
    assert np.abs(np.array(await call(langchain, "embed_query", HALF)) - vl.embed_query(whole)).max() < 1e-5
    nodes = llamaindex([TextNode(text=text) for text in texts])
    assert np.abs(np.array([node.embedding for node in nodes]) - expected).max() < 1e-5


async def test_half_a_character_is_cached_as_what_it_stands_for(vl_folder: Path, call: Call) -> None:
    """In a cache it is one text with the mark."""
    cache: dict[str, bytes] = {}
    embeddings = NemoVLMEmbeddings(model=str(vl_folder), cache=cache)
    await call(embeddings, "embed_documents", [HALF, HALF.replace("\ud83d", "\N{REPLACEMENT CHARACTER}")])
    assert len(cache) == 1


# Names that are not UTF-8


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="names are Unicode")
async def test_a_name_that_is_not_utf_8_is_escaped(tmp_path: Path, call: Call) -> None:
    """In ids, metadata and JSON; the folder's other PDFs come as well, and the page can be shown."""
    folder = tmp_path / "pdfs"
    folder.mkdir()
    for name in (b"a.pdf", b"caf\xe9.pdf", b"z.pdf"):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(numbered(1))
    documents = await call(NemoVLMPDFLoader(folder, image_dir=tmp_path / "images", content="markdown"), "load")
    assert [Path(document.metadata["source"]).name for document in documents] == ["a.pdf", "caf\\xe9.pdf", "z.pdf"]
    json.dumps([document.model_dump() for document in documents], ensure_ascii=False).encode()
    assert len({document.id for document in documents}) == 3
    assert page_to_content_block(documents[1])["mime_type"] == "image/png"

    path = os.path.join(folder, os.fsdecode(b"caf\xe9.pdf"))
    (read,) = await call(NemoVLMPDFReader(image_dir=tmp_path / "images"), "load_data", path)
    assert read.metadata["file_name"] == "caf\\xe9.pdf"
    json.dumps(read.to_dict(), ensure_ascii=False).encode()


# Uploads


async def test_a_pdf_in_memory_has_a_parser_and_loaders_say_so(call: Call, tmp_path: Path) -> None:
    """Loaders take paths; for what is in memory they name what does."""
    content = numbered(2)
    with pytest.raises(ConfigurationError, match=r"Blob\.from_data"):
        NemoVLMPDFLoader(io.BytesIO(content))  # type: ignore[arg-type]
    assert len(NemoVLMPDFParser().parse(Blob.from_data(content))) == 2
    with pytest.raises(ConfigurationError, match="fs"):
        await call(NemoVLMPDFReader(image_dir=tmp_path), "load_data", io.BytesIO(content))


# How frameworks run it


async def test_no_thread_of_the_callers_pool_is_needed(vl_folder: Path, pdf: Path, tmp_path: Path) -> None:
    """An event loop whose pool is full of sync tools, which wait for this, gets vectors and pages all the same."""
    loop, go = asyncio.get_running_loop(), threading.Event()
    langchain, llamaindex = NemoVLMEmbeddings(model=str(vl_folder)), NemoVLMEmbedding(model=str(vl_folder))
    with ThreadPoolExecutor(1) as pool:
        loop.set_default_executor(pool)
        tool = loop.run_in_executor(None, go.wait, 60)
        async with asyncio.timeout(60):
            await langchain.aembed_query("a question")
            await langchain.aembed_documents(["a", "b"])
            await langchain.aembed_image([ICON])
            await llamaindex.aget_query_embedding("a question")
            await llamaindex.acall([TextNode(text="a")])
            assert len([document async for document in NemoVLMPDFLoader(pdf).alazy_load()]) == 3
            assert len(await NemoVLMPDFLoader(pdf).aload()) == 3
            assert len(await NemoVLMPDFReader(image_dir=tmp_path / "images").aload_data(pdf)) == 3
        go.set()
        await tool


@pytest.mark.parametrize("engine", ["local", "remote"])
def test_langgraph_dev_finds_nothing_that_blocks(
    engine: str, vl_folder: Path, served_vl: str, pdf: Path, tmp_path: Path
) -> None:
    """It fails a run in which an event loop waits for a file, a lock or a socket, in the first use or a later one."""
    fields: dict[str, Any] = {"model": "tiny-vl", "base_url": served_vl} if engine == "remote" else {"model": vl_folder}
    fields = {name: str(value) for name, value in fields.items()}
    picture = tmp_path / "x.png"
    picture.write_bytes(ICON)
    langchain = NemoVLMEmbeddings(**fields, image_dir=tmp_path)
    llamaindex = NemoVLMEmbedding(**fields)
    content, _ = named(tmp_path)
    page = Document(content, metadata={"image_path": str(picture)})
    store = InMemoryVectorStore(langchain)
    prompts = NemoVLMPageRetriever(vectorstore=store).as_prompt()

    async def use() -> None:
        for _ in range(2):
            await store.aadd_documents([page])
            await langchain.aembed_documents([f"{content}\n\nand more"])
            with await asyncio.to_thread(picture.open, "rb") as file:
                await langchain.aembed_image([file])
                await llamaindex.aget_image_embedding(file)
            await prompts.ainvoke("a question")
            await langchain.aembed_query("a question")
            await langchain.aembed_documents(["a text", data_url(ICON, "image/png")])
            await langchain.aembed_image([str(picture)])
            await llamaindex.aget_query_embedding("a question")
            await llamaindex.aget_image_embedding(str(picture))
            assert len(await NemoVLMPDFLoader(pdf, workers=2).aload()) == 3

    with blockbuster_ctx():
        asyncio.run(use())


# As keys of dictionaries and caches


@pytest.mark.parametrize("adapter", [NemoVLMEmbeddings, NemoVLMEmbedding])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"base_url": ["http://a", "http://b"]},
        {"base_url": "http://a", "headers": {"x-team": "t"}},
        {"base_url": "http://a", "api_key": SecretStr("a-key"), "cert": ("a.pem", "b.pem")},
        {"cache": {}, "engine_options": {"enforce_eager": True}, "engine": "vllm"},
    ],
    ids=["plain", "addresses", "headers", "certificate", "mappings"],
)
def test_equal_ones_are_one_key(adapter: type[Adapter], fields: dict[str, Any]) -> None:
    """`lru_cache`, Streamlit's caches and dictionaries take them, whatever their fields are."""
    one, two = (adapter(**({"model": "nemovlm/pocket"} | fields)) for _ in range(2))
    other = adapter(model="nemovlm/pocket", dimensions=64)
    assert one == two
    assert hash(one) == hash(two)
    assert len({one: 1, two: 2, other: 3}) == 2

    @lru_cache
    def cached(*_: object) -> object:
        return object()

    assert cached(one, "a") is cached(two, "a")


# Pages whose text was split


def named(tmp_path: Path) -> tuple[str, str]:
    name = "0" * 60 + "abcd.png"
    (tmp_path / name).write_bytes(ICON)
    return f"the text\n\n![x.pdf page 1]({tmp_path}/{name})", name


@pytest.mark.parametrize("after", ["", "\n", "\r\n", "  \n\n"])
@pytest.mark.parametrize("between", ["\n\n", "\n", "\r\n\r\n"])
def test_what_follows_the_name_of_an_image_does_not_hide_it(after: str, between: str, tmp_path: Path) -> None:
    """Stores and editors add line ends, or have others."""
    content, name = named(tmp_path)
    passage = passage_of(content.replace("\n\n", between) + after, tmp_path, "image")
    assert passage is not None
    assert passage.image == tmp_path / name


def test_a_name_that_was_split_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A text splitter with chunks that are too short makes a text of a page: not without a word."""
    content, _ = named(tmp_path)
    for chunk in (content[:-20], content[len(content) - 40 :], f"{content}\n\nthe next page"):
        caplog.clear()
        assert passage_of(chunk, tmp_path, "image") is None
        assert "split" in caplog.text
    caplog.clear()
    for text in ("plain text", "a [link](https://example.org/x.png)", "![a picture](x.png)\n\nand more"):
        assert passage_of(text, tmp_path, "image") is None
    assert caplog.text == ""


# Nodes with images in them

URL = data_url(ICON, "image/png")
LINES = "\n".join(URL[start : start + 76] for start in range(0, len(URL), 76))


@pytest.mark.parametrize("url", [URL, URL.replace("data:image/png", "DATA:image/PNG"), LINES])
@pytest.mark.parametrize(
    "node",
    [
        lambda url: ImageNode(image=url),
        lambda url: ImageNode(image_url=url),
        lambda url: ImageDocument(image_resource=MediaResource(data=url.encode(), mimetype="image/png")),
    ],
    ids=["image", "image_url", "data"],
)
def test_a_node_may_hold_a_data_url(node: Callable[[str], BaseNode], url: str, vl_folder: Path, vl: Embedder) -> None:
    """In whichever field, and however it is written, it is that image."""
    (made,) = NemoVLMEmbedding(model=str(vl_folder))([node(url)])
    assert np.abs(np.array(made.embedding) - vl.embed([ICON])[0]).max() < 1e-5


def test_whatever_an_item_raises_is_its_own_error(
    vl_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A decoder that fails in a way that nobody foresaw costs its own item, and is named."""
    embedder = Embedder(vl_folder)
    image = case_image("icon")
    monkeypatch.setattr(type(image), "resize", lambda *_: 1 / 0)
    caplog.set_level(logging.WARNING)
    first, second, third = embedder.stream(["good", image, "good too"], on_error="skip")
    assert first is not None
    assert second is None
    assert third is not None
    assert "item 1" in caplog.text
    with pytest.raises(NemoVLMError, match="item 0"):
        embedder.embed([image])
