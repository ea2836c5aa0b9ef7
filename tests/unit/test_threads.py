"""Threads of our own: work is done, by as many as may be, whatever it raises, and at the end nothing is cut off."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextvars import ContextVar

import pytest

from nemovlm import runtime, threads
from nemovlm.threads import ThreadPool

SECONDS = 20  # until a test that hangs is given up

variable: ContextVar[str] = ContextVar("variable")


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    made = ThreadPool(2, "test")
    yield made
    made.shutdown()


def test_all_work_is_done(pool: ThreadPool) -> None:
    """Each piece once, with its arguments, and what it raises belongs to whoever waits."""

    def work(number: int, *, fail: bool) -> int:
        if fail:
            raise ZeroDivisionError(number)
        return number

    futures = [pool.submit(work, number, fail=number % 7 == 0) for number in range(500)]
    for number, future in enumerate(futures):
        if number % 7:
            assert future.result(SECONDS) == number
        else:
            assert isinstance(future.exception(SECONDS), ZeroDivisionError)


def test_as_many_at_once_as_may_be_and_no_more() -> None:
    """A bounded pool has its work wait; one without a bound lets none wait for another."""
    for most, at_once in ((2, 2), (None, 5)):
        pool = ThreadPool(most, "test")
        begun, go = threading.Semaphore(0), threading.Event()

        def work(begun: threading.Semaphore = begun, go: threading.Event = go) -> None:
            begun.release()
            go.wait(SECONDS)

        futures = [pool.submit(work) for _ in range(5)]
        for _ in range(at_once):
            assert begun.acquire(timeout=SECONDS)
        assert sum(future.running() for future in futures) == at_once
        go.set()
        assert not wait(futures, SECONDS).not_done
        pool.shutdown()


def test_threads_are_used_again(pool: ThreadPool) -> None:
    """Work that comes one piece after the other is done by one thread, or by two where the first is not back yet."""
    names = {pool.submit(threading.get_ident).result(SECONDS) for _ in range(50)}
    assert len(names) <= 2


def test_a_thread_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the pool starts another when there is some."""
    monkeypatch.setattr(threads, "_IDLE_SECONDS", 0.01)
    pool = ThreadPool(1, "test")
    first = pool.submit(threading.current_thread).result(SECONDS)
    first.join(SECONDS)
    assert not first.is_alive()
    assert pool.submit(threading.current_thread).result(SECONDS) is not first
    pool.shutdown()


def test_shutdown_waits_for_what_is_done_and_drops_the_rest(pool: ThreadPool) -> None:
    """Then it takes no more."""
    begun, go, ended = threading.Semaphore(0), threading.Event(), []

    def work() -> None:
        begun.release()
        go.wait(SECONDS)
        ended.append(1)

    futures = [pool.submit(work) for _ in range(4)]
    for _ in range(2):
        begun.acquire(timeout=SECONDS)
    threading.Timer(0.05, go.set).start()
    pool.shutdown(cancel_futures=True)
    assert ended == [1, 1]
    assert [future.cancelled() for future in futures] == [False, False, True, True]
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(work)


def test_cancelled_work_is_not_done() -> None:
    """A future that is cancelled while it waits for a thread never runs."""
    pool, go, done = ThreadPool(1, "test"), threading.Event(), []
    pool.submit(go.wait, SECONDS)
    late: Future[None] = pool.submit(done.append, 1)
    assert late.cancel()
    go.set()
    pool.submit(int).result(SECONDS)
    assert done == []
    pool.shutdown()


# Generators that block, read from async code


async def test_a_generator_is_read_on_a_thread_to_its_end() -> None:
    """In order, never on the thread of the loop, and closed then."""
    seen, closed = set(), []

    def source() -> Iterator[int]:
        try:
            for number in range(5):
                seen.add(threading.get_ident())
                yield number
        finally:
            closed.append(1)

    assert [number async for number in runtime.iterate(source())] == [0, 1, 2, 3, 4]
    assert threading.get_ident() not in seen
    assert closed == [1]


async def test_a_generator_that_fails_raises_in_its_turn() -> None:
    """What came before it comes first."""

    def source() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    reader = runtime.iterate(source())
    assert await anext(reader) == 1
    with pytest.raises(ZeroDivisionError):
        await anext(reader)


async def test_whoever_stops_reading_has_the_generator_closed() -> None:
    """At once, if no thread is in it."""
    closed = []

    def source() -> Iterator[int]:
        try:
            yield from range(5)
        finally:
            closed.append(threading.get_ident())

    reader = runtime.iterate(source())
    await anext(reader)
    await reader.aclose()
    assert closed
    assert closed != [threading.get_ident()]


async def test_a_reader_that_is_cancelled_does_not_wait_for_the_thread() -> None:
    """The generator is closed as soon as the thread is back."""
    inside, go, closed = threading.Event(), threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        try:
            inside.set()
            go.wait(SECONDS)
            yield 1
        finally:
            closed.set()

    task = asyncio.create_task(anext(runtime.iterate(source())))  # type: ignore[arg-type]
    await runtime.in_thread(inside.wait, SECONDS)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not closed.is_set()
    go.set()
    assert await runtime.in_thread(closed.wait, SECONDS)


async def test_context_variables_go_along() -> None:
    """As with `asyncio.to_thread`: tracing, for one, finds its span."""
    variable.set("ours")
    assert await runtime.in_thread(variable.get) == "ours"

    def source() -> Iterator[str]:
        yield variable.get()

    assert [value async for value in runtime.iterate(source())] == ["ours"]
