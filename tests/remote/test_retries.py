"""What is worth repeating is repeated, as often and as late as it should be; nothing else is."""

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from nemovlm.errors import NemoVLMError, ProtocolError, RateLimitedError, ServerError
from tests.support.faults import LASTING, PASSING, Fault, FaultServer, failing, half, held, honestly, reset, says
from tests.support.remote import TEXTS, Call, all_right, error_of, remote

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("faults", PASSING.values(), ids=PASSING)
async def test_passing_failures_are_repeated(server: FaultServer, call: Call, faults: list[Fault]) -> None:
    """The same request is sent again until it is answered, and no more often."""
    with remote(server) as embedder:
        await call(embedder, "embed", ["warm"])  # a server that never answered is given up earlier
        server.script.extend(faults)
        assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
    assert len(server.posts) == 1 + len(faults) + 1
    assert len({request.body for request in server.posts[1:]}) == 1


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (says(500, {"error": "Something went wrong"}), ServerError, "Something went wrong"),
        (says(503), ServerError, "503"),
        (reset(), ServerError, "broke off"),
        (held, ServerError, "no reply within 1.5 seconds"),
        (half, ProtocolError, "no JSON"),
    ],
    ids=["500", "503", "reset", "late", "half"],
)
async def test_there_is_an_end_to_repetitions(
    server: FaultServer, call: Call, fault: Fault, kind: type[NemoVLMError], words: str
) -> None:
    """`max_retries` repetitions, then the last failure becomes the error, and the next call starts anew."""
    with remote(server, max_retries=2, timeout=1.5) as embedder:
        await call(embedder, "embed", ["warm"])
        server.always = fault
        error = await error_of(call, embedder)
        assert type(error) is kind
        assert words in str(error)
        assert len(server.posts) == 1 + 3
        server.always = honestly
        assert all_right(await call(embedder, "embed", ["a"]), ["a"])


async def test_a_server_that_never_answered_is_given_up_soon(server: FaultServer, call: Call) -> None:
    """Its address is probably wrong: three attempts, however many would be left."""
    server.always = reset()
    with remote(server, max_retries=50) as embedder:
        assert isinstance(await error_of(call, embedder), ServerError)
    assert len(server.posts) == 3


async def test_nobody_listens(call: Call) -> None:
    """A server that is not there is an error that names it."""
    with failing() as server:
        server.stop()
        with remote(server) as embedder:
            error = await error_of(call, embedder)
    assert isinstance(error, ServerError)
    assert f"{server.host} could not be reached" in str(error)


@pytest.mark.parametrize("fault", [held, says(503), says(429)], ids=["late", "503", "429"])
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
    with remote(server, deadline=300) as embedder:
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
    then = (datetime.now(UTC) + timedelta(seconds=100)).replace(microsecond=0)
    server.script.append(says(503, b"", Retry_After=format_datetime(then, usegmt=True)))
    with remote(server) as embedder:
        assert all_right(embedder.embed(["a"]), ["a"])
    first, second = (post.time for post in server.posts)
    assert 90 < second - first < 110


@pytest.mark.parametrize("fault", LASTING.values(), ids=LASTING)
@pytest.mark.parametrize("others", [0, 1])
def test_nobody_is_asked_without_a_pause(fault: Fault, others: int) -> None:
    """Whatever a server says, waits grow: a few requests in ten seconds, and fewer later, however many are allowed."""
    with ExitStack() as stack:
        servers = [stack.enter_context(failing()) for _ in range(1 + others)]
        for server in servers:
            server.put_off["never"] = 10**9
        embedder = stack.enter_context(remote(*servers, max_retries=10**6, deadline=300.0))
        for _ in servers:
            embedder.embed(["warm"])
        servers[0].always = fault
        for server in servers[1:]:
            server.always = says(503, {"error": "busy"})
        assert list(embedder.stream(["text"], on_error="skip")) == [None]
    assert sum(server.most_within(10) for server in servers) <= 12
    assert sum(len(server.requests) for server in servers) <= 100
