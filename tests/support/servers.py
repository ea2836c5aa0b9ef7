"""Real servers on loopback for tests: any ASGI application in a thread of this process, and `nemovlm serve` itself."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from tests.support.command import COMMAND


@contextmanager
def running(app: Any, **options: Any) -> Iterator[str]:
    """Serve `app` on a free port of loopback; yield its address, such as `http://127.0.0.1:41234`."""
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:  # by name: then asyncio turns Nagle's algorithm off
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5, **options)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 60
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


def ready(address: str) -> str:
    """Wait until the model behind `address` is loaded; return `address`."""
    deadline = time.monotonic() + 60
    while httpx.get(f"{address}/v1/health/ready").status_code != httpx.codes.OK:
        if time.monotonic() > deadline:
            raise RuntimeError("the model was not loaded")
        time.sleep(0.01)
    return address


@contextmanager
def started(*arguments: object, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `nemovlm serve` with more in its environment; whatever the test finds, no process is left behind."""
    command = [*COMMAND, "serve", *map(str, arguments)]
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def address_of(process: "subprocess.Popen[str]") -> str:
    """Return the address that `nemovlm serve` says it listens at."""
    assert process.stderr
    for line in process.stderr:
        if line.startswith("listening at "):
            return line.split()[2].removesuffix("/v1;")
    raise AssertionError("the server did not start")
