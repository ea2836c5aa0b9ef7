"""A page that a search found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nemovlm.index.fields import Value
from nemovlm.index.ranking import Rank
from nemovlm.paths import path_of

if TYPE_CHECKING:
    from nemovlm.pdf import Page


@dataclass(frozen=True)
class Hit:
    """A page that was found."""

    score: float
    """By `vector`, the cosine similarity with the query: 1 at the most. By `text`, BM25. By both, that of reciprocal
    rank fusion: it orders the pages of one search, and says nothing of how near they are."""
    document: str
    """The path of the PDF; bytes in it that are no UTF-8 are written as `\\xe9`."""
    page: int
    """0-based."""
    label: str
    """What the document calls the page."""
    total: int
    """Pages of the document."""
    text: str
    """The text layer."""
    thumbnail: bytes = field(repr=False)
    """A JPEG, 400 pixels on the longer side."""
    metadata: Mapping[str, Value] = field(default_factory=dict)
    """What `PageIndex.add` was told of the document."""
    by_vector: Rank | None = None
    """Its place among the nearest, with its cosine similarity. None if it is not among those that were looked at."""
    by_text: Rank | None = None
    """Its place among those with the words of the question, with its BM25."""

    def load(self, **options: Any) -> "Page":
        """Render the page again from its PDF, with the options of `iter_pages`.

        Raises:
            PdfError: The PDF or the page cannot be read.
        """
        from nemovlm.pdf import iter_pages

        return next(iter_pages(path_of(self.document), pages=[self.page], **options))
