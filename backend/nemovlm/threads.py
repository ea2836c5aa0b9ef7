"""Threads of our own, for work that blocks, and how to wait for them. Knows nothing of embeddings.

The pools of `concurrent.futures`, asyncio's among them, take no more work once the main thread has come to its end,
while Python still waits for the other threads of a program. And where gevent has put greenlets in the place of threads,
a thread has to be asked for by its first name.
"""

import atexit
import os
import queue
import sys
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib import import_module
from typing import Any, ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Job: TypeAlias = tuple[Future[Any], Callable[[], Any]]
_Inbox: TypeAlias = "queue.SimpleQueue[_Job | None]"

_IDLE_SECONDS = 30.0  # that a thread waits for more work before it ends
_POLL_SECONDS = 0.01  # when Python ends


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
        self._backlog: deque[_Job] = deque()
        self._idle: list[_Inbox] = []  # of the threads that wait for work
        self._count = 0
        self._closed = False
        if wait_at_exit:
            _waited_for.add(self)

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `work` done by a thread, and return its future.

        Raises:
            RuntimeError: The pool was shut down.
        """
        future: Future[T] = Future()
        job = (future, partial(work, *args, **kwargs))
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool of threads was shut down")
            if self._idle:
                self._idle.pop().put(job)
            elif self._most is None or self._count < self._most:
                self._count += 1
                start_thread(partial(self._work, job), self._name)
            else:
                self._backlog.append(job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work, and end the threads when they have done what there is."""
        with self._lock:
            self._closed = True
            while cancel_futures and self._backlog:
                self._backlog.popleft()[0].cancel()
            while self._idle:
                self._idle.pop().put(None)
                self._count -= 1
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until no thread has anything to do. In a forked child there are none."""
        while self._count > len(self._idle) and self._process == os.getpid():
            native("time", "sleep")(_POLL_SECONDS)

    def _work(self, job: _Job | None) -> None:
        inbox: _Inbox = native("queue", "SimpleQueue")()
        while job:
            _do(*job)
            job = None  # or it would be kept until there is another
            job = self._next(inbox)

    def _next(self, inbox: _Inbox) -> _Job | None:
        with self._lock:
            if self._backlog:
                return self._backlog.popleft()
            if self._closed:
                self._count -= 1
                return None
            self._idle.append(inbox)
        try:
            return inbox.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            pass
        with self._lock:
            if inbox in self._idle:
                self._idle.remove(inbox)
                self._count -= 1
                return None
        return inbox.get()  # which came just now


def _do(future: "Future[T]", work: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # it belongs to whoever waits for it
        future.set_exception(error)
    else:
        future.set_result(result)


_waited_for: "weakref.WeakSet[ThreadPool]" = weakref.WeakSet()


@atexit.register
def _wait_for_all() -> None:
    """Not the end of the pools: what others have registered may want their work yet."""
    for pool in list(_waited_for):
        pool.wait()
