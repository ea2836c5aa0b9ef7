"""The engine for servers: items travel in requests of bounded size, and one bad item costs no other its vector.

It knows what to do when a request is refused. How a server is talked to is the `ServerProtocol` that it is made with
(`nim.py`, `vllm_server.py`, over `wire/`), and how requests are sent is `pool.py`.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, NamedTuple, Protocol, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

from nemovlm.engines.base import Answer, Outcome, Placement
from nemovlm.engines.pipeline import Pipeline
from nemovlm.engines.remote.discovery import hint_at_models
from nemovlm.engines.remote.pool import UpstreamPool
from nemovlm.engines.remote.retry import Deadline, RequestFailedError
from nemovlm.errors import NemoVLMError, ProtocolError
from nemovlm.inputs import Item
from nemovlm.models.card import ModelCard
from nemovlm.settings import Settings
from nemovlm.wire.batching import next_request
from nemovlm.wire.items import EncodedItem
from nemovlm.wire.problems import Problem
from nemovlm.wire.replies import read_reply

E = TypeVar("E", bound=EncodedItem)

_EMBEDDING_TYPE = "embedding_type"


@dataclass(frozen=True)
class ServerRequest:
    """One request for embeddings."""

    body: Callable[[], bytes]
    """Makes its body, for each attempt anew: kept, the images of all requests that wait would be there twice."""
    optional: Collection[str] = ()
    """The fields in it that a server may not know, and that can be left out."""


class _Trial(NamedTuple):
    """What a request is sent without, to see whether the server refuses a field of it rather than an item."""

    without: frozenset[str] = frozenset()
    in_vain: bool = False
    """Whether leaving a field out was no help. Then no other is tried: the server may only quote what an item says."""
    refusal: Problem | None = None
    """What the last field was left out for."""


_NOTHING_TRIED = _Trial()


class ServerProtocol(Protocol[E]):
    """How a kind of server is talked to."""

    async def start(self, pool: UpstreamPool) -> None:
        """Find out what there is to know of the servers. Called once, before anything else."""

    async def check(self) -> None:
        """Raise what is wrong with the servers, called before vectors of theirs are handed out."""

    def encode(self, item: Item) -> E:
        """Return `item` as it travels. Runs in a worker thread; raises what is wrong with the item."""

    async def fit(self, items: Sequence[E]) -> Sequence[E | NemoVLMError]:
        """Return items within the server's limits, or why there is no such thing, in order."""

    def request(self, items: Sequence[E], without: Collection[str] = ()) -> ServerRequest:
        """Return the request for items of one group, without some of its optional fields."""

    def give_up(self, fields: Collection[str]) -> None:
        """Leave optional fields out from now on, because a request was taken without them."""


class RemoteEngine(Generic[E]):
    """Embeds on servers. See `nemovlm.engines.base.Engine` for the contract."""

    def __init__(self, card: ModelCard, settings: Settings, protocol: ServerProtocol[E]) -> None:
        self._card = card
        self._settings = settings
        self._protocol = protocol
        # What turned out to be too much for the server is not tried again.
        self._max_items, self._max_bytes = settings.max_batch_size, settings.max_request_bytes
        native = card.dimension
        self._dimensions = {native, settings.dimensions or native} if native else None
        slots = settings.max_concurrency * len(settings.addresses)
        self._pipeline = Pipeline(protocol.encode, self._choose, self._compute, slots)
        self.embed = self._pipeline.embed

    @staticmethod
    def placement(settings: Settings) -> Placement:
        """Return the hosts that compute; in what, nobody but the servers knows."""
        return Placement(", ".join(address.host for address in settings.addresses), "the server's dtype")

    async def start(self) -> None:
        """Make the client; connections are opened when something is sent.

        Raises:
            AuthenticationError: A key is missing.
            EngineError: A server that has to be asked something beforehand cannot be.
        """
        self._pool = await asyncio.to_thread(UpstreamPool, self._settings)  # it reads files
        try:
            await self._protocol.start(self._pool)
        except BaseException:
            await self._pool.close()
            raise

    async def close(self) -> None:
        """Close the connections."""
        self._pipeline.close()
        await self._pool.close()

    def _choose(self, waiting: Mapping[int, E]) -> list[int]:
        return next_request(waiting, self._max_items, self._max_bytes)

    async def _compute(self, items: Sequence[E]) -> Sequence[Outcome]:
        fitted = await self._protocol.fit(items)
        good = [item for item in fitted if not isinstance(item, NemoVLMError)]
        deadline = Deadline(self._settings.deadline, self._settings.clock)
        answers = iter(await self._ask(good, deadline, self._settings.max_retries) if good else ())
        return [item if isinstance(item, NemoVLMError) else next(answers) for item in fitted]

    async def _ask(
        self, items: Sequence[E], deadline: Deadline, retries: int, trial: _Trial = _NOTHING_TRIED
    ) -> list[Outcome]:
        """Answer for `items`, in one request if the server takes it, else in parts."""
        without, in_vain, refusal = trial
        field: str | None = None
        while True:
            request = self._protocol.request(items, without)
            read = partial(self._read, count=len(items), plain=_EMBEDDING_TYPE in without)
            try:
                vectors, tokens = await self._pool.post(request.body, read, deadline=deadline, retries=retries)
            except RequestFailedError as failed:
                latest = failed.problem
            except ProtocolError as error:
                return [ProtocolError(str(error)) for _ in items]
            else:
                if refusal and (unmet := self._unmet(without, vectors[0].size)):
                    refusal = replace(refusal, hint=f"; it answers without {unmet}: change that setting")
                    return [refusal.error(item.modality) for item in items]
                await self._protocol.check()
                self._protocol.give_up(without)
                share, rest = divmod(tokens, len(items))
                return [Answer(vector, share + (index < rest)) for index, vector in enumerate(vectors)]
            problem = latest
            if refusal and field and (field in latest.fields or not (latest.divisible or latest.retryable)):
                problem, without, in_vain = refusal, without - {field}, True  # refused for something else
            field = None if in_vain else next((name for name in problem.fields if name in request.optional), None)
            if field is None:
                return await self._isolate_bad_items(problem, items, deadline, _Trial(without, in_vain, refusal))
            without, refusal = without | {field}, problem

    def _unmet(self, without: Collection[str], size: int) -> str:
        """Return the setting that vectors of `size` numbers, which came without some fields, do not do justice to."""
        kind, dimensions = self._settings.embedding_type, self._settings.dimensions or 0
        if _EMBEDDING_TYPE in without:  # they are floats
            return f"embedding_type={kind!r}"
        return f"dimensions={dimensions}" if "dimensions" in without and size < dimensions else ""

    def _read(self, content: bytes, count: int, plain: bool) -> tuple[list[NDArray[np.float32]], int]:
        vectors, tokens = read_reply(content, count, "float" if plain else self._settings.embedding_type)
        if self._dimensions and (dimension := vectors[0].size) not in self._dimensions:
            wanted = " or ".join(map(str, sorted(self._dimensions)))
            raise ProtocolError(
                f"the server answered with vectors of dimension {dimension} where {self._card.id} has {wanted}"
            )
        return vectors, tokens

    async def _isolate_bad_items(
        self, problem: Problem, items: Sequence[E], deadline: Deadline, trial: _Trial
    ) -> list[Outcome]:
        """Retry a request that was refused without the items that the server named.

        If it named none, bisect it until each bad item has its own error.
        """
        blamed = {position for position in problem.items if 0 <= position < len(items)}
        if blamed and len(blamed) < len(items):
            good = [item for position, item in enumerate(items) if position not in blamed]
            answers = iter(await self._ask(good, deadline, self._settings.max_retries, trial))
            return [
                problem.error(item.modality, position) if position in blamed else next(answers)
                for position, item in enumerate(items)
            ]
        if blamed or len(items) == 1 or not problem.divisible:
            hint = await hint_at_models(self._pool, self._settings, self._card.id, problem)
            problem = replace(problem, hint=hint)
            return [problem.error(item.modality, i if blamed else None) for i, item in enumerate(items)]
        half = len(items) // 2
        # A failure of the server was repeated often enough; what remains is to find out which item causes it.
        retries = 0 if problem.status == httpx.codes.INTERNAL_SERVER_ERROR else self._settings.max_retries
        parts = await asyncio.gather(
            self._ask(items[:half], deadline, retries, trial), self._ask(items[half:], deadline, retries, trial)
        )
        outcomes = [outcome for part in parts for outcome in part]
        if not any(isinstance(outcome, NemoVLMError) for outcome in outcomes):
            self._lower_limits(problem, items[half:])
        return outcomes

    def _lower_limits(self, problem: Problem, half: Sequence[E]) -> None:
        """Remember that a request was too large, because its halves were not."""
        if problem.status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            self._max_bytes = min(self._max_bytes, max(1, sum(item.size for item in half)))
        elif problem.status != httpx.codes.INTERNAL_SERVER_ERROR:
            self._max_items = min(self._max_items, len(half))
