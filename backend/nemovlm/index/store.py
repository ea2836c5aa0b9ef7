"""The table of a page index: rows of pages with their vectors, in a folder. The only file that touches Lance.

Knows nothing of PDFs or embedders. Every write is one atomic version of the table, so a process that is killed
leaves a table that is whole. Any number of processes may write at the same time.

The table is one of LanceDB's, and can be opened with it; what is needed here of that is in Lance itself, whose package
takes a third of the time to import.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from operator import methodcaller
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from nemovlm.errors import IndexBusyError, IndexStorageError, MissingExtraError, one_line
from nemovlm.inputs import Vector

try:
    import lance
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError as missing:
    raise MissingExtraError("the page index", "index") from missing

T = TypeVar("T")

_RUST_PLACE = re.compile(r", \S+\.rs:\d+:\d+")  # Lance names its own source in its messages
_RAISED = (OSError, RuntimeError, ValueError, pa.ArrowException)  # by Lance: any of these

_TABLE = "pages"
_META = b"nemovlm"
_VERSION = "text_version"
_TEXT_COLUMNS = ("id", "document_sha256", "modality", "text", _VERSION)
# Without it, two writes of one row that overlap do not conflict, and both rows stay: those of two processes, or one
# that Ctrl-C left under way and the one after it (https://github.com/lancedb/lancedb/issues/2463).
# With an index of Lance on `id`, `merge_insert` would need `use_index(False)`: that way goes past the key.
_KEY = "lance-schema:unenforced-primary-key"
_ID = pa.field("id", pa.string(), nullable=False)
# Lance repeats most writes that conflict by itself, for half a minute, but not all; each attempt here is that again.
_ATTEMPTS = 8
_WAIT = wait_random_exponential(multiplier=0.1, max=5)
# So many doubled rows are taken out at once: what still is a condition of reasonable length.
_DOUBLED = 10_000
# Versions of the table before this are not needed by any reader that is still at work.
_KEEP_VERSIONS = timedelta(minutes=10)
# Every write leaves a fragment. Joining them rewrites the table, so it waits until there are this many, and until
# this share of the rows lies outside the largest: all rewriting together then costs a few times what was written.
_FRAGMENTS = 64
_SHARE = 0.25
# So many rows are compared by one thread at a time. Lance would take 8,192, and use one thread for a small index.
_COMPARED = 1024
# Lance's caches would grow with the table while it is written.
_CACHE_BYTES = 16 * 2**20


class PageStore:
    """An open table. All methods raise `IndexStorageError` where the folder cannot be read or written.

    Columns: `id` (document and page), `document` (path), `document_sha256`, `page` (0-based), `label`, `total`,
    `width` and `height` (points), `text`, `text_version` (how that was read; null means 1), `modality`, `content`
    (digest of what was embedded), `thumbnail` (JPEG), `vector` (float32, unit length).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._session = lance.Session(index_cache_size_bytes=_CACHE_BYTES, metadata_cache_size_bytes=_CACHE_BYTES)
        self.meta: Mapping[str, Any] = self._meta(self._latest())
        """What was said when the table was made; it never changes."""

    @staticmethod
    def exists(folder: Path) -> bool:
        """Return whether there is a table in `folder`.

        Raises:
            IndexStorageError: The folder cannot be read.
        """
        versions = _place(folder) / "_versions"
        with _storage(folder):
            return versions.is_dir() and any(path.suffix == ".manifest" for path in versions.iterdir())

    @classmethod
    def open(cls, folder: Path) -> Self | None:
        """Open the table in `folder`; None if there is none.

        Raises:
            IndexStorageError: The folder cannot be read, or holds something else.
        """
        if not cls.exists(folder):
            return None
        with _storage(folder):
            return cls(folder)

    @classmethod
    def create(cls, folder: Path, dimension: int, meta: Mapping[str, Any]) -> Self:
        """Make an empty table for vectors (dimension,), or open the one that another process has just made.

        That one has a `meta` of its own.

        Raises:
            IndexStorageError: The folder cannot be written.
        """
        schema = _schema(dimension).with_metadata({_META: json.dumps(dict(meta)).encode()})
        with _storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Elsewhere first: nobody finds a table that is half made, and of two processes the second makes none.
            with TemporaryDirectory(prefix=".making-", dir=folder) as making:
                lance.write_dataset(schema.empty_table(), _place(Path(making)))
                try:
                    _place(Path(making)).rename(_place(folder))
                except OSError:
                    if not cls.exists(folder):
                        raise
            return cls(folder)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows; a row with the `id` of one that is there takes its place."""

        def merge(table: Any) -> None:
            data = _data(table, table.schema.names, rows)
            table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(data)

        self._commit(merge)

    def write_texts(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Give rows other texts: each of `rows` has `id`, `document_sha256`, `modality`, `text` and `text_version`.

        A row of another version of the document, or of another modality, which somebody has written meanwhile, stays.
        """
        same = " AND ".join(f"target.{name} = source.{name}" for name in ("document_sha256", "modality"))

        def merge(table: Any) -> None:
            table.merge_insert("id").when_matched_update_all(same).execute(_data(table, _TEXT_COLUMNS, rows))

        self._commit(merge)

    def rows(self, columns: Sequence[str], **equal: str) -> list[dict[str, Any]]:
        """Return the given columns of all rows in which each named column has the given value."""
        with self._use() as table:
            found: list[dict[str, Any]] = table.to_table(columns=list(columns), filter=_all(equal) or None).to_pylist()
            return found

    def vectors(self, contents: Iterable[str]) -> dict[str, Vector]:
        """Return {content digest: vector (d,)} for those of the digests that are there."""
        values = ", ".join(_quoted(content) for content in contents)
        among = f"content IN ({values})" if values else "false"
        with self._use() as table:
            found = table.to_table(columns=["content", "vector"], filter=among)
        dimension = found.schema.field("vector").type.list_size
        vectors = found["vector"].combine_chunks().flatten().to_numpy().reshape(-1, dimension)
        return dict(zip(found["content"].to_pylist(), vectors, strict=True))

    def nearest(self, vector: Vector, k: int, columns: Sequence[str]) -> list[tuple[float, dict[str, Any]]]:
        """Return (cosine similarity, row) of the k nearest rows, the best first. Every row is compared.

        Of rows with the same `id`, which `mend` takes out, the nearest counts.
        """
        limit = k
        while True:
            nearest = {"column": "vector", "q": vector, "k": limit, "metric": "cosine", "use_index": False}
            with self._use() as table:
                found = table.to_table(
                    columns=["id", *columns, "_distance"], nearest=nearest, batch_size=_COMPARED
                ).to_pylist()
            once: dict[str, dict[str, Any]] = {}
            for row in found:
                once.setdefault(row.pop("id"), row)
            if len(once) >= k or len(found) < limit:
                return [(1.0 - row.pop("_distance"), row) for row in list(once.values())[:k]]
            limit *= 2

    def delete(self, **equal: str) -> int:
        """Delete the rows in which each named column has the given value; return how many."""
        condition = _all(equal)

        def delete(table: Any) -> int:
            count: int = table.count_rows(condition)
            if count:
                table.delete(condition)
            return count

        return self._commit(delete)

    def mend(self) -> None:
        """Give a table the key and the column that it was made without, and keep one row of each `id`.

        It is the one at the highest address: the last written, unless fragments were joined meanwhile. Every step
        leaves each `id` there. Rows go by their address, which is never given to another row; so two processes that
        do this at once take out the same rows, and one that is killed leaves the rest for the next.
        Reads the column `id` each time: a second for a million rows.
        """
        with self._use() as table:
            with_key, with_version = _has_key(table), _has_version(table)
        if not with_key:
            self._commit(_set_key)
        if not with_version:
            self._commit(_add_version)
        while doubled := self._doubled():  # again: others may have written meanwhile
            for start in range(0, len(doubled), _DOUBLED):
                addresses = ", ".join(map(str, doubled[start : start + _DOUBLED]))
                self._commit(methodcaller("delete", f"_rowid IN ({addresses})"))

    def compact(self) -> None:
        """Join what many small writes left, and drop old versions, if it is worth it and nobody else is writing."""

        def join(table: Any) -> None:
            if _scattered(table):
                table.optimize.compact_files()
                # A version with a tag, which somebody else has given it, stays; it is no error.
                table.cleanup_old_versions(_KEEP_VERSIONS, error_if_tagged_old_versions=False)

        with suppress(IndexBusyError):  # a later run will
            self._attempt(join)

    def examine(self, text_version: int) -> "Condition":
        """Look at the state of the table, without writing. Texts that were read before `text_version` are outdated."""
        with self._use() as table:
            old = f"{_VERSION} IS NULL OR {_VERSION} < {text_version}" if _has_version(table) else None
            return Condition(
                rows=table.count_rows(),
                doubled=len(_doubled(table)),
                key=_has_key(table),
                scattered=_scattered(table),
                fragments=len(table.get_fragments()),
                versions=len(table.versions()),
                missing=[name for name in _schema(1).names if name not in (*table.schema.names, _VERSION)],
                outdated=table.count_rows(old),
            )

    def __len__(self) -> int:
        with self._use() as table:
            count: int = table.count_rows()
            return count

    def _latest(self) -> Any:
        """Return the table as it is now. Each use has one of its own: one table is not for several threads at once."""
        return lance.dataset(_place(self._folder), session=self._session)

    def _meta(self, table: Any) -> dict[str, Any]:
        metadata = table.schema.metadata or {}
        if _META not in metadata:
            raise IndexStorageError(f"{self._folder} holds a table that is no page index; take another folder")
        meta: dict[str, Any] = json.loads(metadata[_META])
        return meta

    @contextmanager
    def _use(self) -> Iterator[Any]:
        """Hand out the table, if it is still the one that was opened."""
        with _storage(self._folder):
            if not self.exists(self._folder) or self._meta(table := self._latest()) != self.meta:
                raise IndexStorageError(
                    f"the index in {self._folder} was deleted or replaced while it was open; open it again"
                )
            yield table

    def _doubled(self) -> list[int]:
        with self._use() as table:
            return _doubled(table)

    def _commit(self, change: Callable[[Any], T]) -> T:
        """Make a change to the table; again if it failed because another writer made one in between."""
        retrying = Retrying(
            retry=retry_if_exception_type(IndexBusyError), stop=stop_after_attempt(_ATTEMPTS), wait=_WAIT, reraise=True
        )
        result: T = retrying(self._attempt, change)
        return result

    def _attempt(self, change: Callable[[Any], T]) -> T:
        """Make a change. What Lance raises has no types; a table that moved on meanwhile tells conflicts from faults.

        Raises:
            IndexBusyError: Another writer was quicker, so that Lance refused the change as a whole.
        """
        with self._use() as table:
            before = table.version
            try:
                return change(table)
            except _RAISED as error:
                if table.latest_version == before:
                    raise
                raise IndexBusyError(
                    f"others kept writing to the index in {self._folder} ({_reason(error)}); run this again when they "
                    "are done: what was indexed before is still there"
                ) from error


@dataclass(frozen=True)
class Condition:
    """The state of a table: what `PageStore.examine` sees."""

    rows: int
    doubled: int
    """Rows that `mend` would take out."""
    key: bool
    """Whether `id` is the key, so that writers at the same time double nothing."""
    scattered: bool
    """Whether `compact` would join fragments."""
    fragments: int
    versions: int
    missing: list[str]
    """Columns that a page index has and this table has not, though it cannot do without."""
    outdated: int
    """Rows whose text was read by an earlier version of this program, which may have read it differently."""


def _schema(dimension: int) -> Any:
    fields = {
        "document": pa.string(),
        "document_sha256": pa.string(),
        "page": pa.int32(),
        "label": pa.string(),
        "total": pa.int32(),
        "width": pa.float32(),
        "height": pa.float32(),
        "text": pa.string(),
        _VERSION: pa.int32(),
        "modality": pa.string(),
        "content": pa.string(),
        "thumbnail": pa.binary(),
        "vector": pa.list_(pa.float32(), dimension),
    }
    return pa.schema([_ID.with_metadata({_KEY: "true"}), *fields.items()])


def _data(table: Any, names: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> Any:
    """Return rows as data with the given columns of the table.

    `id` is never null, in whatever table: another process may give it its key before the data are written, and Lance
    refuses data of which the key could be null.
    """
    fields = [_ID if name == "id" else table.schema.field(name) for name in names]
    return pa.Table.from_pylist([dict(row) for row in rows], schema=pa.schema(fields))


def _place(folder: Path) -> Path:
    return folder / f"{_TABLE}.lance"


def _all(equal: Mapping[str, str]) -> str:
    return " AND ".join(f"{column} = {_quoted(value)}" for column, value in equal.items())


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _has_key(table: Any) -> bool:
    return any(name.startswith(_KEY.encode()) for name in table.schema.field("id").metadata or {})


def _set_key(table: Any) -> None:
    if not _has_key(table):  # another process may have set it before this attempt
        table.alter_columns({"path": "id", "nullable": False})
        table.update_field_metadata({"id": {_KEY: "true"}})


def _has_version(table: Any) -> bool:
    return _VERSION in table.schema.names


def _add_version(table: Any) -> None:
    if not _has_version(table):  # as with the key
        table.add_columns(_schema(1).field(_VERSION))


def _doubled(table: Any) -> list[int]:
    """Return the addresses of all rows of each `id` but the highest. Reads that column alone."""
    found = table.to_table(columns=["id"], with_row_id=True)
    if pc.count_distinct(found["id"]).as_py() == len(found):
        return []
    kept = found.group_by("id").aggregate([("_rowid", "max")])["_rowid_max"]
    return sorted({*found["_rowid"].to_pylist()}.difference(kept.to_pylist()))


def _scattered(table: Any) -> bool:
    lengths = [fragment.physical_rows - fragment.num_deletions for fragment in table.get_fragments()]
    return len(lengths) > _FRAGMENTS and sum(lengths) - max(lengths) > _SHARE * sum(lengths)


def _reason(error: BaseException) -> str:
    return _RUST_PLACE.sub("", one_line(error))


@contextmanager
def _storage(folder: Path) -> Iterator[None]:
    try:
        yield
    except _RAISED as error:
        raise IndexStorageError(
            f"the index in {folder} cannot be read or written ({_reason(error)}); check the folder's permissions and "
            "the space on the disk; what was indexed before is still there"
        ) from error
