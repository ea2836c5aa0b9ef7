"""nemovlm in LangChain: embeddings for text and page images, and a loader that reads PDFs page by page."""

try:
    import langchain_core  # noqa: F401 - is it there at all
except ImportError as missing:
    from nemovlm.errors import MissingExtraError

    raise MissingExtraError("langchain_nemovlm", "langchain") from missing

from langchain_nemovlm.document_loaders import NemoVLMPDFLoader, NemoVLMPDFParser
from langchain_nemovlm.embeddings import NemoVLMEmbeddings
from langchain_nemovlm.pages import page_to_content_block, pages_to_message
from langchain_nemovlm.retrievers import NemoVLMPageRetriever

__all__ = [
    "NemoVLMEmbeddings",
    "NemoVLMPDFLoader",
    "NemoVLMPDFParser",
    "NemoVLMPageRetriever",
    "page_to_content_block",
    "pages_to_message",
]
