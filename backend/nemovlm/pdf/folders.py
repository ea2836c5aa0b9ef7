"""The PDFs that files and folders stand for: each file once, and what cannot be read is said. Knows no PDFium."""

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from nemovlm.errors import PageIndexError, PdfError, one_line
from nemovlm.paths import local_path, readable_name
from nemovlm.pdf.source import kind_of

_Identity: TypeAlias = tuple[int, int]
"""Device and inode, which all names of a file have in common."""

_HIDDEN = (".", "~$")  # the second: what office programs lay beside a file that is open


def find_pdfs(sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path | PdfError]:
    """Return the PDFs that files and folders stand for, by their lasting names, and in the place of others an error.

    A file is taken whatever its name, and whether or not it exists; folders are searched as `pdfs_below` does. Nothing
    comes twice, whatever names it has.

    Raises:
        PageIndexError: There is nothing at all.
    """
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    found: dict[Path | PdfError, None] = {}
    seen: set[_Identity] = set()
    folders = []
    for source in map(local_path, sources):
        if source.is_dir():
            folders.append(readable_name(source))
            below: Iterable[Path | PdfError] = _walk(source, seen)
        else:
            below = _named(source, seen)
        found.update((path if isinstance(path, PdfError) else lasting_name(path), None) for path in below)
    if not found:
        raise PageIndexError(f"there is no PDF in {', '.join(folders) or 'an empty list'}")
    return list(found)


def pdfs_below(folder: Path) -> list[Path | PdfError]:
    """Return the PDFs in a folder and below, in order of their paths, and an error for each that cannot be read.

    What is hidden is left out. Links are followed. Of several names of a file the first counts.
    """
    return list(_walk(folder, set()))


def lasting_name(path: Path) -> Path:
    """Return the absolute path by which a PDF is known: where links lead, unless that is a hidden place.

    What is mounted from a Kubernetes ConfigMap is a link into a hidden folder, and into another one after each update
    (https://kubernetes.io/docs/concepts/storage/volumes/#configmap).
    """
    absolute = os.path.abspath(path)
    folder, name = os.path.split(absolute)
    real = os.path.realpath(absolute) if os.path.islink(absolute) else os.path.join(_real_folder(folder), name)
    if real != absolute and {part for part in Path(real).parts if part.startswith(".")} - set(Path(absolute).parts):
        return Path(absolute)
    return Path(real)


@lru_cache(1)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _named(path: Path, seen: set[_Identity]) -> Iterator[Path | PdfError]:
    """Yield a file that somebody has named, unless it was seen under another name."""
    try:
        known = path.stat()
    except (OSError, ValueError):  # why is said when it is opened; ValueError: a NUL in the path
        yield path
        return
    if _is_new(known, seen):
        yield _checked(path, known)


def _walk(top: Path, seen: set[_Identity]) -> Iterator[Path | PdfError]:
    waiting: list[Iterator[os.DirEntry[str]]] = []

    def enter(path: str) -> None:
        if _is_new(os.stat(path), seen):
            with os.scandir(path) as entries:
                waiting.append(iter(sorted(entries, key=lambda entry: entry.name)))

    try:
        enter(os.fspath(top))
    except OSError as error:
        yield PdfError(f"the folder cannot be read: {one_line(error)}").at(readable_name(top))
    while waiting:
        if (entry := next(waiting[-1], None)) is None:
            waiting.pop()
            continue
        if entry.name.startswith(_HIDDEN):
            continue
        suffix = os.path.splitext(entry.name)[1].lower()
        try:
            if entry.is_dir():
                enter(entry.path)
            elif suffix == ".pdf":
                known = entry.stat()
                if _is_new(known, seen):
                    yield _checked(Path(entry.path), known)
            elif not suffix and entry.is_symlink():  # it may have led to a folder
                entry.stat()
        except OSError as error:
            what = "the link leads nowhere" if entry.is_symlink() else "it cannot be read"
            yield PdfError(f"{what}: {one_line(error)}").at(readable_name(entry.path))


def _checked(path: Path, known: os.stat_result) -> Path | PdfError:
    if kind := kind_of(known.st_mode):
        return PdfError(f"it is {kind}, and no file to come back to: save what is in it").at(readable_name(path))
    return path


def _is_new(known: os.stat_result, seen: set[_Identity]) -> bool:
    identity = known.st_dev, known.st_ino
    if identity in seen:
        return False
    seen.add(identity)
    return True
