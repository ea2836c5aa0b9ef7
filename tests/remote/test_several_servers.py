"""Several servers share the load, and stand in for one another."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from nemovlm.clock import Clock
from nemovlm.errors import ServerError
from tests.support.faults import FaultServer, failing, honestly, late, reset, says
from tests.support.remote import TEXTS, Call, all_right, error_of, remote

pytestmark = pytest.mark.timeout(60)


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


async def test_calls_one_after_the_other_share_the_load(call: Call) -> None:
    """Servers take turns, also where there is never more than one request under way."""
    with failing() as one, failing() as two, remote(one, two) as embedder:
        for _ in range(6):
            await call(embedder, "embed", ["a"])
        assert (len(one.posts), len(two.posts)) == (3, 3)


async def test_a_request_that_failed_goes_elsewhere(call: Call) -> None:
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
            one.clock.jump(one.clock.now() + 60)  # it was set aside for half a minute at most
            assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
            assert len(two.posts) > seen


class Impatient(Clock):
    """Repeats at once what failed; how long a server is set aside is as it is."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(0 * seconds)


async def test_a_server_that_is_always_busy(call: Call) -> None:
    """It is asked less and less, and its part goes to the others."""
    texts = TEXTS * 4
    with failing() as good, failing() as bad:
        good.jitter, bad.always = 0.01, says(503)
        with remote(good, bad, max_batch_size=1, max_concurrency=4, clock=Impatient()) as embedder:
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


async def test_each_server_is_asked_for_its_own_late_reply(call: Call) -> None:
    """A reply that one server put off is asked of that one."""
    with failing() as one, failing() as two:
        for server in (one, two):
            server.always = says(202, b"", NVCF_REQID="abc")
            server.put_off["abc"] = 0
        with remote(one, two, max_batch_size=64) as embedder:
            assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
        for server in (one, two):
            assert len(server.sent) == 2 * len(server.posts)


def test_all_servers_are_down() -> None:
    """Each is tried as soon as another failed, and the error says what was wrong last."""
    with failing() as one, failing() as two:
        one.always = two.always = reset()
        with remote(one, two, max_retries=1) as embedder, pytest.raises(ServerError, match="broke off"):
            embedder.embed(["a"])
        assert (len(one.posts), len(two.posts)) == (1, 1)
