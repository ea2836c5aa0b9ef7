"""Pages are rendered in several processes, and come in order. Knows processes and shared memory; knows no PDFium."""

import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from multiprocessing.context import BaseContext
from multiprocessing.shared_memory import SharedMemory
from typing import NamedTuple, cast

from nemovlm.errors import PdfError, PdfPageError
from nemovlm.pdf.page import Page, PageSize, RenderedPage
from nemovlm.pdf.renderer import Renderer

_BACKLOG = 6  # pages that each of the others has to do; while they all have, this process renders
_AHEAD = 8  # pages for each process that are dealt out before the reader wants them


def in_processes(renderer: Renderer, wanted: Iterable[int], workers: int) -> Iterator[Page | PdfPageError]:
    """Render in this process and in others, a few pages ahead of the reader, in the order wanted.

    The pixels of the others come over in shared memory: through a pipe they would cost more than rendering them. A
    page that falls to this process costs no passage at all, and is rendered when its turn comes; while the others
    start, all of them fall to it.

    Args:
        renderer: The open PDF.
        wanted: 0-based indexes.
        workers: Processes, this one included: 2 at least.

    Raises:
        PdfError: A process died.
    """
    ahead: deque[int | PdfPageError | _Sent] = deque()
    with closing(_WorkerPool(renderer, workers - 1)) as pool:
        for index in wanted:
            ahead.append(pool.send(index) if pool.has_time() else index)
            if len(ahead) > _AHEAD * workers:
                yield pool.receive(ahead.popleft())
        while ahead:
            yield pool.receive(ahead.popleft())


class _Sent(NamedTuple):
    """A page that another process renders, or has rendered, into a block of shared memory."""

    rendered: Future[RenderedPage | PdfPageError]
    block: SharedMemory


class _WorkerPool:
    """The other processes, and the shared memory in which their pixels come over."""

    def __init__(self, renderer: Renderer, count: int) -> None:
        self._renderer = renderer
        self._count = count
        self._blocks: list[SharedMemory] = []
        self._idle: list[SharedMemory] = []
        self._busy: list[Future[RenderedPage | PdfPageError]] = []
        self._executor = ProcessPoolExecutor(count, _context(), _take_renderer, (renderer,))
        self._started = self._executor.submit(os.getpid)  # done when the first of them is there

    def has_time(self) -> bool:
        """Whether there is a process, and they have less to do than their backlog."""
        self._busy = [rendered for rendered in self._busy if not rendered.done()]
        return self._started.done() and len(self._busy) < _BACKLOG * self._count

    def send(self, index: int) -> _Sent | PdfPageError:
        """Have a page rendered."""
        size = self._renderer.measure(index)
        if isinstance(size, PdfPageError):
            return size
        block = self._take_block(size.nbytes)
        with self._death_as_pdf_error():
            rendered = self._executor.submit(_render_here, index, size, block.name)
        self._busy.append(rendered)
        return _Sent(rendered, block)

    def receive(self, page: int | PdfPageError | _Sent) -> Page | PdfPageError:
        """Return what became of a page. One that was not sent is rendered here and now."""
        if isinstance(page, PdfPageError):
            return page
        if not isinstance(page, _Sent):
            return self._renderer.page(page)
        try:
            with self._death_as_pdf_error():
                rendered = page.rendered.result()
            if isinstance(rendered, PdfPageError):
                return rendered
            return self._renderer.finish(rendered, _buffer(page.block))
        finally:
            self._idle.append(page.block)

    def close(self) -> None:
        """End the processes and give back the memory. Waits for the pages that are being rendered."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        for block in self._blocks:
            block.close()
            block.unlink()

    def _take_block(self, size: int) -> SharedMemory:
        block = self._idle.pop() if self._idle else None
        if block is None or block.size < size:
            block = SharedMemory(create=True, size=size)
            self._blocks.append(block)
        return block

    @contextmanager
    def _death_as_pdf_error(self) -> Iterator[None]:
        try:
            yield
        except BrokenProcessPool as error:
            raise PdfError("a rendering process died; PDFium may crash on this PDF").at(self._renderer.name) from error


def _context() -> BaseContext:
    """How worker processes start: never as a fork of this process, whose locks and threads may be in any state."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, so that the next document's workers start at once
    return context


def _buffer(block: SharedMemory) -> memoryview:
    return cast("memoryview", block.buf)  # None only after it was closed


# In a worker process: one document, and the blocks of shared memory that it has seen.
_renderer_here: Renderer
_blocks_here: dict[str, SharedMemory] = {}


def _take_renderer(renderer: Renderer) -> None:
    global _renderer_here  # noqa: PLW0603 - what a worker process is for
    _renderer_here = renderer


def _render_here(index: int, size: PageSize, block: str) -> RenderedPage | PdfPageError:
    if block not in _blocks_here:
        _blocks_here[block] = SharedMemory(block)
    return _renderer_here.render_into(index, size, _buffer(_blocks_here[block]))
