"""A process that renders pages for another: `python -m nemovlm.pdf.worker HANDLE`, jobs on stdin, answers on stdout.

It is a program of its own, so nothing of the program that started it is run here again. It ends when that one does.
"""

import logging
import os
import pickle
import sys
import threading
import time
from typing import BinaryIO

from nemovlm.errors import PdfError, PdfPageError
from nemovlm.pdf.jobs import Document, Job, Place, SharedFile
from nemovlm.pdf.page import RenderedPage
from nemovlm.pdf.renderer import Renderer

_IDLE_SECONDS = 30.0  # without a job, after which it ends
_POLL_SECONDS = 1.0


class Worker:
    """The document that is open, and the memory that pixels go to."""

    def __init__(self, memory: SharedFile) -> None:
        self._memory = memory
        self._number: int | None = None
        self._renderer: Renderer | None = None

    def answer(self, job: Job) -> RenderedPage | PdfPageError | None:
        """Return what became of a page, or None if the document cannot be had here: its file is gone, or another."""
        if job.document.number != self._number:
            self._open(job.document)
        if self._renderer is None:
            return None
        return self._renderer.render_into(job.page, job.size, self._memory.view(job.place))

    def _open(self, document: Document) -> None:
        if self._renderer:
            self._renderer.close()
        self._number, self._renderer = document.number, None
        source = document.source
        content = self._memory.view(source).tobytes() if isinstance(source, Place) else source
        try:
            renderer = Renderer(content, document.password, name=document.name)
        except PdfError:
            return
        if renderer.version == document.version:
            self._renderer = renderer


def main() -> None:
    """Render what is asked for until nobody asks any more."""
    logging.disable()  # what there is to say of a document was said where it was opened first
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whoever prints here does not print into the answers
    worker = Worker(SharedFile(sys.argv[1]))
    busy_at = [time.monotonic()]
    threading.Thread(target=_end_when_useless, args=[busy_at, os.getppid()], daemon=True).start()
    _send(answers, None)  # ready
    while True:
        try:
            job: Job = pickle.load(jobs)  # noqa: S301 - from the process that started this one
        except EOFError:
            return
        busy_at[0] = float("inf")
        _send(answers, worker.answer(job))
        busy_at[0] = time.monotonic()


def _send(answers: BinaryIO, answer: RenderedPage | PdfPageError | None) -> None:
    pickle.dump(answer, answers)
    answers.flush()


def _end_when_useless(busy_at: list[float], parent: int) -> None:
    """End the process if it has had no job for long, or nobody is left to wait for the page that it is at."""
    while time.monotonic() - busy_at[0] < _IDLE_SECONDS and os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    main()
