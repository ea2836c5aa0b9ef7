"""What stands behind the routes: requests are checked, queued and embedded, and the model is described.

Requests that come together are computed together (the engines see to that). What is over a limit is refused before
it costs anything: bodies and pixels with 413, more items than the queue holds with 503 and `Retry-After`.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from pydantic import SecretStr, ValidationError

from nemovlm import __version__
from nemovlm.embedder import Embedder
from nemovlm.engines.base import Answer, Outcome, normalize
from nemovlm.errors import EngineError, ImageTooLargeError, InputError, InputTooLongError, NemoVLMError
from nemovlm.inputs import Item, Role, Vector
from nemovlm.server.metrics import Metrics
from nemovlm.server.schema import EmbeddingRequest

_RETRY_AFTER = {"Retry-After": "1"}  # seconds
_SMALL_BODY = 100_000  # bytes that are parsed in less time than a thread takes to start
_ROLES: tuple[Role, ...] = ("query", "passage")


@dataclass(frozen=True)
class ServerOptions:
    """What a server allows."""

    names: tuple[str, ...] = ()
    """The names that clients may ask for the model by. Default: its own."""
    api_key: SecretStr | None = None
    """Wanted as a bearer token on every route but health, metrics and documentation. Default: no key is wanted."""
    max_queue: int = 1024
    """Items accepted and not answered yet; a NIM's `NIM_SERVER_MAX_QUEUE_SIZE` is the same by default."""
    max_body_bytes: int = 64 * 2**20
    """Bytes of the body of one request."""
    max_pixels: int = 8192 * 16384
    """Pixels of one image; what the model card states."""


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818 - it is an answer
    """A reply that is no success, in the shape of a NIM's."""

    status: int
    """The HTTP status."""
    message: str
    """One sentence for people."""
    details: Sequence[Mapping[str, Any]] = ()
    """What is wrong with what: `{"loc": ["body", "input", 3], "msg": ..., "type": ...}`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """More headers of the reply."""

    @property
    def kind(self) -> str:
        """The `type` of the error, in OpenAI's words."""
        kinds = {401: "authentication_error", 404: "not_found_error", 503: "overloaded_error", 500: "server_error"}
        return kinds.get(self.status, "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """Return the body of the reply, as JSON has it."""
        return {"object": "error", "message": self.message, "type": self.kind, "detail": list(self.details)}


class Server:
    """The state of one application: its model, its queue, and whether it is ready.

    Making one blocks like `Embedder.model`, unless `options` has names.

    Args:
        embedder: What embeds.
        options: What the server allows.
    """

    def __init__(self, embedder: Embedder, options: ServerOptions) -> None:
        self.embedder = embedder
        self.options = options
        self.metrics = Metrics()
        self.names = options.names or (embedder.model,)
        """The names that clients may ask for the model by."""
        self.ready = False
        """Whether the model is loaded."""
        self.started = int(time.time())
        """When the server was made, in seconds since the epoch."""
        self._queued = 0

    async def warm_up(self) -> None:
        """Load the model and embed something.

        Raises:
            NemoVLMError: The model cannot be loaded, or the engine cannot work.
        """
        await self.embedder.aembed_query("ready?")
        self.ready = True

    def authorize(self, request: Request) -> None:
        """Check that the request has the key, if one is wanted.

        Raises:
            Refusal: It has none, or another.
        """
        if (key := self.options.api_key) is None:
            return
        given = request.headers.get("authorization", "")
        if not secrets.compare_digest(given.encode("latin-1"), f"Bearer {key.get_secret_value()}".encode()):
            headers = {"WWW-Authenticate": "Bearer"}
            raise Refusal(401, "Unauthorized: the key in the Authorization header is missing or wrong", headers=headers)

    async def answer(self, request: Request) -> dict[str, Any]:
        """Return the body of the reply to a request for embeddings; its vectors may be NumPy arrays (d,).

        Raises:
            Refusal: The request is not valid, is over a limit or comes too early, an item cannot be embedded, or the
                engine failed.
        """
        self._admit(1)  # who cannot be served need not send all of it
        body = await self._read_body(request)
        if len(body) < _SMALL_BODY:
            asked, items = self._parse(body)
        else:
            asked, items = await asyncio.to_thread(self._parse, body)
        self._admit(len(items))
        self._count(len(items))
        try:
            outcomes = await self.embedder.aembed_items(items)
        except EngineError as error:
            raise Refusal(500, str(error)) from error
        finally:
            self._count(-len(items))
        dimensions = asked.dimensions or self.embedder.dimension
        results = [self._finish(outcome, dimensions) for outcome in outcomes]
        vectors = [result for result in results if not isinstance(result, NemoVLMError)]
        if len(vectors) < len(results):
            raise _refuse_items(results)
        for item in items:
            self.metrics.items.labels(item.modality).inc()
        tokens = sum(outcome.tokens for outcome in outcomes if isinstance(outcome, Answer))
        self.metrics.tokens.inc(tokens)
        return asked.reply(vectors, tokens)

    def models(self) -> dict[str, Any]:
        """Return what `GET /v1/models` says."""
        rows = [
            {"id": name, "object": "model", "created": self.started, "owned_by": "nemovlm", "root": name}
            for name in self.names
        ]
        return {"object": "list", "data": rows}

    def metadata(self) -> dict[str, Any]:
        """Return what `GET /v1/metadata` says: version and models as a NIM, and what the model is.

        Blocks like `Embedder.describe`.
        """
        facts = self.embedder.describe()
        return {
            "version": __version__,
            "modelInfo": [{"shortName": name.rpartition("/")[2], "modelUrl": name} for name in self.names],
            "model": facts.model,
            "revision": facts.revision,
            "engine": facts.engine,
            "device": facts.device,
            "dtype": facts.dtype,
            "dimension": facts.dimension,
            "modalities": facts.modalities,
            "max_tokens": facts.max_tokens,
            "space": facts.space,
        }

    def _admit(self, count: int) -> None:
        """Refuse `count` items if the queue has no room for them. An empty one takes a request larger than itself."""
        if not self.ready:
            raise Refusal(503, "the model is still being loaded", headers=_RETRY_AFTER)
        if self._queued and self._queued + count > self.options.max_queue:
            message = f"the queue is full: {self._queued} items wait, and {self.options.max_queue} may"
            raise Refusal(503, message, headers=_RETRY_AFTER)

    def _count(self, items: int) -> None:
        self._queued += items
        self.metrics.queue.set(self._queued)

    async def _read_body(self, request: Request) -> bytes:
        limit = self.options.max_body_bytes
        too_large = Refusal(413, f"the body is over {limit} bytes; send fewer items at once, or smaller images")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            raise too_large
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise too_large
        return bytes(body)

    def _parse(self, body: bytes) -> tuple[EmbeddingRequest, list[Item]]:
        try:
            asked = EmbeddingRequest.model_validate_json(body)
        except ValidationError as error:
            raise _refuse_body(error) from None
        role = self._role_in_name(asked.model)
        if not asked.inputs:
            raise Refusal(400, "input is empty", [_detail(["input"], "give one string at least", "too_short")])
        if asked.dimensions and asked.dimensions > self.embedder.dimension:
            message = f"dimensions must be from 1 to {self.embedder.dimension}, not {asked.dimensions}"
            raise Refusal(400, message, [_detail(["dimensions"], message, "less_than_equal")])
        try:
            items = list(asked.items(role, self.options.max_pixels))
        except InputError as error:
            raise Refusal(400, str(error), [_detail(["modality"], str(error), "value_error")]) from None
        good = [item for item in items if isinstance(item, Item)]
        if len(good) < len(items):
            raise _refuse_items(items)
        return asked, good

    def _role_in_name(self, model: str) -> Role | None:
        """Return the role behind the name of the model, if any."""
        if model in self.names:
            return None
        for role in _ROLES:
            if model.endswith(f"-{role}") and model.removesuffix(f"-{role}") in self.names:
                return role
        raise Refusal(404, f"the model {model[:100]!r} does not exist here; this server has {', '.join(self.names)}")

    def _finish(self, outcome: Outcome, dimensions: int) -> Vector | NemoVLMError:
        if isinstance(outcome, NemoVLMError):
            return outcome
        result = normalize(outcome.vector, native=self.embedder.dimension, dimensions=dimensions)
        return InputError(str(result)) if isinstance(result, EngineError) else result


def _refuse_items(results: Sequence[object]) -> Refusal:
    """Return the reply for items of which some are errors: each is named by its index."""
    errors = {index: error for index, error in enumerate(results) if isinstance(error, NemoVLMError)}
    details = [_detail(["input", index], _message(error), type(error).__name__) for index, error in errors.items()]
    index, first = next(iter(errors.items()))
    more = f" (and {len(errors) - 1} more items)" if len(errors) > 1 else ""
    if isinstance(first, ImageTooLargeError):
        status = 413
    elif isinstance(first, InputError):
        status = 400
    else:
        status = 500
    return Refusal(status, f"input {index}: {_message(first)}{more}", details)


def _message(error: NemoVLMError) -> str:
    if isinstance(error, InputTooLongError):  # a NIM's words, which clients look for
        return f"Input length {error.tokens} exceeds maximum allowed token size {error.limit}"
    return str(error)


def _refuse_body(error: ValidationError) -> Refusal:
    details = [_detail(list(entry["loc"]), entry["msg"], entry["type"]) for entry in error.errors(include_input=False)]
    where = ".".join(map(str, details[0]["loc"][1:]))
    what = f"{where}: {details[0]['msg']}" if where else details[0]["msg"]
    return Refusal(422, f"Your request cannot be validated, it is incorrect. {what}", details)


def _detail(where: Sequence[str | int], message: str, kind: str) -> dict[str, Any]:
    return {"loc": ["body", *where], "msg": message, "type": kind}
