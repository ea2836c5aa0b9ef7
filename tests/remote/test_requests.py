"""What is sent: the request says what its items are, goes to the right route, and has the key where it belongs."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from nemovlm import Passage, runtime
from nemovlm.errors import ConfigurationError
from tests.support.faults import DIMENSION, MODEL, FaultServer
from tests.support.remote import KEY, Call, all_right, png, remote, url_of

pytestmark = pytest.mark.timeout(60)


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
    [("newline", "page\n{}", "{}"), ("space", "page {}", "{}"), ("img", "page <img src='{}'/>", "<img src='{}'/>")],
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
    assert [request.headers.get("authorization") for request in server.requests] == [sent] * 3
    assert "for-nvidia-alone" not in repr(server.requests)


async def test_own_headers(server: FaultServer, call: Call) -> None:
    """`headers` go with every request, and who asks says so."""
    with remote(server, headers={"X-Team": "search"}) as embedder:
        await call(embedder, "embed", ["a"])
    (request,) = server.sent
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
    assert [request.headers["x-mine"] for request in server.sent] == ["yes", "yes"]
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
