"""What one call of `PageIndex.add` did."""

from dataclasses import dataclass, field

from nemovlm.errors import NemoVLMError


@dataclass
class AddReport:
    """What `PageIndex.add` did, in pages, except for `documents`."""

    documents: int = 0
    embedded: int = 0
    reused: int = 0
    """Vector copied from an identical page that is already in the index."""
    unchanged: int = 0
    """Already there."""
    outdated: int = 0
    """Of these: with a text as an earlier version of this program has read it."""
    refreshed: int = 0
    """Already there, and the text was read anew; the vector stayed."""
    described: int = 0
    """Already there, and the document has other metadata now; the vector stayed."""
    pruned: int = 0
    """Pages of documents that are gone, taken out."""
    failed: list[NemoVLMError] = field(default_factory=list)
    """One error for each document or page that was left out."""

    def __str__(self) -> str:
        counts = {
            "taken over from equal pages": self.reused,
            "already there": self.unchanged,
            "with texts read anew": self.refreshed,
            "with other metadata": self.described,
            "of documents that are gone taken out": self.pruned,
            "left out": len(self.failed),
        }
        more = "".join(f", {count} {what}" for what, count in counts.items() if count)
        documents = "1 document" if self.documents == 1 else f"{self.documents} documents"
        return f"{documents}: {self.embedded} pages embedded{more}"
