"""What the tests of NVIDIA's own clients promise, and what those clients get wrong, held against our two classes.

The clients are `NVIDIAEmbeddings` (langchain-nvidia-ai-endpoints 1.5.0) and `NVIDIAEmbedding`
(llama-index-embeddings-nvidia 0.6.0). Every row of the table names the client, the file of its tests (or `L7`: a known
weakness of the one for LangChain, `I7`: of the one for LlamaIndex), what is promised, and, where ours does otherwise on
purpose, why. Every row is run, and checks the difference as well. `PARAMETERS` is no file of tests: it stands for the
names of arguments, which let a change of import be the whole migration.
"""

import asyncio
import base64
import gc
import inspect
import json
import pickle
import ssl
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import numpy as np
import pytest
from checkpoints import case_image
from faults import MODEL, FaultServer, failing, late, says, twisted, vector_of, vectors_of
from langchain_core.embeddings import Embeddings
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.rate_limiter import TokenBucketRateLimiter
from llama_index.core.storage.kvstore import SimpleKVStore
from PIL import Image
from pydantic import SecretStr

import langchain_nemovlm
import llamaindex_nemovlm
from langchain_nemovlm import NemoVLMEmbeddings
from llamaindex_nemovlm import NemoVLMEmbedding
from nemovlm import Embedder, Passage
from nemovlm.errors import (
    AuthenticationError,
    ConfigurationError,
    EngineError,
    InputError,
    InputTooLongError,
    ModelNotServedError,
    NemoVLMError,
    ProtocolError,
    RateLimitedError,
    RequestRefusedError,
    ServerError,
)
from nemovlm.images import encode_png
from nemovlm.wire.address import HOSTED_URL

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:llama_index.*")

V1 = "nvidia/llama-3.2-nemoretriever-1b-vlm-embed-v1"
DATA_URL = "data:image/png;base64," + base64.b64encode(encode_png(case_image("icon"))).decode()
Ours: TypeAlias = NemoVLMEmbeddings | NemoVLMEmbedding


@dataclass(frozen=True)
class Door:
    """One of our classes through its sync or its async methods, which get a new event loop for every call."""

    framework: str
    colour: str

    @property
    def kind(self) -> type[Ours]:
        return NemoVLMEmbeddings if self.framework == "LangChain" else NemoVLMEmbedding

    def texts(self, made: Any, texts: Any) -> Any:
        return self._call(made, "embed_documents", "get_text_embedding_batch", texts)

    def text(self, made: Any, text: Any) -> Any:
        if self.framework == "LangChain":
            return self.texts(made, [text])[0]
        return self._call(made, "embed_documents", "get_text_embedding", text)

    def query(self, made: Any, text: Any) -> Any:
        return self._call(made, "embed_query", "get_query_embedding", text)

    def images(self, made: Any, references: Any) -> Any:
        return self._call(made, "embed_image", "get_image_embedding_batch", references)

    def _call(self, made: Any, langchain: str, llamaindex: str, argument: Any) -> Any:
        method = langchain if self.framework == "LangChain" else llamaindex
        if self.colour == "sync":
            return getattr(made, method)(argument)

        async def call() -> Any:
            return await getattr(made, f"a{method}")(argument)

        return asyncio.run(call())


@dataclass
class Elsewhere:
    """Stands in for hosts that no test reaches: keeps what it is asked, lists `models`, and answers honestly."""

    models: list[dict[str, str]] = field(default_factory=lambda: [{"id": MODEL}])
    put_off: str = ""
    """The `NVCF-REQID` under which replies are put off."""
    requests: list[httpx.Request] = field(default_factory=list)

    @property
    def asked(self) -> list[str]:
        return [f"{request.method} {request.url}" for request in self.requests]

    @property
    def keys(self) -> set[str | None]:
        return {request.headers.get("authorization") for request in self.requests}

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json={"object": "list", "data": self.models})
        if self.put_off and request.method == "POST":
            return httpx.Response(202, headers={"NVCF-REQID": self.put_off})
        body = json.loads(next(known.content for known in reversed(self.requests) if known.method == "POST"))
        vectors = vectors_of(body["input"], body["input_type"])
        rows = [{"index": index, "embedding": vector.tolist()} for index, vector in enumerate(vectors)]
        return httpx.Response(200, json={"data": rows, "model": body["model"]})


@dataclass
class Stage:
    """What a row is run with."""

    door: Door
    wire: FaultServer
    """Records what it is asked, and fails on request."""
    honest: str
    """The address of our server over the tiny checkpoint."""
    local: Embedder
    """The same checkpoint in this process."""
    env: pytest.MonkeyPatch
    folder: Path
    closing: ExitStack

    def make(self, **fields: Any) -> Any:
        """Make one of ours, by default for `wire`; it is closed in the end."""
        if not fields.keys() & {"base_url", "nvidia_base_url", "engine"}:
            fields = {"base_url": self.wire.url} | fields
        made = self.door.kind(**fields)
        self.closing.callback(made.embedder.close)
        return made

    def picture(self, image: Image.Image) -> str:
        """Write an image and return its path, which both classes take."""
        path = self.folder / f"{len(list(self.folder.iterdir()))}.png"
        path.write_bytes(encode_png(image))
        return str(path)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    peer: str
    source: str
    promise: str
    check: Callable[[Stage], None]
    differs: str
    doors: tuple[Door, ...]


TABLE: list[Row] = []
BOTH = ("LangChain", "LlamaIndex")
LISTED = {
    # The files of unit tests that concern embeddings; test_metadata.py, test_decorators.py and others are about chat.
    "LangChain": {
        *("PARAMETERS", "test_embeddings.py", "test_base_url.py", "test_api_key.py", "test_available_models.py"),
        *("test_model.py", "test_register_model.py", "test_202_polling.py", "test_serialization.py"),
        *("test_standard.py", "test_imports.py", "integration test_embeddings.py"),
        *(f"L{number}" for number in range(1, 19)),
    },
    "LlamaIndex": {
        *("PARAMETERS", "test_embeddings_nvidia.py", "test_api_key.py", "test_base_url.py", "test_mode_switch.py"),
        *("test_truncate.py", "test_available_models.py", "test_integration.py"),
        *(f"I{number}" for number in range(1, 12)),
    },
}


def row(
    peer: str,
    source: str,
    promise: str,
    *,
    differs: str = "",
    ours: Sequence[str] = BOTH,
    colours: Sequence[str] = ("sync", "async"),
) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Enter a check into the table. `colours` is one where nothing is embedded."""

    def enter(check: Callable[[Stage], None]) -> Callable[[Stage], None]:
        doors = tuple(Door(framework, colour) for framework in ours for colour in colours)
        TABLE.append(Row(peer, source, promise, check, differs, doors))
        return check

    return enter


def same(got: Any, expected: Any) -> bool:
    return bool(np.allclose(got, expected, atol=1e-5))


ONCE = ("sync",)

# How arguments are called


@row("LangChain", "PARAMETERS", "model, dimensions, truncate, max_batch_size, api_key, base_url are arguments")
@row("LlamaIndex", "PARAMETERS", "model, dimensions, truncate, timeout, max_retries, api_key, base_url are arguments")
def _(stage: Stage) -> None:
    made = stage.make(
        model=MODEL, dimensions=64, truncate="END", api_key="k", max_batch_size=1, timeout=9, max_retries=0
    )
    assert same(stage.door.texts(made, ["a", "b"]), vectors_of(["a", "b"], cut=64))
    assert [request.headers["authorization"] for request in stage.wire.posts] == ["Bearer k"] * 2
    assert [(body["dimensions"], body["truncate"], body["model"]) for body in stage.wire.asked] == [
        (64, "END", MODEL)
    ] * 2


@row("LangChain", "PARAMETERS", "nvidia_base_url, nvidia_api_key, default_headers and verify_ssl are arguments")
def _(stage: Stage) -> None:
    made = stage.make(
        nvidia_base_url=stage.wire.url, nvidia_api_key="k", default_headers={"X-Team": "t"}, verify_ssl=False
    )
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    assert {(request.headers["authorization"], request.headers["x-team"]) for request in stage.wire.requests} == {
        ("Bearer k", "t")
    }
    assert made.embedder.settings.verify is False


@row("LlamaIndex", "PARAMETERS", "http_client and async_http_client are arguments, and the latter does async work")
def _(stage: Stage) -> None:
    elsewhere = Elsewhere()
    with httpx.Client() as never_used:
        made = stage.make(async_http_client=elsewhere.client(), http_client=never_used)
        assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    assert len(elsewhere.requests) == 2
    assert not stage.wire.requests


@row("LlamaIndex", "PARAMETERS", "num_workers, callback_manager, embeddings_cache, rate_limiter", ours=BOTH[1:])
def _(stage: Stage) -> None:
    cache, limiter = SimpleKVStore(), TokenBucketRateLimiter(requests_per_minute=600)
    made = stage.make(
        num_workers=2, callback_manager=CallbackManager(), embeddings_cache=cache, rate_limiter=limiter, model=MODEL
    )
    assert same([stage.door.query(made, "a") for _ in range(2)], vectors_of(["a", "a"], "query"))
    assert len(stage.wire.posts) == 1  # the second came from the cache


@row(
    *("LangChain", "PARAMETERS", "unknown arguments are ignored, and trucate [sic] is truncate"),
    differs="what is misspelt must not go unnoticed; there is no telemetry that could be switched off",
    colours=ONCE,
)
def _(stage: Stage) -> None:
    for name in ("trucate", "modality", "max_batchsize", "usage_telemetry_enabled"):
        with pytest.raises(ValueError, match=name):
            stage.make(**{name: "END"})
    assert stage.make(truncate="END").truncate == "END"


@row(
    *("LlamaIndex", "PARAMETERS", "dimensions=0 and None are the same"),
    differs="a vector of no components is a mistake; None is the way to say nothing",
    colours=ONCE,
)
def _(stage: Stage) -> None:
    with pytest.raises(ValueError, match="dimensions"):
        stage.make(dimensions=0)
    assert stage.make(dimensions=None).embedder.settings.dimensions is None


@row("LangChain", "PARAMETERS", "`[]` is answered with `[]`, and nobody is asked")
@row("LlamaIndex", "PARAMETERS", "`[]` is answered with `[]`, and nobody is asked")
def _(stage: Stage) -> None:
    made = stage.make()
    assert stage.door.texts(made, []) == []
    assert stage.door.images(made, []) == []
    assert stage.wire.connections == 0


# LangChain: test_embeddings.py


@row("LangChain", "test_embeddings.py", "ValueError for texts that are no list of str", ours=BOTH[:1])
def _(stage: Stage) -> None:
    made = stage.make()
    for wrong in (1, 1.5, "abc", [1, 2], [1.5], ["a", 1], ["a", None], [b"a"], ("a", "b"), None, {"a": "b"}):
        with pytest.raises(InputError) as raised:
            stage.door.texts(made, wrong)
        assert isinstance(raised.value, ValueError)
    with pytest.raises(InputError, match=r"item 1: .* not a int") as raised:
        stage.door.texts(made, ["a", 1])
    assert raised.value.index == 1
    assert stage.wire.connections == 0


@row("LangChain", "test_embeddings.py", "ValueError for a truncate that is not NONE, START or END", colours=ONCE)
def _(stage: Stage) -> None:
    for wrong in (True, False, 1, 0, 1.0, "BOGUS", "end"):
        with pytest.raises(ValueError, match="truncate"):
            stage.make(truncate=wrong)


@row("LangChain", "test_embeddings.py", "default_headers reach the wire, also over those of our own")
def _(stage: Stage) -> None:
    made = stage.make(default_headers={"X-Team": "t", "Authorization": "Basic b"}, api_key="k")
    stage.door.texts(made, ["a"])
    stage.door.query(made, "a")
    assert {(request.headers["x-team"], request.headers["authorization"]) for request in stage.wire.requests} == {
        ("t", "Basic b")
    }


@row(
    *("LangChain", "test_embeddings.py", "a listed model of unknown type is warned about"),
    differs="nobody needs a table of models to embed with one; what does not work is an error of the request",
)
@row(
    *("LangChain", "test_model.py", "an unknown model is warned about, be it listed or not"),
    differs="as above: a warning for each new model teaches to ignore warnings",
)
def _(stage: Stage) -> None:
    elsewhere = Elsewhere([{"id": "nvidia/listed"}])
    for model in ("nvidia/listed", "nvidia/unlisted"):  # warnings are errors in this suite
        made = stage.make(base_url=HOSTED_URL, api_key="k", model=model, http_client=elsewhere.client)
        assert same(stage.door.text(made, "a"), vectors_of(["a"])[0])
    assert {json.loads(request.content)["model"] for request in elsewhere.requests} == {
        "nvidia/listed",
        "nvidia/unlisted",
    }


# Where requests go


@row(
    *("LangChain", "test_base_url.py", "NVIDIA's host is the default"),
    differs="documents leave the machine only if that was asked for, by base_url or engine='nim'; a key is no request",
)
@row(
    *("LlamaIndex", "test_base_url.py", "NVIDIA's host is the default"),
    differs="documents leave the machine only if that was asked for, by base_url or engine='nim'; a key is no request",
)
def _(stage: Stage) -> None:
    elsewhere = Elsewhere()
    stage.env.setenv("NVIDIA_API_KEY", "k")
    stage.env.setenv("NVIDIA_BASE_URL", stage.wire.url)
    assert stage.door.kind(model="nemovlm/pocket").embedder.settings.remote is False
    stage.env.delenv("NVIDIA_BASE_URL")
    stage.door.query(stage.make(engine="nim", http_client=elsewhere.client), "a")
    assert elsewhere.asked == ["POST https://integrate.api.nvidia.com/v1/embeddings"]


@row("LangChain", "test_base_url.py", "nvidia_base_url beats base_url, and both beat NVIDIA_BASE_URL")
@row("LlamaIndex", "test_base_url.py", "nvidia_base_url beats base_url, and both beat NVIDIA_BASE_URL")
def _(stage: Stage) -> None:
    nowhere, url = "http://192.0.2.1", stage.wire.url
    for fields, variable in (
        ({"nvidia_base_url": url, "base_url": nowhere}, nowhere),
        ({"nvidia_base_url": None, "base_url": url}, nowhere),
        ({"nvidia_base_url": "", "base_url": url}, nowhere),
        ({"base_url": url}, nowhere),
        ({"engine": "nim"}, url),
    ):
        stage.env.setenv("NVIDIA_BASE_URL", variable)
        assert same(stage.door.query(stage.make(**fields), "a"), vectors_of(["a"], "query")[0])


@row("LangChain", "test_base_url.py", "what is no http(s) URL, or has a user, a query or a fragment, is a ValueError")
@row("LlamaIndex", "test_base_url.py", "what is no URL is a ValueError")
def _(stage: Stage) -> None:
    for wrong in (
        *("bogus", "http:/", "http://", "http:/oops", "ftp://host", "file:///etc/passwd", "localhost:8000"),
        *("http://user:password@host/v1", "http://user@host", "http://host/v1?key=k", "http://host/v1#top"),
    ):
        with pytest.raises(ValueError, match="base_url"):
            stage.make(base_url=wrong)


@row("LangChain", "test_base_url.py", "integrate. and ai.api.nvidia.com are hosted, in any spelling, and no others")
@row("LlamaIndex", "I8", "the base URL with a slash at its end is not taken for a hosted one", colours=ONCE)
def _(stage: Stage) -> None:
    for url, hosted in (
        (HOSTED_URL, True),
        (f"{HOSTED_URL}/", True),
        ("https://integrate.api.nvidia.com", True),
        ("https://INTEGRATE.API.NVIDIA.COM:443/v1", True),
        ("https://ai.api.nvidia.com/v1/retrieval/snowflake/arctic-embed-l", True),
        ("https://integrate.api.nvidia.com.example.org/v1", False),
        ("https://api.nvidia.com/v1", False),
        ("http://localhost:8000/v1/", False),
        ("http://host/integrate.api.nvidia.com/v1", False),
    ):
        (address,) = stage.make(base_url=url, model=MODEL).embedder.settings.addresses
        assert address.hosted is hosted, url
        if hosted:
            with pytest.raises(AuthenticationError, match="wants a key"):
                stage.door.query(stage.make(base_url=url), "a")


@row("LangChain", "test_base_url.py", "the prefix of a proxy is kept, and models are listed below it")
@row("LlamaIndex", "test_base_url.py", "the prefix of a proxy is kept, and models are listed below it")
def _(stage: Stage) -> None:
    for prefix in ("", "/path0", "/path0/path1/path2", "/v1/proxy"):
        for tail in ("", "/", "/v1", "/v1/"):
            elsewhere = Elsewhere()
            made = stage.make(base_url=f"http://proxy.example:81{prefix}{tail}", http_client=elsewhere.client)
            assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
            base = f"http://proxy.example:81{prefix}/v1"
            assert elsewhere.asked == [f"GET {base}/models", f"POST {base}/embeddings"]


@row(
    *("LangChain", "test_base_url.py", "a URL that ends in /embeddings, /models or the like is a ValueError"),
    differs="the whole URL of the route is what people have at hand, so it works; any other path may be a prefix, and "
    "if it is none, the first request says so",
)
def _(stage: Stage) -> None:
    made = stage.make(base_url=f"{stage.wire.url}/v1/embeddings")
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    for path in ("models", "completions", "chat/completions", "ranking", "reranking"):
        with pytest.raises(ModelNotServedError, match=r"404.*check .*base_url"):
            stage.door.query(stage.make(base_url=f"{stage.wire.url}/v1/{path}", model=MODEL), "a")


@row(
    *("LangChain", "test_base_url.py", "NVIDIA_APPEND_API_VERSION=false takes base_url without /v1"),
    differs="a server without /v1 is named by the whole URL of its route; no variable changes what a URL means",
)
def _(stage: Stage) -> None:
    for value in ("false", "true"):
        stage.env.setenv("NVIDIA_APPEND_API_VERSION", value)
        elsewhere = Elsewhere()
        for url in ("http://host.example/api", "http://host.example/api/embeddings"):
            stage.door.query(stage.make(base_url=url, model=MODEL, http_client=elsewhere.client), "a")
        assert elsewhere.asked == [
            "POST http://host.example/api/v1/embeddings",
            "POST http://host.example/api/embeddings",
        ]


# Keys


@row(
    *("LangChain", "test_api_key.py", "a hosted base URL without key is one warning"),
    differs="it cannot work, so it is an error, with the name of the variable; before anything is sent",
)
@row(
    *("LlamaIndex", "test_api_key.py", "a hosted base URL without key is a ValueError of the constructor"),
    differs="objects are made before keys are there, in tests and in workers; the first use raises before it sends",
)
def _(stage: Stage) -> None:
    elsewhere = Elsewhere()
    made = stage.make(base_url=HOSTED_URL, http_client=elsewhere.client)
    for call in (lambda: stage.door.query(made, "a"), lambda: stage.door.texts(made, ["a"])):
        with pytest.raises(AuthenticationError, match="set NVIDIA_API_KEY"):
            call()
    with pytest.raises(AuthenticationError, match="set NVIDIA_API_KEY"):
        _ = made.available_models
    assert not elsewhere.requests


@row("LangChain", "test_api_key.py", "an unknown URL needs no key")
@row("LlamaIndex", "test_api_key.py", "an unknown URL needs no key")
@row("LlamaIndex", "test_mode_switch.py", "an unknown URL works without a key")
@row("LangChain", "L15", "without a key, `Bearer **********` is sent to self-hosted servers")
@row("LlamaIndex", "I9", "without a key, `Bearer NO_API_KEY_PROVIDED` is sent to self-hosted servers")
def _(stage: Stage) -> None:
    made = stage.make()
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    assert made.available_models
    assert [request.headers.get("authorization") for request in stage.wire.requests] == [None] * 3


@row("LangChain", "test_api_key.py", "nvidia_api_key beats api_key, and both beat NVIDIA_API_KEY")
@row("LlamaIndex", "test_api_key.py", "nvidia_api_key beats api_key, and both beat NVIDIA_API_KEY")
@row("LlamaIndex", "test_mode_switch.py", "an unknown URL works with a key")
def _(stage: Stage) -> None:
    stage.env.setenv("NVIDIA_API_KEY", "of-the-environment")
    for fields, key in (
        ({"nvidia_api_key": "theirs", "api_key": "ours"}, "theirs"),
        ({"nvidia_api_key": SecretStr("theirs")}, "theirs"),
        ({"nvidia_api_key": "", "api_key": "ours"}, "ours"),
        ({"nvidia_api_key": None, "api_key": "ours"}, "ours"),
        ({"api_key": "ours"}, "ours"),
        ({}, "of-the-environment"),
    ):
        elsewhere = Elsewhere()
        stage.door.query(stage.make(base_url=HOSTED_URL, http_client=elsewhere.client, **fields), "a")
        assert elsewhere.keys == {f"Bearer {key}"}
        if fields:
            stage.door.query(stage.make(**fields), "a")
            assert stage.wire.requests[-1].headers["authorization"] == f"Bearer {key}"


@row(
    *("LangChain", "test_api_key.py", "NVIDIA_API_KEY is sent to whatever base_url is"),
    differs="a key of NVIDIA's is nobody else's business; api_key or NEMOVLM_API_KEY is sent to a server of one's own",
)
@row(
    *("LlamaIndex", "test_api_key.py", "NVIDIA_API_KEY is sent to whatever base_url is"),
    differs="a key of NVIDIA's is nobody else's business; api_key or NEMOVLM_API_KEY is sent to a server of one's own",
)
def _(stage: Stage) -> None:
    stage.env.setenv("NVIDIA_API_KEY", "nvapi-secret")
    stage.door.query(stage.make(), "a")
    assert [request.headers.get("authorization") for request in stage.wire.requests] == [None] * 2
    stage.env.setenv("NEMOVLM_API_KEY", "own")
    stage.door.query(stage.make(model=MODEL), "a")
    assert stage.wire.requests[-1].headers["authorization"] == "Bearer own"


@row("LangChain", "test_api_key.py", "a key is kept as SecretStr, and nothing shows it", colours=ONCE)
def _(stage: Stage) -> None:
    for name in ("api_key", "nvidia_api_key"):
        made = stage.make(**{name: "nvapi-secret"})
        assert made.api_key == SecretStr("nvapi-secret")
        assert "nvapi-secret" not in f"{made!r} {made} {made.model_dump()} {made.embedder!r} {made.embedder.settings!r}"


# Which models there are


@row("LangChain", "test_available_models.py", "models are listed, hosted or not, by an object and by its class")
@row("LlamaIndex", "test_available_models.py", "models are listed, hosted or not, by an object")
def _(stage: Stage) -> None:
    stage.wire.models = ["a/first", "b/second"]
    assert stage.make().available_models == ["a/first", "b/second"]
    assert stage.door.kind.get_available_models(nvidia_base_url=stage.wire.url) == ["a/first", "b/second"]
    elsewhere = Elsewhere([{"id": "nvidia/x"}])
    fields = {"engine": "nim", "nvidia_api_key": "k", "http_client": elsewhere.client}
    assert stage.door.kind.get_available_models(**fields) == ["nvidia/x"]
    assert elsewhere.asked == ["GET https://integrate.api.nvidia.com/v1/models"]
    assert elsewhere.keys == {"Bearer k"}


@row(
    *("LangChain", "test_available_models.py", "models are objects with properties, from a table in the package"),
    differs="ids are all that a server tells; a table of the others is out of date the day after",
    colours=ONCE,
)
@row(
    *("LlamaIndex", "test_available_models.py", "models are objects with properties, hosted ones from a table"),
    differs="ids are all that a server tells; a table of the others is out of date the day after",
    colours=ONCE,
)
def _(stage: Stage) -> None:
    assert [type(model) for model in stage.make().available_models] == [str]
    with pytest.raises(ConfigurationError, match="no model was chosen"):  # and no server to ask either
        stage.door.kind.get_available_models()


@row(
    *("LangChain", "test_available_models.py", "one request for models and one warning per construction"),
    differs="constructing asks nobody; each look at available_models asks anew, once",
    colours=ONCE,
)
def _(stage: Stage) -> None:
    made = stage.make()
    assert not stage.wire.requests
    for count in (1, 2):
        assert made.available_models == [MODEL]
        assert [request.target for request in stage.wire.requests] == ["/v1/models"] * count


@row("LangChain", "test_available_models.py", "an id that is listed twice is one model")
def _(stage: Stage) -> None:
    stage.wire.models = [MODEL, MODEL, "b", "b"]
    made = stage.make()
    assert made.available_models == [MODEL, "b"]
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    assert stage.wire.asked[0]["model"] == MODEL


@row("LangChain", "test_model.py", "a known model is accepted without a word")
def _(stage: Stage) -> None:
    assert same(stage.door.query(stage.make(model=MODEL), "a"), vectors_of(["a"], "query")[0])
    assert [request.target for request in stage.wire.requests] == ["/v1/embeddings"]


@row(
    *("LangChain", "test_model.py", "a deprecated model is warned about if it is hosted"),
    differs="what NVIDIA retires is not known here; a model that is gone is a ModelNotServedError",
)
def _(stage: Stage) -> None:
    elsewhere = Elsewhere()
    made = stage.make(model=V1, base_url=HOSTED_URL, api_key="k", http_client=elsewhere.client)
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    with pytest.raises(ModelNotServedError, match=f"does not exist.*it serves: {MODEL}"):
        stage.door.query(stage.make(model=V1), "a")


@row(
    *(
        "LangChain",
        "test_model.py",
        "a self-hosted server is asked for a model by the name that was given, alias or not",
    ),
)
def _(stage: Stage) -> None:
    alias = "nvidia/llama-3.2-nv-embedqa-1b-v2"
    stage.wire.models = [alias]
    for fields in ({"model": alias}, {}):
        assert same(stage.door.query(stage.make(**fields), "a"), vectors_of(["a"], "query")[0])
    assert {body["model"] for body in stage.wire.asked} == {alias}


@row(
    *("LangChain", "test_model.py", "without model a self-hosted server's first is taken, with a warning"),
    differs="that a server with one model is asked for this one is no surprise to warn of",
)
@row(
    *("LlamaIndex", "test_base_url.py", "without model a self-hosted server's first is taken, with a warning"),
    differs="that a server with one model is asked for this one is no surprise to warn of",
)
@row("LlamaIndex", "test_mode_switch.py", "without model a self-hosted server's first is taken")
def _(stage: Stage) -> None:
    stage.wire.models = ["nvidia/x", "nvidia/y"]
    made = stage.make()
    assert same(stage.door.text(made, "a"), vectors_of(["a"])[0])
    assert [body["model"] for body in stage.wire.asked[-1:]] == ["nvidia/x"]
    assert made.embedder.model == "nvidia/x"
    stage.wire.models = []
    with pytest.raises(ModelNotServedError, match="no model was chosen, and the server has none"):
        stage.door.text(stage.make(), "a")


@row("LangChain", "test_model.py", "an adapter (LoRA) is a model like others, and never the default")
@row("LlamaIndex", "test_mode_switch.py", "an adapter (LoRA) is a model like others, and never the default")
def _(stage: Stage) -> None:
    models = [{"id": "lora", "root": "base"}, {"id": "base", "root": "base"}]
    for fields, model in (({}, "base"), ({"model": "lora"}, "lora")):
        elsewhere = Elsewhere(models)
        made = stage.make(base_url="http://nim.example", http_client=elsewhere.client, **fields)
        assert same(stage.door.text(made, "a"), vectors_of(["a"])[0])
        assert json.loads(elsewhere.requests[-1].content)["model"] == model


@row(
    *("LangChain", "test_model.py", "a model of another kind is warned about: 'incompatible with client'"),
    differs="the server knows what its models can do, and its refusal is the error",
)
def _(stage: Stage) -> None:
    stage.wire.always = says(400, {"error": "meta/llama-3.1-8b-instruct does not support embeddings"})
    stage.wire.models = ["meta/llama-3.1-8b-instruct"]
    with pytest.raises(RequestRefusedError, match="does not support embeddings"):
        stage.door.query(stage.make(model="meta/llama-3.1-8b-instruct", dimensions=8), "a")


@row(
    *("LangChain", "test_register_model.py", "register_model() makes an unknown model usable without warnings"),
    differs="every id is usable, so there is nothing to register; a model's own endpoint is its base_url",
)
def _(stage: Stage) -> None:
    assert not hasattr(langchain_nemovlm, "register_model")
    assert not hasattr(langchain_nemovlm, "Model")
    elsewhere = Elsewhere()
    made = stage.make(model="my/model", base_url="http://nim.example/my/own/embeddings", http_client=elsewhere.client)
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    assert elsewhere.asked[-1] == "POST http://nim.example/my/own/embeddings"
    assert json.loads(elsewhere.requests[-1].content)["model"] == "my/model"


# Protocol


@row("LangChain", "test_202_polling.py", "a hosted reply that is put off is asked for at NVIDIA's, with the same key")
def _(stage: Stage) -> None:
    elsewhere = Elsewhere(put_off="0a1b-2c")
    made = stage.make(base_url=HOSTED_URL, api_key="k", http_client=elsewhere.client)
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    assert elsewhere.asked == [
        "POST https://integrate.api.nvidia.com/v1/embeddings",
        "GET https://api.nvcf.nvidia.com/v2/nvcf/pexec/status/0a1b-2c",
    ]
    assert elsewhere.keys == {"Bearer k"}


@row(
    *("LangChain", "test_202_polling.py", "a reply that another server put off is asked for at NVIDIA's, too"),
    differs="the key of one server is never shown to another, so the one that put it off is asked",
)
def _(stage: Stage) -> None:
    stage.wire.script.append(says(202, NVCF_REQID="0a1b-2c"))
    assert same(stage.door.query(stage.make(model=MODEL, api_key="k"), "a"), vectors_of(["a"], "query")[0])
    assert [(request.method, request.target, request.headers["authorization"]) for request in stage.wire.requests] == [
        ("POST", "/v1/embeddings", "Bearer k"),
        ("GET", "/v2/nvcf/pexec/status/0a1b-2c", "Bearer k"),
    ]


@row("LangChain", "test_serialization.py", "a fresh object survives pickling")
def _(stage: Stage) -> None:
    fields = {"api_key": "k", "default_headers": {"X-Team": "t"}, "dimensions": 32, "truncate": "END"}
    again = pickle.loads(pickle.dumps(stage.make(**fields)))
    stage.closing.callback(again.embedder.close)
    assert same(stage.door.query(again, "a"), vectors_of(["a"], "query", 32)[0])
    sent = stage.wire.posts[-1]
    assert (sent.headers["authorization"], sent.headers["x-team"], sent.json["truncate"]) == ("Bearer k", "t", "END")


@row("LangChain", "L13", "after one async call an object cannot be pickled, and threads share its last reply")
@row("LlamaIndex", "I7", "pickling drops the clients, so that the copy does not work")
def _(stage: Stage) -> None:
    made = stage.make(model=MODEL)
    first = [stage.door.query(made, "a"), stage.door.text(made, "a")]
    again = pickle.loads(pickle.dumps(made))
    stage.closing.callback(again.embedder.close)
    assert [stage.door.query(again, "a"), stage.door.text(again, "a")] == first
    texts = [f"text {number}" for number in range(24)]
    with ThreadPoolExecutor(8) as threads:
        vectors = list(threads.map(lambda text: stage.door.query(made, text), texts))
    assert same(vectors, vectors_of(texts, "query"))


@row("LangChain", "test_standard.py", "it is an Embeddings, which passes the framework's standard tests", ours=BOTH[:1])
def _(stage: Stage) -> None:
    made = stage.make(base_url=stage.honest)
    assert isinstance(made, Embeddings)
    vectors = [stage.door.query(made, "a"), *stage.door.texts(made, ["a", "b"])]
    assert {(type(vector), type(vector[0]), len(vector)) for vector in vectors} == {(list, float, 128)}


@row("LangChain", "test_imports.py", "the package exports what it says", ours=BOTH[:1], colours=ONCE)
def _(stage: Stage) -> None:
    for package in (langchain_nemovlm, llamaindex_nemovlm):
        assert all(hasattr(package, name) for name in package.__all__)
    assert {"NemoVLMEmbeddings", "NemoVLMPDFLoader"} <= set(langchain_nemovlm.__all__)
    assert {"NemoVLMEmbedding", "NemoVLMPDFReader"} <= set(llamaindex_nemovlm.__all__)


# Integration: a server with a model


@row("LangChain", "integration test_embeddings.py", "queries and documents, one and several, are embedded as such")
@row("LlamaIndex", "test_integration.py", "queries and documents, one and several, are embedded as such")
@row("LlamaIndex", "I1", "sync queries are embedded as passages")
def _(stage: Stage) -> None:
    made = stage.make(base_url=stage.honest)
    texts = ["one", "two", "three " * 20]
    assert same(stage.door.texts(made, texts), stage.local.embed(texts))
    assert same(stage.door.text(made, "one"), stage.local.embed(["one"])[0])
    assert same(stage.door.query(made, "one"), stage.local.embed_query("one"))
    assert not same(stage.door.query(made, "one"), stage.door.text(made, "one"))
    wired = stage.make(model=MODEL)
    stage.door.query(wired, "one")
    stage.door.text(wired, "one")
    assert [body["input_type"] for body in stage.wire.asked] == ["query", "passage"]


@row("LangChain", "integration test_embeddings.py", "a text of 10,240 words is an error, also in the midst of others")
@row("LlamaIndex", "test_integration.py", "a text that is too long is an error")
def _(stage: Stage) -> None:
    made = stage.make(base_url=stage.honest)
    long = "word " * 10240
    for call in (lambda: stage.door.query(made, long), lambda: stage.door.text(made, long)):
        with pytest.raises(InputTooLongError):
            call()
    with pytest.raises(InputTooLongError, match="item 1:") as raised:
        stage.door.texts(made, ["short", long, "short"])
    assert raised.value.index == 1
    assert isinstance(raised.value, ValueError)


@row("LangChain", "integration test_embeddings.py", "truncate START and END cut what is too long")
@row("LlamaIndex", "test_integration.py", "truncate START and END cut what is too long")
def _(stage: Stage) -> None:
    long = "first " * 1500 + "last " * 1500
    for truncate in ("START", "END"):
        made = stage.make(base_url=stage.honest, truncate=truncate)
        assert same(stage.door.texts(made, ["a", long]), stage.local.embed(["a", long], truncate=truncate))
    assert not same(*(stage.local.embed([long], truncate=truncate) for truncate in ("START", "END")))


@row("LangChain", "integration test_embeddings.py", "101 texts in batches of 50 come back in order")
def _(stage: Stage) -> None:
    made = stage.make(model=MODEL, max_batch_size=50)
    texts = [f"text {number}" for number in range(101)]
    assert same(stage.door.texts(made, texts), vectors_of(texts))
    sizes = [len(body["input"]) for body in stage.wire.asked]
    assert sum(sizes) == 101
    assert max(sizes) <= 50


@row("LangChain", "integration test_embeddings.py", "dimensions are honoured by queries and documents")
@row("LlamaIndex", "test_integration.py", "dimensions are honoured by queries and documents")
@row("LlamaIndex", "I2", "async calls leave dimensions out")
def _(stage: Stage) -> None:
    for dimensions in (32, 64, 128):
        made = stage.make(base_url=stage.honest, dimensions=dimensions)
        cut = stage.local.embed(["a"])[0][:dimensions]
        assert same(stage.door.text(made, "a"), cut / np.linalg.norm(cut))
        assert len(stage.door.query(made, "a")) == dimensions
    wired = stage.make(model=MODEL, dimensions=32)
    stage.door.query(wired, "a")
    stage.door.text(wired, "a")
    stage.door.images(wired, [stage.picture(case_image("icon"))])
    assert [body["dimensions"] for body in stage.wire.asked] == [32] * 3


@row(
    *("LangChain", "integration test_embeddings.py", "102400 dimensions are clamped to what the model has"),
    differs="an index is built for a number of components: fewer than were asked for are an error there, or here",
)
@row(
    *("LlamaIndex", "test_integration.py", "102400 dimensions are clamped to what the model has"),
    differs="an index is built for a number of components: fewer than were asked for are an error there, or here",
)
def _(stage: Stage) -> None:
    with pytest.raises(ConfigurationError, match="dimensions=102400 is more than the 2048"):
        stage.make(model=MODEL, dimensions=102400)
    made = stage.make(base_url=stage.honest, dimensions=102400)
    for call in (lambda: stage.door.query(made, "a"), lambda: stage.door.text(made, "a")):
        with pytest.raises(EngineError, match=r"400.*from 1 to 128, not 102400"):
            call()


@row("LangChain", "integration test_embeddings.py", "dimensions=-1 is an error, at once", colours=ONCE)
@row("LlamaIndex", "test_integration.py", "dimensions=-1 is an error, at once", colours=ONCE)
def _(stage: Stage) -> None:
    with pytest.raises(ValueError, match="dimensions"):
        stage.make(dimensions=-1)


# LlamaIndex


@row("LlamaIndex", "test_embeddings_nvidia.py", "it is an embedding of LlamaIndex", ours=BOTH[1:], colours=ONCE)
@row("LlamaIndex", "I4", "it is no MultiModalEmbedding, and takes no images", ours=BOTH[1:], colours=ONCE)
def _(stage: Stage) -> None:
    made = stage.make(base_url=stage.honest)
    assert isinstance(made, BaseEmbedding)
    assert isinstance(made, MultiModalEmbedding)
    assert made.class_name() == "NemoVLMEmbedding"
    image = case_image("square")
    expected = stage.local.embed([image])[0]
    assert same(made.get_image_embedding(BytesIO(encode_png(image))), expected)
    assert same(asyncio.run(made.aget_image_embedding(stage.picture(image))), expected)


@row("LlamaIndex", "test_embeddings_nvidia.py", "timeout and max_retries reach the client", colours=ONCE)
@row("LlamaIndex", "I6", "the fields timeout and max_retries keep their defaults, whatever was passed", colours=ONCE)
def _(stage: Stage) -> None:
    made = stage.make(timeout=3, max_retries=1)
    assert (made.timeout, made.max_retries) == (3, 1)
    assert (made.embedder.settings.timeout, made.embedder.settings.max_retries) == (3, 1)


@row(
    *("LlamaIndex", "test_embeddings_nvidia.py", "embed_batch_size over 259 is a ValueError"),
    differs="how much LlamaIndex hands over at once (its own limit is 2048) is not how much goes into one request",
    ours=BOTH[1:],
)
@row("LlamaIndex", "I9", "the size of a batch is checked by assert, which -O leaves out", ours=BOTH[1:])
def _(stage: Stage) -> None:
    for wrong in (2049, 0, -5):
        with pytest.raises(ValueError, match="embed_batch_size"):
            stage.make(embed_batch_size=wrong)
    texts = [f"text {number}" for number in range(300)]
    assert same(stage.door.texts(stage.make(model=MODEL, embed_batch_size=300), texts), vectors_of(texts))
    assert max(len(body["input"]) for body in stage.wire.asked) == 64


@row("LlamaIndex", "test_embeddings_nvidia.py", "the async methods are coroutines", ours=BOTH[1:], colours=ONCE)
def _(stage: Stage) -> None:
    for kind in ("query_embedding", "text_embedding", "text_embeddings", "image_embedding", "image_embeddings"):
        assert inspect.iscoroutinefunction(getattr(NemoVLMEmbedding, f"_aget_{kind}"))


@row("LlamaIndex", "test_embeddings_nvidia.py", "embedding is an event for callbacks", ours=BOTH[1:])
def _(stage: Stage) -> None:
    handler = LlamaDebugHandler(print_trace_on_end=False)
    made = stage.make(model=MODEL, callback_manager=CallbackManager([handler]))
    stage.door.query(made, "a")
    stage.door.texts(made, ["a", "b"])
    assert len(handler.get_event_pairs(CBEventType.EMBEDDING)) == 2


@row(
    *("LlamaIndex", "test_mode_switch.py", "mode('nim', base_url=...) switches an object over"),
    differs="mode() was deprecated there, too; an object is what it was made as",
    colours=ONCE,
)
def _(stage: Stage) -> None:
    assert not hasattr(stage.make(), "mode")


@row("LlamaIndex", "test_truncate.py", "every request says truncate, single and batch, for queries and texts")
def _(stage: Stage) -> None:
    for truncate in (None, "NONE", "START", "END"):
        stage.wire.requests.clear()
        made = stage.make(model=MODEL, truncate=truncate)
        stage.door.query(made, "a")
        stage.door.text(made, "a")
        stage.door.texts(made, ["a", "b"])
        assert [body["truncate"] for body in stage.wire.asked] == [truncate or "NONE"] * 3


# Weaknesses of NVIDIAEmbeddings that ours must not have


@row("LangChain", "L1", "modality and embedding_type are never sent, and arguments by these names are ignored")
def _(stage: Stage) -> None:
    made = stage.make(model=MODEL, embedding_type="int8")
    stage.door.query(made, "a")
    stage.door.texts(made, ["a", f"see {DATA_URL}"])
    stage.door.images(made, [stage.picture(case_image("icon"))])
    assert [(body["modality"], body["embedding_type"]) for body in stage.wire.asked] == [
        ("text", "int8"),
        ("text", "int8"),
        ("image", "int8"),
    ]


@row(
    *("LangChain", "L1", "`user` is never sent"),
    differs="NVIDIA's reference says that it is ignored; a header says who calls",
    colours=ONCE,
)
def _(stage: Stage) -> None:
    with pytest.raises(ValueError, match="user"):
        stage.make(user="me")


@row("LangChain", "L2", "images are data URLs made by hand, and texts that hold one are taken for images")
def _(stage: Stage) -> None:
    made = stage.make(base_url=stage.honest)
    image = case_image("square")
    text = f"this is a data URL: {DATA_URL}"
    assert same(stage.door.images(made, [stage.picture(image)]), stage.local.embed([image]))
    alone = Passage(image=DATA_URL) if stage.door.framework == "LangChain" else DATA_URL  # as the card's example has it
    assert same(stage.door.texts(made, [DATA_URL, text]), stage.local.embed([alone, text]))
    assert same(stage.door.query(made, text), stage.local.embed_query(text))


@row("LangChain", "L3", "an image cannot be a query")
def _(stage: Stage) -> None:
    made = stage.make(base_url=stage.honest)
    names = ("portrait", "square", "noise")
    pages = stage.local.embed([case_image(name) for name in names])
    for index, name in enumerate(names):  # what is sought by its image is found by it
        (vector,) = stage.door.images(made, [stage.picture(case_image(name))])
        assert int(np.argmax(pages @ np.array(vector))) == index
    stage.door.images(stage.make(model=MODEL), [stage.picture(case_image("icon"))])
    assert stage.wire.asked[-1]["input_type"] == "passage"  # a NIM takes no image with 'query'


@row("LangChain", "L4", "timeout is accepted and ignored")
def _(stage: Stage) -> None:
    stage.wire.always = late(30)
    with pytest.raises(ServerError, match=r"no reply within \d\.\d seconds"):
        stage.door.query(stage.make(model=MODEL, timeout=0.05, max_retries=0), "a")
    assert len(stage.wire.requests) == 1


@row("LangChain", "L5", "nothing is tried again, be it 429, 503 or 413")
def _(stage: Stage) -> None:
    stage.wire.script.extend([says(429, {"error": "slow down"}, Retry_After="0"), says(503, Retry_After="0")])
    made = stage.make(model=MODEL)
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    assert stage.wire.replies == [429, 503, 200]
    stage.wire.replies.clear()
    stage.wire.max_bytes = 1500  # four of these texts are too much for one request
    texts = [f"{number}" * 400 for number in range(4)]
    assert same(stage.door.texts(made, texts), vectors_of(texts))
    assert stage.wire.replies[0] == 413
    assert stage.wire.replies.count(200) == 2


@row("LangChain", "L6", "async requests are sent one after the other")
@row("LlamaIndex", "I11", "requests are sent one after the other, in sync code always")
def _(stage: Stage) -> None:
    stage.wire.always = late(0.2)
    texts = ["a", "b", "c", "d"]
    assert same(stage.door.texts(stage.make(model=MODEL, max_batch_size=1), texts), vectors_of(texts))
    assert stage.wire.most_busy > 1
    stage.wire.most_busy = 0
    stage.door.texts(stage.make(model=MODEL, max_batch_size=1, max_concurrency=2), texts)
    assert stage.wire.most_busy <= 2


@row("LangChain", "L7", "every request opens a connection of its own, and nobody closes it")
def _(stage: Stage) -> None:
    made = stage.make(model=MODEL)
    for text in "abcde":
        stage.door.query(made, text)
        stage.door.texts(made, [text])
    assert len(stage.wire.requests) == 10
    assert stage.wire.connections == 1


@row("LangChain", "L8", "errors are bare Exceptions without a status")
def _(stage: Stage) -> None:
    for status, kind in (
        *((400, RequestRefusedError), (401, AuthenticationError), (403, AuthenticationError)),
        *((404, ModelNotServedError), (413, InputError), (422, RequestRefusedError), (429, RateLimitedError)),
        *((500, ServerError), (502, ServerError), (503, ServerError)),
    ):
        body = {"error": f"nvapi-secret says {DATA_URL} " + "and more " * 500}
        stage.wire.always = says(status, body, X_Request_Id="r-1", Retry_After="60")
        made = stage.make(model=MODEL, api_key="nvapi-secret", max_retries=0, deadline=20)
        with pytest.raises(kind, match=f"{stage.wire.host} answered {status}: .* says ") as raised:
            stage.door.query(made, "a")
        assert (raised.value.status, raised.value.request_id) == (status, "r-1")
        assert "nvapi" not in str(raised.value)
        assert "base64" not in str(raised.value)
        assert len(str(raised.value)) < 500


@row("LangChain", "L9", "the parser of errors fails on bodies that it does not know")
def _(stage: Stage) -> None:
    made = stage.make(model=MODEL)
    for body, said in (
        ({"detail": None}, ""),
        (["an array"], "an array"),
        ({"detail": [{"loc": ["body", "truncate"], "msg": "Input should be 'NONE'", "type": "enum"}]}, "truncate"),
        ({"error": {"message": "of OpenAI's", "type": "x", "code": None}}, "of OpenAI's"),
        ({"title": "Bad Request", "status": 422, "detail": "of NVCF's"}, "of NVCF's"),
        (b"<html><h1>of a proxy</h1></html>", "of a proxy"),
        (b"", ""),
        (b"null", ""),
        (b"\xff\xfe", ""),
    ):
        stage.wire.always = says(422, body)
        with pytest.raises(NemoVLMError, match=said or None) as raised:
            stage.door.query(made, "a")
        assert raised.value.status == 422


@row("LangChain", "L10", "fewer vectors than texts are no error")
@row("LlamaIndex", "I9", "fewer vectors than texts are no error")
def _(stage: Stage) -> None:
    made = stage.make(model=MODEL)
    for change in (
        lambda reply: reply["data"].pop(),
        lambda reply: reply["data"].append(reply["data"][0]),
        lambda reply: reply["data"][0].update(index=1),
    ):
        stage.wire.always = twisted(lambda reply, change=change: change(reply) and None)
        with pytest.raises(ProtocolError, match="for 2 items"):
            stage.door.texts(made, ["a", "b"])


@row("LlamaIndex", "I9", "vectors are taken in the order of the reply, whatever their index")
@row("LangChain", "L10", "vectors are put in the order of their index (this is no weakness)")
def _(stage: Stage) -> None:
    stage.wire.always = twisted(lambda reply: reply["data"].reverse())
    texts = [f"text {number}" for number in range(9)]
    assert same(stage.door.texts(stage.make(model=MODEL), texts), vectors_of(texts))


@row("LangChain", "L11", "max_batch_size=-5 gives no vectors and no error", colours=ONCE)
def _(stage: Stage) -> None:
    for wrong in (-5, 0):
        with pytest.raises(ValueError, match="max_batch_size"):
            stage.make(max_batch_size=wrong)
    assert stage.make(max_batch_size=1).max_batch_size == 1


@row("LangChain", "L12", "the last request and its reply are kept")
def _(stage: Stage) -> None:
    made = stage.make(model=MODEL)
    stage.door.texts(made, ["warm"])
    with memory() as held:
        stage.door.texts(made, ["x" * 3_000_000])
        stage.wire.requests.clear()
        vector_of.cache_clear()
        assert held() < 500_000


@contextmanager
def memory() -> Iterator[Callable[[], int]]:
    """Yield a function that counts the bytes taken since, and still held."""

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        yield held
    finally:
        tracemalloc.stop()


@row("LangChain", "L14", "the constructor asks the server for its models, and fails where there is no network")
@row("LangChain", "PARAMETERS", "nothing touches the network in a constructor")
@row("LlamaIndex", "PARAMETERS", "nothing touches the network in a constructor")
def _(stage: Stage) -> None:
    elsewhere = Elsewhere()
    for fields in ({}, {"model": "nvidia/unknown"}, {"model": MODEL, "api_key": "k", "dimensions": 8}):
        for url in (stage.wire.url, HOSTED_URL, "http://192.0.2.1", "https://no.such.host.example"):
            assert url in repr(stage.make(base_url=url, http_client=elsewhere.client, **fields))
            assert pickle.loads(pickle.dumps(stage.make(base_url=url, **fields))).base_url == url
    assert stage.wire.connections == 0
    assert not elsewhere.requests


@row("LangChain", "L16", "async calls do not honour SSL_CERT_FILE")
@row("LangChain", "PARAMETERS", "verify_ssl is a CA file, or False")
def _(stage: Stage) -> None:
    context, ca = certificate(stage.folder)
    with failing(tls=context) as server:
        fields = {"base_url": server.url, "model": MODEL, "max_retries": 0}
        expected = vectors_of(["a"], "query")[0]
        with pytest.raises(ServerError, match="certificate"):
            stage.door.query(stage.make(**fields), "a")
        assert same(stage.door.query(stage.make(verify_ssl=str(ca), **fields), "a"), expected)
        assert same(stage.door.query(stage.make(verify_ssl=False, **fields), "a"), expected)
        stage.env.setenv("SSL_CERT_FILE", str(ca))
        assert same(stage.door.query(stage.make(**fields), "a"), expected)
        stage.closing.close()  # before the server goes


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return what a server on loopback shows, signed by nobody but itself."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=loopback", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, cert


@row("LangChain", "L17", "calls to hosted NIMs are reported to another host")
def _(stage: Stage) -> None:
    elsewhere = Elsewhere()
    made = stage.make(base_url=HOSTED_URL, api_key="k", http_client=elsewhere.client)
    stage.door.query(made, "a")
    stage.door.texts(made, ["a"])
    made.embedder.close()
    assert {request.url.host for request in elsewhere.requests} == {"integrate.api.nvidia.com"}


@row("LangChain", "L18", "requests are as large as their items make them")
def _(stage: Stage) -> None:
    made = stage.make(model=MODEL, max_request_bytes=4096)
    texts = [f"{number}" * 1000 for number in range(10)]
    assert same(stage.door.texts(made, texts), vectors_of(texts))
    assert max(len("".join(body["input"])) for body in stage.wire.asked) <= 4096


@row("LangChain", "L18", "images are sent as large as they are")
def _(stage: Stage) -> None:
    made = stage.make(model=MODEL, max_image_bytes=900_000)
    noise = np.random.default_rng(0).integers(0, 255, (1500, 2500, 3), dtype=np.uint8)
    stage.door.images(made, [stage.picture(Image.fromarray(noise))])
    (content,) = stage.wire.asked[0]["input"]
    assert len(base64.b64decode(content.partition(",")[2])) <= 900_000


@row("LangChain", "L18", "nobody tells how many tokens were used, and one bad item costs all others their vectors")
def _(stage: Stage) -> None:
    stage.wire.max_length = 20
    made = stage.make(model=MODEL)
    stage.door.texts(made, ["a", "bc"])
    assert (made.embedder.usage.items, made.embedder.usage.tokens) == (2, 3)
    kept = list(made.embedder.stream(["a", "long " * 20, "b"], on_error="skip"))
    assert kept[1] is None
    assert same([kept[0], kept[2]], vectors_of(["a", "b"]))


@row("LangChain", "L18", "there is no cache")
def _(stage: Stage) -> None:
    cache: dict[str, bytes] = {}
    for _ in range(2):
        made = stage.make(model=MODEL, cache=cache)
        assert same(stage.door.texts(made, ["a", "b"]), vectors_of(["a", "b"]))
    assert len(stage.wire.posts) == 1
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])  # another vector, so it is asked for


# Weaknesses of NVIDIAEmbedding


@row("LlamaIndex", "I3", "a package is imported that is not declared", colours=ONCE)
def _(stage: Stage) -> None:
    package = "langchain_nemovlm" if stage.door.framework == "LangChain" else "llamaindex_nemovlm"
    absent = ("openai", "langchain_nvidia_ai_endpoints", "llama_index.embeddings.nvidia", "torch")
    code = f"import sys; sys.modules.update(dict.fromkeys({absent!r})); import {package}"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)


@row("LlamaIndex", "I5", "a second asyncio.run fails: 'Event loop is closed'", colours=("async",))
def _(stage: Stage) -> None:
    made = stage.make(model=MODEL)
    texts = ["a", "b", "c"]
    method = made.aembed_query if stage.door.framework == "LangChain" else made.aget_query_embedding

    async def several() -> list[list[float]]:
        return await asyncio.gather(*(method(text) for text in texts))

    for _ in range(3):
        assert same(asyncio.run(several()), vectors_of(texts, "query"))


@row("LlamaIndex", "I10", "the model's own endpoint takes the place of base_url")
def _(stage: Stage) -> None:
    for model in ("NV-Embed-QA", "snowflake/arctic-embed-l"):
        elsewhere = Elsewhere()
        made = stage.make(base_url=HOSTED_URL, api_key="k", model=model, http_client=elsewhere.client)
        stage.door.query(made, "a")
        assert made.base_url == HOSTED_URL
        assert set(elsewhere.asked) == {f"POST {HOSTED_URL}/embeddings"}


# The tests


@pytest.fixture
def stage(door: Door, served_vl: str, vl: Embedder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    with failing() as wire, ExitStack() as closing:
        yield Stage(door, wire, served_vl, vl, monkeypatch, tmp_path, closing)


def cases() -> Iterator[Any]:
    """Yield each check once for each door, whatever the number of rows that lead to it."""
    checks: dict[Callable[[Stage], None], list[Row]] = {}
    for entry in TABLE:
        checks.setdefault(entry.check, []).append(entry)
    for check, rows in checks.items():
        name = f"{', '.join(f'{entry.peer} {entry.source}' for entry in rows)}: {rows[0].promise}"
        for door in dict.fromkeys(door for entry in rows for door in entry.doors):
            yield pytest.param(check, door, id=f"{name}-{door.framework} {door.colour}")


@pytest.mark.parametrize(("check", "door"), list(cases()))
def test_row(check: Callable[[Stage], None], stage: Stage) -> None:
    """What the row promises holds for our class as well, or differs as it says, or the weakness is not there."""
    check(stage)


@pytest.mark.parametrize("peer", BOTH)
def test_the_table_is_complete(peer: str) -> None:
    """Every file of the client's tests and every known weakness has a row."""
    assert {entry.source for entry in TABLE if entry.peer == peer} == LISTED[peer]
