"""The ASGI application: the routes of a NIM over one `Embedder`.

Requests that come together are computed together (the engines see to that). What is over a limit is refused before
it costs anything: bodies and pixels with 413, more items than the queue holds with 503 and `Retry-After`.
"""

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson
from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import SecretStr, ValidationError

from nemovlm import __version__
from nemovlm.embedder import Embedder
from nemovlm.engines.base import Answer, Outcome, normalize
from nemovlm.errors import EngineError, ImageTooLargeError, InputError, InputTooLongError, NemoVLMError
from nemovlm.inputs import Item, Role, Vector
from nemovlm.server.metrics import Metrics
from nemovlm.server.schema import EmbeddingRequest
from nemovlm.wire.quantize import EmbeddingType, quantize

_RETRY_SECONDS = 1
_SMALL_BODY = 100_000  # bytes that are parsed in less time than a thread takes to start
_ROLES: tuple[Role, ...] = ("query", "passage")


@dataclass(frozen=True)
class ServerOptions:
    """What a server allows."""

    names: tuple[str, ...] = ()
    """The names that clients may ask for the model by. Default: its own."""
    api_key: SecretStr | None = None
    """Wanted as a bearer token on every route but health, metrics and documentation."""
    max_queue: int = 1024
    """Items accepted and not answered yet; a NIM's `NIM_SERVER_MAX_QUEUE_SIZE` is the same by default."""
    max_body_bytes: int = 64 * 2**20
    max_pixels: int = 8192 * 16384
    """Of one image; what the model card states."""


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818 - it is an answer
    """A reply that is no success, in the shape of a NIM's."""

    status: int
    message: str
    details: Sequence[Mapping[str, Any]] = ()
    """What is wrong with what: `{"loc": ["body", "input", 3], "msg": ..., "type": ...}`."""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The `type` of the error, in OpenAI's words."""
        kinds = {401: "authentication_error", 404: "not_found_error", 503: "overloaded_error", 500: "server_error"}
        return kinds.get(self.status, "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """Return the body of the reply."""
        return {"object": "error", "message": self.message, "type": self.kind, "detail": list(self.details)}


class Server:
    """The state of one application: its model, its queue, and whether it is ready."""

    def __init__(self, embedder: Embedder, options: ServerOptions) -> None:
        self.embedder = embedder
        self.options = options
        self.metrics = Metrics()
        self.names = options.names or (embedder.model,)
        self.ready = False
        self.started = int(time.time())
        self._queued = 0

    async def warm_up(self) -> None:
        """Load the model and embed something. Raises `NemoVLMError`."""
        await self.embedder.aembed_query("ready?")
        self.ready = True

    def authorize(self, request: Request) -> None:
        """Raise `Refusal` unless the request has the key."""
        if (key := self.options.api_key) is None:
            return
        given = request.headers.get("authorization", "")
        if not secrets.compare_digest(given.encode("latin-1"), f"Bearer {key.get_secret_value()}".encode()):
            headers = {"WWW-Authenticate": "Bearer"}
            raise Refusal(401, "Unauthorized: the key in the Authorization header is missing or wrong", headers=headers)

    async def answer(self, request: Request) -> Response:
        """Return the reply to a request for embeddings. Raises `Refusal`."""
        self._admit(1)  # who cannot be served need not send all of it
        body = await self._body(request)
        if len(body) < _SMALL_BODY:
            asked, items = self._read(body)
        else:
            asked, items = await asyncio.to_thread(self._read, body)
        self._admit(len(items))
        self._count(len(items))
        try:
            outcomes = await self.embedder.aembed_items(items)
        except EngineError as error:
            raise Refusal(500, str(error)) from error
        finally:
            self._count(-len(items))
        dimensions = asked.dimensions or self.embedder.dimension
        results = [self._finished(outcome, dimensions) for outcome in outcomes]
        vectors = [result for result in results if not isinstance(result, NemoVLMError)]
        if len(vectors) < len(results):
            raise _refusal(results)
        for item in items:
            self.metrics.items.labels(item.modality).inc()
        tokens = sum(outcome.tokens for outcome in outcomes if isinstance(outcome, Answer))
        self.metrics.tokens.inc(tokens)
        return _json(self._reply(asked, vectors, tokens))

    def _finished(self, outcome: Outcome, dimensions: int) -> Vector | NemoVLMError:
        if isinstance(outcome, NemoVLMError):
            return outcome
        result = normalize(outcome.vector, native=self.embedder.dimension, dimensions=dimensions)
        return InputError(str(result)) if isinstance(result, EngineError) else result

    def _admit(self, count: int) -> None:
        """Raise `Refusal` if the queue has no room. If it is empty, a request larger than all of it is taken."""
        if not self.ready:
            raise Refusal(503, "the model is still being loaded", headers={"Retry-After": str(_RETRY_SECONDS)})
        if self._queued and self._queued + count > self.options.max_queue:
            raise Refusal(
                503,
                f"the queue is full: {self._queued} items wait, and {self.options.max_queue} may",
                headers={"Retry-After": str(_RETRY_SECONDS)},
            )

    def _count(self, items: int) -> None:
        self._queued += items
        self.metrics.queue.set(self._queued)

    async def _body(self, request: Request) -> bytes:
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

    def _read(self, body: bytes) -> tuple[EmbeddingRequest, list[Item]]:
        try:
            asked = EmbeddingRequest.model_validate_json(body)
        except ValidationError as error:
            raise _invalid(error) from None
        suffix = self._suffix(asked.model)
        if not asked.inputs:
            raise Refusal(400, "input is empty", [_detail(["input"], "give one string at least", "too_short")])
        if asked.dimensions and asked.dimensions > self.embedder.dimension:
            message = f"dimensions must be from 1 to {self.embedder.dimension}, not {asked.dimensions}"
            raise Refusal(400, message, [_detail(["dimensions"], message, "less_than_equal")])
        try:
            items = list(asked.items(suffix, self.options.max_pixels))
        except InputError as error:
            raise Refusal(400, str(error), [_detail(["modality"], str(error), "value_error")]) from None
        good = [item for item in items if isinstance(item, Item)]
        if len(good) < len(items):
            raise _refusal(items)
        return asked, good

    def _suffix(self, model: str) -> Role | None:
        """Return the role behind the name of the model, if any."""
        if model in self.names:
            return None
        for role in _ROLES:
            if model.endswith(f"-{role}") and model.removesuffix(f"-{role}") in self.names:
                return role
        raise Refusal(404, f"the model {model[:100]!r} does not exist here; this server has {', '.join(self.names)}")

    def _reply(self, asked: EmbeddingRequest, vectors: Sequence[Vector], tokens: int) -> dict[str, Any]:
        as_text = asked.encoding_format == "base64"
        rows = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, asked.embedding_type, as_text)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": rows, "model": asked.model, "usage": usage}

    def models(self) -> dict[str, Any]:
        """Return what `GET /v1/models` says."""
        rows = [
            {"id": name, "object": "model", "created": self.started, "owned_by": "nemovlm", "root": name}
            for name in self.names
        ]
        return {"object": "list", "data": rows}

    def metadata(self) -> dict[str, Any]:
        """Return what `GET /v1/metadata` says: version and models as a NIM, and what the model is."""
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


def make_app(
    embedder: Embedder, options: ServerOptions | None = None, failed: Callable[[NemoVLMError], None] | None = None
) -> FastAPI:
    """Return the application. It closes `embedder` when it shuts down; `failed` hears if the model cannot be loaded."""
    server = Server(embedder, options or ServerOptions())

    async def warm_up() -> None:
        try:
            await server.warm_up()
        except NemoVLMError as error:
            if failed:
                failed(error)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(warm_up())
        yield
        loading.cancel()
        await embedder.aclose()

    app = FastAPIOffline(
        redoc_url=None,
        title="nemovlm",
        version=__version__,
        summary="Embeddings of texts and page images, in the protocol of NVIDIA's embedding NIM.",
        lifespan=lifespan,
    )
    app.state.server = server

    @app.middleware("http")
    async def every_request(request: Request, proceed: Callable[[Request], Any]) -> Response:
        """Give each reply an id, and count the requests for embeddings."""
        begun = time.perf_counter()
        identity = request.headers.get("x-request-id", "")
        identity = identity if identity.isascii() and identity.isprintable() and 0 < len(identity) <= 128 else ""
        response: Response = await proceed(request)
        response.headers["x-request-id"] = identity or uuid4().hex
        if request.url.path == "/v1/embeddings":
            server.metrics.requests.labels(response.status_code).inc()
            server.metrics.seconds.observe(time.perf_counter() - begun)
        return response

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        return _json(refusal.body(), refusal.status, refusal.headers)

    @app.exception_handler(Exception)
    async def broke(_: Request, error: Exception) -> Response:
        return _json(Refusal(500, f"the server failed: {type(error).__name__}").body(), 500)

    schema = {"content": {"application/json": {"schema": EmbeddingRequest.model_json_schema()}}, "required": True}

    @app.post("/v1/embeddings", openapi_extra={"requestBody": schema}, summary="Embed texts and images")
    async def embeddings(request: Request) -> Response:
        server.authorize(request)
        return await server.answer(request)

    @app.get("/v1/models", summary="The served models")
    async def models(request: Request) -> Response:
        server.authorize(request)
        return _json(server.models())

    @app.get("/v1/metadata", summary="Version, model, engine and vector space")
    async def metadata(request: Request) -> Response:
        server.authorize(request)
        return _json(server.metadata())

    @app.get("/v1/health/live", summary="Is the process there")
    async def live() -> Response:
        return _json({"object": "health.response", "message": "live", "live": True})

    @app.get("/v1/health/ready", summary="Can it embed")
    async def ready() -> Response:
        message = "ready" if server.ready else "loading"
        body = {"object": "health.response", "message": message, "ready": server.ready}
        return _json(body, 200 if server.ready else 503)

    @app.get("/v1/metrics", summary="Counters for Prometheus")
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return app


def _encoded(vector: Vector, kind: EmbeddingType, as_text: bool) -> Any:
    numbers = quantize(vector, kind)
    return base64.b64encode(numbers.tobytes()).decode("ascii") if as_text else numbers


def _json(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, status, dict(headers or {}), "application/json")


def _refusal(results: Sequence[object]) -> Refusal:
    """Return the reply for items of which some are errors: each is named by its index."""
    errors = {index: error for index, error in enumerate(results) if isinstance(error, NemoVLMError)}
    details = [_detail(["input", index], _said(error), type(error).__name__) for index, error in errors.items()]
    index, first = next(iter(errors.items()))
    more = f" (and {len(errors) - 1} more items)" if len(errors) > 1 else ""
    if isinstance(first, ImageTooLargeError):
        status = 413
    elif isinstance(first, InputError):
        status = 400
    else:
        status = 500
    return Refusal(status, f"input {index}: {_said(first)}{more}", details)


def _said(error: NemoVLMError) -> str:
    if isinstance(error, InputTooLongError):  # a NIM's words, which clients look for
        return f"Input length {error.tokens} exceeds maximum allowed token size {error.limit}"
    return str(error)


def _invalid(error: ValidationError) -> Refusal:
    details = [_detail(list(entry["loc"]), entry["msg"], entry["type"]) for entry in error.errors(include_input=False)]
    where = ".".join(map(str, details[0]["loc"][1:]))
    said = f"{where}: {details[0]['msg']}" if where else details[0]["msg"]
    return Refusal(422, f"Your request cannot be validated, it is incorrect. {said}", details)


def _detail(where: Sequence[str | int], message: str, kind: str) -> dict[str, Any]:
    return {"loc": ["body", *where], "msg": message, "type": kind}
