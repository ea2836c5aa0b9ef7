"""Pages are drawn in several processes, and come in order. Knows processes and shared memory; knows no PDFium."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from multiprocessing.context import BaseContext
from multiprocessing.shared_memory import SharedMemory
from typing import TypeAlias

from nemovlm.errors import PdfError, PdfPageError
from nemovlm.pdf.renderer import Page, RenderedPage, Renderer

_RUN = 2  # pages dealt to a process at once
_BACKLOG = 3  # runs that each of the others has to do; while they all have, this process draws

Render: TypeAlias = Callable[[], Page]
"""Gives a page when called, or raises `PdfPageError`."""


def in_turn(renderer: Renderer, wanted: Iterable[int]) -> Iterator[Render]:
    """Draw in this process, each page when it is asked for."""
    for index in wanted:
        yield partial(renderer.page, index)


def in_processes(renderer: Renderer, wanted: Iterable[int], workers: int) -> Iterator[Render]:
    """Draw in this process and in others, a few pages ahead of the reader, in the order wanted.

    Pages are dealt out a few at a time. The pixels of the others come over in shared memory: through a pipe they
    would cost more than drawing them. What this process draws costs no passage at all, and while the others
    start, it is at work.
    """
    ahead: deque[Render] = deque()
    idle: list[SharedMemory] = []
    blocks: list[SharedMemory] = []
    busy: list[Future[list[RenderedPage | PdfPageError]]] = []
    pool = ProcessPoolExecutor(workers - 1, _context(), _take_renderer, (renderer,))

    def died() -> PdfError:
        return PdfError("a rendering process died; PDFium may crash on this PDF").at(renderer.name)

    def take(index: int) -> SharedMemory:
        try:
            needed = renderer.bytes_needed(index)
        except PdfPageError:
            needed = 1  # the worker will meet the same error and report it
        block = idle.pop() if idle else None
        if block is None or block.size < needed:
            block = SharedMemory(create=True, size=needed)
            blocks.append(block)
        return block

    def send(run: list[int]) -> list[Render]:
        taken = [take(index) for index in run]
        try:
            drawn = pool.submit(_draw_here, [(index, block.name) for index, block in zip(run, taken, strict=True)])
        except BrokenProcessPool as error:
            raise died() from error
        busy.append(drawn)
        return [partial(receive, drawn, place, block) for place, block in enumerate(taken)]

    def receive(drawn: Future[list[RenderedPage | PdfPageError]], place: int, block: SharedMemory) -> Page:
        try:
            result = drawn.result()[place]
            if isinstance(result, PdfPageError):
                raise result
            return result.page(block.buf)
        except BrokenProcessPool as error:
            raise died() from error
        finally:
            idle.append(block)

    started = pool.submit(_draw_here, [])  # done when the first of them is there; until then this process draws
    try:
        indexes = iter(wanted)
        while run := list(islice(indexes, _RUN)):
            busy[:] = [drawn for drawn in busy if not drawn.done()]
            theirs = started.done() and len(busy) < _BACKLOG * (workers - 1)
            ahead.extend(send(run) if theirs else in_turn(renderer, run))
            while len(ahead) > 4 * workers * _RUN:
                yield ahead.popleft()
        yield from ahead
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for block in blocks:
            block.close()
            block.unlink()


def _context() -> BaseContext:
    """How worker processes start: never as a fork of this process, whose locks and threads may be in any state."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, so that the next document's workers start at once
    return context


# In a worker process: one document, and the blocks of shared memory that it has seen.
_renderer_here: Renderer
_blocks_here: dict[str, SharedMemory] = {}


def _take_renderer(renderer: Renderer) -> None:
    global _renderer_here  # noqa: PLW0603 - what a worker process is for
    _renderer_here = renderer


def _draw_here(run: list[tuple[int, str]]) -> list[RenderedPage | PdfPageError]:
    drawn: list[RenderedPage | PdfPageError] = []
    for index, name in run:
        if name not in _blocks_here:
            _blocks_here[name] = SharedMemory(name)
        try:
            drawn.append(_renderer_here.draw(index, _blocks_here[name].buf))
        except PdfPageError as error:
            drawn.append(error)
    return drawn
