"""What goes between this process and those that render: jobs, answers, and memory that both see. Knows no PDFium.

Pixels lie in a file without a name, which both have mapped: in a pipe they would cost more than to render them.
"""

import mmap
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from nemovlm.errors import PdfError
from nemovlm.pdf.page import RenderedPage, page_failure
from nemovlm.pdf.source import File, let_go, make_file


class Place(NamedTuple):
    """A part of a `SharedFile`: where it begins, and its bytes."""

    offset: int
    size: int


class Document(NamedTuple):
    """A PDF as another process opens it, and how its pages are rendered."""

    number: int
    """Another one for each opening."""
    file: File
    passwords: tuple[str, ...]
    tiling: bytes
    """Pickled: a class of somebody else's may not be known in another process."""
    dpi: float | None
    timeout: float | None
    """Seconds for a page, or for the opening."""
    memory: int | None
    """Bytes."""


class Attachment(NamedTuple):
    """Something that is attached to a document."""

    number: int
    """0-based."""


Task: TypeAlias = int | Attachment | None
"""A page to render (0-based), an attachment to read, or else the document to open."""


class Job(NamedTuple):
    """Something to do with a document; without one, what is open is closed, and there is no answer."""

    document: Document | None
    task: Task
    free: tuple[Place, ...]
    """Where pixels were that are not needed any more."""


class Opened(NamedTuple):
    """What a document says of itself."""

    total: int
    """Pages."""
    info: Mapping[str, str]
    notes: Sequence[str]
    """What whoever reads it should know, a sentence each."""
    attached: Mapping[int, str]
    """PDFs that are attached: which attachment it is, and its name."""


class Rendered(NamedTuple):
    """A page, and where its pixels are: in the shared file, or here if there was no room."""

    page: RenderedPage
    pixels: Place | bytearray


Answer: TypeAlias = Opened | Rendered | bytes | PdfError | None
"""What became of a job. None: the process cannot have the document, or the way in which it is to be rendered."""


class LastAnswer(NamedTuple):
    """The answer of a process that ends with it."""

    answer: PdfError


def failure(name: str, task: Task, why: str) -> PdfError:
    """Return the error of a task that failed.

    Args:
        name: Of the document.
        task: What failed.
        why: How the sentence goes on.
    """
    if task is None:
        return PdfError(f"the PDF cannot be opened{why}").at(name)
    if isinstance(task, Attachment):
        return PdfError(f"a PDF that is attached cannot be read{why}").at(name)
    return page_failure(name, task, why)


class SharedFile:
    """Memory that this process and one that it starts have in common. It grows, and its places are used again.

    One of the two takes places in it, and both see them.

    Args:
        handle: Of the file that another process has made. Default: a new one.

    Raises:
        OSError: There is no room for it.
    """

    def __init__(self, handle: str | None = None) -> None:
        path: str | None = None
        if handle is None:
            self._descriptor, path = make_file()
        elif handle.isdecimal():
            self._descriptor = int(handle)
        else:
            self._descriptor = os.open(handle, os.O_RDWR | getattr(os, "O_BINARY", 0))
        self.handle = path or str(self._descriptor)
        """What to tell the other process."""
        self.inherited = () if path else (self._descriptor,)
        """Descriptors that the other process has to be started with."""
        self._end = 0
        self._idle: list[Place] = []
        self._maps: dict[Place, mmap.mmap] = {}
        weakref.finalize(self, let_go, self._descriptor, path, os.getpid())

    def take(self, size: int) -> Place:
        """Return a place of `size` bytes at least.

        Raises:
            OSError: There is no room for it.
        """
        for place in reversed(self._idle):  # the last one that was used is still in the processor's cache
            if place.size >= size:
                self._idle.remove(place)
                return place
        place = Place(self._end, -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY)
        if hasattr(os, "posix_fallocate"):  # here a full disk is an error; when it is written to, it would be a signal
            os.posix_fallocate(self._descriptor, *place)
        else:
            os.ftruncate(self._descriptor, sum(place))
        self._end = sum(place)
        return place

    def give_back(self, places: Iterable[Place]) -> None:
        """Let places be used again."""
        self._idle += places

    def view(self, place: Place) -> memoryview:
        """Return the bytes of a place."""
        if place not in self._maps:
            self._maps[place] = mmap.mmap(self._descriptor, place.size, offset=place.offset)
        return memoryview(self._maps[place])
