"""Which PDFs files and folders stand for. What cannot be looked at stands in its place as a `PdfError`."""

import os
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeAlias

from nemovlm.errors import PageIndexError, PdfError, one_line
from nemovlm.paths import lasting_path, local_path, readable_name
from nemovlm.pdf.source import kind_of

_Identity: TypeAlias = tuple[int, int, int, int] | str

# What systems and programs hide, and "~$report.pdf", which Office keeps beside a file that is open.
_HIDDEN = (".", "~$")


def find_pdfs(sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path | PdfError]:
    """Return the PDFs that files and folders stand for: absolute, each once, those of a folder as `pdfs_below` has it.

    What is named itself is taken whatever its name. One that is not there is a `PdfError` in its place. A path is
    without links, as `lasting_path` says.

    Raises:
        PageIndexError: There is nothing.
    """
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    known: set[_Identity] = set()
    found: dict[str, Path | PdfError] = {}
    folders = []
    lasting = cache(lasting_path)
    for source in map(local_path, sources):
        path = str(source.absolute())
        status = _status(path)
        if isinstance(status, PdfError):
            found.setdefault(path, status)
        elif stat.S_ISDIR(status.st_mode):
            folders.append(readable_name(source))
            for place, error in _below(path, known):
                found.setdefault(place, error or _document(place, lasting))
        elif not stat.S_ISREG(status.st_mode):
            found.setdefault(path, _not_a_file(path, status))
        elif _is_new(path, status, known):
            found[path] = lasting_path(path)
    if not found:
        raise PageIndexError(f"there is no PDF in {', '.join(folders) or 'an empty list'}")
    return list(found.values())


def pdfs_at(path: Path) -> list[Path | PdfError]:
    """Return the PDFs that a path stands for, under its own name: a file itself, or `pdfs_below` a folder.

    Raises:
        PdfError: There is none in the folder.
    """
    if not os.path.isdir(path):  # False, too, for what cannot be a path
        return [path]
    if not (files := pdfs_below(path)):
        raise PdfError("there is no PDF in this folder").at(readable_name(path))
    return files


def pdfs_below(folder: Path) -> list[Path | PdfError]:
    """Return the PDFs in a folder and below, in order of their paths, which begin with that of the folder.

    Files and folders are left out whose names begin with "." or "~$". Links are followed. A file comes once, however
    many links lead to it: by its own name, if that lies in the folder; else by the name with the fewest links to
    folders in it, and among those by the first. The first is also that of hard links, which are one file.

    In its place there is a `PdfError` for a folder that cannot be read, for what is named like a PDF and is no file,
    such as a pipe, and for a link that leads nowhere, if it is named like a PDF, or without an ending, like a folder.
    """
    return [error or Path(path) for path, error in _below(os.fspath(folder), set())]


def _document(path: str, lasting: Callable[[str], Path]) -> Path:
    """Return the `lasting_path` of a file, by that of its folder, which `lasting` keeps, if the file is no link."""
    if os.path.islink(path):
        return lasting_path(path)
    folder, name = os.path.split(path)
    return lasting(folder) / name


def _below(folder: str, known: set[_Identity]) -> list[tuple[str, PdfError | None]]:
    """Return the paths of `pdfs_below`, with the errors, in order, and without the files that are known."""
    found: list[tuple[str, PdfError | None]] = []
    for path, status in _walk(folder):
        if isinstance(status, PdfError):
            found.append((path, status))
        elif not stat.S_ISREG(status.st_mode):
            found.append((path, _not_a_file(path, status)))
        elif _is_new(path, status, known):
            found.append((path, None))
    return sorted(found, key=lambda item: os.path.normcase(item[0]).split(os.sep))


def _walk(folder: str) -> Iterator[tuple[str, os.stat_result | PdfError]]:
    """Yield what is named like a PDF below a folder, and what cannot be read: first what is there without links.

    So a link that is made in a folder changes the name of no file that was there before.
    """
    walked: set[str] = set()  # folders, without links
    links = deque([folder])
    while links:
        link = links.popleft()
        places = [(link, os.path.realpath(link))]
        while places:
            path, real = places.pop()
            status = _status(path)
            if isinstance(status, PdfError):
                if path != link or _is_pdf(path) or not os.path.splitext(path)[1]:
                    yield path, status
            elif not stat.S_ISDIR(status.st_mode):
                if _is_pdf(path):
                    yield path, status
            elif real not in walked:
                walked.add(real)
                try:
                    inside = _list(path, links)
                except OSError as error:
                    failure = PdfError(f"the folder cannot be read, nor what lies in it: {one_line(error)}")
                    failure.__cause__ = error
                    yield path, failure.at(readable_name(path))
                else:
                    places += [(os.path.join(path, name), os.path.join(real, name)) for name in inside]


def _list(folder: str, links: deque[str]) -> list[str]:
    """Return the names of PDFs and folders in a folder, the last one first, and append the links in it to `links`."""
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: os.path.normcase(entry.name))
    entries = [entry for entry in entries if not entry.name.startswith(_HIDDEN)]
    linked = {entry.path for entry in entries if _is_link(entry)}
    links.extend(entry.path for entry in entries if entry.path in linked)
    return [
        entry.name
        for entry in reversed(entries)
        if entry.path not in linked and (_is_pdf(entry.name) or entry.is_dir(follow_symlinks=False))
    ]


def _is_link(entry: os.DirEntry[str]) -> bool:
    if sys.platform == "win32":  # where a junction leads elsewhere as well, and is_symlink() does not tell
        tag: int = entry.stat(follow_symlinks=False).st_reparse_tag
        return tag in {stat.IO_REPARSE_TAG_SYMLINK, stat.IO_REPARSE_TAG_MOUNT_POINT}
    return entry.is_symlink()


def _is_pdf(name: str) -> bool:
    return name.lower().endswith(".pdf")


def _status(path: str) -> os.stat_result | PdfError:
    try:
        return os.stat(path)
    except (OSError, ValueError) as error:
        what = "link cannot be followed" if os.path.islink(path) else "file cannot be read"
        failure = PdfError(f"the {what}: {one_line(error)}").at(readable_name(path))
        failure.__cause__ = error
        return failure


def _not_a_file(path: str, status: os.stat_result) -> PdfError:
    what = f"it is {kind_of(status.st_mode)}, and no file to come back to: save what is in it"
    return PdfError(what).at(readable_name(path))


def _is_new(path: str, status: os.stat_result, known: set[_Identity]) -> bool:
    """Return whether a file is none of the known ones, and count it among them.

    Size and time are compared as well: some file systems of networks and virtual machines number two files alike.
    """
    identity: _Identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if not status.st_ino:  # where files have no numbers
        identity = os.path.realpath(path)
    new = identity not in known
    known.add(identity)
    return new
