"""From the first use to the end: models that only the server knows, closing, pickling, nothing left open."""

import asyncio
import gc
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nemovlm import Embedder, runtime
from nemovlm.clock import Clock
from nemovlm.engines.remote.pool import UpstreamPool
from nemovlm.engines.remote.retry import Deadline, RequestFailedError
from nemovlm.errors import AuthenticationError, EngineError, ProtocolError
from nemovlm.settings import Settings
from tests.support.faults import (
    DIMENSION,
    MODEL,
    FaultServer,
    embedded,
    failing,
    late,
    says,
    twisted,
    vector_of,
    vectors_of,
)
from tests.support.remote import KEY, TEXTS, Call, all_right, nothing_open, png, remote

pytestmark = pytest.mark.timeout(60)


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

    async def work() -> UpstreamPool:
        servers = UpstreamPool(Settings.from_kwargs(model=MODEL, base_url=server.url))
        deadline = Deadline(1e-9, Clock())
        deadline.start()
        with pytest.raises(RequestFailedError, match="no time was left"):
            await servers.post(lambda: b"{}", len, deadline=deadline, retries=3)
        await servers.close()
        return servers

    (one,) = runtime.wait(runtime.submit(work()))._upstreams
    assert (one.failures_in_a_row, one.cooldown, one.in_flight) == (0, 0.0, 0)
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
