"""Paths and open files as people pass them."""

import os
import re
from inspect import isawaitable
from pathlib import Path
from typing import Any


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return a path from a person or an environment: `~` is the home of the user."""
    return Path(os.path.expanduser(os.fspath(path)))


def lasting_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path by which a file is known from one time to the next: without links, but for some.

    Kubernetes mounts `report.pdf -> ..data/report.pdf` and `..data -> ..2026_11_26_08_00_00.1234`, and makes the last
    folder anew at each update. Names that begin with two dots are kept for that there (AtomicWriter in
    kubernetes/pkg/volume/util/atomic_writer.go), so a link to what lies below such a name is left as it is.
    """
    here = Path(path).absolute()
    for place in (here, *here.parents):
        real = os.path.realpath(place)
        if f"{os.sep}.." not in real:
            return Path(real) / here.relative_to(place)
    return here


def readable_name(path: str | os.PathLike[str]) -> str:
    r"""Return a path as text that any encoding has.

    A name that is not UTF-8 comes from the system with lone surrogates in it: its bytes are shown as `\xe9`.
    """
    name = os.fspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode(errors="backslashreplace")
    return name


def path_of(name: str) -> Path:
    r"""Return the path of a file by its `readable_name`, which may have `\xe9` for bytes."""
    path = Path(name)
    if not path.exists():
        raw = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), os.fsencode(name))
        if (other := Path(os.fsdecode(raw))).exists():
            return other
    return path


def read_binary(file: Any) -> bytes:
    """Return the content of an open binary file, from its start if it can go there, whoever has read in it before.

    Raises:
        OSError: It cannot be read, or is closed.
        TypeError: It is no such file; the message says what to pass instead.
    """
    try:
        if getattr(file, "seekable", lambda: hasattr(file, "seek"))():
            moved = file.seek(0)
            if isawaitable(moved):
                moved.close()  # type: ignore[attr-defined] # nobody is to wait for it
        content = file.read()
    except ValueError as error:
        raise OSError(str(error)) from error
    if isawaitable(content):
        content.close()  # type: ignore[attr-defined]
        raise TypeError("its read() is async: pass its .file, or what `await upload.read()` gives")
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise TypeError("it gives text: open the file as binary (mode 'rb')")
    return bytes(content)
