"""The remote engine: items go to a server as requests of bounded size, and one bad item costs no other its vector.

This file knows what an item is and what to do when a request is refused; `wire/` knows the protocol, `servers.py` how
requests are sent.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import httpx
import numpy as np
from numpy.typing import NDArray

from nemovlm.engines.base import Answer, Item, Outcome, require_eyes
from nemovlm.engines.pipeline import Pipeline
from nemovlm.engines.servers import Deadline, RefusedError, Servers, reason
from nemovlm.errors import NemoVLMError, ProtocolError, ServerError
from nemovlm.images import compact
from nemovlm.models.checkpoint import Checkpoint
from nemovlm.models.prompts import neutralise
from nemovlm.settings import Settings
from nemovlm.wire.address import Address
from nemovlm.wire.batching import next_request
from nemovlm.wire.nim import Dialect, Entry, ServedModel, entry, read_models, read_reply, request_body
from nemovlm.wire.problems import Problem, read_problem

# Pixels that a NIM takes, on the shorter and the longer side (model card of llama-3.2-nemoretriever-1b-vlm-embed-v1).
_MAX_SIDES = (8192, 16384)
_HINT_SECONDS = 5.0  # an error may be told this much later if it becomes clearer


class HttpEngine:
    """Embeds on a server that speaks the NIM protocol. See `nemovlm.engines.base.Engine` for the contract."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        self._card = checkpoint.card
        self._settings = settings
        self._dialect = Dialect()
        # What turned out to be too much for the server is not tried again.
        self._max_items, self._max_bytes = settings.max_batch_size, settings.max_request_bytes
        full = self._card.dimension
        self._lengths = {full, settings.dimensions or full} if full else None
        slots = settings.max_concurrency * len(settings.addresses)
        self._pipeline = Pipeline(self._prepare, self._next_request, self._compute, slots)

    @property
    def device(self) -> str:
        """The hosts that compute."""
        return ", ".join(address.host for address in self._settings.addresses)

    @property
    def dtype(self) -> str:
        """Nobody but the server knows."""
        return "the server's dtype"

    async def start(self) -> None:
        """Make the client; connections are opened when something is sent. Raises `AuthenticationError`."""
        self._servers = Servers(self._settings)

    async def embed(self, batch: Sequence[Item]) -> list[Outcome]:
        """Answer for every item of `batch`, in its order."""
        return await self._pipeline.embed(batch)

    async def close(self) -> None:
        """Close the connections."""
        self._pipeline.close()
        await self._servers.close()

    def _prepare(self, item: Item) -> Entry:
        image = None
        if item.image is not None:
            require_eyes(self._card)
            image = compact(item.image, self._usable_size, self._settings.max_image_bytes)
        return entry(item.role, neutralise(item.text), image, item.truncate, self._settings.joiner)

    def _next_request(self, waiting: Mapping[int, Entry]) -> list[int]:
        return next_request(waiting, self._max_items, self._max_bytes)

    def _usable_size(self, width: int, height: int) -> tuple[int, int]:
        if self._card.tiling:
            return self._card.tiling.usable_size(width, height)
        shorter, longer = sorted((width, height))
        scale = min(1.0, _MAX_SIDES[0] / shorter, _MAX_SIDES[1] / longer)
        return max(1, int(width * scale)), max(1, int(height * scale))

    async def _compute(self, entries: Sequence[Entry]) -> Sequence[Outcome]:
        return await self._ask(entries, Deadline(self._settings.deadline), self._settings.max_retries)

    async def _ask(self, entries: Sequence[Entry], deadline: Deadline, retries: int) -> list[Outcome]:
        """Answer for `entries`, in one request if the server takes it, else in parts."""
        try:
            vectors, tokens = await self._send(entries, deadline, retries)
        except RefusedError as refused:
            return await self._despite(refused.problem, entries, deadline)
        except ProtocolError as error:
            return [ProtocolError(str(error)) for _ in entries]
        share, rest = divmod(tokens, len(entries))
        return [Answer(vector, share + (index < rest)) for index, vector in enumerate(vectors)]

    async def _send(
        self, entries: Sequence[Entry], deadline: Deadline, retries: int
    ) -> tuple[list[NDArray[np.float32]], int]:
        """Send one request, giving up what the server does not understand of the protocol."""
        while True:
            dialect = self._dialect
            body = partial(
                request_body,
                entries,
                self._card.id,
                dialect,
                dimensions=self._settings.dimensions,
                embedding_type=self._settings.embedding_type,
            )
            try:
                return await self._servers.post(
                    body, partial(self._read, count=len(entries)), deadline=deadline, retries=retries
                )
            except RefusedError as refused:
                field = refused.problem.refused_field
                if field is None or not getattr(dialect, field, False):  # it can be given up once, or not at all
                    raise
                self._dialect = replace(self._dialect, **{field: False})

    def _read(self, content: bytes, count: int) -> tuple[list[NDArray[np.float32]], int]:
        vectors, tokens = read_reply(content, count, self._settings.embedding_type)
        if self._lengths and (length := vectors[0].size) not in self._lengths:
            wanted = " or ".join(map(str, sorted(self._lengths)))
            raise ProtocolError(
                f"the server answered with vectors of {length} components where {self._card.id} has {wanted}"
            )
        return vectors, tokens

    async def _despite(self, problem: Problem, entries: Sequence[Entry], deadline: Deadline) -> list[Outcome]:
        """Answer for `entries`, which were refused as a whole: with errors for those that are to blame alone."""
        blamed = {position for position in problem.items if 0 <= position < len(entries)}
        if blamed and len(blamed) < len(entries):
            good = [item for position, item in enumerate(entries) if position not in blamed]
            answers = iter(await self._ask(good, deadline, self._settings.max_retries))
            return [
                problem.error(item.modality, position) if position in blamed else next(answers)
                for position, item in enumerate(entries)
            ]
        if blamed or len(entries) == 1 or not problem.divisible:
            problem = replace(problem, hint=await self._hint(problem))
            return [problem.error(item.modality, i if blamed else None) for i, item in enumerate(entries)]
        half = len(entries) // 2
        # A failure of the server was repeated often enough; what remains is to find out which item causes it.
        retries = 0 if problem.status == httpx.codes.INTERNAL_SERVER_ERROR else self._settings.max_retries
        parts = await asyncio.gather(
            self._ask(entries[:half], deadline, retries), self._ask(entries[half:], deadline, retries)
        )
        outcomes = [outcome for part in parts for outcome in part]
        if not any(isinstance(outcome, NemoVLMError) for outcome in outcomes):
            self._learn(problem, entries[half:])
        return outcomes

    def _learn(self, problem: Problem, half: Sequence[Entry]) -> None:
        """Remember that a request was too large, because its halves were not."""
        if problem.status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            self._max_bytes = min(self._max_bytes, max(1, sum(item.size for item in half)))
        elif problem.status != httpx.codes.INTERNAL_SERVER_ERROR:
            self._max_items = min(self._max_items, len(half))

    async def _hint(self, problem: Problem) -> str:
        """Return which models the server does have, if the one that was asked for is not among them."""
        if problem.status != httpx.codes.NOT_FOUND:
            return ""
        address = next(known for known in self._settings.addresses if known.host == problem.server)
        with suppress(httpx.HTTPError, NemoVLMError, TimeoutError):
            async with asyncio.timeout(_HINT_SECONDS):
                served = [model.id for model in read_models((await self._servers.get("/models", address)).content)]
            if served and self._card.id not in served:
                return f"; it serves: {', '.join(served[:8])}"
        return ""


async def ask(settings: Settings, address: Address, route: str) -> httpx.Response:
    """Return the reply to one GET below the base URL of `address`, whatever it is. Raises `ServerError`."""
    servers = Servers(settings)
    try:
        return await servers.get(route, address)
    except httpx.HTTPError as error:
        raise ServerError(f"{address.host} could not be reached: {reason(error)}") from error
    finally:
        await servers.close()


async def served_models(settings: Settings) -> list[ServedModel]:
    """Return the models that the first server has. Raises `EngineError`."""
    address = settings.addresses[0]
    reply = await ask(settings, address, "/models")
    if reply.is_success:
        return read_models(reply.content)
    secrets = settings.secrets_for(address)
    raise read_problem(address.host, reply.status_code, reply.headers, reply.content, secrets).error("text")
