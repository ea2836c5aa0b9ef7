"""An embedding server that fails on request, over real sockets: what the tests of the remote engine talk to.

It takes `POST /v1/embeddings` as strictly as a NIM does, and its vectors follow from the string, the role and the
dimension alone: a test knows the right vector of every item, whatever happened on the way. Faults are functions of
the honest reply. It is no ASGI application, because none can break off in mid-reply or count connections.
"""

import asyncio
import base64
import hashlib
import json
import random
import re
import socket
import ssl
import struct
import threading
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tests.support.clock import JumpingClock

MODEL = "nvidia/llama-nemotron-embed-vl-1b-v2"
DIMENSION = 2048
FIELDS = frozenset(
    {"model", "input", "input_type", "modality", "embedding_type", "encoding_format", "dimensions", "truncate", "user"}
)
_MODALITIES = {"text", "image", "text_image"}
_IMAGE = re.compile(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+")


@lru_cache(maxsize=4096)
def vector_of(content: str, role: str, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """Return the vector (dimension,) of an item as it travels, of unit length."""
    seed = hashlib.sha256(f"{role}\0{content}".encode()).digest()
    numbers = np.random.Generator(np.random.PCG64(int.from_bytes(seed))).standard_normal(dimension)
    return (numbers / np.linalg.norm(numbers)).astype(np.float32)


def vectors_of(contents: Sequence[str], role: str = "passage", cut: int = DIMENSION) -> NDArray[np.float32]:
    """Return the vectors (n, cut) that a client is to give out for items: the first components, of unit length."""
    whole = np.stack([vector_of(content, role)[:cut] for content in contents])
    return whole / np.linalg.norm(whole, axis=1, keepdims=True)


@dataclass(frozen=True)
class Request:
    """What came in. `headers` are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    time: float
    """When, in seconds since the epoch."""

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What goes out: `delay` seconds late, and broken off by a reset after `cut` bytes, its head included."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: int | None = None
    held: bool = False
    after: threading.Event | None = None


Fault: TypeAlias = Callable[[Reply], Reply]
"""Makes of the honest reply the one that is sent."""


def says(status: int, body: object = b"", **headers: str) -> Fault:
    """Answer something else: `body` as it is if it is bytes, else as JSON. A header's name has `_` for `-`."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda _: Reply(status, content, {name.replace("_", "-"): value for name, value in headers.items()})


def late(seconds: float) -> Fault:
    """Answer honestly, but late."""
    return lambda honest: replace(honest, delay=seconds)


def until(event: threading.Event) -> Fault:
    """Answer honestly, but not before `event` is set."""
    return lambda honest: replace(honest, after=event)


def held(honest: Reply) -> Reply:
    """Answer never: the client is as patient as its clock has it."""
    return replace(honest, held=True)


def reset(after: int = 0) -> Fault:
    """Break the connection off after so many bytes of the reply."""
    return lambda honest: replace(honest, cut=after)


def twisted(change: Callable[[dict[str, Any]], object]) -> Fault:
    """Send `change` of the honest reply's JSON; where that returns None, it has changed it in place."""

    def fault(honest: Reply) -> Reply:
        assert honest.status == 200, honest.body
        reply = json.loads(honest.body)
        changed = change(reply)
        return replace(honest, body=json.dumps(reply if changed is None else changed).encode())

    return fault


def half(honest: Reply) -> Reply:
    """Send the reply whole as HTTP and cut off as JSON."""
    return Reply(honest.status, honest.body[: len(honest.body) // 2])


def rows(change: Callable[[list[dict[str, Any]]], object]) -> Fault:
    """Change the rows of the reply: in place, or into what `change` returns."""

    def change_reply(reply: dict[str, Any]) -> None:
        if (changed := change(reply["data"])) is not None:
            reply["data"] = changed

    return twisted(change_reply)


def embedded(*embeddings: object) -> Fault:
    """Replace the first embeddings."""

    def change(data: list[dict[str, Any]]) -> None:
        for row, embedding in zip(data, embeddings, strict=False):
            row["embedding"] = embedding

    return rows(change)


def honestly(honest: Reply) -> Reply:
    """No fault: a place in a script."""
    return honest


PASSING: dict[str, list[Fault]] = {
    "408": [says(408)],
    "429": [says(429)],
    "429 for now": [says(429, {"error": "slow down"}, Retry_After="0")],
    "429 in a row": [says(429)] * 9,
    "500": [says(500, {"error": "Something went wrong"})],
    "502": [says(502, b"<html>Bad Gateway</html>")],
    "503 in a row": [says(503)] * 4,
    "503 for now": [says(503, b"", Retry_After="0.05")] * 2,
    "504": [says(504)],
    "reset before the reply": [reset()],
    "reset in the head": [reset(25)],
    "reset in the body": [reset(3000)],
    "resets in a row": [reset(), reset(3000), reset(), reset(99)],
    "too slow": [held],
    "empty body": [says(200, b"")],
    "truncated JSON": [half],
    "no JSON": [says(200, b"<html>hello</html>")],
    "no UTF-8": [says(200, b'{"data": "\xff"}')],
    "nested too deep": [says(200, b"[" * 50_000)],
    "bad gzip": [says(200, b"this is no gzip", Content_Encoding="gzip")],
    "one after the other": [says(503), reset(), half, says(500), held],
}
"""Failures that are worth a repetition, each as often as it is listed."""


LASTING: dict[str, Fault] = {
    **{status: says(int(status)) for status in ("408", "425", "429", "500", "502", "503", "504", "522", "598")},
    **{
        f"{status}, {after}": says(status, {"error": "later"}, Retry_After=after)
        for status in (429, 503)
        for after in ("0", "-1", "0.001", "1", "nan", "soon", "Mon, 20 Nov 1995 19:12:08 GMT")
    },
    "429 in a 200": says(200, {"error": {"message": "later", "code": 429}}, Retry_After="0"),
    "reset": reset(),
    "reset in the body": reset(3000),
    "no JSON": half,
    "put off": says(202, b"", NVCF_REQID="never"),
}
"""Failures that are repeated until the end of all patience."""


class FaultServer:
    """The server. Everything may be changed while it runs; everything that came in is on record.

    `script` holds the faults of the next requests for embeddings, and `always` is that of all others.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.clock = JumpingClock()
        """Its clients' clock, by which requests are recorded."""
        self.script: deque[Fault] = deque()
        self.always: Fault = honestly
        self.models: list[str] = [MODEL]
        self.owner = "nvidia"
        """Who its models belong to: what serves them writes its name there."""
        self.ready = True
        """Whether it has the route that NIMs say so with."""
        self.listing: Fault = honestly
        """Of the list of models."""
        self.dimension = DIMENSION
        self.fields = FIELDS
        self.encodings = ("float", "base64")
        self.max_bytes: int | None = None
        self.max_length: int | None = None
        """Characters of a text; one is one token."""
        self.shuffled = False
        self.jitter = 0.0
        """Up to so many seconds, at random, before every reply."""
        self.put_off: dict[str, int] = {}
        """How often a reply that was put off is asked for in vain, by its id."""
        self.paths = ("/v1/embeddings",)
        self.requests: list[Request] = []
        self.replies: list[int] = []
        """The status of every reply for embeddings."""
        self.connections = 0
        self.busy = 0
        self.most_busy = 0
        self.peers: list[dict[str, Any]] = []
        """The certificates that clients showed."""
        self._open: set[asyncio.StreamWriter] = set()
        self._kept: dict[str, Reply] = {}
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def open(self) -> int:
        """Connections that are open."""
        return len(self._open)

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies of all requests for embeddings."""
        return [request.json for request in self.posts]

    @property
    def sent(self) -> list[Request]:
        """All that came in, but for the list of models, by which a client sees at first what the server is."""
        return [request for request in self.requests if not request.target.endswith("/v1/models")]

    @property
    def posts(self) -> list[Request]:
        return [request for request in self.requests if request.method == "POST"]

    @property
    def contents(self) -> Counter[str]:
        """How often each string was sent."""
        return Counter(content for body in self.asked for content in body["input"])

    def most_within(self, seconds: float) -> int:
        """Return how many requests came within so many seconds at the most, by the clock of its clients."""
        times = sorted(request.time for request in self.requests)
        return max((bisect_right(times, time + seconds) - index for index, time in enumerate(times)), default=0)

    # Life

    def start(self) -> None:
        """Listen; again on the same port, if it was stopped."""
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    def stop(self) -> None:
        """Listen no more and break all connections off, as a process that dies."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)

    async def _start(self) -> None:
        self._listener = await asyncio.start_server(
            self._serve, "127.0.0.1", self._port, ssl=self._tls, reuse_address=True, limit=1 << 20
        )
        self._port = self._listener.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._listener:
            self._listener.close()
        for writer in list(self._open):
            _reset(writer)

    # One connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._tls and (peer := writer.get_extra_info("peercert")):
            self.peers.append(peer)
        self._open.add(writer)
        try:
            # The client has gone, or the test is over.
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        request = Request(method, target, headers, content, self.clock.now())
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            self.requests.append(request)
            reply = self._answer(request)
            if reply.held:
                self.clock.lapse()
                await reader.read()  # until the client has gone
                return False
            while reply.after and not reply.after.is_set():
                await asyncio.sleep(0.005)
            await asyncio.sleep(reply.delay + self.jitter * random.random())
            lines = [f"HTTP/1.1 {reply.status} Whatever", f"Content-Length: {len(reply.body)}"]
            lines += [f"{name}: {value}" for name, value in reply.headers.items()]
            raw = "\r\n".join([*lines, "", ""]).encode() + reply.body
            writer.write(raw if reply.cut is None else raw[: reply.cut])
            await writer.drain()
        finally:
            self.busy -= 1
        if reply.cut is not None:
            await asyncio.sleep(0.02)  # what was written has to arrive before the reset
            _reset(writer)
        return reply.cut is None

    def _answer(self, request: Request) -> Reply:
        path = re.sub(r"^https?://[^/]+", "", request.target)  # as a proxy is asked
        if request.method == "POST" and path in self.paths:
            fault = self.script.popleft() if self.script else self.always
            reply = fault(self._embeddings(request))
            self.replies.append(reply.status)
            if reply.status == 202 and (name := reply.headers.get("NVCF-REQID")):
                self._kept[name] = self._embeddings(request)
            return reply
        if request.method == "GET" and path == "/v1/models":
            rows = [{"id": model, "object": "model", "owned_by": self.owner} for model in self.models]
            return self.listing(_json({"object": "list", "data": rows}))
        if request.method == "GET" and path == "/v1/health/ready" and self.ready:
            return _json({"object": "health.response", "message": "ready", "ready": True})
        if request.method == "GET" and (name := path.removeprefix("/v2/nvcf/pexec/status/")) in self._kept:
            self.put_off[name] = self.put_off.get(name, 0) - 1
            return Reply(202, headers={"NVCF-REQID": name}) if self.put_off[name] >= 0 else self._kept[name]
        return _json({"detail": "Not Found"}, 404)

    # The protocol

    def _embeddings(self, request: Request) -> Reply:
        if self.max_bytes is not None and len(request.body) > self.max_bytes:
            return Reply(413, b"<html><body><h1>413 Request Entity Too Large</h1></body></html>")
        try:
            body = request.json
        except ValueError:
            return _json({"error": "no JSON"}, 400)
        return self._complaint(body) or self._honest(body)

    def _complaint(self, body: dict[str, Any]) -> Reply | None:
        contents = body.get("input")
        contents = [contents] if isinstance(contents, str) else contents
        modality = body.get("modality", _guess(contents))
        modalities = [modality] * len(contents) if isinstance(modality, str) else modality
        if len(modalities) == 1:
            modalities = modalities * len(contents)
        role = self._role(body)
        for name in body.keys() - self.fields:
            return _json(
                {
                    "error": "Your request cannot be validated, it is incorrect. detail={'type':'extra_forbidden',"
                    f"'loc':('body','{name}'),'msg':'Extra inputs are not permitted','input':{body[name]!r}}}"
                },
                400,
            )
        if self._model(body) not in self.models:
            return _json({"detail": f"The model `{body['model']}` does not exist."}, 404)
        wrong = (
            (not contents or not all(isinstance(content, str) for content in contents), "input is no list of strings"),
            (len(modalities) != len(contents), f"{len(modalities)} modalities for {len(contents)} inputs"),
            (not set(modalities) <= _MODALITIES, "modality must be text, image or text_image"),
            (role not in {"query", "passage", None}, f"input_type {role!r} is none"),
            (role is None and "text" in modalities, "'input_type' parameter is required for asymmetric models"),
            (role == "query" and set(modalities) != {"text"}, "Image inputs are passages"),
            (body.get("truncate", "NONE") not in {"NONE", "START", "END"}, "truncate is NONE, START or END"),
            (
                body.get("encoding_format", "float") not in self.encodings,
                f"encoding_format must be one of {list(self.encodings)}",
            ),
            (not 1 <= body.get("dimensions", 1) <= self.dimension, f"dimensions is more than {self.dimension}"),
            (
                any(
                    (kind == "text") is not (_guess([content]) == "text") and "modality" not in body
                    for kind, content in zip(modalities, contents, strict=False)
                ),
                "set modality='text'",
            ),
            (
                any(
                    kind != "text" and len(_IMAGE.findall(content)) != 1
                    for kind, content in zip(modalities, contents, strict=False)
                ),
                "one image is wanted",
            ),
            (
                any(
                    kind == "text_image" and _IMAGE.split(content)[0].strip() in {"", "<img src='"}
                    for kind, content in zip(modalities, contents, strict=False)
                ),
                "Text part must be non-empty for text_image modality",
            ),
        )
        for is_wrong, message in wrong:
            if is_wrong:
                return _json({"error": message}, 400)
        longest = max(len(_IMAGE.sub("", content)) for content in contents)
        if self.max_length and longest > self.max_length and body.get("truncate", "NONE") == "NONE":
            message = f"Input length {longest} exceeds maximum allowed token size {self.max_length}"
            return _json({"error": message}, 400)
        return None

    def _role(self, body: dict[str, Any]) -> str | None:
        suffix = body["model"].removeprefix(self._model(body)).removeprefix("-")
        return suffix or body.get("input_type")

    def _model(self, body: dict[str, Any]) -> str:
        name = body["model"]
        return name.removesuffix("-query").removesuffix("-passage") if "input_type" not in body else name

    def _honest(self, body: dict[str, Any]) -> Reply:
        role, kind = self._role(body) or "passage", body.get("embedding_type", "float")
        contents = [body["input"]] if isinstance(body["input"], str) else body["input"]
        rows = []
        for index, content in enumerate(contents):
            vector = vector_of(content, role, self.dimension)[: body.get("dimensions")]
            numbers = _packed(vector, kind)
            as_base64 = body.get("encoding_format") == "base64"
            embedding = base64.b64encode(numbers.tobytes()).decode() if as_base64 else numbers.tolist()
            rows.append({"object": "embedding", "index": index, "embedding": embedding})
        if self.shuffled:
            random.shuffle(rows)
        tokens = sum(map(len, contents))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return _json({"object": "list", "data": rows, "model": body["model"], "usage": usage})


def _packed(vector: NDArray[np.float32], kind: str) -> NDArray[Any]:
    """Return a vector as an `embedding_type` has it: written anew here, so that it checks the client's reading."""
    if kind == "float":
        return vector.astype("<f4")
    if kind in {"binary", "ubinary"}:
        packed = np.packbits(vector > 0)
        return packed if kind == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)
    numbers = np.rint(vector / np.abs(vector).max() * 127)
    return numbers.astype(np.int8) if kind == "int8" else (numbers + 128).astype(np.uint8)


def _guess(contents: Sequence[str]) -> str:
    """Guess as a NIM does that is not told: whatever has an image in it is one."""
    images = [_IMAGE.search(content) for content in contents]
    if not any(images):
        return "text"
    return (
        "image"
        if all(image and image[0] == content for image, content in zip(images, contents, strict=True))
        else "text_image"
    )


def _json(body: object, status: int = 200) -> Reply:
    return Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json"})


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side gets a reset, not the end of the stream."""
    sock = writer.get_extra_info("socket")
    with suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def failing(*, tls: ssl.SSLContext | None = None) -> Iterator[FaultServer]:
    """Run a `FaultServer` in a thread of this process."""
    server = FaultServer(tls=tls)
    loop = server._loop
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        server.start()
        yield server
    finally:
        server.stop()
        asyncio.run_coroutine_threadsafe(_finish(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _finish() -> None:
    """Let the tasks of the connections end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
