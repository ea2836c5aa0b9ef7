"""nemovlm in LangChain: embeddings for text and page images, and a loader that reads PDFs page by page."""

try:
    import langchain_core  # noqa: F401 - is it there at all
except ImportError as missing:
    from nemovlm.errors import MissingExtraError

    raise MissingExtraError("langchain_nemovlm", "langchain") from missing

from langchain_nemovlm.document_loaders import NemoVLMPDFLoader, NemoVLMPDFParser, page_to_content_block
from langchain_nemovlm.embeddings import NemoVLMEmbeddings

__all__ = ["NemoVLMEmbeddings", "NemoVLMPDFLoader", "NemoVLMPDFParser", "page_to_content_block"]
