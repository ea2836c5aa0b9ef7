"""nemovlm in LangChain: embeddings for text and page images, a loader that reads PDFs page by page, and retrievers."""

from typing import TYPE_CHECKING, Any

try:
    import langchain_core  # noqa: F401 - is it there at all
except ImportError as missing:
    from nemovlm.errors import MissingExtraError

    raise MissingExtraError("langchain_nemovlm", "langchain") from missing

from langchain_nemovlm.document_loaders import NemoVLMPDFLoader, NemoVLMPDFParser
from langchain_nemovlm.embeddings import NemoVLMEmbeddings
from langchain_nemovlm.pages import page_to_content_block, pages_to_message
from langchain_nemovlm.retrievers import NemoVLMPageRetriever

if TYPE_CHECKING:
    from langchain_nemovlm.index_retrievers import NemoVLMPageIndexRetriever

__all__ = [
    "NemoVLMEmbeddings",
    "NemoVLMPDFLoader",
    "NemoVLMPDFParser",
    "NemoVLMPageIndexRetriever",
    "NemoVLMPageRetriever",
    "page_to_content_block",
    "pages_to_message",
]


def __getattr__(name: str) -> Any:
    if name == "NemoVLMPageIndexRetriever":  # with it comes Lance, which is an extra
        from langchain_nemovlm.index_retrievers import NemoVLMPageIndexRetriever

        return NemoVLMPageIndexRetriever
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
