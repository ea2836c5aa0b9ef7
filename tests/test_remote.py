"""The remote engine against a server that fails in every way: no item is lost, and none gets a wrong vector."""

import asyncio
import base64
import gc
import json
import logging
import os
import pickle
import shutil
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from faults import (
    DIMENSION,
    FIELDS,
    MODEL,
    Fault,
    FaultServer,
    Reply,
    failing,
    honestly,
    late,
    reset,
    says,
    twisted,
    vector_of,
    vectors_of,
)
from PIL import Image

from nemovlm import Embedder, Passage, runtime
from nemovlm.engines.servers import Deadline, RefusedError, Servers
from nemovlm.errors import (
    AuthenticationError,
    ConfigurationError,
    EngineError,
    ImageError,
    InputError,
    InputTooLongError,
    ModelNotServedError,
    NemoVLMError,
    ProtocolError,
    RateLimitedError,
    RequestRefusedError,
    ServerError,
)
from nemovlm.settings import Settings

pytestmark = [pytest.mark.allow_hosts(["127.0.0.1"]), pytest.mark.timeout(60)]

Call = Callable[..., Awaitable[Any]]
KEY = "nvapi-not_a_real-key.0123456789"
TEXTS = [f"text number {number}" for number in range(64)]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxies the tester's environment has, no test uses them."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repetitions follow at once, and a server that failed is set aside for no longer."""
    monkeypatch.setattr("nemovlm.engines.servers.backoff", lambda _: 0.01)
    monkeypatch.setattr("nemovlm.engines.servers.MAX_WAIT", 0.01)
    monkeypatch.setattr("nemovlm.engines.servers._POLL_SECONDS", 0.01)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with failing() as running:
        yield running


def remote(*servers: FaultServer, model: str | None = MODEL, **knobs: Any) -> Embedder:
    """Return an embedder on servers. Certificates are not read, which takes a while and is of use to few tests."""
    urls = [server.url for server in servers]
    return Embedder(model, **{"base_url": urls, "deadline": 15.0, "verify": False} | knobs)


async def outcomes(call: Call, embedder: Embedder, items: Sequence[Any]) -> tuple[list[Any], list[NemoVLMError]]:
    """Return what each item became, None for an error, and the errors."""
    errors: list[NemoVLMError] = []
    return await call(embedder, "stream", items, on_error=errors.append), errors


async def error_of(call: Call, embedder: Embedder, item: Any = "text") -> NemoVLMError:
    """Return the error of one item."""
    (vector,), (error,) = await outcomes(call, embedder, [item])
    assert vector is None
    return error


def all_right(vectors: Sequence[Any], contents: Sequence[str], role: str = "passage", cut: int = DIMENSION) -> bool:
    """Whether every item has its own vector."""
    return bool(
        len(vectors) == len(contents) and np.abs(np.stack(vectors) - vectors_of(contents, role, cut)).max() < 1e-6
    )


def all_right_but(vectors: Sequence[Any], contents: Sequence[str], bad: set[int]) -> bool:
    """Whether the bad items have no vector, and every other one has its own."""
    good = [index for index in range(len(contents)) if index not in bad]
    return all(vectors[index] is None for index in bad) and (
        not good or all_right([vectors[index] for index in good], [contents[index] for index in good])
    )


def png(shade: int = 0) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (32, 32), (shade, 90, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def url_of(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


# What is sent


@pytest.mark.parametrize(
    ("method", "items", "contents", "role", "modality"),
    [
        ("embed_queries", ["a", "b"], ["a", "b"], "query", "text"),
        ("embed", ["a", "b"], ["a", "b"], "passage", "text"),
        ("embed", [png(1), png(2)], [url_of(png(1)), url_of(png(2))], "passage", "image"),
        ("embed", [Passage("page", png(1))], [f"page\n{url_of(png(1))}"], "passage", "text_image"),
        ("embed", [Passage(" \n", png(1))], [url_of(png(1))], "passage", "image"),
        (
            "embed",
            ["a", png(1), Passage("page", png(2)), url_of(png(3))],
            ["a", url_of(png(1)), f"page\n{url_of(png(2))}", url_of(png(3))],
            "passage",
            ["text", "image", "text_image", "text"],
        ),
    ],
    ids=["queries", "texts", "images", "page", "image with blank text", "mixed"],
)
@pytest.mark.parametrize(
    "knobs", [{}, {"dimensions": 256, "truncate": "END"}, {"truncate": "START"}], ids=["plain", "cut", "start"]
)
async def test_a_request_says_what_it_is(
    server: FaultServer,
    call: Call,
    method: str,
    items: list[Any],
    contents: list[str],
    role: str,
    modality: str | list[str],
    knobs: dict[str, Any],
) -> None:
    """Role, modality, truncation and dimensions go with every request, and nothing that the protocol does not have."""
    with remote(server, **knobs) as embedder:
        vectors = await call(embedder, method, items)
    assert all_right(vectors, contents, role, knobs.get("dimensions", DIMENSION))
    expected = {
        "model": MODEL,
        "input": contents,
        "input_type": role,
        "modality": modality,
        "encoding_format": "base64",
    }
    assert server.asked == [expected | {"truncate": "NONE"} | knobs]
    assert server.replies == [200]


async def test_one_query_is_a_query(server: FaultServer, call: Call) -> None:
    """`embed_query` asks for a query's vector."""
    with remote(server) as embedder:
        assert all_right([await call(embedder, "embed_query", "x")], ["x"], "query")


async def test_truncation_of_one_call(server: FaultServer, call: Call) -> None:
    """`truncate` of a call beats that of the embedder, and calls that differ in it share no request."""
    with remote(server, truncate="START") as embedder:
        await call(embedder, "embed", ["a"], truncate="END")
        await call(embedder, "embed", ["b"])
    assert [body["truncate"] for body in server.asked] == ["END", "START"]


@pytest.mark.parametrize(
    ("joiner", "both", "alone"),
    [
        ("newline", "page\n{}", "{}"),
        ("space", "page {}", "{}"),
        ("img", "page <img src='{}'/>", "<img src='{}'/>"),
    ],
)
async def test_text_and_image_are_joined_as_the_server_wants(
    server: FaultServer, call: Call, joiner: str, both: str, alone: str
) -> None:
    """Generations of servers differ in how one string holds a text and an image."""
    url = url_of(png())
    with remote(server, joiner=joiner) as embedder:
        vectors = await call(embedder, "embed", [Passage("page", png()), png()])
    assert all_right(vectors, [both.format(url), alone.format(url)])


@pytest.mark.parametrize(
    ("given", "route"),
    [
        ("", "/v1/embeddings"),
        ("/", "/v1/embeddings"),
        ("/v1", "/v1/embeddings"),
        ("/v1/", "/v1/embeddings"),
        ("/v1/embeddings", "/v1/embeddings"),
        ("/team/nim", "/team/nim/v1/embeddings"),
        ("/team/nim/v1", "/team/nim/v1/embeddings"),
        ("/retrieval/embeddings", "/retrieval/embeddings"),
    ],
)
async def test_any_spelling_of_the_address(server: FaultServer, call: Call, given: str, route: str) -> None:
    """Host, /v1, slash at the end, a proxy's prefix and the whole route all lead to the route."""
    server.paths = (route,)
    with remote(server, base_url=server.url + given) as embedder:
        assert all_right(await call(embedder, "embed", ["a"]), ["a"])


@pytest.mark.parametrize(
    ("knobs", "sent"),
    [
        ({}, None),
        ({"api_key": KEY}, f"Bearer {KEY}"),
        ({"headers": {"Authorization": "Basic abc"}}, "Basic abc"),
        ({"api_key": KEY, "headers": {"authorization": "Basic abc"}}, "Basic abc"),
    ],
)
async def test_the_key_goes_where_it_belongs(
    server: FaultServer, call: Call, monkeypatch: pytest.MonkeyPatch, knobs: dict[str, Any], sent: str | None
) -> None:
    """`api_key` is sent as a bearer token; NVIDIA_API_KEY is never sent to a host that is not NVIDIA's."""
    monkeypatch.setenv("NVIDIA_API_KEY", "nvapi-for-nvidia-alone")
    with remote(server, **knobs) as embedder:
        await call(embedder, "embed", ["a"])
        embedder.available_models()
    assert [request.headers.get("authorization") for request in server.requests] == [sent, sent]
    assert "for-nvidia-alone" not in repr(server.requests)


async def test_own_headers(server: FaultServer, call: Call) -> None:
    """`headers` go with every request, and who asks says so."""
    with remote(server, headers={"X-Team": "search"}) as embedder:
        await call(embedder, "embed", ["a"])
    (request,) = server.requests
    assert request.headers["x-team"] == "search"
    assert request.headers["user-agent"].startswith("nemovlm/")
    assert request.headers["content-type"] == "application/json"


async def test_own_client(server: FaultServer, call: Call) -> None:
    """An own `httpx.AsyncClient` is used and left open; one that a function made is closed."""
    made: list[httpx.AsyncClient] = []

    def make() -> httpx.AsyncClient:
        made.append(httpx.AsyncClient(headers={"X-Mine": "yes"}, trust_env=False))
        return made[-1]

    for given in (make(), make):
        with remote(server, http_client=given) as embedder:
            assert all_right(await call(embedder, "embed", ["a"]), ["a"])
    assert [client.is_closed for client in made] == [False, True]
    assert [request.headers["x-mine"] for request in server.requests] == ["yes", "yes"]
    runtime.wait(runtime.submit(made[0].aclose()))


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"http_client": httpx.Client}, "httpx.AsyncClient"),
        ({"proxy": "u:secret@nonsense"}, "proxy"),
        ({"headers": {"X": "ü"}}, "nothing can be sent"),
        ({"base_url": "http://256.1.1.1"}, "nothing can be sent"),
        ({"base_url": "http://xn--"}, "nothing can be sent"),
        ({"verify": Path(__file__)}, "verify"),
        ({"cert": "/nowhere/client.pem"}, "cert"),
    ],
)
async def test_what_cannot_work_is_said_at_once(
    server: FaultServer, call: Call, knobs: dict[str, Any], words: str
) -> None:
    """A setting that no request can be made with is a `ConfigurationError`, without secrets, and nothing is sent."""
    with pytest.raises(ConfigurationError, match=words) as raised:
        await call(remote(server, **knobs), "embed", ["a"])
    assert "secret" not in str(raised.value)
    assert not server.requests


# Errors, by the shape of the reply

MESSAGE = "the frobnicator is off"
SHAPES: dict[str, object] = {
    "hosted": {"error": MESSAGE},
    "openai": {"error": {"message": MESSAGE, "type": "some_error", "code": 7}},
    "nim 1": {"object": "error", "message": MESSAGE, "detail": {}, "type": "some_error"},
    "fastapi text": {"detail": MESSAGE},
    "fastapi list": {"detail": [{"type": "some_error", "loc": ["body", "truncate"], "msg": MESSAGE, "input": "x"}]},
    "nvcf": {"type": "urn:x", "title": "Whatever", "status": 1, "detail": MESSAGE, "instance": "/", "requestId": "r-1"},
    "text": MESSAGE.encode(),
    "html": f"<html><style>p {{color: red}}</style><body><h1>{MESSAGE}</h1></body></html>".encode(),
}
KINDS: list[tuple[int, type[NemoVLMError]]] = [
    (400, RequestRefusedError),
    (401, AuthenticationError),
    (402, RequestRefusedError),
    (403, AuthenticationError),
    (404, ModelNotServedError),
    (405, RequestRefusedError),
    (409, RequestRefusedError),
    (410, RequestRefusedError),
    (413, InputError),
    (422, RequestRefusedError),
    (429, RateLimitedError),
    (451, RequestRefusedError),
    (500, ServerError),
    (501, ServerError),
    (503, ServerError),
]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("status", "kind"), KINDS)
def test_every_shape_of_error(server: FaultServer, shape: str, status: int, kind: type[NemoVLMError]) -> None:
    """Status, the server's own words and its request id come out of every shape, in the right type, through pickle."""
    server.always = says(status, SHAPES[shape], **({} if shape == "nvcf" else {"X_Request_Id": "r-1"}))
    with remote(server, max_retries=0, deadline=0.2) as embedder, pytest.raises(NemoVLMError) as raised:
        embedder.embed(["a"])
    for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):
        assert type(error) is kind
        assert (error.status, error.request_id, error.index, error.item) == (status, "r-1", 0, "item 0")
        assert MESSAGE in str(error)
        assert f"{server.host} answered {status}" in str(error)
        assert "<" not in str(error)
        assert "color" not in str(error)


def test_an_error_without_words(server: FaultServer) -> None:
    """`{"detail": null}` is a status and nothing else; NVCF's own header names the request."""
    server.always = says(422, {"detail": None}, NVCF_REQID="r-2")
    with remote(server) as embedder, pytest.raises(RequestRefusedError) as raised:
        embedder.embed(["a"])
    assert str(raised.value) == f"item 0: {server.host} answered 422"
    assert raised.value.request_id == "r-2"


@pytest.mark.parametrize(
    "status", [301, 307, 400, 401, 402, 403, 404, 405, 406, 409, 410, 411, 413, 418, 422, 431, 451]
)
async def test_what_is_refused_is_not_repeated(server: FaultServer, call: Call, status: int) -> None:
    """A refusal that time does not change costs one request."""
    server.always = says(status, {"error": "no"}, Location="http://elsewhere.test/v1")
    with remote(server) as embedder:
        error = await error_of(call, embedder)
    assert error.status == status
    assert len(server.posts) == 1


async def test_a_batch_is_refused_once(server: FaultServer, call: Call) -> None:
    """A refusal that concerns no item is not tried again in parts; every item has an error of its own."""
    server.always = says(401, {"error": "no"})
    with remote(server) as embedder:
        vectors, errors = await outcomes(call, embedder, TEXTS)
    assert vectors == [None] * 64
    assert [error.index for error in errors] == list(range(64))
    assert len(server.posts) == 1


async def test_a_redirect_is_reported(server: FaultServer, call: Call) -> None:
    """The client goes nowhere else with what it has to send; the error says where the server points."""
    server.always = says(307, b"", Location=f"http://elsewhere.test/v1/?token={KEY}")
    with remote(server, api_key=KEY) as embedder:
        error = await error_of(call, embedder)
    assert isinstance(error, RequestRefusedError)
    assert "redirect to http://elsewhere.test" in str(error)
    assert KEY not in str(error)
    assert len(server.requests) == 1


async def test_a_model_that_is_not_served(server: FaultServer, call: Call) -> None:
    """The error lists what the server does have; the one that has the model but not for this account lists nothing."""
    server.models = ["acme/one", "acme/two"]
    with remote(server) as embedder:
        error = await error_of(call, embedder)
        assert isinstance(error, ModelNotServedError)
        assert "it serves: acme/one, acme/two" in str(error)
        assert [request.method for request in server.requests] == ["POST", "GET"]
        server.models = [MODEL]
        server.always = says(404, {"detail": "Function not found for account"})
        error = await error_of(call, embedder)
    assert "Function not found" in str(error)
    assert "it serves" not in str(error)


def test_a_hint_is_no_condition(server: FaultServer) -> None:
    """A 404 from a server that does not list models either is told all the same."""
    server.paths = ("/other/embeddings",)
    with remote(server, base_url=f"{server.url}/nowhere") as embedder, pytest.raises(ModelNotServedError):
        embedder.embed(["a"])


# Failures that pass


def half(honest: Reply) -> Reply:
    """The reply, whole as HTTP and cut off as JSON."""
    return Reply(honest.status, honest.body[: len(honest.body) // 2])


LATE = late(30)

PASSING: dict[str, list[Fault]] = {
    "408": [says(408)],
    "429": [says(429)],
    "429 for now": [says(429, {"error": "slow down"}, Retry_After="0")],
    "429 in a row": [says(429)] * 9,
    "500": [says(500, {"error": "Something went wrong"})],
    "502": [says(502, b"<html>Bad Gateway</html>")],
    "503 in a row": [says(503)] * 4,
    "503 for now": [says(503, b"", Retry_After="0.05")] * 2,
    "504": [says(504)],
    "reset before the reply": [reset()],
    "reset in the head": [reset(25)],
    "reset in the body": [reset(3000)],
    "resets in a row": [reset(), reset(3000), reset(), reset(99)],
    "too slow": [LATE],
    "empty body": [says(200, b"")],
    "truncated JSON": [half],
    "no JSON": [says(200, b"<html>hello</html>")],
    "no UTF-8": [says(200, b'{"data": "\xff"}')],
    "nested too deep": [says(200, b"[" * 50_000)],
    "bad gzip": [says(200, b"this is no gzip", Content_Encoding="gzip")],
    "one after the other": [says(503), reset(), half, says(500), LATE],
}


def patience(*faults: Fault) -> float:
    """Seconds for a reply: few only where one is late on purpose, for a busy machine must not cost an attempt."""
    return 1.5 if LATE in faults else 30.0


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("faults", PASSING.values(), ids=PASSING)
async def test_passing_failures_are_repeated(server: FaultServer, call: Call, faults: list[Fault]) -> None:
    """The same request is sent again until it is answered, and no more often."""
    with remote(server, timeout=patience(*faults)) as embedder:
        await call(embedder, "embed", ["warm"])  # a server that never answered is given up earlier
        server.script.extend(faults)
        assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
    assert len(server.posts) == 1 + len(faults) + 1
    assert len({request.body for request in server.posts[1:]}) == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (says(500, {"error": "Something went wrong"}), ServerError, "Something went wrong"),
        (says(503), ServerError, "503"),
        (reset(), ServerError, "broke off"),
        (LATE, ServerError, "no reply within 1.5 seconds"),
        (half, ProtocolError, "no JSON"),
    ],
    ids=["500", "503", "reset", "late", "half"],
)
async def test_there_is_an_end_to_repetitions(
    server: FaultServer, call: Call, fault: Fault, kind: type[NemoVLMError], words: str
) -> None:
    """`max_retries` repetitions, then the last failure becomes the error, and the next call starts anew."""
    with remote(server, max_retries=2, timeout=patience(fault)) as embedder:
        await call(embedder, "embed", ["warm"])
        server.always = fault
        error = await error_of(call, embedder)
        assert type(error) is kind
        assert words in str(error)
        assert len(server.posts) == 1 + 3
        server.always = honestly
        assert all_right(await call(embedder, "embed", ["a"]), ["a"])


@pytest.mark.usefixtures("quick")
async def test_a_server_that_never_answered_is_given_up_soon(server: FaultServer, call: Call) -> None:
    """Its address is probably wrong: three attempts, however many would be left."""
    server.always = reset()
    with remote(server, max_retries=50) as embedder:
        assert isinstance(await error_of(call, embedder), ServerError)
    assert len(server.posts) == 3


async def test_nobody_listens(call: Call, quick: None) -> None:
    """A server that is not there is an error that names it."""
    with failing() as server:
        server.stop()
        with remote(server) as embedder:
            error = await error_of(call, embedder)
    assert isinstance(error, ServerError)
    assert f"{server.host} could not be reached" in str(error)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", [LATE, says(503), says(429)], ids=["late", "503", "429"])
async def test_the_deadline_ends_it_all(server: FaultServer, call: Call, fault: Fault) -> None:
    """However many repetitions are allowed, `deadline` is the end of them."""
    with remote(server, max_retries=10_000, timeout=0.5, deadline=2) as embedder:
        await call(embedder, "embed", ["warm"])
        server.always = fault
        error = await error_of(call, embedder)
    assert isinstance(error, RateLimitedError if server.replies[-1] == 429 else ServerError)
    assert server.posts[-1].time - server.posts[1].time < 2.5


async def test_a_wait_that_is_too_long_is_not_begun(server: FaultServer, call: Call) -> None:
    """Who is asked to come back after the deadline says so at once, and asks no more until then."""
    server.always = says(429, {"error": "quota"}, Retry_After="3600")
    with remote(server) as embedder:
        for _ in range(2):
            assert isinstance(await error_of(call, embedder), RateLimitedError)
    assert len(server.posts) == 1


async def test_retry_after_in_seconds(server: FaultServer, call: Call) -> None:
    """The server is left alone for as long as it asked, by every request."""
    server.script.append(says(429, b"", Retry_After="1"))
    with remote(server, max_batch_size=1, max_concurrency=4) as embedder:
        assert all_right(await call(embedder, "embed", TEXTS[:12]), TEXTS[:12])
    refused = server.posts[server.replies.index(429)].time
    assert not [post for post in server.posts[4:] if post.time < refused + 0.95]


def test_retry_after_as_a_date(server: FaultServer) -> None:
    """The other spelling of Retry-After is understood as well."""
    then = (datetime.now(UTC) + timedelta(seconds=2)).replace(microsecond=0)
    server.script.append(says(503, b"", Retry_After=format_datetime(then, usegmt=True)))
    with remote(server) as embedder:
        assert all_right(embedder.embed(["a"]), ["a"])
    assert server.posts[1].time >= then.timestamp() - 0.01


# One bad item


@pytest.mark.parametrize("position", [0, 37, 63])
async def test_one_text_too_long(server: FaultServer, call: Call, position: int) -> None:
    """A refusal that names no item costs 63 others nothing, and a few requests."""
    server.max_length = 100
    texts = [*TEXTS[:position], "x" * 576, *TEXTS[position + 1 :]]
    with remote(server) as embedder:
        vectors, (error,) = await outcomes(call, embedder, texts)
    assert all_right_but(vectors, texts, {position})
    assert isinstance(error, InputTooLongError)
    assert (error.index, error.status, error.tokens, error.limit) == (position, 400, 576, 100)
    assert len(server.posts) == 13  # whole, then two parts for each of the six halvings


async def test_several_texts_too_long(server: FaultServer, call: Call) -> None:
    """Each has its own error."""
    server.max_length = 100
    texts = [text if number % 9 else text * 20 for number, text in enumerate(TEXTS)]
    with remote(server) as embedder:
        vectors, errors = await outcomes(call, embedder, texts)
    assert all_right_but(vectors, texts, set(range(0, 64, 9)))
    assert [error.index for error in errors] == list(range(0, 64, 9))


async def test_a_request_over_a_cap_is_divided(server: FaultServer, call: Call) -> None:
    """413: the parts are sent, all vectors are right, and what turned out to be too much is not tried again."""
    server.max_bytes = 8000
    texts = [f"{number} " + "x" * 800 for number in range(64)]
    with remote(server) as embedder:
        assert all_right(await call(embedder, "embed", texts), texts)
        refused = server.replies.count(413)
        assert refused
        assert all_right(await call(embedder, "embed", texts), texts)
    assert server.replies.count(413) == refused


async def test_an_item_over_a_cap(server: FaultServer, call: Call) -> None:
    """It gets an error alone."""
    server.max_bytes = 8000
    texts = [*TEXTS[:9], "x" * 9000, *TEXTS[10:]]
    with remote(server) as embedder:
        vectors, (error,) = await outcomes(call, embedder, texts)
    assert all_right_but(vectors, texts, {9})
    assert isinstance(error, InputError)
    assert (error.index, error.status) == (9, 413)


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("blamed", [{3}, {0, 63}, set(range(64))], ids=["one", "two", "all"])
async def test_items_that_the_server_names(server: FaultServer, call: Call, status: int, blamed: set[int]) -> None:
    """Only those fail, each in the server's words for it; the others cost one more request."""
    details = [{"loc": ["body", "input", n], "msg": f"item {n} is odd", "type": "value_error"} for n in sorted(blamed)]
    server.script.append(says(status, {"detail": details}))
    with remote(server) as embedder:
        vectors, errors = await outcomes(call, embedder, TEXTS)
    assert all_right_but(vectors, TEXTS, blamed)
    assert all(type(error) is InputError and f"item {error.index} is odd" in str(error) for error in errors)
    assert {error.index for error in errors} == blamed
    assert len(server.posts) == (1 if len(blamed) == 64 else 2)


async def test_positions_that_are_none(server: FaultServer, call: Call) -> None:
    """A server that names items which were not sent is not believed."""
    details = [{"loc": ["body", "input", n], "msg": "odd", "type": "x"} for n in (-1, 4, 99)]
    server.script.append(says(422, {"detail": details}))
    with remote(server) as embedder:
        assert all_right(await call(embedder, "embed", TEXTS[:4]), TEXTS[:4])


@pytest.mark.usefixtures("quick")
async def test_an_item_that_the_server_cannot_bear(server: FaultServer, call: Call) -> None:
    """500 for whatever holds one item: it is found, and the others have their vectors."""
    server.always = lambda honest: (
        says(500, {"error": "Something went wrong"})(honest) if TEXTS[5] in server.asked[-1]["input"] else honest
    )
    with remote(server, max_retries=1) as embedder:
        vectors, (error,) = await outcomes(call, embedder, TEXTS[:16])
    assert all_right_but(vectors, TEXTS[:16], {5})
    assert (type(error), error.index, error.status) == (ServerError, 5, 500)


@pytest.mark.parametrize("message", ["cannot decode the image", "invalid image URLs", "base64 is broken"])
async def test_an_image_that_the_server_cannot_read(server: FaultServer, call: Call, message: str) -> None:
    """It is an `ImageError` for an image, and none for a text."""
    server.always = says(422, {"error": message})
    with remote(server) as embedder:
        assert type(await error_of(call, embedder, png())) is ImageError
        assert type(await error_of(call, embedder, "text")) is RequestRefusedError


async def test_an_image_that_is_none_is_never_sent(server: FaultServer, call: Call) -> None:
    """What fails here concerns nobody else."""
    with remote(server) as embedder:
        vectors, (error,) = await outcomes(call, embedder, ["a", b"no image", "b"])
    assert all_right_but(vectors, ["a", "", "b"], {1})
    assert (type(error), error.index) == (ImageError, 1)
    assert server.contents == {"a": 1, "b": 1}


# Replies that are wrong


def rows(change: Callable[[list[dict[str, Any]]], object]) -> Fault:
    """Change the rows of the reply: in place, or into what `change` returns."""

    def change_reply(reply: dict[str, Any]) -> None:
        if (changed := change(reply["data"])) is not None:
            reply["data"] = changed

    return twisted(change_reply)


def numbered(index: object) -> Fault:
    return rows(lambda data: data[2].update(index=index))


def embedded(*embeddings: object) -> Fault:
    """Replace the first embeddings."""

    def change(data: list[dict[str, Any]]) -> None:
        for row, embedding in zip(data, embeddings, strict=False):
            row["embedding"] = embedding

    return rows(change)


WRONG: dict[str, Fault] = {
    "missing": rows(lambda data: data[:-1]),
    "one too many": rows(lambda data: [*data, data[0] | {"index": 4}]),
    "none": rows(lambda data: []),
    "duplicate": numbered(1),
    "out of range": numbered(4),
    "negative": numbered(-1),
    "text": numbered("2"),
    "float": numbered(2.0),
    "bool": rows(lambda data: data[1].update(index=True)),
    "list": numbered([2]),
    "null": numbered(None),
    "no index": rows(lambda data: data[2].pop("index") and None),
    "from one": rows(lambda data: [row | {"index": row["index"] + 1} for row in data]),
    "rows are none": rows(lambda data: [1, 2, 3, 4]),
    "data is none": twisted(lambda reply: reply.pop("data") and None),
    "a list": twisted(lambda reply: reply["data"]),
    "a number": twisted(lambda reply: 7),
    "an error with 200": twisted(lambda reply: {"error": "quota exceeded"}),
    "dimension": embedded(*[[0.5] * 100] * 4),
    "dimensions differ": embedded([0.5] * 2048, [0.5] * 1024),
    "no components": embedded(*[[]] * 4),
    "embedding is null": embedded(None),
    "embedding is a number": embedded(1.0),
    "embedding is nested": embedded([[0.5] * 2048]),
    "embedding is no base64": embedded("äöü"),
    "base64 is cut off": embedded(base64.b64encode(bytes(8191)).decode()),
    "numbers are too large": embedded([10**400] * 2048),
}


@pytest.mark.parametrize("fault", WRONG.values(), ids=WRONG)
async def test_a_reply_that_cannot_be_trusted(server: FaultServer, call: Call, fault: Fault) -> None:
    """No vector is taken from it, it is not asked for again, and the next reply is."""
    server.script.append(fault)
    with remote(server) as embedder:
        vectors, errors = await outcomes(call, embedder, TEXTS[:4])
        assert vectors == [None] * 4
        assert [(type(error), error.index) for error in errors] == [(ProtocolError, index) for index in range(4)]
        assert len({id(error) for error in errors}) == 4
        assert len(server.posts) == 1
        assert all_right(await call(embedder, "embed", TEXTS[:4]), TEXTS[:4])


async def test_rows_in_any_order(server: FaultServer, call: Call) -> None:
    """What a row says of its index counts, not where it stands."""
    server.shuffled = True
    with remote(server) as embedder:
        assert all_right(await call(embedder, "embed", TEXTS), TEXTS)


@pytest.mark.parametrize(
    "numbers",
    [
        [float("nan")] + [0.5] * 2047,
        [None] + [0.5] * 2047,
        [0.5] * 2047 + [float("inf")],
        [-float("inf")] * 2048,
        [1e200] * 2048,
        [0.0] * 2048,
        base64.b64encode(np.full(2048, np.nan, "<f4").tobytes()).decode(),
        base64.b64encode(bytes(8192)).decode(),
    ],
    ids=["NaN", "null", "infinity", "-infinity", "over float32", "zeros", "NaN in base64", "zeros in base64"],
)
async def test_one_vector_that_is_none(server: FaultServer, call: Call, numbers: object) -> None:
    """A vector that is not finite, or zero, is that item's error alone."""

    def change(data: list[dict[str, Any]]) -> None:
        data[1]["embedding"] = numbers

    server.script.append(rows(change))
    with remote(server) as embedder:
        vectors, (error,) = await outcomes(call, embedder, TEXTS[:4])
    assert all_right_but(vectors, TEXTS[:4], {1})
    assert isinstance(error, EngineError)
    assert error.index == 1


# What a server does not understand is given up, once


@pytest.mark.parametrize(
    ("field", "change", "knobs"),
    [
        ("encoding_format", {"encodings": ("float",)}, {}),
        ("dimensions", {"fields": FIELDS - {"dimensions"}}, {"dimensions": 512}),
        ("modality", {"fields": FIELDS - {"modality"}}, {}),
        ("input_type", {"fields": FIELDS - {"input_type"}}, {}),
    ],
)
async def test_a_field_that_is_refused(
    server: FaultServer, call: Call, field: str, change: dict[str, Any], knobs: dict[str, Any]
) -> None:
    """The server refuses it once; from then on it is done without, and vectors are the same."""
    for name, value in change.items():
        setattr(server, name, value)
    cut = knobs.get("dimensions", DIMENSION)
    with remote(server, **knobs) as embedder:
        assert all_right(await call(embedder, "embed", TEXTS), TEXTS, cut=cut)
        assert all_right(await call(embedder, "embed_queries", TEXTS), TEXTS, "query", cut)
        image = url_of(png())
        assert all_right(await call(embedder, "embed", [png()]), [image], cut=cut)
    assert server.replies == [400, 200, 200, 200]
    assert {
        body.get("encoding_format") if field == "encoding_format" else body.get(field) for body in server.asked[1:]
    } == {None}


@pytest.mark.parametrize(
    "body",
    [
        {"error": "This model does not support 'dimensions', but a value of '512' was provided."},
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "dimensions"], "msg": "Extra inputs", "input": 512}]},
        {"message": "Unsupported parameter: unexpected 'dimensions'"},
        {"error": {"message": "dimensions is not supported"}},
    ],
)
async def test_words_for_a_field_that_is_refused(server: FaultServer, call: Call, body: object) -> None:
    """Servers have several of them."""
    server.script.append(says(400, body))
    with remote(server, dimensions=512) as embedder:
        assert all_right(await call(embedder, "embed", ["a"]), ["a"], cut=512)
    assert ["dimensions" in body for body in server.asked] == [True, False]


async def test_refusals_of_many_requests_at_once(server: FaultServer, call: Call) -> None:
    """Requests that were under way when the first was refused go through the same."""
    server.encodings, server.fields, server.jitter = ("float",), FIELDS - {"modality"}, 0.02
    with remote(server, max_batch_size=4) as embedder:
        assert all_right(await call(embedder, "embed", TEXTS), TEXTS)


async def test_a_refusal_that_stays(server: FaultServer, call: Call) -> None:
    """A server that refuses even what is left gives an error, not a loop."""
    server.always = says(400, {"error": "modality is not supported"})
    with remote(server) as embedder:
        assert isinstance(await error_of(call, embedder), RequestRefusedError)
    assert len(server.posts) == 2


# Replies that are put off


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("waits", [0, 1, 3])
async def test_a_reply_that_is_put_off(server: FaultServer, call: Call, waits: int) -> None:
    """202 with NVCF-REQID: the same key asks for the reply until it is there."""
    server.script.append(says(202, b"", NVCF_REQID="abc-123"))
    server.put_off["abc-123"] = waits
    with remote(server, api_key=KEY) as embedder:
        assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
    _, *others = server.requests
    assert [(request.method, request.target) for request in others] == [("GET", "/v2/nvcf/pexec/status/abc-123")] * (
        waits + 1
    )
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
    "headers", [{}, {"NVCF_REQID": "../../steal"}, {"NVCF_REQID": ""}], ids=["none", "path", "empty"]
)
async def test_a_reply_that_is_put_off_nobody_knows_where(
    server: FaultServer, call: Call, headers: dict[str, str]
) -> None:
    """202 without a usable id is an error; the key is sent nowhere else."""
    server.always = says(202, b"", **headers)
    with remote(server, api_key=KEY) as embedder:
        error = await error_of(call, embedder)
    assert "NVCF-REQID" in str(error)
    assert error.status == 202
    assert len(server.requests) == 1


@pytest.mark.usefixtures("quick")
async def test_a_reply_that_is_put_off_for_ever(server: FaultServer, call: Call) -> None:
    """`timeout` is the end of asking."""
    server.always = says(202, b"", NVCF_REQID="abc")
    server.put_off["abc"] = 10**9
    with remote(server, timeout=0.2, max_retries=0) as embedder:
        assert "no reply within" in str(await error_of(call, embedder))


# Secrets


def echo(server: FaultServer, status: int, shape: str) -> Fault:
    """Tell all that was sent in an error, as servers in debug mode do."""

    def fault(honest: Reply) -> Reply:
        request = server.requests[-1]
        everything = f"{request.headers} {request.body.decode()}"
        body: dict[str, object] = {
            "text": everything.encode(),
            "hosted": {"error": everything},
            "openai": {"error": {"message": everything}},
            "list": {"detail": [{"loc": ["body", "input", 0], "msg": everything, "input": request.json}]},
            "cut off": json.dumps({"detail": everything}).encode()[:-2],
            # Errors are cut after some hundred letters: these have the image among the first.
            "image": {"error": f"cannot decode {request.json['input'][-1]}"},
            "base64": {"error": f"cannot decode {request.json['input'][-1].partition('base64,')[2]}"},
            "image, cut off": f'{{"error": "cannot decode {request.json["input"][-1]}'.encode(),
        }
        return says(status, body[shape])(honest)

    return fault


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("shape", ["text", "hosted", "openai", "list", "cut off", "image", "base64", "image, cut off"])
@pytest.mark.parametrize("status", [200, 302, 400, 401, 422, 429, 500])
def test_no_secret_comes_out(server: FaultServer, caplog: pytest.LogCaptureFixture, status: int, shape: str) -> None:
    """Keys and image data are in no message, representation or log, even if the server tells all that it was sent."""
    caplog.set_level(logging.DEBUG)
    key = f"{KEY}/+=" if shape == "text" else "sk-plain"  # one that looks like a key, and one that does not
    server.always = echo(server, status, shape)
    with remote(server, api_key=key, headers={"X-Secret": f"Bearer {key}"}, max_retries=0, deadline=0.2) as embedder:
        errors: list[NemoVLMError] = []
        items = [png(), Passage("page", png(1))]
        assert list(embedder.stream(items, on_error=errors.append)) == [None, None]
        list(embedder.stream(items, on_error="skip"))
        told = [repr(embedder), repr(embedder.settings), repr(embedder.describe()), caplog.text]
    told += [f"{error} {error!r} {vars(error)} {error.__cause__!r}" for error in errors]
    assert "left out" in caplog.text
    for text in told:
        assert key not in text
        assert base64.b64encode(png()).decode()[30:60] not in text
        assert base64.b64encode(png(1)).decode()[30:60] not in text


# Many at once


async def test_order_is_kept(server: FaultServer, call: Call) -> None:
    """Replies come in any order, vectors in that of the items."""
    server.jitter = 0.03
    with remote(server, max_batch_size=3) as embedder:
        assert all_right(await call(embedder, "embed", TEXTS), TEXTS)


@pytest.mark.parametrize("most", [1, 3])
async def test_concurrency_is_bounded_and_connections_are_kept(server: FaultServer, call: Call, most: int) -> None:
    """Never more requests under way than `max_concurrency`, and never more connections than that over many requests."""
    server.jitter = 0.01
    with remote(server, max_concurrency=most, max_batch_size=1) as embedder:
        for _ in range(2):
            assert all_right(await call(embedder, "embed", TEXTS[:32]), TEXTS[:32])
    assert len(server.posts) == 64
    assert server.most_busy == most
    assert server.connections == most


async def test_batches_by_count(server: FaultServer, call: Call) -> None:
    """`max_batch_size` items go in one request."""
    with remote(server, max_batch_size=10) as embedder:
        assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
    assert sorted(len(body["input"]) for body in server.asked) == [4, 10, 10, 10, 10, 10, 10]


@pytest.mark.parametrize(
    "letters", ["plain", "Привет", "漢字", '\n"\\\t'], ids=["ascii", "cyrillic", "chinese", "escaped"]
)
async def test_batches_by_bytes(server: FaultServer, call: Call, letters: str) -> None:
    """A request is within `max_request_bytes` as it travels, whatever its letters; one large item goes alone."""
    texts = [f"{number} {letters * 20}" for number in range(40)]
    texts[7] = letters * 5000
    with remote(server, max_request_bytes=6000) as embedder:
        assert all_right(await call(embedder, "embed", texts), texts)
    for request in server.posts:
        contents = request.json["input"]
        assert len(request.body) <= 6000 + 300 or contents == [texts[7]]  # the rest is what is around them
        assert texts[7] not in contents or len(contents) == 1
    assert len(server.posts) < 20


def test_calls_that_come_together_are_merged(server: FaultServer) -> None:
    """200 concurrent queries cost a few requests, each gets its own vector, and a second event loop changes nothing."""
    server.always = late(0.1)
    queries = [f"query {number}" for number in range(200)]
    with remote(server) as embedder:

        async def all_at_once() -> list[Any]:
            return await asyncio.gather(*(embedder.aembed_query(query) for query in queries))

        for _ in range(2):
            assert all_right(asyncio.run(all_at_once()), queries, "query")
            assert len(server.posts) < 80
            server.requests.clear()


def test_threads_share_an_embedder(server: FaultServer) -> None:
    """Eight threads: each call gets its own vectors, and what differs in role shares no request."""
    server.jitter = 0.01
    with remote(server) as embedder, ThreadPoolExecutor(8) as pool:

        def work(number: int) -> bool:
            texts = [f"thread {number} text {i}" for i in range(number % 5 + 1)]
            if number % 2:
                return all_right(embedder.embed_queries(texts), texts, "query")
            return all_right(embedder.embed(texts), texts)

        assert all(pool.map(work, range(120)))
    assert len(server.posts) < 120


async def test_who_is_gone_is_not_waited_for(server: FaultServer) -> None:
    """The items of a caller that was cancelled are not sent any more; everybody else's are."""
    server.script.append(late(0.5))
    with remote(server, max_concurrency=1, max_batch_size=1) as embedder:
        await embedder.aembed([])
        first = asyncio.create_task(embedder.aembed(["first"]))
        while not server.busy:
            await asyncio.sleep(0.005)
        gone = asyncio.create_task(embedder.aembed(["gone"]))
        last = asyncio.create_task(embedder.aembed(["last"]))
        await asyncio.sleep(0.1)
        gone.cancel()
        assert all_right(await first, ["first"])
        assert all_right(await last, ["last"])
    assert server.contents == {"first": 1, "last": 1}


def test_requests_per_minute(server: FaultServer) -> None:
    """Requests are spread evenly."""
    with remote(server, requests_per_minute=1200, max_batch_size=1) as embedder:
        assert all_right(embedder.embed(TEXTS[:8]), TEXTS[:8])
    assert server.posts[-1].time - server.posts[0].time > 7 * 0.05 * 0.8


@pytest.mark.usefixtures("quick")
def test_no_item_gets_a_wrong_vector_in_a_storm(server: FaultServer) -> None:
    """Faults of every kind at random, in many small requests at once: each item has its vector."""
    server.jitter, server.shuffled = 0.01, True
    random = np.random.default_rng(7)
    storm = [fault for faults in PASSING.values() for fault in faults]
    server.script.extend(storm[index] for index in random.permutation(len(storm)))
    texts = [f"{text} again" for text in TEXTS * 3]
    with remote(server, max_batch_size=5, max_retries=60, timeout=0.5) as embedder:
        assert all_right(embedder.embed(texts), texts)


def test_a_busy_server_gets_fewer_requests(server: FaultServer) -> None:
    """After a rate limit half as many are under way at once, and more again only as they succeed."""
    busy: list[int] = []

    def now(honest: Reply) -> Reply:
        busy.append(server.busy)
        return late(0.05)(honest)

    server.script.extend([says(429, b"", Retry_After="0.2")] * 8)
    server.always = now
    with remote(server, max_concurrency=8, max_batch_size=1) as embedder:
        assert all_right(embedder.embed(TEXTS), TEXTS)
    assert server.replies.count(429) == 8
    assert max(busy[:4]) <= 4
    assert max(busy[:8]) <= 5
    assert max(busy) > 5


# Several servers


async def test_servers_share_the_load(call: Call) -> None:
    """Several addresses, in a list or separated by commas: each gets its part, and each its own limit."""
    with failing() as one, failing() as two, failing() as three:
        servers = (one, two, three)
        for server in servers:
            server.jitter = 0.02
        for urls in ([server.url for server in servers], ",".join(server.url for server in servers)):
            with remote(base_url=urls, max_batch_size=1, max_concurrency=2) as embedder:
                assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
        assert all(len(server.posts) >= 10 and server.most_busy <= 2 for server in servers)
        assert sum(len(server.posts) for server in servers) == 128


@pytest.mark.usefixtures("quick")
async def test_calls_one_after_the_other_share_the_load(call: Call) -> None:
    """Servers take turns, also where there is never more than one request under way."""
    with failing() as one, failing() as two, remote(one, two) as embedder:
        for _ in range(6):
            await call(embedder, "embed", ["a"])
        assert (len(one.posts), len(two.posts)) == (3, 3)


async def test_a_request_that_failed_goes_elsewhere(call: Call, quick: None) -> None:
    """With a single repetition allowed, a server that always fails costs no vector: another one gets the request."""
    with failing() as one, failing() as two, remote(one, two, max_retries=1) as embedder:
        one.always = says(500, {"error": "no"})
        for _ in range(6):
            assert all_right(await call(embedder, "embed", ["a"]), ["a"])
        assert one.posts


async def test_headers_are_secrets(server: FaultServer, call: Call) -> None:
    """What a header of one's own holds is taken out of what a server says."""
    server.always = says(400, {"error": "your x-api-key s3cret-token is unknown"})
    with remote(server, headers={"x-api-key": "s3cret-token"}) as embedder:
        said = str(await error_of(call, embedder))
    assert "your x-api-key *** is unknown" in said


async def test_a_server_dies_and_returns(call: Call) -> None:
    """Nothing is lost; it is set aside, and used again once it is back."""
    with failing() as one, failing() as two:
        one.jitter = two.jitter = 0.02
        with remote(one, two, max_batch_size=1, max_concurrency=3, max_retries=100) as embedder:
            assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
            assert two.posts
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(embedder.embed, TEXTS)
                while not two.busy:
                    await asyncio.sleep(0.002)
                two.stop()  # with requests under way
                assert all_right(await asyncio.wrap_future(running), TEXTS)
            seen = len(two.posts)
            assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
            assert len(two.posts) == seen
            two.start()
            until = time.monotonic() + 20
            while len(two.posts) == seen and time.monotonic() < until:
                assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
            assert len(two.posts) > seen


async def test_a_server_that_is_always_busy(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked less and less, and its part goes to the others."""
    monkeypatch.setattr("nemovlm.engines.servers.backoff", lambda _: 0.0)
    texts = TEXTS * 4
    with failing() as good, failing() as bad:
        good.jitter, bad.always = 0.01, says(503)
        with remote(good, bad, max_batch_size=1, max_concurrency=4) as embedder:
            assert all_right(await call(embedder, "embed", texts), texts)
        assert len(good.posts) == len(texts)
        assert len(bad.posts) <= 24


async def test_the_least_busy_server_is_asked(call: Call) -> None:
    """Two requests at once go to two servers."""
    with failing() as one, failing() as two:
        one.always = two.always = late(0.2)
        with remote(one, two, max_batch_size=1) as embedder:
            assert all_right(await call(embedder, "embed", TEXTS[:2]), TEXTS[:2])
        assert (len(one.posts), len(two.posts)) == (1, 1)


async def test_nobody_waits_for_a_server_that_is_set_aside(call: Call) -> None:
    """While one asks for a pause, the other gets all requests."""
    with failing() as one, failing() as two:
        one.always = two.always = says(429, b"", Retry_After="3600")
        one.script.append(honestly)
        two.script.extend([honestly] * 9)
        with remote(one, two, max_batch_size=1) as embedder:
            for text in TEXTS[:9]:
                assert all_right(await call(embedder, "embed", [text]), [text])
        assert len(one.posts) + len(two.posts) == 10
        assert len(one.posts) == 2


async def test_each_server_is_asked_for_its_own_late_reply(call: Call, quick: None) -> None:
    """A reply that one server put off is asked of that one."""
    with failing() as one, failing() as two:
        for server in (one, two):
            server.always = says(202, b"", NVCF_REQID="abc")
            server.put_off["abc"] = 0
        with remote(one, two, max_batch_size=64) as embedder:
            assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
        for server in (one, two):
            assert len(server.requests) == 2 * len(server.posts)


def test_all_servers_are_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is tried as soon as another failed, and the error says what was wrong last."""
    monkeypatch.setattr("nemovlm.engines.servers.backoff", lambda _: 0.0)
    with failing() as one, failing() as two:
        one.always = two.always = reset()
        with remote(one, two, max_retries=1) as embedder, pytest.raises(ServerError, match="broke off"):
            embedder.embed(["a"])
        assert (len(one.posts), len(two.posts)) == (1, 1)


# Connections


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority `ca.pem`, and `server.pem` and `client.pem` (with their keys) from it."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("certificates are made with openssl")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    steps = [f"req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority -addext keyUsage=keyCertSign"]
    for name in ("server", "client"):
        steps += [
            f"req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}",
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.crt -days 2 -extfile san",
        ]
    for step in steps:
        subprocess.run([openssl, *step.split()], cwd=folder, check=True, capture_output=True, timeout=60)
    for name in ("server", "client"):
        (folder / f"{name}.pem").write_bytes(
            (folder / f"{name}.crt").read_bytes() + (folder / f"{name}.key").read_bytes()
        )
    return folder


@pytest.mark.parametrize("verify", ["ca", False])
async def test_tls(call: Call, certificates: Path, verify: str | bool) -> None:
    """`verify` names the authority to trust, or False for anybody."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.pem")
    with failing(tls=context) as server:
        with remote(server, verify=certificates / "ca.pem" if verify else False) as embedder:
            assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
        assert server.url.startswith("https://")


async def test_tls_of_an_unknown_authority(call: Call, certificates: Path, quick: None) -> None:
    """It is not trusted by default; nothing is sent, and the error names the certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.pem")
    with failing(tls=context) as server:
        with remote(server, verify=True) as embedder:
            error = await error_of(call, embedder)
        assert isinstance(error, ServerError)
        assert "CERTIFICATE_VERIFY_FAILED" in str(error)
        assert not server.requests


@pytest.mark.parametrize("form", ["one file", "two files", None])
async def test_client_certificates(call: Call, certificates: Path, quick: None, form: str | None) -> None:
    """`cert` is shown to a server that wants one, as one file or as two."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "server.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    pair = (certificates / "client.crt", certificates / "client.key")
    cert = {"one file": certificates / "client.pem", "two files": pair, None: None}[form]
    with failing(tls=context) as server, remote(server, verify=certificates / "ca.pem", cert=cert) as embedder:
        if form:
            assert all_right(await call(embedder, "embed", ["a"]), ["a"])
            assert dict(part[0] for part in server.peers[0]["subject"])["commonName"] == "client"
        else:
            assert isinstance(await error_of(call, embedder), ServerError)
            assert not server.requests


@pytest.mark.parametrize("how", ["proxy", "environment"])
async def test_proxies(server: FaultServer, call: Call, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """`proxy`, or that of the environment, is asked for the whole address."""
    if how == "environment":
        monkeypatch.setenv("HTTP_PROXY", server.url)
    knobs = {"proxy": server.url} if how == "proxy" else {}
    with remote(base_url="http://model.test", **knobs) as embedder:
        assert all_right(await call(embedder, "embed", ["a"]), ["a"])
    assert server.requests[0].target == "http://model.test/v1/embeddings"


async def test_a_proxy_without_the_server(server: FaultServer, call: Call, quick: None) -> None:
    """A tunnel is asked for with CONNECT; the refusal is an error without the proxy's password."""
    proxy = server.url.replace("http://", "http://user:secret@")
    with remote(base_url="https://model.test", proxy=proxy) as embedder:
        error = await error_of(call, embedder)
    assert (server.requests[0].method, server.requests[0].target) == ("CONNECT", "model.test:443")
    assert isinstance(error, ServerError)
    assert "secret" not in f"{error}{error!r}{embedder!r}{embedder.settings!r}"


# Life


async def test_a_model_that_only_the_server_knows(server: FaultServer, call: Call) -> None:
    """Its dimension is learned from the server; the server's model is taken where nobody chose one."""
    server.models, server.dimension = ["acme/embedder"], 96
    right = np.stack([vector_of(text, "passage", 96) for text in TEXTS])
    for model in ("acme/embedder", None):
        with remote(server, model=model) as embedder:
            assert np.abs(await call(embedder, "embed", TEXTS) - right).max() < 1e-6
            assert (embedder.dimension, embedder.model) == (96, "acme/embedder")
            assert embedder.available_models() == ["acme/embedder"]


@pytest.mark.timeout(30, method="thread")  # a hang of the loop would keep the embedder from closing too
async def test_a_model_that_cannot_be_learned(server: FaultServer, call: Call) -> None:
    """A dimension of nothing is an error, not a hang; the next use learns it."""
    server.models, server.dimension = ["acme/embedder"], 96
    server.script.append(lambda honest: replace(embedded([])(honest), headers={"Connection": "close"}))
    with remote(server, model="acme/embedder") as embedder:
        with pytest.raises(ProtocolError):
            await call(embedder, "embed", ["a"])
        assert (await call(embedder, "embed", ["a"])).shape == (1, 96)


async def test_a_model_that_cannot_be_learned_leaves_nothing_open(server: FaultServer, call: Call) -> None:
    """Whatever a start that failed has opened is closed with the embedder."""
    server.always = says(401, {"error": "no"})
    with remote(server, model="acme/embedder") as embedder, pytest.raises(AuthenticationError):
        await call(embedder, "embed", ["a"])
    try:
        assert await nothing_open(server, 0.5)
    finally:
        gc.collect()  # what is left is complained of here, not in another test


@pytest.mark.parametrize("kind", ["int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("encodings", [("float", "base64"), ("float",)], ids=["base64", "numbers"])
@pytest.mark.parametrize("dimensions", [None, 256])
async def test_embedding_types(
    server: FaultServer, call: Call, kind: str, encodings: tuple[str, ...], dimensions: int | None
) -> None:
    """Vectors that travel in fewer bytes come out as float32 of unit length, each the right one."""
    server.encodings = encodings
    with remote(server, embedding_type=kind, dimensions=dimensions) as embedder:
        vectors = await call(embedder, "embed", TEXTS)
    exact = vectors_of(TEXTS, cut=dimensions or DIMENSION)
    assert vectors.shape == exact.shape
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    cosines = (vectors * exact).sum(axis=1)
    assert cosines.min() > (0.999 if "int8" in kind else 0.7)
    if "binary" in kind:
        assert np.array_equal(vectors > 0, exact > 0)
    assert {body["embedding_type"] for body in server.asked} == {kind}


async def test_dimensions_that_the_server_ignores(server: FaultServer, call: Call) -> None:
    """Vectors that come whole are cut here."""
    server.always = lambda honest: server._honest(server.asked[-1] | {"dimensions": DIMENSION})
    with remote(server, dimensions=300) as embedder:
        assert all_right(await call(embedder, "embed", TEXTS), TEXTS, cut=300)


async def test_usage(server: FaultServer, call: Call) -> None:
    """Tokens are those that the server counted; odd counts are none."""
    with remote(server, max_batch_size=3) as embedder:
        await call(embedder, "embed", ["12345", "1", "12", "1234567"])
        assert (embedder.usage.items, embedder.usage.tokens) == (4, 15)
        for usage in (None, {}, {"prompt_tokens": "many"}, {"prompt_tokens": float("inf")}, [1]):
            server.script.append(twisted(lambda reply, usage=usage: reply | {"usage": usage}))
            await call(embedder, "embed", ["a"])
        assert (embedder.usage.items, embedder.usage.tokens) == (9, 15)


@pytest.mark.parametrize("what", ["under way", "waiting"])
async def test_closing_ends_what_is_under_way(server: FaultServer, call: Call, what: str) -> None:
    """Whoever waits for an answer gets an `EngineError`, not a hang, and the embedder starts again."""
    server.script.extend([late(30)] * 8)
    embedder = remote(server, max_concurrency=1 if what == "waiting" else 8, max_batch_size=1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(embedder.embed, TEXTS[:8])
        while not server.busy:
            await asyncio.sleep(0.005)
        await call(embedder, "close")
        with pytest.raises(EngineError, match="closed"):
            running.result(10)
    server.script.clear()
    assert all_right(await call(embedder, "embed", ["a"]), ["a"])
    await call(embedder, "close")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="an image is held back by a named pipe")
async def test_closing_while_an_image_is_read(server: FaultServer, call: Call, tmp_path: Path) -> None:
    """What is still being prepared is not sent any more."""
    os.mkfifo(tmp_path / "page.png")
    embedder = remote(server)
    await call(embedder, "embed", ["a"])
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(embedder.embed, [tmp_path / "page.png"])
        with open(tmp_path / "page.png", "wb") as pipe:  # waits until it is being read
            await call(embedder, "close")
            pipe.write(png())
        with pytest.raises(EngineError, match="closed"):
            running.result(10)
    assert server.contents == {"a": 1}


def test_a_pickled_embedder_works(server: FaultServer) -> None:
    """It carries its settings, key included, and connects anew."""
    with remote(server, api_key=KEY) as embedder:
        embedder.embed(["a"])
        with pickle.loads(pickle.dumps(embedder)) as other:
            assert all_right(other.embed(["a"]), ["a"])
    assert [request.headers["authorization"] for request in server.posts] == [f"Bearer {KEY}"] * 2


def test_nothing_is_sent_before_it_is_needed(server: FaultServer) -> None:
    """Making, describing and pickling an embedder opens no connection, nor does embedding nothing."""
    with remote(server) as embedder:
        embedder.describe()
        pickle.dumps(embedder)
        assert embedder.embed([]).shape == (0, DIMENSION)
    assert server.connections == 0


def test_hosted_nims_want_a_key() -> None:
    """Without one the error says which variable it is read from, and nothing is sent."""
    with Embedder(MODEL, engine="nim") as embedder, pytest.raises(AuthenticationError, match="NVIDIA_API_KEY"):
        embedder.embed(["a"])


def test_time_that_ran_out_in_our_own_queue_is_not_the_servers_fault(server: FaultServer) -> None:
    """A request without time left is not sent, and the server is not set aside for it."""

    async def work() -> Servers:
        servers = Servers(Settings.given(model=MODEL, base_url=server.url))
        deadline = Deadline(1e-9)
        deadline.start()
        with pytest.raises(RefusedError, match="no time was left"):
            await servers.post(lambda: b"{}", len, deadline=deadline, retries=3)
        await servers.close()
        return servers

    (one,) = runtime.wait(runtime.submit(work()))._servers
    assert (one.faults, one.resting, one.busy) == (0, 0.0, 0)
    assert not server.requests


async def test_nothing_stays_open(call: Call) -> None:
    """Embedders come and go, and their connections with them."""
    with failing() as one, failing() as two:
        for _ in range(3):
            with remote(one, two, max_batch_size=1) as embedder:
                assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
        assert await nothing_open(one)
        assert await nothing_open(two)


async def test_what_is_dropped_stays_open_no_longer(server: FaultServer, call: Call) -> None:
    """Frameworks close nothing: an embedder that nobody has any more closes its connections by itself."""
    embedder = remote(server)
    assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
    assert server.open
    del embedder
    gc.collect()
    assert await nothing_open(server, 10)


async def nothing_open(server: FaultServer, seconds: float = 2.0) -> bool:
    """Whether all connections are closed, in so many seconds at the latest."""
    until = time.monotonic() + seconds
    while server.open and time.monotonic() < until:
        await asyncio.sleep(0.01)
    return not server.open
