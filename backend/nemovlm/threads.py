"""Threads of our own, for work that blocks, and how to wait for them. Knows nothing of embeddings.

The pools of `concurrent.futures`, asyncio's among them, take no more work once the main thread has come to its end,
while Python still waits for the other threads of a program. And where gevent has put greenlets in the place of threads,
a thread has to be asked for by its first name.
"""

import atexit
import os
import queue
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib import import_module
from typing import Any, ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Job: TypeAlias = tuple[Future[Any], Callable[[], Any]]

_IDLE_SECONDS = 30.0  # that a thread waits for more work before it ends


def gevent_patched() -> bool:
    """Return whether `threading` makes greenlets here."""
    monkey = sys.modules.get("gevent.monkey")
    return bool(monkey and monkey.is_module_patched("threading"))


def native(module: str, name: str) -> Any:
    """Return something of a module of the standard library as it was before gevent put its own in the place of it."""
    if monkey := sys.modules.get("gevent.monkey"):
        return monkey.get_original(module, name)
    return getattr(import_module(module), name)


def start_thread(work: Callable[[], object], name: str) -> None:
    """Run `work` on a daemon thread."""
    if gevent_patched():
        native("_thread", "start_new_thread")(work, ())
    else:
        native("threading", "Thread")(target=work, name=name, daemon=True).start()


def wait(future: "Future[T]") -> T:
    """Wait for what a thread does, and return its result. With gevent, the other greenlets go on meanwhile."""
    if gevent_patched():
        _wait_in_greenlet(future)
    return future.result()


def _wait_in_greenlet(future: "Future[T]") -> None:
    # Not by the future's own lock: it is one of gevent's, who finds that nothing in its hub could ever release it.
    import gevent.event  # type: ignore[import-untyped]

    done, watcher = gevent.event.Event(), gevent.get_hub().loop.async_()
    watcher.start(done.set)
    try:
        future.add_done_callback(lambda _: watcher.send())
        done.wait()
    finally:
        watcher.close()


class ThreadPool(ThreadPoolExecutor):  # because event loops take no other class as their executor
    """Threads that take work for as long as there is somebody to give it.

    Args:
        most: Threads at once. None: one for each piece of work, as with sources that may never yield.
        name: What the threads are called.
        wait_at_exit: Whether Python waits, at its end, for the work that is being done: what computes must not lose
            its libraries in the middle of it.
    """

    def __init__(self, most: int | None, name: str, *, wait_at_exit: bool = True) -> None:
        super().__init__(1)  # starts nothing, and nothing of it is used
        self._most = most
        self._name = name
        self._process = os.getpid()
        self._lock = native("_thread", "allocate_lock")()
        self._jobs: queue.SimpleQueue[_Job | None] = native("queue", "SimpleQueue")()
        self._ended: queue.SimpleQueue[None] = native("queue", "SimpleQueue")()
        self._count = 0
        self._idle = 0  # threads that wait for work, less the work that is on its way to them
        self._closed = False
        if wait_at_exit:
            atexit.register(self.shutdown)

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `work` done by a thread, and return its future.

        Raises:
            RuntimeError: The pool was shut down.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool of threads was shut down")
            self._jobs.put((future, partial(work, *args, **kwargs)))
            if self._idle:
                self._idle -= 1
            elif self._most is None or self._count < self._most:
                self._count += 1
                start_thread(self._work, self._name)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Take no more work, drop what has not begun, and wait for the rest if asked to."""
        if os.getpid() != self._process:
            return  # a forked child has none of the threads
        atexit.unregister(self.shutdown)
        with self._lock:
            self._closed = True
            while cancel_futures and (job := self._take()):
                job[0].cancel()
            count = self._count
            for _ in range(count):
                self._jobs.put(None)
        for _ in range(count if wait else 0):
            self._ended.get()

    def _work(self) -> None:
        while job := self._next():
            _do(*job)
            del job  # or it would be kept until there is another

    def _next(self) -> _Job | None:
        with self._lock:
            if job := self._take():
                return job
            closed = self._closed
            self._idle += 1
        try:
            job = None if closed else self._jobs.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            job = None
        if job:
            return job
        with self._lock:
            if not self._closed and (job := self._take()):  # it came just now
                return job
            self._idle -= 1
            self._count -= 1
            if self._closed:
                self._ended.put(None)
        return None

    def _take(self) -> _Job | None:
        try:
            return self._jobs.get_nowait()
        except queue.Empty:
            return None


def _do(future: "Future[T]", work: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # it belongs to whoever waits for it
        future.set_exception(error)
    else:
        future.set_result(result)
