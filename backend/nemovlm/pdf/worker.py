"""A process that renders pages for another: `python -m nemovlm.pdf.worker HANDLE`, jobs on stdin, answers on stdout.

It is a program of its own, so nothing of the program that started it is run here again. It ends when that one does, or
when a page takes longer than it may, or more memory: PDFium cannot be interrupted in any other way.
"""

import logging
import os
import pickle
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from nemovlm.errors import PdfError, PdfPageError
from nemovlm.pdf.fonts import SystemFonts
from nemovlm.pdf.jobs import (
    Answer,
    Attachment,
    Document,
    Job,
    LastAnswer,
    Opened,
    Place,
    Rendered,
    SharedFile,
    Task,
    failure,
)
from nemovlm.pdf.page import RenderedPage
from nemovlm.pdf.renderer import Renderer

_IDLE_SECONDS = 30.0  # without a job, after which it ends
_POLL_SECONDS = 0.05


class Worker:
    """The document that is open, and the memory that pixels go to."""

    def __init__(self, memory: SharedFile, guard: "Guard") -> None:
        self._memory = memory
        self._guard = guard
        self._fonts = SystemFonts()
        self._fonts.setup()
        self._number: int | None = None
        self._outcome: Renderer | PdfError | None = None

    def free(self, places: Iterable[Place]) -> None:
        """Use places for other pixels."""
        self._memory.give_back(places)

    def answer(self, document: Document, task: Task) -> Answer:
        """Return what becomes of a task."""
        if document.number != self._number:
            self.close()
            with self._guard.bounds(document, None):
                self._outcome = _open(document, self._fonts)
            self._number = document.number
        renderer = self._outcome
        if not isinstance(renderer, Renderer):
            return renderer
        if task is None:
            return Opened(renderer.total, renderer.info, renderer.notes, renderer.attached)
        with self._guard.bounds(document, task):
            return renderer.attachment(task.number) if isinstance(task, Attachment) else self._render(renderer, task)

    def close(self) -> None:
        """Let go of the document."""
        if isinstance(self._outcome, Renderer):
            self._outcome.close()
        self._number, self._outcome = None, None

    def _render(self, renderer: Renderer, page: int) -> Rendered | PdfPageError:
        pixels: Place | bytearray = bytearray()

        def buffer(size: int) -> bytearray | memoryview:
            nonlocal pixels
            try:
                pixels = self._memory.take(size)
            except OSError:  # there is no room: they go through the pipe
                pixels = bytearray(size)
                return pixels
            return self._memory.view(pixels)

        rendered = renderer.render(page, buffer)
        if isinstance(rendered, RenderedPage):
            return Rendered(rendered, pixels)
        if isinstance(pixels, Place):
            self._memory.give_back([pixels])
        return rendered


def _open(document: Document, fonts: SystemFonts) -> Renderer | PdfError | None:
    try:
        tiling = pickle.loads(document.tiling)  # noqa: S301 - from the process that started this one
    except Exception:  # of whatever kind: what it is made of is unknown here
        return None
    try:
        return Renderer(document.file, document.passwords, tiling, document.dpi, fonts)
    except PdfError as error:
        return error
    except OSError:
        return None


class Guard:
    """Sends the answers, and ends the process: when it is not needed any more, or a job goes beyond its bounds.

    Args:
        answers: Where answers go.
    """

    def __init__(self, answers: BinaryIO) -> None:
        self._answers = answers
        self._parent = os.getppid()
        self._lock = threading.Lock()
        self._work: tuple[Document, Task] | None = None
        self._began_at = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def send(self, answer: Answer | LastAnswer) -> None:
        """Send an answer."""
        with self._lock:
            self._send(answer)

    @contextmanager
    def bounds(self, document: Document, task: Task) -> Iterator[None]:
        """Hold what is done within to the bounds that a document names."""
        self._note((document, task))
        try:
            yield
        finally:
            self._note(None)

    def _note(self, work: tuple[Document, Task] | None) -> None:
        with self._lock:
            self._work, self._began_at = work, time.monotonic()

    def _send(self, answer: Answer | LastAnswer) -> None:
        pickle.dump(answer, self._answers, protocol=5)
        self._answers.flush()

    def _watch(self) -> None:
        while os.getppid() == self._parent:
            time.sleep(_POLL_SECONDS)
            with self._lock:
                seconds = time.monotonic() - self._began_at
                if self._work is None and seconds > _IDLE_SECONDS:
                    break
                if self._work and (excess := _excess(self._work[0], seconds)):
                    with suppress(OSError):
                        document, task = self._work
                        self._send(LastAnswer(failure(document.file.name, task, f": that takes {excess}")))
                    break
        os._exit(0)


def _excess(document: Document, seconds: float) -> str:
    """Return what a job has taken too much of, or nothing."""
    if document.timeout is not None and seconds > document.timeout:
        return f"more than {document.timeout:g} s (page_timeout)"
    if document.memory is not None and _own_memory() > document.memory:
        return f"more than {document.memory / 2**20:.0f} MB of memory (page_memory)"
    return ""


def _own_memory() -> int:
    """Return the bytes in memory that are of this process alone; 0 where the system does not tell.

    https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html
    """
    try:
        with open("/proc/self/statm", "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except OSError:
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Render what is asked for until nobody asks any more."""
    logging.disable()  # what there is to say of a document goes with the answers, and is said where they are read
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whoever prints here does not print into the answers
    guard = Guard(answers)
    worker = Worker(SharedFile(sys.argv[1]), guard)
    with suppress(EOFError, BrokenPipeError):  # nobody is left who asks, or waits for an answer
        guard.send(None)  # ready
        while True:
            job: Job = pickle.load(jobs)  # noqa: S301 - from the process that started this one
            worker.free(job.free)
            if job.document:
                guard.send(worker.answer(job.document, job.task))
            else:
                worker.close()


if __name__ == "__main__":
    main()
