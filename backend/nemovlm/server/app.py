"""The ASGI application: the routes of a NIM over one `Embedder`."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import orjson
from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST

from nemovlm import __version__
from nemovlm.embedder import Embedder
from nemovlm.errors import NemoVLMError
from nemovlm.server.schema import EmbeddingRequest
from nemovlm.server.service import Refusal, Server, ServerOptions


def make_app(
    embedder: Embedder, options: ServerOptions | None = None, failed: Callable[[NemoVLMError], None] | None = None
) -> FastAPI:
    """Return the application, which begins to load the model when it starts.

    Blocks like `Embedder.model`, unless `options` has names.

    Args:
        embedder: What embeds. The application closes it when it shuts down.
        options: What the server allows. Default: `ServerOptions()`.
        failed: Called with the error if the model cannot be loaded.
    """
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
        return _json(await server.answer(request))

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


def _json(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, status, dict(headers or {}), "application/json")
