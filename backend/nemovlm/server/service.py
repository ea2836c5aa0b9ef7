"""What stands behind the routes: requests are checked, queued and embedded, and the model is described.

Requests that come together are computed together (the engines see to that). What is over a limit is refused before
it costs anything: bodies and pixels with 413, more items than the queue holds with 503 and `Retry-After`.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from pydantic import SecretStr, ValidationError
from starlette.requests import ClientDisconnect

from nemovlm import __version__, runtime
from nemovlm.embedder import Embedder
from nemovlm.engines.base import Answer, Outcome, normalize
from nemovlm.errors import (
    ConfigurationError,
    EngineError,
    ImageTooLargeError,
    InputError,
    InputTooLongError,
    NemoVLMError,
    one_line,
)
from nemovlm.inputs import Item, Role, Vector
from nemovlm.server.metrics import Metrics
from nemovlm.server.schema import EmbeddingRequest

_log = logging.getLogger("nemovlm")

_RETRY_AFTER = {"Retry-After": "1"}  # seconds
_LOAD_AGAIN_SECONDS = 10.0  # after which a model that could not be loaded is tried again, if anybody asks
_CLIENT_GONE = 499  # nginx's number for it; nobody reads the reply
_SMALL_BODY = 100_000  # bytes that are parsed in less time than a thread takes to start
T = TypeVar("T")

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
        failed: Called with the error if the model cannot be loaded. Default: it is logged.

    Raises:
        ConfigurationError: The key is empty.
    """

    def __init__(
        self, embedder: Embedder, options: ServerOptions, failed: Callable[[NemoVLMError], None] | None = None
    ) -> None:
        if options.api_key is not None and not options.api_key.get_secret_value().strip():
            raise ConfigurationError("the key that clients must have is empty; leave it out if none is wanted")
        self.embedder = embedder
        self.options = options
        self.metrics = Metrics()
        self.names = options.names or (embedder.model,)
        """The names that clients may ask for the model by."""
        self.ready = False
        """Whether the model is loaded."""
        self.failure: NemoVLMError | None = None
        """Why it could not be."""
        self.started = int(time.time())
        """When the server was made, in seconds since the epoch."""
        self._failed = failed or (lambda error: _log.error("the model cannot be loaded: %s", error))
        self._loading: asyncio.Task[None] | None = None
        self._load_again_at = 0.0
        self._queued = 0

    def begin(self) -> None:
        """Begin to load the model, unless that was done. One that failed is tried again after a while."""
        if self._loading is None or (self.failure and time.monotonic() >= self._load_again_at):
            self.failure = None
            self._loading = asyncio.create_task(self._load())

    async def close(self) -> None:
        """Stop loading, and give the model back."""
        if self._loading:
            self._loading.cancel()
        await self.embedder.aclose()

    async def _load(self) -> None:
        try:
            await self.embedder.aembed_query("ready?")
        except Exception as error:  # whatever it is, somebody must hear of it
            wrapped = EngineError(f"{type(error).__name__}: {one_line(error)}")
            self.failure = error if isinstance(error, NemoVLMError) else wrapped
            self._load_again_at = time.monotonic() + _LOAD_AGAIN_SECONDS
            self._failed(self.failure)
        else:
            self.ready = True

    def authorize(self, request: Request) -> None:
        """Check that the request has the key, if one is wanted.

        Raises:
            Refusal: It has none, or another.
        """
        if (key := self.options.api_key) is None:
            return
        scheme, _, given = request.headers.get("authorization", "").strip().partition(" ")
        wanted = key.get_secret_value().strip()  # a file that it was read from ends in a line end
        same = secrets.compare_digest(given.strip().encode("latin-1"), wanted.encode())
        if not same or scheme.lower() != "bearer":  # in any case: RFC 9110, 11.1
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
            asked, items = await runtime.in_thread(self._parse, body)
        self._admit(len(items))
        self._count(len(items))
        try:
            outcomes = await _unless_gone(request, self.embedder.aembed_items(items))
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
        return {"object": "list", "data": [self.model(name) for name in self.names]}

    def model(self, name: str) -> dict[str, Any]:
        """Return what `GET /v1/models/{name}` says.

        Raises:
            Refusal: There is none of that name.
        """
        if name not in self.names:
            raise self._no_model(name)
        return {"id": name, "object": "model", "created": self.started, "owned_by": "nemovlm", "root": name}

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
        self.begin()
        if self.failure:
            raise Refusal(503, f"the model cannot be loaded: {self.failure}")
        if not self.ready:
            raise Refusal(503, "the model is still being loaded", headers=_RETRY_AFTER)
        if self._queued and self._queued + count > self.options.max_queue:
            message = f"the queue is full: {self._queued} items wait, and {self.options.max_queue} may"
            raise Refusal(503, message, headers=_RETRY_AFTER)

    def _count(self, items: int) -> None:
        self._queued += items
        self.metrics.queue.set(self._queued)

    async def _read_body(self, request: Request) -> bytes:
        if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
            raise Refusal(415, f"the body is encoded as {encoding[:40]}; send it as it is, without Content-Encoding")
        limit = self.options.max_body_bytes
        too_large = Refusal(413, f"the body is over {limit} bytes; send fewer items at once, or smaller images")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            raise too_large
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise too_large
        except ClientDisconnect:
            raise _gone() from None
        return bytes(body)

    def _parse(self, body: bytes) -> tuple[EmbeddingRequest, list[Item]]:
        try:
            asked = EmbeddingRequest.parse(body)
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
        raise self._no_model(model)

    def _no_model(self, name: str) -> Refusal:
        return Refusal(404, f"the model {name[:100]!r} does not exist here; this server has {', '.join(self.names)}")

    def _finish(self, outcome: Outcome, dimensions: int) -> Vector | NemoVLMError:
        if isinstance(outcome, NemoVLMError):
            return outcome
        result = normalize(outcome.vector, native=self.embedder.dimension, dimensions=dimensions)
        return InputError(str(result)) if isinstance(result, EngineError) else result


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` gives, or give it up when the client has closed its connection.

    Raises:
        Refusal: The client is gone.
    """
    working, watching = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise _gone()
    finally:
        working.cancel()
        watching.cancel()


def _gone() -> Refusal:
    return Refusal(_CLIENT_GONE, "the client closed its connection before there was an answer")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


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
    advice = "; input takes strings, not tokens" if details[0]["loc"][1:2] == ["input"] else ""
    return Refusal(422, f"Your request cannot be validated, it is incorrect. {what}{advice}", details)


def _detail(where: Sequence[str | int], message: str, kind: str) -> dict[str, Any]:
    return {"loc": ["body", *where], "msg": message, "type": kind}
