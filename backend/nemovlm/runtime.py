"""One event loop on one thread for the whole process, with a door for sync code and one for async code.

All engine work is coroutines on this loop. Sync code submits one and waits; async code submits one and awaits
it from its own loop. So an engine's connections and tasks never belong to a caller's loop, and outlive any
number of `asyncio.run`. A forked child starts a loop of its own. Knows nothing of embeddings.

Nor does anything wait for a thread of a caller's loop: its pool is shared by all who use that loop, and who waits there
may wait for those who wait for him.
"""

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

from nemovlm import threads

P = ParamSpec("P")
T = TypeVar("T")


class _Runtime:
    """The loop and the threads, started by the first piece of work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.known_loop: asyncio.AbstractEventLoop | None = None
        most = min(32, (os.cpu_count() or 1) + 4)  # asyncio's own number
        self.workers = threads.ThreadPool(most, "nemovlm-worker")
        # Not the loop's workers: what callers have done here may wait for the loop, and the loop for a worker.
        self.helpers = threads.ThreadPool(most, "nemovlm-helper")
        self.readers = threads.ThreadPool(None, "nemovlm-reader", wait_at_exit=False)

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self.known_loop is None:
                self.known_loop = _new_loop()
                self.known_loop.set_default_executor(self.workers)
                threads.start_thread(self.known_loop.run_forever, "nemovlm")
            return self.known_loop


def _new_loop() -> asyncio.AbstractEventLoop:
    if threads.gevent_patched():
        return asyncio.SelectorEventLoop(threads.native("selectors", "DefaultSelector")())
    return asyncio.new_event_loop()


_runtime = _Runtime()


def _start_afresh() -> None:
    """In a forked child: the parent's loop has no thread here, and its lock may be held by one that is gone."""
    global _runtime  # noqa: PLW0603 - one loop for the process is this module's purpose
    _runtime = _Runtime()


@atexit.register
def _drop_all() -> None:
    """At the end of Python, drop the work that nobody waits for any more; what is computed is waited for after that."""
    if loop := _runtime.known_loop:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_start_afresh)


def submit(work: Coroutine[Any, Any, T]) -> "Future[T]":
    """Start `work` on the private loop and return its future; cancelling the future cancels the work."""
    return asyncio.run_coroutine_threadsafe(work, _runtime.loop())


def wait(future: "Future[T]") -> T:
    """Wait for `future` from sync code. If the wait is interrupted (Ctrl-C), the work is cancelled."""
    try:
        return threads.wait(future)
    except BaseException:
        future.cancel()
        raise


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do `work` on the private loop and wait for its result from sync code."""
    return wait(submit(work))


async def wait_async(future: "Future[T]") -> T:
    """Wait for `future` from any event loop. If the wait is cancelled, the work is cancelled."""
    return await asyncio.wrap_future(future)


async def in_thread(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Do on a thread, from any event loop, what would block that loop: `asyncio.to_thread` on threads of ours."""
    context = copy_context()
    return await asyncio.wrap_future(_runtime.helpers.submit(lambda: context.run(work, *args, **kwargs)))


async def iterate(source: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """Read a generator that blocks from any event loop, on a thread. However that ends, the generator is closed.

    If the reader is cancelled while a thread is inside the generator, it is closed as soon as the thread is back.
    """
    context, end = copy_context(), object()
    reading: Future[Any] = Future()
    reading.set_result(None)

    def close() -> Future[None]:
        return _runtime.readers.submit(lambda: context.run(source.close))

    try:
        while True:
            reading = _runtime.readers.submit(lambda: context.run(next, source, end))
            if (item := await asyncio.wrap_future(reading)) is end:
                return
            yield item
    finally:
        if reading.done():
            await asyncio.wrap_future(close())
        else:
            reading.add_done_callback(lambda _: close())
