"""What remote engines share: items travel in requests of bounded size, and one bad item costs no other its vector.

This file knows what to do when a request is refused; `nim.py` and `vllm_server.py` know how a server is talked to,
`wire/` the protocols, `servers.py` how requests are sent.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Generic, TypeAlias, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

from nemovlm.engines.base import Answer, Item, Outcome, require_eyes
from nemovlm.engines.pipeline import Pipeline
from nemovlm.engines.servers import Deadline, RefusedError, Servers, reason
from nemovlm.errors import NemoVLMError, ProtocolError, ServerError
from nemovlm.images import Encoded, compact
from nemovlm.models.checkpoint import Checkpoint
from nemovlm.settings import Settings
from nemovlm.wire.address import Address
from nemovlm.wire.batching import Parcel, next_request
from nemovlm.wire.nim import ServedModel, read_models, read_reply
from nemovlm.wire.problems import Problem, read_problem

P = TypeVar("P", bound=Parcel)

Reply: TypeAlias = tuple[list[NDArray[np.float32]], int]
"""The vectors of a request, in its order, and the tokens that it had."""

# Pixels that a NIM takes, on the shorter and the longer side (model card of llama-3.2-nemoretriever-1b-vlm-embed-v1).
_MAX_SIDES = (8192, 16384)
_HINT_SECONDS = 5.0  # an error may be told this much later if it becomes clearer


class HttpEngine(ABC, Generic[P]):
    """Embeds on servers, items being sent as parcels `P`. See `nemovlm.engines.base.Engine` for the contract."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        self._card = checkpoint.card
        self._settings = settings
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

    @abstractmethod
    def _prepare(self, item: Item) -> P:
        """Return `item` as it travels. Runs in a worker thread."""

    @abstractmethod
    async def _request(self, parcels: Sequence[P], deadline: Deadline, retries: int) -> Reply:
        """Send one request. Raises `RefusedError` and `ProtocolError`."""

    def _image(self, item: Item) -> Encoded | None:
        """Return the image of `item`, if it has one, as a file that a server takes."""
        if item.image is None:
            return None
        require_eyes(self._card)
        return compact(item.image, self._usable_size, self._settings.max_image_bytes)

    def _next_request(self, waiting: Mapping[int, P]) -> list[int]:
        return next_request(waiting, self._max_items, self._max_bytes)

    def _usable_size(self, width: int, height: int) -> tuple[int, int]:
        if self._card.tiling:
            return self._card.tiling.usable_size(width, height)
        shorter, longer = sorted((width, height))
        scale = min(1.0, _MAX_SIDES[0] / shorter, _MAX_SIDES[1] / longer)
        return max(1, int(width * scale)), max(1, int(height * scale))

    async def _compute(self, parcels: Sequence[P]) -> Sequence[Outcome]:
        return await self._ask(
            parcels, Deadline(self._settings.deadline, self._settings.clock), self._settings.max_retries
        )

    async def _ask(self, parcels: Sequence[P], deadline: Deadline, retries: int) -> list[Outcome]:
        """Answer for `parcels`, in one request if the server takes it, else in parts."""
        try:
            vectors, tokens = await self._request(parcels, deadline, retries)
        except RefusedError as refused:
            return await self._despite(refused.problem, parcels, deadline)
        except ProtocolError as error:
            return [ProtocolError(str(error)) for _ in parcels]
        share, rest = divmod(tokens, len(parcels))
        return [Answer(vector, share + (index < rest)) for index, vector in enumerate(vectors)]

    async def _send(self, body: Callable[[], bytes], count: int, deadline: Deadline, retries: int) -> Reply:
        return await self._servers.post(body, partial(self._read, count=count), deadline=deadline, retries=retries)

    def _read(self, content: bytes, count: int) -> Reply:
        vectors, tokens = read_reply(content, count, self._settings.embedding_type)
        if self._lengths and (length := vectors[0].size) not in self._lengths:
            wanted = " or ".join(map(str, sorted(self._lengths)))
            raise ProtocolError(
                f"the server answered with vectors of {length} components where {self._card.id} has {wanted}"
            )
        return vectors, tokens

    async def _despite(self, problem: Problem, parcels: Sequence[P], deadline: Deadline) -> list[Outcome]:
        """Answer for `parcels`, which were refused as a whole: with errors for those that are to blame alone."""
        blamed = {position for position in problem.items if 0 <= position < len(parcels)}
        if blamed and len(blamed) < len(parcels):
            good = [item for position, item in enumerate(parcels) if position not in blamed]
            answers = iter(await self._ask(good, deadline, self._settings.max_retries))
            return [
                problem.error(item.modality, position) if position in blamed else next(answers)
                for position, item in enumerate(parcels)
            ]
        if blamed or len(parcels) == 1 or not problem.divisible:
            problem = replace(problem, hint=await self._hint(problem))
            return [problem.error(item.modality, i if blamed else None) for i, item in enumerate(parcels)]
        half = len(parcels) // 2
        # A failure of the server was repeated often enough; what remains is to find out which item causes it.
        retries = 0 if problem.status == httpx.codes.INTERNAL_SERVER_ERROR else self._settings.max_retries
        parts = await asyncio.gather(
            self._ask(parcels[:half], deadline, retries), self._ask(parcels[half:], deadline, retries)
        )
        outcomes = [outcome for part in parts for outcome in part]
        if not any(isinstance(outcome, NemoVLMError) for outcome in outcomes):
            self._learn(problem, parcels[half:])
        return outcomes

    def _learn(self, problem: Problem, half: Sequence[P]) -> None:
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
