"""How a stream of items is read: in chunks of bounded work, a few at once, from sync and async sources alike."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import aclosing
from typing import Generic, Self, TypeVar

from nemovlm import runtime
from nemovlm.errors import NemoVLMError
from nemovlm.inputs import Embeddable, Passage

T = TypeVar("T")
R = TypeVar("R")

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


class _Chunker(Generic[T]):
    """Puts items together in chunks, by the `weight` of each in tokens."""

    def __init__(self, weight: Callable[[T], int]) -> None:
        self._weight = weight
        self._chunk: list[T] = []
        self._total = 0

    def add(self, item: T) -> list[T]:
        """Take an item; return the chunk before it if it has no room for it, else nothing."""
        weight = self._weight(item)
        full = self._total + weight > _CHUNK_TOKENS or len(self._chunk) == _CHUNK_ITEMS
        done = self._chunk if full else []
        if full:
            self._chunk, self._total = [], 0
        self._chunk.append(item)
        self._total += weight
        return done

    def end(self, failure: Exception | None) -> Iterator[list[T] | Exception]:
        """Yield the last chunk, and then why the stream ended, unless it came to its end."""
        if self._chunk:
            yield self._chunk
        if failure is not None:
            yield failure


def iter_chunks(items: Iterable[T], weight: Callable[[T], int]) -> Generator[list[T] | Exception, None, None]:
    """Split a stream into lists of about 16,384 tokens, by the `weight` of each item, or 256 items at the most.

    If the stream fails, its error comes last, after all that was read before.
    """
    chunker, failure = _Chunker(weight), None
    try:
        for item in items:
            if chunk := chunker.add(item):
                yield chunk
    except Exception as error:  # whatever somebody's source raises
        failure = error
    yield from chunker.end(failure)


async def aiter_chunks(
    items: Iterable[T] | AsyncIterable[T], weight: Callable[[T], int]
) -> AsyncGenerator[list[T] | Exception, None]:
    """`iter_chunks` for async code. What is not async is read on a thread, unless it is in memory."""
    if isinstance(items, list | tuple):
        for chunk in iter_chunks(items, weight):
            yield chunk
    elif isinstance(items, AsyncIterable):
        chunker, failure = _Chunker(weight), None
        try:
            async for item in items:
                if chunk := chunker.add(item):
                    yield chunk
        except Exception as error:
            failure = error
        for last in chunker.end(failure):
            yield last
    else:
        async with aclosing(runtime.iterate(iter_chunks(items, weight))) as chunks:
            async for chunk in chunks:
                yield chunk


class Window(Generic[T, R]):
    """The chunks of one stream that are under way, in order; at its end, what is left of them is cancelled.

    Args:
        submit: Starts work on a chunk, given the position of its first item in the stream.
        most: Chunks under way at once, beside the one that is waited for.
    """

    def __init__(self, submit: Callable[[list[T], int], Future[R]], most: int) -> None:
        self._submit = submit
        self._most = most
        self._start = 0
        self._pending: deque[Future[R]] = deque()

    def push(self, chunk: list[T] | Exception) -> Iterator[Future[R]]:
        """Start work on a chunk, and yield the futures that are to be waited for. An error is a future that failed."""
        if isinstance(chunk, Exception):
            future: Future[R] = Future()
            future.set_exception(chunk)
        else:
            future = self._submit(chunk, self._start)
            self._start += len(chunk)
        self._pending.append(future)
        while len(self._pending) > self._most:
            yield self._pending.popleft()

    def rest(self) -> Iterator[Future[R]]:
        """Yield the futures that are left."""
        while self._pending:
            yield self._pending.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for future in self._pending:
            future.cancel()
