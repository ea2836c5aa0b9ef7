"""Clients that are not ours, on a real socket against our server, and ours beside them.

The three examples of the model card of llama-3.2-nemoretriever-1b-vlm-embed-v1 (curl, OpenAI, LangChain) are changed in
base URL, key and image alone. Whatever a client brings back is compared with what the local engine computes.
"""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from langchain_nvidia_ai_endpoints import NVIDIAEmbeddings
from llama_index.embeddings.nvidia import NVIDIAEmbedding
from openai import AsyncOpenAI, OpenAI
from pydantic import SecretStr

from nemovlm import Embedder, Passage
from nemovlm.images import encode_png
from nemovlm.inputs import Vector
from nemovlm.server import ServerOptions, make_app
from tests.support.checkpoints import case_image
from tests.support.servers import running

MODEL = "nvidia/llama-3.2-nemoretriever-1b-vlm-embed-v1"
KEY = "nvapi-of-this-test"
PNG = encode_png(case_image("landscape"))
DATA_URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
TEXT = "a page about a heat pump " * 8
LONG = "first " * 600 + "last " * 600  # tokens by the thousand, of 1024 that fit

Call = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="module")
def local(vl_folder: Path) -> Iterator[Embedder]:
    with Embedder(vl_folder, dtype="float32") as embedder:
        yield embedder


@pytest.fixture(scope="module")
def service(vl_folder: Path) -> Iterator[str]:
    """The base URL of a server that is ready and wants a key."""
    options = ServerOptions(names=(MODEL, "tiny-vl"), api_key=SecretStr(KEY))
    with running(make_app(Embedder(vl_folder, dtype="float32"), options)) as address:
        with Embedder("tiny-vl", base_url=address, api_key=KEY) as client:
            client.embed_query("ready?")
        yield f"{address}/v1"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.png"
    path.write_bytes(PNG)
    return path


@pytest.fixture(autouse=True)
def _no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_USAGE_TELEMETRY_ENABLED", "0")


def agree(vectors: Any, expected: Vector, dimensions: int | None = None) -> None:
    """Fail unless vectors (n, d) are the expected ones (n, whole), cut to `dimensions`."""
    got = np.asarray(vectors, dtype=np.float64)
    cut = np.asarray(expected, dtype=np.float64)[:, :dimensions]
    assert got.shape == cut.shape
    cosines = (got * cut).sum(axis=1) / np.linalg.norm(got, axis=1) / np.linalg.norm(cut, axis=1)
    assert cosines.min() >= 0.99999
    assert np.abs(np.linalg.norm(got, axis=1) - 1).max() <= 1e-5


# The model card

CARD = """
image_source="https://assets.ngc.nvidia.com/products/api-catalog/nemo-retriever/embedding/court-sizing-metrics.png"
if [[ $image_source == http* ]]; then
base64_image=$(curl -s "${image_source}" | base64 -w 0)
else
base64_image=$(base64 -w 0 < "${image_source}")
fi

json_payload='{
"input": ["data:image/png;base64,'"${base64_image}"'"],
"model": "nvidia/llama-3.2-nemoretriever-1b-vlm-embed-v1",
"modality": ["image"],
"input_type": "",
"encoding_format": "float",
"truncate": "NONE"
}'

echo "${json_payload}" | \\
curl -X POST https://integrate.api.nvidia.com/v1/embeddings \\
-H "Content-Type: application/json" \\
-H "Authorization: Bearer $NVIDIA_API_KEY" \\
-d @-
"""
IMAGE_OF_THE_CARD = (
    "https://assets.ngc.nvidia.com/products/api-catalog/nemo-retriever/embedding/court-sizing-metrics.png"
)


def run_card(service: str, page: Path, key: str) -> dict[str, Any]:
    script = CARD.replace("https://integrate.api.nvidia.com/v1", service).replace(IMAGE_OF_THE_CARD, str(page))
    environment = os.environ | {"NVIDIA_API_KEY": key, "no_proxy": "127.0.0.1"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, check=True, timeout=60)
    reply: dict[str, Any] = json.loads(done.stdout)
    return reply


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("curl") or not shutil.which("bash"),
    reason="the example wants bash, curl and the base64 of GNU",
)
def test_curl_as_on_the_card(service: str, page: Path, local: Embedder) -> None:
    """The card's shell script gets a page's vector, and with another key a 401 in JSON."""
    reply = run_card(service, page, KEY)
    agree([row["embedding"] for row in reply["data"]], local.embed([PNG]))
    assert (reply["object"], reply["model"]) == ("list", MODEL)
    assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] > 0
    assert "Unauthorized" in run_card(service, page, "nvapi-another")["message"]


def test_openai_as_on_the_card(service: str, page: Path, local: Embedder) -> None:
    """The card's OpenAI example works though its data URL lacks `;base64`."""
    with open(page, "rb") as image_file:
        image_b64 = base64.b64encode(image_file.read()).decode()
    with OpenAI(api_key=KEY, base_url=service) as client:
        response = client.embeddings.create(
            input=[f"data:image/png,{image_b64}"],
            model="nvidia/llama-3.2-nemoretriever-1b-vlm-embed-v1",
            encoding_format="float",
            extra_body={"modality": ["image"], "input_type": "", "truncate": "NONE"},
        )
    agree([response.data[0].embedding], local.embed([PNG]))


def test_langchain_as_on_the_card(service: str, page: Path, local: Embedder) -> None:
    """The card's LangChain example works: a data URL among documents is an image, as no modality says otherwise."""
    with open(page, "rb") as image_file:
        image_b64 = base64.b64encode(image_file.read()).decode()
    client = NVIDIAEmbeddings(
        model="nvidia/llama-3.2-nemoretriever-1b-vlm-embed-v1", api_key=KEY, truncate="NONE", base_url=service
    )
    image_input = f"data:image/png;base64,{image_b64}"
    agree(client.embed_documents([image_input]), local.embed([PNG]))


# The OpenAI SDK

KINDS: dict[str, tuple[str, dict[str, Any], Callable[[Embedder], Vector]]] = {
    "text": (TEXT, {"input_type": "passage"}, lambda local: local.embed([TEXT])),
    "query": (TEXT, {"input_type": "query", "modality": "text"}, lambda local: local.embed_queries([TEXT])),
    "image": (DATA_URL, {"modality": "image", "input_type": "passage"}, lambda local: local.embed([PNG])),
    "text and image": (
        f"{TEXT}\n{DATA_URL}",
        {"modality": ["text_image"]},
        lambda local: local.embed([Passage(text=TEXT, image=PNG)]),
    ),
    "inferred": (f"{TEXT} {DATA_URL}", {}, lambda local: local.embed([Passage(text=TEXT, image=PNG)])),
    "cut": (LONG, {"input_type": "passage", "truncate": "START"}, lambda local: local.embed([LONG], truncate="START")),
}


@pytest.mark.parametrize("dimensions", [None, 32])
@pytest.mark.parametrize("encoding", [None, "float", "base64"])
@pytest.mark.parametrize("kind", KINDS)
async def test_openai(kind: str, encoding: Any, dimensions: int | None, service: str, local: Embedder) -> None:
    """Every kind of item, as numbers and as base64 (the SDK's own choice), whole and cut, sync and async."""
    content, extra, expected = KINDS[kind]
    arguments: dict[str, Any] = {"input": [content], "model": MODEL, "extra_body": extra}
    arguments |= {"encoding_format": encoding} if encoding else {}
    arguments |= {"dimensions": dimensions} if dimensions else {}
    with OpenAI(api_key=KEY, base_url=service) as client:
        replies = [await asyncio.to_thread(client.embeddings.create, **arguments)]
    async with AsyncOpenAI(api_key=KEY, base_url=service) as aclient:
        replies.append(await aclient.embeddings.create(**arguments))
    for reply in replies:
        vector: Any = reply.data[0].embedding
        if encoding == "base64":
            vector = np.frombuffer(base64.b64decode(vector), dtype="<f4")
        agree([vector], expected(local), dimensions)
        assert reply.usage.prompt_tokens > 0


def test_openai_without_fields_of_nvidia_s(service: str, local: Embedder) -> None:
    """The role behind the model's name is enough for a client that can send no `input_type`; several stay in order."""
    texts = ["one", "two", TEXT]
    with OpenAI(api_key=KEY, base_url=service) as client:
        for role, expected in (("query", local.embed_queries(texts)), ("passage", local.embed(texts))):
            reply = client.embeddings.create(input=texts, model=f"{MODEL}-{role}")
            agree([row.embedding for row in reply.data], expected)
        assert [model.id for model in client.models.list()] == [MODEL, "tiny-vl"]


def test_openai_gets_errors_that_it_knows(service: str) -> None:
    """A wrong key, model, length, field, number and image are the SDK's own exceptions, with the reason in words."""

    def fails(kind: type[openai.APIStatusError], said: str, *, key: str = KEY, **fields: Any) -> None:
        body = {"model": MODEL, "input": ["x"], "extra_body": {"input_type": "passage"}} | fields
        with OpenAI(api_key=key, base_url=service, max_retries=0) as client, pytest.raises(kind, match=said):
            client.embeddings.create(**body)

    fails(openai.AuthenticationError, "Unauthorized", key="nvapi-another")
    fails(openai.NotFoundError, "does not exist here.*tiny-vl", model="nvidia/another")
    fails(openai.BadRequestError, "input 1: .*token", input=["x", LONG])
    fails(openai.BadRequestError, "'input_type' parameter is required", extra_body={})
    fails(openai.UnprocessableEntityError, "colour", extra_body={"input_type": "passage", "colour": "red"})
    fails(openai.BadRequestError, "from 1 to 128", dimensions=2048)
    fails(openai.BadRequestError, "image", input=["data:image/png;base64,AAAA"], extra_body={})
    fails(openai.BadRequestError, "a query is a text", input=[DATA_URL], extra_body={"input_type": "query"})


# NVIDIA's client for LangChain


async def test_nvidia_s_langchain(call: Call, service: str, local: Embedder) -> None:
    """Queries, texts, pages, pages with their text and mixed lists, whole and cut, sync and async."""
    client = NVIDIAEmbeddings(model=MODEL, api_key=KEY, base_url=service)
    agree([await call(client, "embed_query", TEXT)], local.embed_queries([TEXT]))
    mixed = ["one", DATA_URL, f"{TEXT}\n{DATA_URL}", "two"]
    expected = local.embed(["one", PNG, Passage(text=TEXT, image=PNG), "two"])
    agree(await call(client, "embed_documents", mixed), expected)
    few = NVIDIAEmbeddings(model=MODEL, api_key=KEY, base_url=service, dimensions=32, max_batch_size=3)
    agree(await call(few, "embed_documents", mixed), expected, 32)
    agree([await call(few, "embed_query", TEXT)], local.embed_queries([TEXT]), 32)
    start = NVIDIAEmbeddings(model=MODEL, api_key=KEY, base_url=service, truncate="START")
    agree(await call(start, "embed_documents", [LONG]), local.embed([LONG], truncate="START"))


async def test_nvidia_s_langchain_finds_the_model(call: Call, service: str, local: Embedder) -> None:
    """Without model it takes our first, says so once, and lists both of them."""
    with pytest.warns(UserWarning, match=f"Default model is set as: {MODEL}"):
        client = NVIDIAEmbeddings(api_key=KEY, base_url=service)
    assert [model.id for model in client.available_models] == [MODEL, "tiny-vl"]
    agree([await call(client, "embed_query", "x")], local.embed_queries(["x"]))


async def test_nvidia_s_langchain_reads_our_errors(call: Call, service: str) -> None:
    """Its exceptions have our status and reason in them."""
    for fields, texts, said in (
        ({"api_key": "nvapi-another"}, ["x"], "401.*Unauthorized"),
        ({"api_key": KEY, "model": "nvidia/another"}, ["x"], "404.*does not exist here"),
        ({"api_key": KEY}, ["x", LONG], "400.*input 1: .*token"),
        ({"api_key": KEY, "dimensions": 2048}, ["x"], "400.*from 1 to 128"),
    ):
        client = NVIDIAEmbeddings(**{"model": MODEL, "base_url": service} | fields)
        with pytest.raises(Exception, match=f"(?s){said}"):
            await call(client, "embed_documents", texts)


# NVIDIA's client for LlamaIndex


@asynccontextmanager
async def nvidia_s_llamaindex(**fields: Any) -> AsyncIterator[NVIDIAEmbedding]:
    """Its connections have to be closed for it."""
    client = NVIDIAEmbedding(**fields)
    try:
        yield client
    finally:
        client._client.close()
        await client._aclient.close()


async def test_nvidia_s_llamaindex(call: Call, service: str, local: Embedder) -> None:
    """Texts, alone and several, and data URLs are passages, sync and async; the SDK reads our base64."""
    async with nvidia_s_llamaindex(model=MODEL, api_key=KEY, base_url=service) as client:
        agree([await call(client, "get_text_embedding", TEXT)], local.embed([TEXT]))
        agree([await call(client, "get_text_embedding", DATA_URL)], local.embed([PNG]))
        many = ["one", f"{TEXT} {DATA_URL}", "two"] * 5
        expected = local.embed(["one", Passage(text=TEXT, image=PNG), "two"] * 5)
        agree(await call(client, "get_text_embedding_batch", many), expected)
    async with nvidia_s_llamaindex(model=MODEL, api_key=KEY, base_url=service, truncate="END") as client:
        agree([await call(client, "get_text_embedding", LONG)], local.embed([LONG], truncate="END"))


async def test_what_nvidia_s_llamaindex_sends(service: str, local: Embedder) -> None:
    """It embeds sync queries as passages, and leaves dimensions out of async calls; our server does as it is told."""
    async with nvidia_s_llamaindex(model=MODEL, api_key=KEY, base_url=service, dimensions=32) as client:
        agree([await asyncio.to_thread(client.get_query_embedding, TEXT)], local.embed([TEXT]), 32)
        agree([await asyncio.to_thread(client.get_text_embedding, TEXT)], local.embed([TEXT]), 32)
        agree([await client.aget_query_embedding(TEXT)], local.embed_queries([TEXT]))
        agree([await client.aget_text_embedding(TEXT)], local.embed([TEXT]))


async def test_nvidia_s_llamaindex_finds_the_model(service: str) -> None:
    """Without model it takes our first, says so, and lists both of them; a wrong key is the SDK's own error."""
    with pytest.warns(UserWarning, match=f"Default model is set as: {MODEL}"):
        async with nvidia_s_llamaindex(api_key=KEY, base_url=service) as client:
            assert [model.id for model in client.available_models] == [MODEL, "tiny-vl"]
    async with nvidia_s_llamaindex(model=MODEL, api_key="nvapi-another", base_url=service) as client:
        with pytest.raises(openai.AuthenticationError, match="Unauthorized"):
            await client.aget_text_embedding("x")


# Ours


@pytest.mark.parametrize("dimensions", [None, 32])
async def test_our_own(dimensions: int | None, call: Call, service: str, local: Embedder) -> None:
    """Queries, texts, pages and pages with their text, whole and cut, sync and async."""
    items = [TEXT, PNG, Passage(text=TEXT, image=PNG), case_image("square"), "one"]
    with Embedder("tiny-vl", base_url=service, api_key=KEY, dimensions=dimensions) as remote:
        agree(await call(remote, "embed", items), local.embed(items), dimensions)
        agree(await call(remote, "stream", items), local.embed(items), dimensions)
        agree([await call(remote, "embed_query", TEXT)], local.embed_queries([TEXT]), dimensions)
        agree(await call(remote, "embed", [LONG], truncate="START"), local.embed([LONG], truncate="START"), dimensions)
        assert remote.available_models() == [MODEL, "tiny-vl"]
