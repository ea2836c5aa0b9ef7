"""Paths as people give them, and names of files as texts can hold them."""

import os
from pathlib import Path


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` expanded; where there is no home, it stays as it is."""
    return Path(os.path.expanduser(os.fspath(path)))  # Path.expanduser raises without a home


def readable_name(path: str | os.PathLike[str]) -> str:
    r"""Return a path as text that UTF-8 can hold: bytes that are no UTF-8, as of old file names, become `\xe9`."""
    name = os.fspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    return name
