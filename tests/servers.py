"""Real servers on loopback for tests: any ASGI application, in a thread of this process."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn


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
