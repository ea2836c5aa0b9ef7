"""Embedders on servers that fail, and what became of their items."""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from nemovlm import Embedder
from nemovlm.errors import NemoVLMError
from tests.support.clock import JumpingClock
from tests.support.faults import DIMENSION, MODEL, FaultServer, vectors_of

Call = Callable[..., Awaitable[Any]]
KEY = "nvapi-not_a_real-key.0123456789"
TEXTS = [f"text number {number}" for number in range(64)]


def remote(*servers: FaultServer, model: str | None = MODEL, **knobs: Any) -> Embedder:
    """Return an embedder on servers, whose clock it goes by: it waits for nothing, so its deadline is far away.

    Certificates are not read, which takes a while and is of use to few tests.
    """
    for server in servers[1:]:
        server.clock = servers[0].clock
    defaults = {
        "base_url": [server.url for server in servers],
        "deadline": 100_000.0,
        "verify": False,
        "clock": servers[0].clock if servers else JumpingClock(),
    }
    return Embedder(model, **defaults | knobs)


async def outcomes(call: Call, embedder: Embedder, items: Sequence[Any]) -> tuple[list[Any], list[NemoVLMError]]:
    """Return what each item became, None for an error, and the errors."""
    errors: list[NemoVLMError] = []
    return await call(embedder, "stream", items, on_error=errors.append), errors


async def error_of(call: Call, embedder: Embedder, item: Any = "text") -> NemoVLMError:
    """Return the error of one item."""
    (vector,), (error,) = await outcomes(call, embedder, [item])
    assert vector is None
    return error


def all_right(vectors: Sequence[Any], contents: Sequence[str], role: str = "passage", cut: int = DIMENSION) -> bool:
    """Whether every item has its own vector."""
    return bool(
        len(vectors) == len(contents) and np.abs(np.stack(vectors) - vectors_of(contents, role, cut)).max() < 1e-6
    )


def all_right_but(vectors: Sequence[Any], contents: Sequence[str], bad: set[int]) -> bool:
    """Whether the bad items have no vector, and every other one has its own."""
    good = [index for index in range(len(contents)) if index not in bad]
    return all(vectors[index] is None for index in bad) and (
        not good or all_right([vectors[index] for index in good], [contents[index] for index in good])
    )


def png(shade: int = 0) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (32, 32), (shade, 90, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def url_of(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


async def nothing_open(server: FaultServer, seconds: float = 2.0) -> bool:
    """Whether all connections are closed, in so many seconds at the latest."""
    until = time.monotonic() + seconds
    while server.open and time.monotonic() < until:
        await asyncio.sleep(0.01)
    return not server.open
