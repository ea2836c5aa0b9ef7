"""The table of a page index: rows of pages with their vectors, in a folder. The only file that touches LanceDB.

Knows nothing of PDFs or embedders. Every write is one atomic version of the table, so a process that is killed
leaves a table that is whole.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from nemovlm.errors import IndexStorageError, MissingExtraError, one_line
from nemovlm.inputs import Vector

try:
    import lancedb
    import pyarrow as pa
except ImportError as missing:
    raise MissingExtraError("the page index", "index") from missing

_RUST_PLACE = re.compile(r", \S+\.rs:\d+:\d+")  # LanceDB names its own source in its messages

_TABLE = "pages"
_META = b"nemovlm"
# Without it, two writes of one row that overlap do not conflict, and both rows stay: those of two processes, or one
# that Ctrl-C left under way and the one after it (https://github.com/lancedb/lancedb/issues/2463).
_PRIMARY_KEY = {b"lance-schema:unenforced-primary-key": b"true"}
# Versions of the table before this are not needed by any reader that is still at work.
_KEEP_VERSIONS = timedelta(minutes=10)
# Every write leaves a fragment. Joining them rewrites the table, so it waits until there are this many, and until
# this share of the rows lies outside the largest: all rewriting together then costs a few times what was written.
_FRAGMENTS = 64
_SHARE = 0.25
# LanceDB's caches would grow with the table while it is written.
_CACHE_BYTES = 16 * 2**20


class PageStore:
    """An open table. All methods raise `IndexStorageError` where the folder cannot be read or written.

    Columns: `id` (document and page), `document` (path), `document_sha256`, `page` (0-based), `label`, `total`,
    `width` and `height` (points), `text`, `modality`, `content` (digest of what was embedded), `thumbnail`
    (JPEG), `vector` (float32, unit length).
    """

    def __init__(self, folder: Path, table: Any) -> None:
        self._folder = folder
        self._table = table
        self.meta: Mapping[str, Any] = json.loads((table.schema.metadata or {}).get(_META, b"{}"))
        """What was said when the table was made; it never changes."""

    @staticmethod
    def exists(folder: Path) -> bool:
        """Return whether there is a table in `folder`."""
        return (folder / f"{_TABLE}.lance").exists()

    @classmethod
    def open(cls, folder: Path) -> Self | None:
        """Open the table in `folder`; None if there is none.

        Raises:
            IndexStorageError: The folder cannot be read, or holds something else.
        """
        if not cls.exists(folder):
            return None
        with _storage(folder):
            return cls(folder, _connect(folder).open_table(_TABLE))

    @classmethod
    def create(cls, folder: Path, dimension: int, meta: Mapping[str, Any]) -> Self:
        """Make an empty table for vectors (dimension,).

        Raises:
            IndexStorageError: The folder cannot be written.
        """
        key = pa.field("id", pa.string(), nullable=False, metadata=_PRIMARY_KEY)
        fields = {
            "document": pa.string(),
            "document_sha256": pa.string(),
            "page": pa.int32(),
            "label": pa.string(),
            "total": pa.int32(),
            "width": pa.float32(),
            "height": pa.float32(),
            "text": pa.string(),
            "modality": pa.string(),
            "content": pa.string(),
            "thumbnail": pa.binary(),
            "vector": pa.list_(pa.float32(), dimension),
        }
        schema = pa.schema([key, *fields.items()], metadata={_META: json.dumps(dict(meta)).encode()})
        with _storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
            return cls(folder, _connect(folder).create_table(_TABLE, schema=schema))

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows; a row with the `id` of one that is there takes its place."""
        with _storage(self._folder):
            table = pa.Table.from_pylist([dict(row) for row in rows], schema=self._table.schema)
            self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(table)

    def rows(self, columns: Sequence[str], **equal: str) -> list[dict[str, Any]]:
        """Return the given columns of all rows in which each named column has the given value."""
        with _storage(self._folder):
            query = self._table.search().where(_all(equal)) if equal else self._table.search()
            found: list[dict[str, Any]] = query.select(list(columns)).limit(None).to_list()
            return found

    def vectors(self, contents: Iterable[str]) -> dict[str, Vector]:
        """Return {content digest: vector (d,)} for those of the digests that are there."""
        values = ", ".join(_quoted(content) for content in contents)
        with _storage(self._folder):
            found = self._table.search().where(f"content IN ({values})").select(["content", "vector"]).limit(None)
            table = found.to_arrow()
        dimension = table.schema.field("vector").type.list_size
        vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, dimension)
        return dict(zip(table["content"].to_pylist(), vectors, strict=True))

    def nearest(self, vector: Vector, k: int, columns: Sequence[str]) -> list[tuple[float, dict[str, Any]]]:
        """Return (cosine similarity, row) of the k nearest rows, the best first. Every row is compared."""
        with _storage(self._folder):
            search = self._table.search(vector, vector_column_name="vector").distance_type("cosine")
            found = search.select([*columns, "_distance"]).limit(k).to_list()
        return [(1.0 - row.pop("_distance"), row) for row in found]

    def delete(self, *, but: Mapping[str, str] | None = None, **equal: str) -> int:
        """Delete the rows in which each named column has the given value, except where all of `but` holds as well.

        Returns how many.
        """
        condition = _all(equal) + (f" AND NOT ({_all(but)})" if but else "")
        with _storage(self._folder):
            count: int = self._table.count_rows(condition)
            if count:
                self._table.delete(condition)
            return count

    def compact(self) -> None:
        """Join what many small writes left, and drop old versions, if it is worth it."""
        with _storage(self._folder):
            stats = self._table.stats()
            rows, fragments = stats["num_rows"], stats["fragment_stats"]
            if fragments["num_fragments"] > _FRAGMENTS and rows - fragments["lengths"]["max"] > _SHARE * rows:
                self._table.optimize(cleanup_older_than=_KEEP_VERSIONS)

    def __len__(self) -> int:
        with _storage(self._folder):
            count: int = self._table.count_rows()
            return count


def _connect(folder: Path) -> Any:
    session = lancedb.Session(index_cache_size_bytes=_CACHE_BYTES, metadata_cache_size_bytes=_CACHE_BYTES)
    return lancedb.connect(folder, read_consistency_interval=timedelta(0), session=session)  # others may write too


def _all(equal: Mapping[str, str]) -> str:
    return " AND ".join(f"{column} = {_quoted(value)}" for column, value in equal.items())


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


@contextmanager
def _storage(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError, pa.ArrowException) as error:  # LanceDB raises any of these
        reason = _RUST_PLACE.sub("", one_line(error))
        raise IndexStorageError(
            f"the index in {folder} cannot be read or written ({reason}); check the folder's permissions and the "
            "space on the disk; what was indexed before is still there"
        ) from error
