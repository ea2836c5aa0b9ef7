"""How the command line imports: without looking for garbage among what libraries are made of."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Let Python look for no garbage meanwhile, nor later among what is there by then, which lasts as long as it does.

    It would take a fifth of the time of a search: while libraries are imported, and once more when Python ends.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
