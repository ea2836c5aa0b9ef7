"""A server that speaks the NIM protocol over any engine: what `nemovlm serve` runs.

`make_app(embedder, options)` is the ASGI application by itself, for whoever has a server already.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nemovlm.errors import MissingExtraError

if TYPE_CHECKING:
    from nemovlm.server.app import make_app
    from nemovlm.server.run import serve
    from nemovlm.server.service import ServerOptions

__all__ = ["ServerOptions", "make_app", "serve"]

_HOME = {"ServerOptions": "service", "make_app": "app", "serve": "run"}


def __getattr__(name: str) -> Any:
    """Fetch what needs the `[server]` extra on first use: vLLM's server, which is started from here too, needs none."""
    if name not in _HOME:
        raise AttributeError(f"module 'nemovlm.server' has no attribute {name!r}")
    try:
        return getattr(import_module(f"nemovlm.server.{_HOME[name]}"), name)
    except ImportError as missing:
        raise MissingExtraError("the server", "server") from missing
