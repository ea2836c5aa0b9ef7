"""Pages are rendered in several processes, and come in order. Knows no PDFium."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from itertools import count
from typing import NamedTuple, TypeAlias

from nemovlm.errors import PdfPageError, one_line
from nemovlm.pdf.jobs import Document, Job, Place
from nemovlm.pdf.page import Page, RenderedPage
from nemovlm.pdf.processes import Answer, ProcessDiedError, RenderingProcess, give_back, take_processes
from nemovlm.pdf.renderer import Renderer
from nemovlm.threads import wait

_log = logging.getLogger("nemovlm")

_BACKLOG = 6  # pages that each of the others has to do; while they all have, this process renders
_AHEAD = 8  # pages for each process that are dealt out before the reader wants them
_DEATHS = 2  # of processes at one page, after which it was the page, and not whoever kills processes for want of memory
_TRIES = 4  # beside those there are processes that died before they came to it

_numbers = count(1)


class _Sent(NamedTuple):
    """A page that another process renders, or has rendered."""

    page: int
    """0-based, like all pages here."""
    answer: Future[Answer]
    process: RenderingProcess
    place: Place


_Dealt: TypeAlias = int | PdfPageError | _Sent
"""A page as it was dealt out: to this process (its index), to another one, or not at all."""


def in_processes(renderer: Renderer, wanted: Iterable[int], workers: int) -> Iterator[Page | PdfPageError]:
    """Render in this process and in others, a few pages ahead of the reader, in the order wanted.

    A page that falls to this process costs no passage at all, and is rendered when its turn comes. All of them do
    while the others start, and where no others can be had. A process that dies is replaced, and a page at which two
    have died is an error.

    Args:
        renderer: The open PDF.
        wanted: 0-based indexes.
        workers: Processes, this one included: 2 at least.
    """
    ahead: deque[_Dealt] = deque()
    with closing(_Crew(renderer, workers - 1)) as crew:
        for page in wanted:
            ahead.append(crew.deal(page))
            if len(ahead) > _AHEAD * workers:
                yield crew.receive(ahead.popleft())
        while ahead:
            yield crew.receive(ahead.popleft())


class _Crew:
    """The other processes, at work on one document."""

    def __init__(self, renderer: Renderer, size: int) -> None:
        self._renderer = renderer
        self._number = next(_numbers)
        self._processes: list[RenderingProcess] = []
        self._hire(size)

    def deal(self, page: int) -> _Dealt:
        """Have a page rendered by another process if one has time, else leave it to this one."""
        self._replace_dead()
        ready = [process for process in self._processes if process.ready and process.backlog < _BACKLOG]
        return self._send(page, min(ready, key=lambda process: process.backlog)) if ready else page

    def receive(self, dealt: _Dealt) -> Page | PdfPageError:
        """Return what became of a page. One that was left to this process is rendered here and now."""
        deaths = 0
        for _ in range(_TRIES):
            if isinstance(dealt, PdfPageError):
                return dealt
            if isinstance(dealt, int):
                return self._renderer.page(dealt)
            try:
                return self._finish(dealt, wait(dealt.answer))
            except ProcessDiedError as death:
                page, reason = dealt.page, str(death)
                deaths += death.at_work
            self._replace_dead()
            dealt = self._send(page, self._processes[0]) if self._processes and deaths < _DEATHS else page
            if deaths and isinstance(dealt, int):
                break  # not here, where it would be the death of the whole program
        failure = PdfPageError(f"the page cannot be read (the process that rendered it died: {reason})", page=page)
        return failure.at(f"{self._renderer.name} page {page + 1}")

    def close(self) -> None:
        """Let the processes go."""
        give_back(self._processes)

    def _hire(self, size: int) -> None:
        try:
            self._processes += take_processes(size)
        except OSError as error:
            _log.warning("pages are rendered in this process alone: no other can be started (%s)", one_line(error))

    def _replace_dead(self) -> None:
        dead = [process for process in self._processes if not process.alive]
        if dead:
            self._processes = [process for process in self._processes if process.alive]
            self._hire(sum(process.started for process in dead))

    def _send(self, page: int, process: RenderingProcess) -> _Dealt:
        size = self._renderer.measure(page)
        if isinstance(size, PdfPageError):
            return size
        try:
            document, place = self._document(process), process.memory.take(size.nbytes)
        except OSError:  # there is no memory for more pages at once
            return page
        return _Sent(page, process.send(Job(document, page, size, place)), process, place)

    def _document(self, process: RenderingProcess) -> Document:
        """Return the document as a process can have it: its content, where it has no file, is copied once."""
        known = process.document
        if known and known.number == self._number:
            return known
        if known and isinstance(known.source, Place):
            process.memory.give_back(known.source)
        source = self._renderer.source
        there = process.memory.put(source) if isinstance(source, bytes) else source
        renderer = self._renderer
        process.document = Document(self._number, there, renderer.version, renderer.password, renderer.name)
        return process.document

    def _finish(self, sent: _Sent, answer: Answer) -> Page | PdfPageError:
        memory = sent.process.memory
        try:
            if isinstance(answer, RenderedPage):
                return self._renderer.finish(answer, memory.view(sent.place))
        finally:
            memory.give_back(sent.place)
        return self._renderer.page(sent.page) if answer is None else answer
