"""What a PDF is read from: a file that is held open, or memory in the place of one. Knows no PDFium."""

import os
import select
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

from nemovlm.errors import ConfigurationError, PdfError, PdfFormatError, one_line
from nemovlm.paths import local_path, read_binary, readable_name

PdfSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""A path, the content of a PDF, or an open binary file (which is read from its start and stays open)."""

# A file that is open has a path of its own on Linux, for every process of the same user: what another file that takes
# its place in the folder cannot change. https://man7.org/linux/man-pages/man5/proc_pid_fd.5.html
_OPEN_FILES_HAVE_PATHS = os.path.isdir("/proc/self/fd")
_PIPE_BYTES = 2**31  # of a pipe, which may never end
_WRITER_SECONDS = 5.0  # until somebody writes into it
_CHUNK = 2**16
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class File(NamedTuple):
    """A file that PDFium is to open, in this process or another."""

    path: str
    version: tuple[int, ...]
    """What tells it from another file, or from itself after it was changed."""
    name: str
    """What to call it."""


class OpenSource:
    """A PDF that can be opened again and again, here and in other processes, and is the same each time.

    Args:
        source: What somebody passed.
        name: What to call it. Default: its path, or `<bytes>`.
        timeout: Seconds to wait for a pipe into which nobody writes.

    Raises:
        PdfError: It cannot be read.
        ConfigurationError: It is nothing that a PDF is read from.
    """

    def __init__(self, source: PdfSource, name: str | None = None, timeout: float | None = None) -> None:
        content = _path_or_bytes(source)
        self.name = readable_name(name or (content if isinstance(content, Path) else "<bytes>"))
        try:
            opened = _open(content, timeout) if isinstance(content, Path) else content
            self._descriptor, self._path = opened if isinstance(opened, tuple) else _keep(opened)
            self._version = version_of(self._descriptor)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise PdfError(f"the file cannot be read: {one_line(error)}").at(self.name) from error
        temporary = None if isinstance(opened, tuple) else self._path
        self.close = weakref.finalize(self, let_go, self._descriptor, temporary, os.getpid())
        """Let go of it. Closing twice is harmless."""
        if not os.fstat(self._descriptor).st_size:
            self.close()
            raise PdfFormatError("the file is empty (0 bytes)").at(self.name)

    @property
    def file(self) -> File:
        """What this process, and others that it starts, can open."""
        path = f"/proc/{os.getpid()}/fd/{self._descriptor}" if _OPEN_FILES_HAVE_PATHS else str(self._path)
        return File(path, self._version, self.name)

    def changed(self) -> bool:
        """Return whether somebody has written to the file since."""
        return version_of(self._descriptor) != self._version


def version_of(file: int | str) -> tuple[int, ...]:
    """Return what tells a file, by descriptor or path, from another, or from itself after it was changed.

    Raises:
        OSError: There is no such file.
    """
    known = os.stat(file)
    return known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns


def kind_of(mode: int) -> str:
    """Return what somebody would call it whose mode (`st_mode`) this is, or nothing if it is a file."""
    return next((what for is_kind, what in _KINDS if is_kind(mode)), "")


def make_file() -> tuple[int, str | None]:
    """Return the descriptor of a new file for memory, and its path if it has one: what `let_go` takes in the end.

    On Linux the file is one of memory alone (`memfd_create`), for which /dev/shm, 64 MB in a container, is no limit.
    Elsewhere it is a temporary one.

    Raises:
        OSError: There is no room for it.
    """
    if hasattr(os, "memfd_create"):
        with suppress(OSError):  # a sandbox may not have it
            return os.memfd_create("nemovlm"), None
    descriptor, path = tempfile.mkstemp(prefix="nemovlm-")
    if _OPEN_FILES_HAVE_PATHS:
        os.unlink(path)  # nothing is left of it, whoever is killed
        return descriptor, None
    return descriptor, path


def let_go(descriptor: int, temporary: str | None, maker: int) -> None:
    """Close a file, and remove it if it is a temporary one of this process, and not of one that it was forked from."""
    with suppress(OSError):
        os.close(descriptor)
    if temporary and os.getpid() == maker:
        with suppress(OSError):
            os.unlink(temporary)


def require_local_path(path: str | os.PathLike[str], instead: str = "pass its bytes") -> Path:
    """Return the path of a file or folder here.

    Args:
        path: As it was passed.
        instead: What to do with something else.

    Raises:
        PdfError: It is an address.
        ConfigurationError: It is no path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigurationError(f"a {type(path).__name__} is no path of a PDF; {instead}")
    if isinstance(path, str) and "://" in path:
        raise PdfError("addresses are not fetched: download the PDF, and pass its path or its bytes").at(path)
    return local_path(path)


def _path_or_bytes(source: PdfSource) -> Path | bytes:
    if isinstance(source, (str, os.PathLike)):
        return require_local_path(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    try:
        return read_binary(source)
    except OSError as error:
        raise PdfError(f"the open file cannot be read: {one_line(error)}").at("<bytes>") from error
    except (AttributeError, TypeError) as error:
        why = f"; {error}" if hasattr(source, "read") else ""
        raise ConfigurationError(
            f"a PDF is read from a path, from bytes, or from a file opened as binary, not from a "
            f"{type(source).__name__}{why}"
        ) from error


def _open(path: Path, timeout: float | None) -> tuple[int, str] | bytes:
    """Return the open file, or what came of a pipe. Whatever else there is under a path is not even opened."""
    mode = path.stat().st_mode
    if (kind := kind_of(mode)) and not stat.S_ISFIFO(mode):
        raise OSError(f"it is {kind}")
    # Not blocking: to open a pipe that nobody writes to would wait for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISFIFO(mode):
        return descriptor, os.path.abspath(path)
    try:
        return b"".join(_read_pipe(descriptor, timeout))
    finally:
        os.close(descriptor)


def _read_pipe(descriptor: int, timeout: float | None) -> Iterator[bytes]:
    """Yield what comes out of a pipe. Whoever writes into it may be slow, but must be there soon."""
    size, seconds, somebody_came = 0, timeout, False
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    while size <= _PIPE_BYTES:
        try:
            chunk = os.read(descriptor, _CHUNK)
        except BlockingIOError:  # somebody is there, and has nothing to say yet
            seconds = timeout
        else:
            if chunk:
                size += len(chunk)
                somebody_came = True
                yield chunk
                continue
            if somebody_came:
                return
            seconds = _WRITER_SECONDS
        somebody_came = True
        if not waiting.poll(None if seconds is None else seconds * 1000):
            raise OSError(f"it is a pipe, and nothing came out of it for {seconds:g} s")
    raise OSError(f"it is a pipe, and more than {_PIPE_BYTES // 2**20} MB came out of it")


def _keep(content: bytes) -> tuple[int, str | None]:
    descriptor, path = make_file()
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
    except OSError:
        let_go(descriptor, path, os.getpid())
        raise
    return descriptor, path
