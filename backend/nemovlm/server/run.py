"""Runs the application on a socket until it is told to stop."""

from collections.abc import Callable

import uvicorn

from nemovlm.embedder import Embedder
from nemovlm.errors import NemoVLMError
from nemovlm.server.app import ServerOptions, make_app
from nemovlm.server.sockets import bind_socket, url


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
    with bind_socket(host, port) as listener:
        listener.listen()
        announce(url(host, listener))
        server.run([listener])
    if failure:
        raise failure[0]
