"""NVIDIA's multimodal embedding models in one interface: text, page images and both together.

Importing this package loads nothing heavy: each name below is fetched on first use, and torch, transformers
or lance only by the part that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemovlm.embedder import Embedder
    from nemovlm.errors import NemoVLMError
    from nemovlm.images import ImageUrl
    from nemovlm.index import Field, Hit, PageIndex
    from nemovlm.inputs import Passage
    from nemovlm.pdf import Page, iter_pages

    __version__: str

__all__ = [
    "Embedder",
    "Field",
    "Hit",
    "ImageUrl",
    "NemoVLMError",
    "Page",
    "PageIndex",
    "Passage",
    "__version__",
    "iter_pages",
]

_HOME = {
    "Embedder": "embedder",
    "Field": "index",
    "Hit": "index",
    "ImageUrl": "images",
    "NemoVLMError": "errors",
    "Page": "pdf",
    "PageIndex": "index",
    "Passage": "inputs",
    "iter_pages": "pdf",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("nemovlm")
    if name not in _HOME:
        raise AttributeError(f"module 'nemovlm' has no attribute {name!r}")
    return getattr(import_module(f"nemovlm.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
