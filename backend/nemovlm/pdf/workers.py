"""An open PDF, whose pages are rendered in other processes and come in order. Knows no PDFium.

In other processes, since a page may never come to an end, or crash PDFium. Where none can be had it is this one.
"""

import logging
import math
import pickle
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple, Self, TypeAlias, TypedDict

from nemovlm.choices import PAGE_MEMORY, PAGE_TIMEOUT
from nemovlm.errors import ConfigurationError, PdfError, one_line
from nemovlm.models.tiling import NEMOTRON_TILING
from nemovlm.models.vision import Vision
from nemovlm.pdf.jobs import (
    Answer,
    Attachment,
    Document,
    Opened,
    Place,
    Rendered,
    Task,
    failure,
)
from nemovlm.pdf.page import Page, RenderedPage
from nemovlm.pdf.processes import ProcessDiedError, RenderingProcess, give_back, take_process
from nemovlm.pdf.renderer import Renderer, changed
from nemovlm.pdf.source import OpenSource, PdfSource

_log = logging.getLogger("nemovlm")

_AHEAD = 4  # pages for each process that are dealt out before the reader wants them
_DEATHS = 2  # of processes at one page, after which it was the page, and not whoever kills processes for want of memory
_TRIES = 4  # beside those there are processes that died before they came to it

_numbers = count(1)


class _Dealt(NamedTuple):
    """A job that another process does, or has done."""

    process: RenderingProcess
    answer: "Future[Answer]"


Password: TypeAlias = str | Sequence[str] | None


class ReadOptions(TypedDict, total=False):
    """How a PDF is read: what `iter_pages` says of these."""

    password: Password
    tiling: Vision
    dpi: float | None
    workers: int
    page_timeout: float | None
    page_memory: int | None


class OpenPdf:
    """An open PDF. The arguments are those of `iter_pages`.

    Raises:
        PdfError: The PDF cannot be opened; the subclasses say why.
        ConfigurationError: An argument is none that there is.
    """

    def __init__(
        self,
        source: PdfSource,
        name: str | None = None,
        *,
        password: Password = None,
        tiling: Vision = NEMOTRON_TILING,
        dpi: float | None = None,
        workers: int = 1,
        page_timeout: float | None = PAGE_TIMEOUT,
        page_memory: int | None = PAGE_MEMORY,
    ) -> None:
        for what, value in (("dpi", dpi), ("page_timeout", page_timeout), ("page_memory", page_memory)):
            if value is not None and not 0 < value < math.inf:
                raise ConfigurationError(f"{what} must be a positive number, not {value}")
        if workers < 1:
            raise ConfigurationError(f"workers={workers}: one process at least has to render")
        self._source = OpenSource(source, name, page_timeout)
        self.name = self._source.name
        given = (password,) if isinstance(password, str) else password or ()
        self._passwords = tuple(each for each in given if each)
        self._tiling = tiling
        self._dpi = dpi
        self._bounds = (page_timeout, page_memory)
        self._number = next(_numbers)
        self._most = workers
        self._processes: list[RenderingProcess] = []
        try:
            self._pickled_tiling = pickle.dumps(tiling)
        except Exception as error:  # of whatever kind: it may be of somebody else's making
            self._have_no_more(one_line(error))
        self._here: Renderer | None = None
        self._canvas = bytearray()  # kept from page to page: to touch fresh memory first costs as much as rendering
        try:
            self._facts = self._open()
        except BaseException:
            self.close()
            raise
        self.total = self._facts.total
        """Pages."""
        self.attached_names = self._facts.attached
        """PDFs that are attached: which attachment it is, 0-based, and its name."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the processes go, and the document. Those at work are ended."""
        give_back(self._processes)
        self._processes = []
        if self._here:
            self._here.close()
        self._source.close()

    def pages(self, wanted: Iterable[int]) -> Iterator[Page | PdfError]:
        """Yield pages (0-based) in the order wanted, and in the place of one that failed its `PdfPageError`.

        They are rendered a few ahead of the reader. A process that dies is replaced, and a page at which two have died
        is an error.

        Raises:
            PdfError: Somebody has changed the file meanwhile.
        """
        for note in self._facts.notes:
            warn_once(f"{self.name}: {note}")
        for result in self._in_order(wanted):
            if self._source.changed():
                raise changed(self.name)
            yield result

    def attached(self) -> Iterator[tuple[str, bytes | PdfError]]:
        """Yield name and content of each PDF that is attached."""
        for number, name in self.attached_names.items():
            task = Attachment(number)
            content = self._answer(task, self._deal(task))
            yield name, self._renderer().attachment(number) if content is None else content

    def _in_order(self, wanted: Iterable[int]) -> Iterator[Page | PdfError]:
        ahead: deque[tuple[int, _Dealt | None]] = deque()
        for page in wanted:
            ahead.append((page, self._deal(page)))
            if len(ahead) > _AHEAD * self._most:
                yield self._receive(*ahead.popleft())
        while ahead:
            yield self._receive(*ahead.popleft())

    def _open(self) -> Opened:
        answer = self._answer(None, self._deal(None))
        if isinstance(answer, PdfError):
            raise answer
        if isinstance(answer, Opened):
            return answer
        if self._processes:
            give_back(self._processes)
            self._processes = []
            self._have_no_more("it can have neither the file nor the tiling")
        renderer = self._renderer()
        return Opened(renderer.total, renderer.info, renderer.notes, renderer.attached)

    def _receive(self, page: int, dealt: _Dealt | None) -> Page | PdfError:
        answer = self._answer(page, dealt)
        if isinstance(answer, (Page, PdfError)):
            return answer
        rendered = self._renderer().render(page, self._buffer)
        return self._page(rendered, self._canvas) if isinstance(rendered, RenderedPage) else rendered

    def _deal(self, task: Task) -> _Dealt | None:
        """Give a task to another process; None if there is none."""
        if (process := self._choose()) is None:
            return None
        how = (self._passwords, self._pickled_tiling, self._dpi)
        document = Document(self._number, self._source.file, *how, *self._bounds)
        return _Dealt(process, process.send(document, task))

    def _choose(self) -> RenderingProcess | None:
        """Return the process that has the least to do, or a new one if there may be more."""
        failed = any(not (process.alive or process.started) for process in self._processes)
        self._processes = [process for process in self._processes if process.alive]
        if failed:
            self._have_no_more("it ended before it began")
        least = min(self._processes, key=lambda process: process.backlog, default=None)
        if len(self._processes) < self._most and (least is None or least.backlog):
            try:
                least = take_process()
            except OSError as error:
                self._have_no_more(one_line(error))
            else:
                self._processes.append(least)
        return least

    def _have_no_more(self, reason: str) -> None:
        self._most = len(self._processes)
        warn_once(
            f"a page that takes for ever cannot be given up: no other process can be started to render it ({reason})"
        )

    def _answer(self, task: Task, dealt: _Dealt | None) -> Any:
        """Return what other processes make of a task: an answer, or the page; None if there is none that can do it."""
        deaths, reason = 0, ""
        for _ in range(_TRIES):
            if dealt is None or deaths == _DEATHS:
                break
            try:
                return self._take(dealt.process, dealt.process.result(dealt.answer))
            except ProcessDiedError as death:
                deaths, reason = deaths + death.at_work, str(death)
            dealt = self._deal(task)
        if not deaths:
            return None
        # Not here, where it would be the death of the whole program.
        return failure(self.name, task, f" (the process that was at it died: {reason})")

    def _take(self, process: RenderingProcess, answer: Answer) -> Any:
        if not isinstance(answer, Rendered):
            return answer
        if not isinstance(answer.pixels, Place):
            return self._page(answer.page, answer.pixels)
        process.free.append(answer.pixels)
        return self._page(answer.page, process.memory.view(answer.pixels))

    def _page(self, rendered: RenderedPage, pixels: bytearray | memoryview) -> Page:
        for font in sorted(rendered.lacking):
            what = f"letters of {font} are missing in the picture: the font is neither embedded nor on this system"
            warn_once(f"{self.name}: {what}; install fonts that have them")
        size = rendered.size
        return Page(
            source=self.name,
            index=rendered.index,
            label=rendered.label,
            total=self.total,
            image=rendered.copy_image(memoryview(pixels)),
            text=rendered.text,
            width=size.width,
            height=size.height,
            dpi=size.dpi,
            info=self._facts.info,
        )

    def _renderer(self) -> Renderer:
        if self._here is None:
            try:
                self._here = Renderer(self._source.file, self._passwords, self._tiling, self._dpi)
            except OSError as error:
                raise PdfError(f"the file cannot be read: {one_line(error)}").at(self.name) from error
        return self._here

    def _buffer(self, size: int) -> bytearray:
        if len(self._canvas) < size:
            self._canvas = bytearray(size)
        return self._canvas


@lru_cache(1024)
def warn_once(what: str) -> None:
    """Log a warning, unless it was logged before."""
    _log.warning(what)
