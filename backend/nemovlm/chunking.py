"""How a stream of items is read: in chunks of bounded work, from sync and async sources alike."""

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from typing import Any, TypeVar

from nemovlm.errors import NemoVLMError
from nemovlm.inputs import Embeddable, Passage

T = TypeVar("T")

# A chunk is what is sent to the engine at once: enough for a full batch, little enough that pages (some 5 MB of
# pixels each) never pile up.
_CHUNK_TOKENS = 16384
_CHUNK_ITEMS = 256
_TOKENS_OF_AN_IMAGE = 2048
_CHARACTERS_OF_A_TOKEN = 4


def weigh(item: Embeddable | NemoVLMError) -> int:
    """Return about how many tokens an item has. An image counts 2,048, and an item that failed already next to none."""
    if isinstance(item, NemoVLMError):
        return 1
    text = item.text if isinstance(item, Passage) else item
    tokens = len(text) // _CHARACTERS_OF_A_TOKEN if isinstance(text, str) else 0
    is_text = isinstance(item, str) or (isinstance(item, Passage) and item.image is None)
    return 1 + tokens + (0 if is_text else _TOKENS_OF_AN_IMAGE)


def iter_chunks(items: Iterable[T], weight: Callable[[T], int]) -> Iterator[list[T]]:
    """Split a stream into lists of about 16,384 tokens, by the `weight` of each item, or 256 items at the most.

    If the stream fails, what was read of it comes first.
    """
    chunk: list[T] = []
    total = 0
    try:
        for item in items:
            total += weight(item)
            if chunk and (total > _CHUNK_TOKENS or len(chunk) == _CHUNK_ITEMS):
                yield chunk
                chunk, total = [], weight(item)
            chunk.append(item)
    except Exception:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def iter_from_loop(source: AsyncIterable[T], loop: asyncio.AbstractEventLoop) -> Iterator[T]:
    """Read an async iterable of `loop` from another thread."""
    iterator = aiter(source)
    end = object()

    async def following() -> Any:
        return await anext(iterator, end)

    while (item := asyncio.run_coroutine_threadsafe(following(), loop).result()) is not end:
        yield item
