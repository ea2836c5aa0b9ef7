"""Runs the application on a socket until it is told to stop."""

from collections.abc import Callable

import uvicorn

from nemovlm.embedder import Embedder
from nemovlm.errors import NemoVLMError
from nemovlm.server.app import make_app
from nemovlm.server.service import ServerOptions
from nemovlm.server.sockets import bind_socket, url


def serve(
    embedder: Embedder,
    options: ServerOptions,
    *,
    host: str,
    port: int,
    grace: int,
    keep_alive: int,
    announce: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM. Blocks, and closes `embedder` at the end.

    Args:
        embedder: What embeds.
        options: What the server allows.
        host: The address to listen at.
        port: The port to listen at; 0 for one that is free.
        grace: Seconds to finish what was accepted before the signal.
        keep_alive: Seconds for which a connection without a request stays open.
        announce: Called with the server's address, once that is taken.

    Raises:
        ConfigurationError: The address cannot be taken.
        NemoVLMError: The model cannot be loaded, or the engine cannot work.
    """
    failure: list[NemoVLMError] = []

    def failed(error: NemoVLMError) -> None:
        failure.append(error)
        server.should_exit = True

    app = make_app(embedder, options, failed)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            timeout_graceful_shutdown=grace,
            timeout_keep_alive=keep_alive,
            server_header=False,
            log_level="info",
        )
    )
    with bind_socket(host, port) as listener:
        listener.listen()
        announce(url(host, listener))
        server.run([listener])
    if failure:
        raise failure[0]
