"""The processes that render, seen from the one that started them: kept for the next document, killed, replaced."""

import atexit
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.spawn import get_executable
from signal import Signals
from typing import Any, TypeAlias

from nemovlm.errors import PdfPageError
from nemovlm.pdf.jobs import Document, Job, SharedFile
from nemovlm.pdf.page import RenderedPage
from nemovlm.threads import gevent_patched, native, start_thread

Answer: TypeAlias = RenderedPage | PdfPageError | None
"""What became of a page. None: the process cannot have the document."""


class ProcessDiedError(Exception):
    """A process died before it answered; `at_work` is whether it was at this page. It never leaves `pdf/`."""

    def __init__(self, reason: str, *, at_work: bool) -> None:
        super().__init__(reason)
        self.at_work = at_work


class RenderingProcess:
    """A process that renders one page after the other.

    Raises:
        OSError: It cannot be started here.
    """

    def __init__(self) -> None:
        self.memory = SharedFile()
        """Where it leaves pixels."""
        self.document: Document | None = None
        """What it was told to open last."""
        self._asked: deque[Future[Answer]] = deque()
        self._guard = native("_thread", "allocate_lock")()
        self._alive = True
        self._process = _start(self.memory)
        self._ready: Future[Answer] = Future()
        self._asked.append(self._ready)
        start_thread(self._listen, "nemovlm-pdf")

    @property
    def alive(self) -> bool:
        """Whether it can still be asked, as far as is known."""
        return self._alive

    @property
    def started(self) -> bool:
        """Whether it has ever answered, dead or alive."""
        return self._ready.done() and self._ready.exception() is None

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self._alive and self.started

    @property
    def backlog(self) -> int:
        """How many pages it has still to answer for."""
        return sum(answer is not self._ready for answer in tuple(self._asked))

    def send(self, job: Job) -> Future[Answer]:
        """Ask for a page. The future may fail with `ProcessDiedError`."""
        answer: Future[Answer] = Future()
        with self._guard:
            if not self._alive:
                answer.set_exception(ProcessDiedError("it had ended", at_work=False))
                return answer
            self._asked.append(answer)
        with suppress(OSError):  # it is dead, which `_listen` is about to find out
            pickle.dump(job, self._process.stdin)
            self._process.stdin.flush()
        return answer

    def kill(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()

    def _listen(self) -> None:
        with suppress(Exception):  # it ended, or what runs there is no Python, and says anything
            while True:
                answer = pickle.load(self._process.stdout)  # noqa: S301 - a process of ours
                self._asked.popleft().set_result(answer)
        self._process.kill()
        reason = _reason(self._process.wait())
        with self._guard:
            self._alive = False
        at_work = True
        while self._asked:
            self._asked.popleft().set_exception(ProcessDiedError(reason, at_work=at_work))
            at_work = False
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was written to it is lost
                stream.close()


def _start(memory: SharedFile) -> Any:
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return subprocess.Popen(  # noqa: S603
        [*_command(), memory.handle],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},  # the second: not whatever folder we are in
        pass_fds=memory.inherited,
        start_new_session=True,  # Ctrl-C is for the program that it works for
    )


def _command() -> list[str]:
    if getattr(sys, "frozen", False):
        raise OSError("a frozen program has no Python to start another process with")
    if gevent_patched():
        raise OSError("gevent has put its own processes in the place of Python's")
    return [get_executable(), "-m", "nemovlm.pdf.worker"]


def _reason(code: int) -> str:
    with suppress(ValueError):
        return f"killed by {Signals(-code).name}"
    return f"exit code {code}"


_idle: list[RenderingProcess] = []
_idle_lock = threading.Lock()


def take_processes(count: int) -> list[RenderingProcess]:
    """Return so many processes, some of which may have worked before.

    Raises:
        OSError: None can be started here.
    """
    with _idle_lock:
        living = [process for process in _idle if process.alive]
        taken, _idle[:] = living[:count], living[count:]
    return taken + [RenderingProcess() for _ in range(count - len(taken))]


def give_back(processes: Sequence[RenderingProcess]) -> None:
    """Keep those that have nothing to do for the next document, for half a minute, and end the others."""
    for process in processes:
        if process.backlog:
            process.kill()
    with _idle_lock:
        _idle.extend(process for process in processes if process.alive and not process.backlog)


@atexit.register
def _end_all() -> None:
    for process in _idle:
        process.kill()


def _forget_all() -> None:
    """In a forked child: these work for its parent."""
    global _idle_lock  # noqa: PLW0603 - it may be held by a thread that is gone
    _idle_lock = threading.Lock()
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
