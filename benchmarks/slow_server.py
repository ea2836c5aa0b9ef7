"""What `remote.py` and `soak.py` measure against: an embedding server that costs little and answers late, or fails.

It is a process of its own, so that it shares no interpreter lock with the clients. A vector is three components that
follow from the string, and a tail that is the same for all: replies are put together from parts made beforehand, and
whoever knows the string knows its vector. Requests are answered `--delay` seconds after they came in, any number of
them at once. It speaks just as much HTTP as the clients do.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import random
import socket
import struct
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODEL = "nvidia/llama-nemotron-embed-vl-1b-v2"
_HEAD = struct.Struct("<3f")  # 12 bytes are 16 letters of base64: what follows does not depend on them
_HEADLINES = {200: "OK", 404: "Not Found", 422: "Unprocessable", 429: "Too Many", 500: "Error", 503: "Unavailable"}
FAULTS = ("503", "429, Retry-After: 0", "500", "reset", "cut off", "half of the JSON")


@lru_cache(maxsize=4)
def _tail(dimension: int) -> NDArray[np.float32]:
    numbers = np.random.default_rng(0).standard_normal(dimension - 3)
    return (numbers / np.linalg.norm(numbers)).astype("<f4")


def _head(content: str) -> tuple[float, float, float]:
    a, b, c = struct.unpack("<3H", hashlib.blake2b(content.encode(), digest_size=6).digest())
    return a / 65536 - 0.5, b / 65536 - 0.5, c / 65536 - 0.5


def vectors_of(contents: Sequence[str], dimension: int) -> NDArray[np.float32]:
    """Return the vectors (n, dimension) of strings as they travel, of unit length."""
    tails = np.broadcast_to(_tail(dimension), (len(contents), dimension - 3))
    rows = np.hstack([np.array([_head(content) for content in contents]), tails])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    url: str

    def stats(self) -> dict[str, Any]:
        """Return what came in since the last call: the items of each request (`sizes`), and the `faults`."""
        with urllib.request.urlopen(f"{self.url}/stats", timeout=10) as reply:
            return json.load(reply)


@contextmanager
def serving(**options: float) -> Iterator[Server]:
    """Run a server in a process of its own. The options are those of the command line."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    with subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()


class _Service:
    def __init__(self, given: argparse.Namespace) -> None:
        self._delay, self._max_items, self._fail = given.delay, given.max_items, given.fail
        self._tail = {
            "base64": base64.b64encode(_tail(given.dimension).tobytes()).decode() + '"}',
            "float": ", " + json.dumps(_tail(given.dimension).tolist())[1:] + "}",
        }
        self._random = random.Random(0)
        self._sizes: list[int] = []
        self._faults: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):  # the client has gone
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if method == "GET":
            _send(writer, 200, json.dumps(self._told(target)).encode())
            return True
        due = asyncio.get_running_loop().time() + self._delay
        fault = self._random.choice(FAULTS) if self._random.random() < self._fail else None
        reply = self._answer(json.loads(body))
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        if reply is None:
            _send(writer, 422, b'{"detail": "too many items in one request"}')
        elif fault is None:
            _send(writer, 200, reply)
        else:
            self._faults[fault] += 1
            return await _misbehave(writer, fault, reply)
        await writer.drain()
        return True

    def _told(self, target: str) -> dict[str, Any]:
        if target == "/stats":
            told = {"sizes": self._sizes, "faults": self._faults}
            self._sizes, self._faults = [], Counter()
            return told
        return {"object": "list", "data": [{"id": MODEL, "root": MODEL, "object": "model", "owned_by": "nobody"}]}

    def _answer(self, body: dict[str, Any]) -> bytes | None:
        contents = body["input"]
        self._sizes.append(len(contents))
        if self._max_items and len(contents) > self._max_items:
            return None
        kind = body.get("encoding_format", "float")
        rows = []
        for index, content in enumerate(contents):
            head = _head(content)
            start = '"' + base64.b64encode(_HEAD.pack(*head)).decode() if kind == "base64" else str(list(head))[:-1]
            rows.append(f'{{"object": "embedding", "index": {index}, "embedding": {start}{self._tail[kind]}')
        usage = '"usage": {"prompt_tokens": 8, "total_tokens": 8}'
        return f'{{"object": "list", "data": [{", ".join(rows)}], "model": "{body["model"]}", {usage}}}'.encode()


def _send(writer: asyncio.StreamWriter, status: int, body: bytes, more: str = "", length: int | None = None) -> None:
    head = (
        f"HTTP/1.1 {status} {_HEADLINES[status]}\r\nContent-Type: application/json\r\n{more}"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    writer.write(head.encode() + body)


async def _misbehave(writer: asyncio.StreamWriter, fault: str, reply: bytes) -> bool:
    """Answer wrongly. Return whether the connection lives on."""
    if fault == "reset":
        lingers_not = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingers_not)
        writer.transport.abort()
        return False
    half = reply[: len(reply) // 2]
    if fault == "cut off":
        _send(writer, 200, half, length=len(reply))
    elif fault == "half of the JSON":
        _send(writer, 200, half)
    else:
        status, _, header = fault.partition(", ")
        _send(writer, int(status), b'{"error": "not now"}', f"{header}\r\n" if header else "")
    await writer.drain()
    return fault != "cut off"


async def _main(given: argparse.Namespace) -> None:
    listener = await asyncio.start_server(_Service(given).serve, "127.0.0.1", 0, backlog=1024)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds until a request is answered")
    parser.add_argument("--max-items", type=int, default=0, help="of one request; more are refused with 422")
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--fail", type=float, default=0.0, help="the share of requests that come to grief")
    asyncio.run(_main(parser.parse_args()))
