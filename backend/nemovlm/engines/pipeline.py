"""Items become answers in three steps: each is prepared in a thread, waits, and is computed in a batch with others.

Calls that come at the same time are merged: two hundred callers with one query each cost a few full batches, not two
hundred small ones. Nobody waits for company: whenever an engine has room, it takes what is there. Knows nothing of
what is computed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, groupby
from typing import Generic, TypeVar

from nemovlm.engines.base import Outcome, attempt
from nemovlm.errors import EngineError, NemoVLMError
from nemovlm.inputs import Item

T = TypeVar("T")

_CLOSED = "the embedder was closed before it answered"


class Pipeline(Generic[T]):
    """The three steps of one engine, for the items of all callers.

    Args:
        prepare: Makes of an item what is computed. Runs in a worker thread. What it raises is the item's answer.
        choose: Gets all that waits, by number and the oldest first, and returns the numbers of the next batch. It
            must take one at least, and should take the oldest, so that none waits for ever.
        compute: Answers for every item of a batch, in order.
        slots: How many batches may be computed at once.
    """

    def __init__(
        self,
        prepare: Callable[[Item], T],
        choose: Callable[[Mapping[int, T]], Iterable[int]],
        compute: Callable[[list[T]], Awaitable[Sequence[Outcome]]],
        slots: int = 1,
    ) -> None:
        self._prepare = prepare
        self._choose = choose
        self._compute = compute
        self._free = slots
        self._numbers = count()
        self._waiting: dict[int, T] = {}
        self._answers: dict[int, asyncio.Future[Outcome]] = {}
        self._batches: set[asyncio.Task[None]] = set()
        self._closed = False

    async def embed(self, batch: Sequence[Item]) -> list[Outcome]:
        """Answer for every item of `batch`, in its order.

        If the caller is cancelled, those of its items that are not computed yet are dropped.
        """
        prepared = [item for part in await asyncio.gather(*map(self._prepared, _parts(batch))) for item in part]
        if self._closed:  # meanwhile
            raise EngineError(_CLOSED)
        loop = asyncio.get_running_loop()
        mine: dict[int, asyncio.Future[Outcome]] = {}
        for item in prepared:
            number = next(self._numbers)
            mine[number] = loop.create_future()
            if isinstance(item, NemoVLMError):
                mine[number].set_result(item)
            else:
                self._waiting[number] = item
        self._answers |= mine
        loop.call_soon(self._fill)  # not at once: who comes in the same turn of the loop comes along
        try:
            return await asyncio.gather(*mine.values())
        finally:
            for number in mine:
                self._waiting.pop(number, None)
                del self._answers[number]

    async def _prepared(self, part: Sequence[Item]) -> list[T | NemoVLMError]:
        return await asyncio.to_thread(lambda: [attempt(self._prepare, item) for item in part])

    def close(self) -> None:
        """Give up on all that waits and all that is computed: callers get an `EngineError`."""
        self._closed = True
        self._waiting.clear()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(EngineError(_CLOSED))
        for batch in self._batches:
            batch.cancel()

    def _fill(self) -> None:
        while self._free and self._waiting:
            numbers = list(self._choose(self._waiting))
            items = [self._waiting.pop(number) for number in numbers]
            batch = asyncio.create_task(self._answer([self._answers[number] for number in numbers], items))
            self._free -= 1
            self._batches.add(batch)
            batch.add_done_callback(self._done)

    async def _answer(self, answers: Sequence["asyncio.Future[Outcome]"], items: list[T]) -> None:
        try:
            for answer, outcome in zip(answers, await self._compute(items), strict=True):
                if not answer.done():  # its caller may be gone
                    answer.set_result(outcome)
        except Exception as error:  # whatever it is, the callers must hear of it
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)

    def _done(self, batch: "asyncio.Task[None]") -> None:
        self._batches.discard(batch)
        self._free += 1
        self._fill()


def _parts(batch: Sequence[Item]) -> Iterator[list[Item]]:
    """Yield what one thread prepares: an image, which takes some 40 ms, most of it without the GIL, or many texts."""
    for is_text, items in groupby(batch, lambda item: item.image is None):
        if is_text:
            yield list(items)
        else:
            yield from ([item] for item in items)
