"""nemovlm in LlamaIndex: a multimodal embedding, a reader that turns PDFs into page-image nodes, and a retriever."""

from typing import TYPE_CHECKING, Any

try:
    import llama_index.core  # noqa: F401 - is it there at all
except ImportError as missing:
    from nemovlm.errors import MissingExtraError

    raise MissingExtraError("llamaindex_nemovlm", "llamaindex") from missing

from llamaindex_nemovlm.embeddings import NemoVLMEmbedding
from llamaindex_nemovlm.readers import NemoVLMPageParser, NemoVLMPDFReader

if TYPE_CHECKING:
    from llamaindex_nemovlm.retrievers import NemoVLMPageIndexRetriever

__all__ = ["NemoVLMEmbedding", "NemoVLMPDFReader", "NemoVLMPageIndexRetriever", "NemoVLMPageParser"]


def __getattr__(name: str) -> Any:
    if name == "NemoVLMPageIndexRetriever":  # with it comes Lance, which is an extra
        from llamaindex_nemovlm.retrievers import NemoVLMPageIndexRetriever

        return NemoVLMPageIndexRetriever
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
