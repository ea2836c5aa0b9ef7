"""How a stream of items is read: in windows of bounded work, from sync and async sources alike."""

import asyncio
from collections.abc import AsyncIterable, Iterable, Iterator
from typing import Any

from nemovlm.inputs import Embeddable, Passage

# A window is what is sent to the engine at once: enough for a full batch, little enough that pages (some 5 MB of
# pixels each) never pile up.
_WINDOW_TOKENS = 16384
_WINDOW_ITEMS = 256
_TOKENS_OF_AN_IMAGE = 2048
_CHARACTERS_OF_A_TOKEN = 4


def windows(items: Iterable[Embeddable]) -> Iterator[list[Embeddable]]:
    """Cut a stream into lists of bounded work. If the stream fails, what was read of it comes first."""
    window: list[Embeddable] = []
    weight = 0
    try:
        for item in items:
            weight += _weight(item)
            if window and (weight > _WINDOW_TOKENS or len(window) == _WINDOW_ITEMS):
                yield window
                window, weight = [], _weight(item)
            window.append(item)
    except Exception:
        if window:
            yield window
        raise
    if window:
        yield window


def _weight(item: Embeddable) -> int:
    text = item.text if isinstance(item, Passage) else item
    tokens = len(text) // _CHARACTERS_OF_A_TOKEN if isinstance(text, str) else 0
    is_text = isinstance(item, str) or (isinstance(item, Passage) and item.image is None)
    return 1 + tokens + (0 if is_text else _TOKENS_OF_AN_IMAGE)


def drain(source: AsyncIterable[Embeddable], loop: asyncio.AbstractEventLoop) -> Iterator[Embeddable]:
    """Read an async iterable of `loop` from another thread."""
    iterator = aiter(source)
    end = object()

    async def following() -> Any:
        return await anext(iterator, end)

    while (item := asyncio.run_coroutine_threadsafe(following(), loop).result()) is not end:
        yield item
