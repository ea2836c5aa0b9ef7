"""How the command line imports: without looking for garbage meanwhile, of which importing makes none to speak of."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Let Python collect no garbage: among the objects of libraries it would search for a tenth of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
