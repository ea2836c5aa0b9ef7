"""What the tests beside this file are run with, and the table that they enter themselves into.

A test takes a `stage`. Each `@row` above it names a client, and the promise of its tests or the weakness that the test
answers. It is run for both of our classes through their sync and async methods, unless a row says less.
"""

import asyncio
import base64
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import httpx
import numpy as np
import pytest
from PIL import Image

from langchain_nemovlm import NemoVLMEmbeddings
from llamaindex_nemovlm import NemoVLMEmbedding
from nemovlm import Embedder
from nemovlm.images import encode_png
from tests.support.checkpoints import case_image
from tests.support.faults import MODEL, FaultServer, vectors_of

Ours: TypeAlias = NemoVLMEmbeddings | NemoVLMEmbedding

DATA_URL = "data:image/png;base64," + base64.b64encode(encode_png(case_image("icon"))).decode()

# The frameworks, each with a client of NVIDIA's and a class of ours.
LANGCHAIN = "LangChain"
LLAMAINDEX = "LlamaIndex"
BOTH = (LANGCHAIN, LLAMAINDEX)
COLORS = ("sync", "async")
ONCE = ("sync",)
PARAMETERS = "PARAMETERS"
"""Stands in a row for the name of a file: what is promised are the arguments, and what they mean."""


@dataclass(frozen=True)
class Door:
    """One of our classes through its sync or its async methods, which get a new event loop for every call."""

    framework: str
    color: str

    def __str__(self) -> str:
        return f"{self.framework}-{self.color}"

    @property
    def kind(self) -> type[Ours]:
        return NemoVLMEmbeddings if self.framework == LANGCHAIN else NemoVLMEmbedding

    def texts(self, made: Any, texts: Any) -> Any:
        return self._call(made, "embed_documents", "get_text_embedding_batch", texts)

    def text(self, made: Any, text: Any) -> Any:
        if self.framework == LANGCHAIN:
            return self.texts(made, [text])[0]
        return self._call(made, "embed_documents", "get_text_embedding", text)

    def query(self, made: Any, text: Any) -> Any:
        return self._call(made, "embed_query", "get_query_embedding", text)

    def images(self, made: Any, references: Any) -> Any:
        return self._call(made, "embed_image", "get_image_embedding_batch", references)

    def _call(self, made: Any, langchain: str, llamaindex: str, argument: Any) -> Any:
        method = langchain if self.framework == LANGCHAIN else llamaindex
        if self.color == "sync":
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
        """What it is asked, each thing once: the list of models may be, for the model and for what the server is."""
        return list(dict.fromkeys(f"{request.method} {request.url}" for request in self.requests))

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
    """What a test is run with."""

    door: Door
    wire: FaultServer
    """Records what it is asked, and fails on request."""
    env: pytest.MonkeyPatch
    folder: Path
    closing: ExitStack
    fixture: Callable[[str], Any]
    """Gives a fixture by its name: those that need torch are made for the tests that look at them alone."""

    @property
    def honest(self) -> str:
        """The address of our server over the tiny checkpoint."""
        address: str = self.fixture("served_vl")
        return address

    @property
    def local(self) -> Embedder:
        """The same checkpoint in this process."""
        embedder: Embedder = self.fixture("vl")
        return embedder

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
    """What a test answers, and through which doors."""

    client: str
    source: str
    """A file of the client's own tests, `PARAMETERS`, or the id of a weakness."""
    promise: str
    """What the client's tests promise. Of a weakness of several parts, the one that the test answers."""
    differs: str
    """Why ours does otherwise on purpose, where it does. The test checks that it does."""
    doors: tuple[Door, ...]


TABLE: dict[Callable[..., None], list[Row]] = {}
"""The rows of every test, filled as the files with tests are imported."""

Test = TypeVar("Test", bound=Callable[..., None])


def row(
    client: str,
    source: str,
    promise: str = "",
    *,
    differs: str = "",
    ours: Sequence[str] = BOTH,
    colors: Sequence[str] = COLORS,
) -> Callable[[Test], Test]:
    """Enter a test into the table. `colors` is `ONCE` where nothing is embedded."""
    doors = tuple(Door(framework, color) for framework in ours for color in colors)

    def enter(test: Test) -> Test:
        TABLE.setdefault(test, []).append(Row(client, source, promise, differs, doors))
        return test

    return enter


def doors_of(test: Callable[..., None]) -> list[Door]:
    """Return the doors that the rows of a test name, each once."""
    assert test in TABLE, f"{test.__name__} has no @row to say what it answers"
    return list(dict.fromkeys(door for entry in TABLE[test] for door in entry.doors))


def same(got: Any, expected: Any) -> bool:
    """Whether vectors are those that were expected, as floats are."""
    return bool(np.allclose(got, expected, atol=1e-5))
