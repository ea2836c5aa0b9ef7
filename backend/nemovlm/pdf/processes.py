"""The processes that render, seen from the one that started them: kept for the next document, killed, replaced."""

import atexit
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.spawn import get_executable
from signal import Signals
from typing import Any

from nemovlm.pdf.jobs import Answer, Document, Job, LastAnswer, Place, SharedFile, Task
from nemovlm.threads import gevent_patched, native, start_thread, wait


class ProcessDiedError(Exception):
    """A process died before it answered; `at_work` is whether it was at this job. It never leaves `pdf/`."""

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
        self.free: list[Place] = []
        """Places there that are not needed any more, which it is told with the next job."""
        self._owner = os.getpid()
        self._asked: deque[Future[Answer]] = deque()
        self._guard = native("_thread", "allocate_lock")()
        self._alive = True
        self._process = _start(self.memory)
        self._ready: Future[Answer] = Future()
        self._asked.append(self._ready)
        start_thread(self._listen, "nemovlm-pdf")

    @property
    def alive(self) -> bool:
        """Whether it can still be asked, as far as is known. In a forked child it cannot: it works for the parent."""
        return self._alive and os.getpid() == self._owner

    @property
    def started(self) -> bool:
        """Whether it has ever answered, dead or alive."""
        return self._ready.done() and self._ready.exception() is None

    @property
    def backlog(self) -> int:
        """How many jobs it has still to answer for."""
        return sum(answer is not self._ready for answer in tuple(self._asked))

    def send(self, document: Document, task: Task) -> Future[Answer]:
        """Give it a job. The future may fail with `ProcessDiedError`."""
        answer: Future[Answer] = Future()
        with self._guard:
            if not self._alive:
                answer.set_exception(ProcessDiedError("it had ended", at_work=False))
                return answer
            self._asked.append(answer)
        self._tell(document, task)
        return answer

    def close_document(self) -> None:
        """Have it let go of the document that it has open."""
        self._tell(None, None)

    def _tell(self, document: Document | None, task: Task) -> None:
        free, self.free = tuple(self.free), []
        with suppress(OSError, ValueError):  # it is dead, which `_listen` is about to find out, or has found
            pickle.dump(Job(document, task, free), self._process.stdin)
            self._process.stdin.flush()

    def result(self, answer: "Future[Answer]") -> Answer:
        """Wait for the answer to a job.

        Raises:
            ProcessDiedError: There will be none.
        """
        if os.getpid() != self._owner:
            raise ProcessDiedError("it works for the process that this one was forked from", at_work=False)
        return wait(answer)

    def kill(self) -> None:
        """End it, whatever it is doing."""
        if os.getpid() == self._owner:
            self._process.kill()

    def _listen(self) -> None:
        at_work = True
        with suppress(Exception):  # it ended, or what runs there is no Python, and says anything
            while at_work:
                answer = pickle.load(self._process.stdout)  # noqa: S301 - a process of ours
                at_work = not isinstance(answer, LastAnswer)
                self._asked.popleft().set_result(answer if at_work else answer.answer)
        self._process.kill()
        reason = _reason(self._process.wait())
        with self._guard:
            self._alive = False
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
    if code == -Signals.SIGKILL:
        return "killed by SIGKILL, which is what systems do when memory runs out"
    with suppress(ValueError):
        return f"killed by {Signals(-code).name}"
    return f"exit code {code}"


# No lock: a garbage collection or a signal may give processes back while this very thread takes one.
_idle: deque[RenderingProcess] = deque()


def take_process() -> RenderingProcess:
    """Return a process, which may have worked before.

    Raises:
        OSError: None can be started here.
    """
    with suppress(IndexError):
        while True:
            if (process := _idle.pop()).alive:
                return process
    return RenderingProcess()


def give_back(processes: Sequence[RenderingProcess]) -> None:
    """Keep those that have nothing to do for the next document, for half a minute, and end the others."""
    for process in processes:
        if process.backlog or sys.is_finalizing():
            process.kill()
        elif process.alive:
            process.close_document()
            _idle.append(process)


@atexit.register
def _end_all() -> None:
    with suppress(IndexError):
        while True:
            _idle.pop().kill()
