"""One event loop on one thread for the whole process, with a door for sync code and one for async code.

All engine work is coroutines on this loop. Sync code submits one and waits; async code submits one and awaits
it from its own loop. So an engine's connections and tasks never belong to a caller's loop, and outlive any
number of `asyncio.run`. A forked child starts a loop of its own. Knows nothing of embeddings.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class _Runtime:
    """The loop and its thread, started by the first piece of work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="nemovlm", daemon=True).start()
            return self._loop


_runtime = _Runtime()


def _start_afresh() -> None:
    """In a forked child: the parent's loop has no thread here, and its lock may be held by one that is gone."""
    global _runtime  # noqa: PLW0603 - one loop for the process is this module's purpose
    _runtime = _Runtime()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_start_afresh)


def submit(work: Coroutine[Any, Any, T]) -> "Future[T]":
    """Start `work` on the private loop and return its future; cancelling the future cancels the work."""
    return asyncio.run_coroutine_threadsafe(work, _runtime.loop())


def wait(future: "Future[T]") -> T:
    """Wait for `future` from sync code. If the wait is interrupted (Ctrl-C), the work is cancelled."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do `work` on the private loop and wait for its result from sync code."""
    return wait(submit(work))


async def wait_async(future: "Future[T]") -> T:
    """Wait for `future` from any event loop. If the wait is cancelled, the work is cancelled."""
    return await asyncio.wrap_future(future)
