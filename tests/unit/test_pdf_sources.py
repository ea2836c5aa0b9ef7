"""What a PDF is read from: files that change, pipes, devices, and what programs hold in memory."""

import array
import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nemovlm.errors import PdfError, PdfFormatError, PdfPageError
from nemovlm.pdf import count_pages, read_pages, source
from tests.support.books import numbered
from tests.support.reading import QUICK

PAGES = 30
OLD, NEW = numbered(PAGES), numbered(PAGES, pageCompression=0)
posix = pytest.mark.skipif(os.name == "nt", reason="there are no such files there")


def truncate(path: Path) -> None:
    os.truncate(path, 1000)


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(NEW)
    path.with_name("new").replace(path)


@posix
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("change", "harmless"),
    [
        (lambda path: path.write_bytes(NEW), False),
        (lambda path: path.write_bytes(OLD.replace(b"a", b"b")), False),
        (truncate, False),
        (Path.unlink, True),
        (replace, True),
    ],
    ids=["written over", "with as much", "cut off", "removed", "replaced"],
)
def test_a_file_that_changes_gives_pages_of_one_document(
    change: Callable[[Path], object], harmless: bool, workers: int, tmp_path: Path
) -> None:
    """Either all its pages as they were, or those that were read before, and an error that says that it changed."""
    path = tmp_path / "x.pdf"
    path.write_bytes(OLD)
    old = os.stat(path).st_mtime_ns
    os.utime(path, ns=(old - 10**9, old - 10**9))  # the clock of a file system is no finer than some milliseconds
    stream = read_pages(path, workers=workers, tiling=QUICK)
    found: list[Any] = [next(stream)]
    change(path)
    found += stream
    texts = [page.text for page in found if not isinstance(page, PdfError)]
    assert texts == [f"number {number}" for number in range(len(texts))]
    if harmless:
        assert len(texts) == PAGES
    else:
        assert str(found[-1]) == f"{path}: the file was changed while it was read; read it again"
        assert not isinstance(found[-1], PdfPageError)


@pytest.mark.parametrize(
    "kind",
    [
        bytes,
        bytearray,
        memoryview,
        lambda data: memoryview(array.array("B", data)),
        lambda data: memoryview(b"".join(bytes([byte, 0]) for byte in data))[::2],
    ],
    ids=["bytes", "bytearray", "memoryview", "array", "every second byte"],
)
def test_content_in_memory_is_read(kind: Callable[[bytes], Any]) -> None:
    """Whatever holds the bytes."""
    assert count_pages(kind(numbered(3))) == 3


def pipe_of(data: bytes, folder: Path, delay: float = 0) -> Path:
    """A named pipe into which a thread writes."""
    path = folder / "pipe.pdf"
    os.mkfifo(path)

    def write() -> None:
        time.sleep(delay)
        with suppress(BrokenPipeError), path.open("wb") as pipe:
            pipe.write(data[:1000])
            pipe.flush()
            time.sleep(delay)
            pipe.write(data[1000:])

    threading.Thread(target=write, daemon=True).start()
    return path


@posix
@pytest.mark.parametrize("delay", [0, 0.3])
def test_a_pipe_is_read_to_its_end(delay: float, tmp_path: Path) -> None:
    """Whoever writes may be slow, and may not be there yet."""
    assert count_pages(pipe_of(numbered(200), tmp_path, delay)) == 200


@posix
def test_a_pipe_without_a_writer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever for somebody who never comes."""
    monkeypatch.setattr(source, "_WRITER_SECONDS", 0.2)
    os.mkfifo(tmp_path / "pipe.pdf")
    with pytest.raises(PdfError, match=r"it is a pipe, and nothing came out of it for 0.2 s"):
        count_pages(tmp_path / "pipe.pdf")


@posix
def test_a_pipe_that_stops_is_given_up(tmp_path: Path) -> None:
    """After `page_timeout` without a byte; one that ends without a byte is an empty file."""
    with pytest.raises(PdfError, match=r"nothing came out of it for 0.1 s"):
        count_pages(pipe_of(numbered(200), tmp_path, 1), page_timeout=0.1)
    (tmp_path / "pipe.pdf").unlink()
    with pytest.raises(PdfFormatError, match="empty"):
        count_pages(pipe_of(b"", tmp_path))


@posix
def test_a_pipe_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much comes, memory is not filled."""
    monkeypatch.setattr(source, "_PIPE_BYTES", 5000)
    with pytest.raises(PdfError, match="MB came out of it"):
        count_pages(pipe_of(bytes(200_000), tmp_path))


@posix
def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A device, a socket or a folder is named as such."""
    os.mknod(tmp_path / "x.pdf", stat.S_IFSOCK | 0o600)
    for path, what in (("/dev/zero", "a device"), (tmp_path / "x.pdf", "a socket"), (tmp_path, "a directory")):
        with pytest.raises(PdfError, match=f"the file cannot be read: it is {what}$"):
            count_pages(path)
