"""Whether a PDF mentions a key anywhere: most have none of the rare ones, and need no care. Knows no PDFium."""

import re
import zlib
from collections.abc import Iterable
from typing import BinaryIO

_LONGEST_DICTIONARY = 1000  # bytes, of a stream of objects
_OBJECT_STREAM = re.compile(rb"/ObjStm\b.{0,%d}?stream\r?\n" % _LONGEST_DICTIONARY, re.DOTALL)
_BLOCK = 2**18  # bytes that are read at once


def mentioned(path: str, keys: Iterable[bytes]) -> set[bytes]:
    """Return those of some keys ("/UserUnit") that a PDF may have. All, if it cannot be known, as in an encrypted one.

    Raises:
        OSError: The file cannot be read.
    """
    keys = set(keys)
    found: set[bytes] = set()
    streams, before, offset, encrypted = set(), b"", 0, False
    with open(path, "rb") as file:
        while found != keys and (block := file.read(_BLOCK)):
            window = before + block
            found |= {key for key in keys if key in window}
            encrypted = encrypted or b"/Encrypt" in window
            streams |= {offset - len(before) + match.end() for match in _OBJECT_STREAM.finditer(window)}
            before, offset = window[-_LONGEST_DICTIONARY:], offset + len(block)
        if streams and encrypted:
            return keys
        for start in sorted(streams):
            if found == keys:
                break
            found |= _in_stream(file, start, keys)
    return found


def _in_stream(file: BinaryIO, start: int, keys: set[bytes]) -> set[bytes]:
    """Return the keys in a compressed stream that begins there; all, if it is no such stream."""
    inflate, before, found = zlib.decompressobj(), b"", set()
    longest = max(map(len, keys))
    file.seek(start)
    try:
        while not inflate.eof and (block := file.read(_BLOCK)):
            window = before + inflate.decompress(block)
            found |= {key for key in keys if key in window}
            before = window[-longest:]
    except zlib.error:
        return keys
    return found
