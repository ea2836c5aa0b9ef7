"""What an index is, for people: how much is in it, how it is kept, and how up to date what makes it quick is."""

from dataclasses import dataclass

from nemovlm.choices import VectorType
from nemovlm.index.fields import Fields
from nemovlm.index.store import PageStore
from nemovlm.index.upkeep import IndexState


@dataclass(frozen=True)
class IndexDescription:
    """What `PageIndex.describe` returns."""

    pages: int
    documents: int
    model: str
    """The model that it was made with."""
    space: str
    """Whose vectors are in it: see `Embedder.space`."""
    dimension: int
    """Numbers in a vector."""
    vectors: VectorType
    """How each of them is kept."""
    fields: Fields
    """{name: type} of what a search can be narrowed by."""
    indexes: tuple[IndexState, ...]
    """Those of Lance that a search goes through, with the pages that are not in them yet."""
    format: int
    """Of the table. Earlier ones are brought up to date by the next `add`."""


def describe(store: PageStore) -> IndexDescription:
    """Return the description of the index in a table."""
    seen = store.examine()
    return IndexDescription(
        pages=seen.rows - seen.doubled,
        documents=len(store.documents()),
        model=store.meta["embedder"]["model"],
        space=store.meta["space"],
        dimension=seen.dimension,
        vectors=seen.vectors,
        fields=seen.fields,
        indexes=seen.indexes,
        format=seen.format,
    )
