"""What goes between this process and those that render: jobs, and memory that both see. Knows no PDFium.

Pixels lie in a file without a name, which both have mapped: in a pipe they would cost more than to render them. On
Linux the file is one of memory alone (`memfd_create`), for which /dev/shm, 64 MB in a container, is no limit.
"""

import mmap
import os
import sys
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from nemovlm.pdf.page import PageSize


class Place(NamedTuple):
    """A part of a `SharedFile`: where it begins, and its bytes."""

    offset: int
    size: int


class Document(NamedTuple):
    """A PDF as another process opens it."""

    number: int
    """Another one for each opening."""
    source: Path | Place
    """Where its content is."""
    version: object
    """What tells its file from another that has taken its place since."""
    password: str | None
    name: str


class Job(NamedTuple):
    """A page to render, and where its pixels are to be left."""

    document: Document
    page: int
    """0-based."""
    size: PageSize
    place: Place


class SharedFile:
    """Memory that this process and one that it starts have in common. It grows, and its places are used again.

    Args:
        handle: Of the file that another process has made. Default: a new one.

    Raises:
        OSError: There is no room for it.
    """

    def __init__(self, handle: str | None = None) -> None:
        path: str | None = None
        if handle is None:
            self._descriptor, path = _make_file()
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
        weakref.finalize(self, _remove_file, self._descriptor, path)

    def take(self, size: int) -> Place:
        """Return a place of `size` bytes at least.

        Raises:
            OSError: There is no room for it.
        """
        if place := next((place for place in self._idle if place.size >= size), None):
            self._idle.remove(place)
            return place
        place = Place(self._end, -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY)
        if hasattr(os, "posix_fallocate"):  # here a full disk is an error; when it is written to, it would be a signal
            os.posix_fallocate(self._descriptor, *place)
        else:
            os.ftruncate(self._descriptor, sum(place))
        self._end = sum(place)
        return place

    def put(self, content: bytes) -> Place:
        """Copy something in, and return where it is.

        Raises:
            OSError: There is no room for it.
        """
        place = Place(self.take(len(content)).offset, len(content))
        self.view(place)[:] = content
        return place

    def give_back(self, place: Place) -> None:
        """Let a place be used again."""
        self._idle.append(place)

    def view(self, place: Place) -> memoryview:
        """Return the bytes of a place."""
        if place not in self._maps:
            self._maps[place] = mmap.mmap(self._descriptor, place.size, offset=place.offset)
        return memoryview(self._maps[place])


def _make_file() -> tuple[int, str | None]:
    """Return the descriptor of a new file, and its path if another process cannot inherit the descriptor."""
    if hasattr(os, "memfd_create"):
        with suppress(OSError):  # a sandbox may not have it
            return os.memfd_create("nemovlm"), None
    descriptor, path = tempfile.mkstemp(prefix="nemovlm-")
    if sys.platform == "win32":
        return descriptor, path
    os.unlink(path)  # nothing is left of it, whoever is killed
    return descriptor, None


def _remove_file(descriptor: int, path: str | None) -> None:
    os.close(descriptor)
    if path:
        with suppress(OSError):
            os.unlink(path)
