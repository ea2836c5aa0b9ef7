"""What a table has of documents, read at once and kept small: a million pages of fifty thousand take some 200 MB."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from nemovlm.index.schema import gather_metadata, metadata_columns


class Known:
    """Rows of documents, without their texts, pictures and vectors."""

    def __init__(self, found: Any) -> None:
        documents = found["document"].combine_chunks().dictionary_encode()
        codes = documents.indices.to_numpy(zero_copy_only=False)
        order = np.argsort(codes, kind="stable")
        self._rows = found.take(pa.array(order))
        ends = np.bincount(codes, minlength=len(documents.dictionary)).cumsum().tolist()
        self._places = dict(zip(documents.dictionary.to_pylist(), pairwise([0, *ends]), strict=True))
        self._metadata = metadata_columns(found.schema)
        pages = found["page"].to_numpy()
        self.doubled = len(np.unique(codes * (pages.max(initial=0) + 1) + pages)) < len(pages)
        """Whether a page is there more than once."""

    def pages(self, document: str) -> list[dict[str, Any]]:
        """Return the rows of a document; `metadata` in each is {name: value} of those that it has."""
        start, end = self._places.get(document, (0, 0))
        rows: list[dict[str, Any]] = self._rows.slice(start, end - start).to_pylist()
        for row in rows:
            gather_metadata(row, self._metadata)
        return rows
