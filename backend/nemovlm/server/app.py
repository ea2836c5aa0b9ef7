"""The ASGI application: the routes of a NIM over one `Embedder`."""

import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import orjson
from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nemovlm import __version__, runtime
from nemovlm.embedder import Embedder
from nemovlm.errors import NemoVLMError
from nemovlm.server.schema import EmbeddingRequest
from nemovlm.server.service import Refusal, Server, ServerOptions


def make_app(
    embedder: Embedder, options: ServerOptions | None = None, failed: Callable[[NemoVLMError], None] | None = None
) -> FastAPI:
    """Return the application, which begins to load the model when it starts.

    Mounted in another application, which does not start it, it begins with the first request. Blocks like
    `Embedder.model`, unless `options` has names.

    Args:
        embedder: What embeds. The application closes it when it shuts down.
        options: What the server allows. Default: `ServerOptions()`.
        failed: Called with the error if the model cannot be loaded. Default: the error is logged, requests are answered
            with it, and the model is tried again with those that come later.
    """
    server = Server(embedder, options or ServerOptions(), failed)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        server.begin()
        yield
        await server.close()

    app = FastAPIOffline(
        redoc_url=None,
        title="nemovlm",
        version=__version__,
        summary="Embeddings of texts and page images, in the protocol of NVIDIA's embedding NIM.",
        lifespan=lifespan,
    )
    app.state.server = server

    app.add_middleware(_EveryRequest, server=server)

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

    @app.get("/v1/models/{name:path}", summary="One of them")
    async def model(request: Request, name: str) -> Response:
        server.authorize(request)
        return _json(server.model(name))

    @app.get("/v1/metadata", summary="Version, model, engine and vector space")
    async def metadata(request: Request) -> Response:
        server.authorize(request)
        return _json(await runtime.in_thread(server.metadata))

    @app.head("/v1/health/live", include_in_schema=False)
    @app.get("/v1/health/live", summary="Is the process there")
    async def live() -> Response:
        return _json({"object": "health.response", "message": "live", "live": True})

    @app.head("/v1/health/ready", include_in_schema=False)
    @app.get("/v1/health/ready", summary="Can it embed")
    async def ready() -> Response:
        server.begin()
        message = "ready" if server.ready else f"failed: {server.failure}" if server.failure else "loading"
        body = {"object": "health.response", "message": message, "ready": server.ready}
        return _json(body, 200 if server.ready else 503)

    @app.get("/v1/metrics", summary="Counters for Prometheus")
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return app


class _EveryRequest:
    """What is done with each request: its path is put straight, its reply gets an id, and embeddings are counted."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        # Base URLs with a slash at their end make paths like //v1/embeddings.
        path = re.sub("/{2,}", "/", scope["path"]).rstrip("/") or "/"
        identity = Headers(scope=scope).get("x-request-id", "")
        identity = identity if identity.isascii() and identity.isprintable() and 0 < len(identity) <= 128 else ""

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = identity or uuid4().hex
                if path.endswith("/v1/embeddings"):
                    self._server.metrics.requests.labels(message["status"]).inc()
                    self._server.metrics.seconds.observe(time.perf_counter() - begun)
            await send(message)

        await self._app({**scope, "path": path}, receive, reply)


def _json(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, status, dict(headers or {}), "application/json")
