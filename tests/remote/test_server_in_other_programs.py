"""The server as other people run and ask it: mounted, behind proxies, by clients that give up, with odd requests."""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.routing import Mount

from nemovlm import Embedder
from nemovlm.errors import ConfigurationError, EngineError
from nemovlm.server import ServerOptions, make_app, service
from nemovlm.server.schema import EmbeddingRequest
from tests.support.servers import ready, running

QUERY = {"model": "tiny-vl", "input": ["a"], "input_type": "query"}


def post(address: str, body: Any = QUERY, path: str = "/v1/embeddings", **options: Any) -> httpx.Response:
    return httpx.post(f"{address}{path}", json=body, timeout=60, **options)


# In another application


@pytest.mark.parametrize("outer", [FastAPI, Starlette], ids=["FastAPI", "Starlette"])
def test_mounted_it_loads_with_the_first_request(outer: Callable[..., Any], vl_folder: Path) -> None:
    """No framework starts what is mounted in it; two of them do not get in each other's way."""
    app = outer(routes=[Mount(path, make_app(Embedder(vl_folder))) for path in ("/one", "/two")])
    with running(app) as address:
        for place in ("one", "two"):
            ready(f"{address}/{place}")
            assert post(f"{address}/{place}").status_code == 200
            assert post(f"{address}/{place}", path="//v1/embeddings/").status_code == 200
            metrics = httpx.get(f"{address}/{place}/v1/metrics").text
            assert 'nemovlm_requests_total{status="200"} 2.0' in metrics


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await what():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("error", [EngineError("no such device"), ZeroDivisionError("of a bug")], ids=["ours", "other"])
async def test_a_model_that_cannot_be_loaded_is_said(
    error: Exception, vl_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once in the log, to everybody who asks, and not as one that is being loaded."""
    calls = []

    async def fail(*_: object) -> None:
        calls.append(1)
        raise error

    monkeypatch.setattr(Embedder, "aembed_query", fail)
    caplog.set_level(logging.ERROR)
    app = make_app(Embedder(vl_folder))
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://x") as client,
    ):

        async def failed() -> bool:
            return "failed" in (await client.get("/v1/health/ready")).text

        await until(failed)
        for _ in range(3):
            reply = await client.post("/v1/embeddings", json=QUERY)
            assert reply.status_code == 503
            assert str(error) in reply.json()["message"]
            assert "retry-after" not in reply.headers
        assert len(calls) == 1
        assert caplog.text.count(str(error)) == 1
        monkeypatch.setattr(service, "_LOAD_AGAIN_SECONDS", 0.0)
        app.state.server._load_again_at = 0.0
        monkeypatch.undo()

        async def loaded() -> bool:
            return (await client.post("/v1/embeddings", json=QUERY)).status_code == 200

        await until(loaded)


# Clients that give up


def hung_up(address: str, count: int) -> None:
    """Ask for so many vectors, and close the connection."""
    body = json.dumps(QUERY | {"input": ["a text"] * count}).encode()
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)


def test_work_for_a_client_that_is_gone_is_dropped(vl_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its items leave the queue, and those that are not computed yet never are."""
    go, computed = threading.Event(), []

    with Embedder(vl_folder) as embedder:
        embedder.embed_query("loaded")
        model = embedder._handle._task.result()._model  # type: ignore[union-attr]
        embed = model.embed

        def slow(items: list[Any]) -> Any:
            computed.append(len(items))
            go.wait(60)
            return embed(items)

        monkeypatch.setattr(model, "embed", slow)
        monkeypatch.setattr(Embedder, "aembed_query", lambda *_: asyncio.sleep(0))
        with running(make_app(embedder)) as address:
            ready(address)

            def queued() -> float:
                lines = httpx.get(f"{address}/v1/metrics").text.splitlines()
                return next(float(line.split()[1]) for line in lines if line.startswith("nemovlm_queue_items "))

            def wait_for(count: float) -> None:
                for _ in range(6000):
                    if queued() == count:
                        return
                    threading.Event().wait(0.01)
                raise AssertionError(f"{queued()} items wait")

            threads = [threading.Thread(target=post, args=[address]) for _ in range(1)]
            for thread in threads:
                thread.start()
            wait_for(1)
            hung_up(address, 700)
            wait_for(1)
            go.set()
            for thread in threads:
                thread.join(60)
            assert post(address).status_code == 200
            assert 'nemovlm_requests_total{status="499"} 1.0' in httpx.get(f"{address}/v1/metrics").text
    assert sum(computed) == 2


# Requests as gateways and languages write them


@pytest.mark.parametrize(
    "field", [name for name in EmbeddingRequest.model_fields if name not in {"model", "input", "input_type"}]
)
def test_null_is_not_given(field: str, served_vl: str) -> None:
    """In every field that may be left out."""
    assert post(served_vl, QUERY | {field: None}).status_code == 200


def test_null_modality_of_one_item_is_inferred(served_vl: str) -> None:
    """As if the list had not been given for it."""
    body = {"model": "tiny-vl", "input": ["a", "b"], "input_type": "query", "modality": [None, "text"]}
    assert post(served_vl, body).status_code == 200


def test_half_a_character_is_no_invalid_json(served_vl: str, vl: Embedder) -> None:
    """JavaScript and Python write it as an escape; it is embedded with the mark for what is missing."""
    body = QUERY | {"input": ["good", "half an emoji \ud83d", "whole \ud83d\ude00"]}
    reply = httpx.post(f"{served_vl}/v1/embeddings", content=json.dumps(body), timeout=60)
    got = np.array([row["embedding"] for row in reply.json()["data"]])
    expected = vl.embed_queries(["good", "half an emoji \N{REPLACEMENT CHARACTER}", "whole \N{GRINNING FACE}"])
    assert np.abs(got - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe\xfa", "JSON"),
        (b'{"model": "tiny-vl", "input": "caf\xe9"}', "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'"a string"', "object"),
        (b"null", "object"),
        (b'{"model": "tiny-vl", "input": NaN}', "input"),
        (b'{"model": "tiny-vl", "input": [[1, 2, 3]]}', "strings, not tokens"),
        (b'{"model": "tiny-vl", "input": [1, 2, 3]}', "strings, not tokens"),
        (b'{"model": "tiny-vl", "input": null}', "input"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_body_that_is_none_is_refused_with_a_sentence(body: bytes, said: str, served_vl: str) -> None:
    """And never with a status that says that the server failed."""
    reply = httpx.post(f"{served_vl}/v1/embeddings", content=body)
    assert reply.status_code == 422
    assert said in reply.json()["message"]


def test_a_body_that_is_encoded_is_refused(served_vl: str) -> None:
    """With the status for it."""
    reply = post(served_vl, headers={"Content-Encoding": "gzip"})
    assert reply.status_code == 415
    assert "Content-Encoding" in reply.json()["message"]


@pytest.fixture
def guarded(vl_folder: Path) -> Iterator[str]:
    """The address of a server that wants a key, which was read from a file, with its line end."""
    with running(make_app(Embedder(vl_folder), ServerOptions(api_key=SecretStr("the-key\n")))) as address:
        yield address


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer the-key", 200),
        ("bearer the-key", 200),
        ("BEARER   the-key", 200),
        ("bearer The-key", 401),
        ("Basic the-key", 401),
        ("Bearer", 401),
        ("the-key", 401),
        ("", 401),
        ("Bearer \xe4\xff", 401),
    ],
)
def test_the_name_of_the_scheme_has_no_case(header: str, status: int, guarded: str) -> None:
    """RFC 9110, 11.1. The key has."""
    headers = {"Authorization": header.encode("latin-1")}
    assert httpx.get(f"{guarded}/v1/models", headers=headers).status_code == status


def test_an_empty_key_is_no_open_door(vl_folder: Path) -> None:
    """Whoever passes one meant another."""
    with pytest.raises(ConfigurationError, match="empty"):
        make_app(Embedder(vl_folder), ServerOptions(api_key=SecretStr(" \n")))


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_failure(served_vl: str) -> None:
    """It is counted as gone."""
    host, port = served_vl.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n{")
    for _ in range(6000):
        if 'status="499"' in (said := httpx.get(f"{served_vl}/v1/metrics").text):
            break
        threading.Event().wait(0.01)
    assert 'status="499"' in said
    assert 'status="500"' not in said


@pytest.mark.parametrize(
    "path", ["/v1/embeddings", "/v1/embeddings/", "//v1/embeddings", "/v1//embeddings", "//v1//embeddings//"]
)
def test_slashes_too_many_lead_to_the_same_route(path: str, served_vl: str) -> None:
    """A base URL with a slash at its end gives two."""
    assert post(served_vl, path=path).status_code == 200


def test_one_model_can_be_asked_for(served_vl: str) -> None:
    """As in OpenAI's API; names have slashes in them."""
    (listed,) = httpx.get(f"{served_vl}/v1/models").json()["data"]
    assert httpx.get(f"{served_vl}/v1/models/tiny-vl").json() == listed
    reply = httpx.get(f"{served_vl}/v1/models/nvidia/another")
    assert reply.status_code == 404
    assert "tiny-vl" in reply.json()["message"]


@pytest.mark.parametrize("route", ["live", "ready"])
def test_health_can_be_asked_for_its_head(route: str, served_vl: str) -> None:
    """As load balancers do."""
    assert httpx.head(f"{served_vl}/v1/health/{route}").status_code == 200
