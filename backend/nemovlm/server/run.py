"""Runs the application on a socket until it is told to stop."""

import socket
from collections.abc import Callable

import uvicorn

from nemovlm.embedder import Embedder
from nemovlm.errors import ConfigurationError, NemoVLMError
from nemovlm.server.app import ServerOptions, make_app


def serve(
    embedder: Embedder,
    options: ServerOptions,
    *,
    host: str,
    port: int,
    grace: int,
    announce: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM; what was accepted by then is finished within `grace` seconds.

    `announce` is called with the address, once it is taken. Raises `ConfigurationError` if it cannot be taken, and
    what the model raises if it cannot be loaded.
    """
    failure: list[NemoVLMError] = []

    def failed(error: NemoVLMError) -> None:
        failure.append(error)
        server.should_exit = True

    app = make_app(embedder, options, failed)
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=grace, server_header=False, log_level="info"))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # TCP by name: asyncio turns Nagle's algorithm off only where it reads that, and each reply would take 40 ms more.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
        except OSError as error:
            raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        listener.listen()
        announce(f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}")
        server.run([listener])
    if failure:
        raise failure[0]
