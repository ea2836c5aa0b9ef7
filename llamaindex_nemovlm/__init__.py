"""nemovlm in LlamaIndex: a multimodal embedding, and a reader that turns PDFs into page-image nodes."""

try:
    import llama_index.core  # noqa: F401 - is it there at all
except ImportError as missing:
    from nemovlm.errors import MissingExtraError

    raise MissingExtraError("llamaindex_nemovlm", "llamaindex") from missing

from llamaindex_nemovlm.embeddings import NemoVLMEmbedding
from llamaindex_nemovlm.readers import NemoVLMPageParser, NemoVLMPDFReader

__all__ = ["NemoVLMEmbedding", "NemoVLMPDFReader", "NemoVLMPageParser"]
