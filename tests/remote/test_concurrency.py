"""Many items and many callers at once: order, bounds, merging, and no wrong vector."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from tests.support.faults import PASSING, FaultServer, Reply, late, says, until
from tests.support.remote import TEXTS, Call, all_right, remote

pytestmark = pytest.mark.timeout(60)


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


async def test_an_abandoned_stream_stops_the_work(server: FaultServer, stream: Callable[..., Any]) -> None:
    """Leaving a stream early cancels what was submitted ahead, and the embedder goes on working."""
    abandoned = threading.Event()
    read = 0

    def source() -> Iterator[str]:
        nonlocal read
        for number in range(10_000):
            read += 1
            yield f"{number} " + "x" * 20_000  # so long that three are read at a time

    def answer(honest: Reply) -> Reply:
        number = server.asked[-1]["input"][0].split()[0]
        return honest if number in {"0", "1", "2", "still"} else until(abandoned)(honest)

    server.always = answer
    with remote(server, max_batch_size=1, max_concurrency=64) as embedder:
        async with aclosing(stream(embedder, source())) as vectors:
            assert await anext(vectors) is not None
        abandoned.set()
        while server.busy:
            await asyncio.sleep(0.005)
        assert all_right([embedder.embed_query("still there")], ["still there"], "query")
        assert embedder.usage.items == 3 + 1 < read  # nothing was made of what was read ahead


def test_requests_per_minute(server: FaultServer) -> None:
    """Requests are spread evenly."""
    with remote(server, requests_per_minute=1200, max_batch_size=1) as embedder:
        assert all_right(embedder.embed(TEXTS[:8]), TEXTS[:8])
    assert server.posts[-1].time - server.posts[0].time > 7 * 0.05 * 0.8


def test_no_item_gets_a_wrong_vector_in_a_storm(server: FaultServer) -> None:
    """Faults of every kind at random, in many small requests at once: each item has its vector."""
    server.jitter, server.shuffled = 0.01, True
    random = np.random.default_rng(7)
    storm = [fault for faults in PASSING.values() for fault in faults]
    texts = [f"{text} again" for text in TEXTS * 3]
    with remote(server, max_batch_size=5, max_retries=60) as embedder:
        embedder.embed(["warm"])  # a server that never answered is given up earlier
        server.script.extend(storm[index] for index in random.permutation(len(storm)))
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
