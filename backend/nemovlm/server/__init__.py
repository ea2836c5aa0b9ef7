"""A server that speaks the NIM protocol over any engine: what `nemovlm serve` runs.

`make_app(embedder, options)` is the ASGI application by itself, for whoever has a server already.
"""

from nemovlm.errors import MissingExtraError

try:
    from nemovlm.server.app import ServerOptions, make_app
    from nemovlm.server.run import serve
except ImportError as missing:
    raise MissingExtraError("the server", "server") from missing

__all__ = ["ServerOptions", "make_app", "serve"]
