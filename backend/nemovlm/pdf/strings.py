"""Strings that PDFium gives out. Touches PDFium, so the caller holds the lock."""

import ctypes
from collections.abc import Callable

from nemovlm.pdf.metadata import clean


def read_string(function: Callable[..., int], *arguments: object) -> str:
    """Return what a function of PDFium's writes: UTF-16 and a NUL. pypdfium2 would fail on half a character in it.

    Args:
        function: Takes `arguments`, a buffer and its bytes, and returns how many bytes there are.
        arguments: Of the function.
    """
    buffer = (ctypes.c_ushort * (function(*arguments, None, 0) // 2))()
    function(*arguments, buffer, ctypes.sizeof(buffer))
    return clean(bytes(buffer)[:-2].decode("utf-16-le", "replace"))
