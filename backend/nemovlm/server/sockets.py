"""Where a server listens: taken before a model is loaded, so that nobody waits for an address that cannot be had."""

import socket

from nemovlm.errors import ConfigurationError, one_line


def bind_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to `host` and `port`, or to a port that is free for 0.

    Raises:
        ConfigurationError: The address cannot be taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # TCP by name: asyncio turns Nagle's algorithm off only where it reads that, and each reply would take 40 ms more.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"cannot listen on {host}:{port}: {one_line(error)}") from error
    return listener


def url(host: str, listener: socket.socket) -> str:
    """Return the `http://` address of a server at `host` that listens on this socket."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
