"""The rows of a page index: written, looked up, searched and counted. Knows nothing of PDFs or embedders."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from lance.query import MatchQuery

from nemovlm.choices import VectorType
from nemovlm.index import migration, schema, upkeep
from nemovlm.index.fields import Fields
from nemovlm.index.filters import Where, condition, literal
from nemovlm.index.known import Known
from nemovlm.index.ranking import DEPTH, Placed, Scored, fuse
from nemovlm.index.table import FORMAT, Table, format_of, set_format
from nemovlm.index.upkeep import IndexState, TextOptions
from nemovlm.index.vectors import dimension_of, vector_type, vectors_in
from nemovlm.inputs import Vector

_KNOWN = ("document", "page", "document_sha256", "modality", "text_version", "size", "modified", "total")
_UPDATED_KEYS = ("id", "document_sha256", "modality")
# So many rows are compared by one thread at a time. Lance would take 8,192, and use one thread for a small index.
_COMPARED = 1024
# Partitions of the vectors that are looked through, and how many rows are then compared in full: these, and at least so
# many times k. Recall at 10 of a million pages is .99 or more, as `benchmarks/index_scale.py` measures.
_PROBES = 64
_REFINED = 50
_REFINED_TIMES = 2
_NEAREST = pa.schema([("id", pa.string()), ("_rowid", pa.uint64()), ("_distance", pa.float32())])
# So few rows that meet a filter are compared one by one: quicker than to search among all, and exact.
_FEW = 20_000
# Rows that are copied at once.
_COPIED = 256
# Names of documents in one condition; for more of them, all rows are looked through, which is quicker.
_NAMED = 1000


class PageStore:
    """An open table. All methods raise `IndexStorageError` where the folder cannot be read or written.

    Its columns are those of `schema`.
    """

    def __init__(self, folder: Path) -> None:
        self._table = Table(folder)
        self.meta = self._table.meta
        """What was said when the table was made; it never changes."""

    @staticmethod
    def exists(folder: Path) -> bool:
        """Return whether there is a table in `folder`.

        Raises:
            IndexStorageError: The folder cannot be read.
        """
        return Table.exists(folder)

    @classmethod
    def open(cls, folder: Path) -> Self | None:
        """Open the table in `folder`; None if there is none.

        Raises:
            IndexStorageError: The folder cannot be read, or holds something else, or what a newer version made.
        """
        return cls(folder) if cls.exists(folder) else None

    @classmethod
    def create(
        cls,
        folder: Path,
        dimension: int,
        meta: Mapping[str, Any],
        vectors: VectorType = "float32",
        texts: TextOptions | None = None,
    ) -> Self:
        """Make an empty table for vectors (dimension,), or open the one that another process has just made.

        That one has a `meta` of its own.

        Raises:
            IndexStorageError: The folder cannot be written.
        """

        def finish(table: Any) -> None:
            upkeep.make_text_index(table, texts or TextOptions())
            set_format(table)

        Table.create(folder, schema.schema(dimension, vectors), meta, finish)
        return cls(folder)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows; a row with the `id` of one that is there takes its place."""
        self._merge(lambda columns: schema.data(columns, columns.names, rows))

    def update(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Give rows other values: each of `rows` has `id`, `document_sha256`, `modality`, and the same other columns.

        A row of another version of the document, or of another modality, which somebody has written meanwhile, stays.
        """
        same = " AND ".join(f"target.{name} = source.{name}" for name in _UPDATED_KEYS[1:])

        def merge(table: Any) -> None:
            data = schema.data(table.schema, rows[0], rows)
            table.merge_insert("id").when_matched_update_all(same).execute(data)

        self._table.commit(merge)

    def copy(self, ids: Mapping[int, str], values: Mapping[str, Any], **equal: str) -> Iterator[int]:
        """Copy rows of the pages that `ids` names, {page: id of the copy}; yield how many, some at a time.

        They are copied without their metadata, and with other `values` in the columns named, from the rows in which
        each named column has the given value.
        """
        columns = schema.schema(1).names
        with self._table.use() as table:
            pages = ", ".join(map(str, ids))
            among = f"{_all(equal)} AND page IN ({pages})"
            for batch in table.to_batches(columns=columns, filter=among, batch_size=_COPIED):
                rows = pa.Table.from_batches([batch])
                new = {"id": [ids[page] for page in rows["page"].to_pylist()]}
                new |= {name: [value] * len(rows) for name, value in values.items()}
                self._merge(partial(schema.replace, rows, new))
                yield len(rows)

    def rows(self, columns: Sequence[str] | None = None, **equal: str) -> list[dict[str, Any]]:
        """Return the given columns, or all, of all rows in which each named column has the given value."""
        with self._table.use() as table:
            found = table.to_table(columns=list(columns or table.schema.names), filter=_all(equal))
        rows: list[dict[str, Any]] = found.to_pylist()
        return rows

    def known(self, documents: Sequence[str]) -> Known:
        """Return what there is of documents: read at once, whatever their number."""
        few = len(documents) <= _NAMED
        with self._table.use() as table:
            columns = [*_KNOWN, *schema.metadata_columns(table.schema)]
            found = table.to_table(columns=columns, filter=_among("document", documents) if few else None)
        return Known(found)

    def vectors(self, contents: Iterable[str]) -> dict[str, Vector]:
        """Return {content digest: vector (d,)} for those of the digests that are there."""
        with self._table.use() as table:
            found = table.to_table(columns=["content", "vector"], filter=_among("content", contents))
        return dict(zip(found["content"].to_pylist(), vectors_in(found["vector"].combine_chunks()), strict=True))

    def search(
        self,
        k: int,
        columns: Sequence[str],
        *,
        vector: Vector | None = None,
        text: str | None = None,
        where: Where | None = None,
    ) -> list[tuple[Placed, dict[str, Any]]]:
        """Return the k rows nearest to a vector, or with the words of a text, or best by both, the best first.

        Each has its places, the given columns, and `metadata`: {name: value} of those that it has. The score is the
        cosine, or BM25, or for both that of `ranking.fuse`. All is of one version of the table. Of rows with the same
        `id`, which `mend` takes out, the best counts.

        Raises:
            InputError: The filter is none.
        """
        depth = k if vector is None or text is None else max(k, DEPTH)
        with self._table.use() as table:
            meant = None if where is None else condition(where, schema.fields_of(table.schema), schema.column_of)
            placed = fuse(
                None if vector is None else _nearest(table, vector, depth, meant),
                None if text is None else _matching(table, text, depth, meant),
                k,
            )
            return _with_rows(table, placed, columns)

    def documents(self) -> dict[str, int]:
        """Return {document: pages}."""
        with self._table.use() as table:
            found = table.to_table(columns=["document", "page"])
        counted = found.group_by("document").aggregate([("page", "count_distinct")])
        return dict(zip(counted["document"].to_pylist(), counted["page_count_distinct"].to_pylist(), strict=True))

    @property
    def fields(self) -> Fields:
        """{name: type} of what a search can be narrowed by."""
        with self._table.use() as table:
            return schema.fields_of(table.schema)

    def add_fields(self, fields: Fields) -> None:
        """See to it that there are these fields of metadata.

        Raises:
            InputError: One is there with another type.
        """
        if not fields:
            return
        with self._table.use() as table:
            there = not schema.new_columns(table.schema, fields)

        def add(table: Any) -> None:
            if columns := schema.new_columns(table.schema, fields):
                table.add_columns(columns)

        if not there:
            self._table.commit(add)

    def delete(self, **equal: str) -> int:
        """Delete the rows in which each named column has the given value; return how many."""
        return self._table.commit(partial(_delete, condition=_all(equal)))

    def delete_documents(self, documents: Sequence[str]) -> int:
        """Delete the rows of documents; return how many."""
        parts = [documents[start : start + _NAMED] for start in range(0, len(documents), _NAMED)]
        return sum(self._table.commit(partial(_delete, condition=_among("document", part))) for part in parts)

    def migrate(self) -> None:
        """Make it a table of this format, if it is not: without embedding anything."""
        with self._table.use() as table:
            old = format_of(table) < FORMAT
        if old:
            self.mend()

    def mend(self) -> None:
        """Give the table whatever it lacks, and keep one row of each `id`."""
        migration.mend(self._table)

    def keep_up(self) -> None:
        """Join what small writes left, and bring indexes up to date, as far as that is due."""
        with self._table.use() as table:
            joining = upkeep.is_scattered(table)
        if joining:
            self.mend()  # what a program without the key may have doubled; this reads little beside the joining
        upkeep.keep_up(self._table)

    def optimize(self) -> None:
        """Mend the table, and bring every index that pays up to date with every row."""
        self.mend()
        upkeep.keep_up(self._table, whole=True)

    def examine(self, text_version: int = 1) -> "Condition":
        """Look at the state of the table, without writing. Texts that were read before `text_version` are outdated."""
        with self._table.use() as table:
            names = table.schema.names
            old = f"text_version IS NULL OR text_version < {text_version}" if "text_version" in names else None
            return Condition(
                rows=table.count_rows(),
                doubled=len(migration.doubled(table)),
                format=format_of(table),
                key=migration.has_key(table),
                vectors=vector_type(table.schema),
                dimension=dimension_of(table.schema),
                fields=schema.fields_of(table.schema),
                indexes=tuple(upkeep.states(table)),
                scattered=upkeep.is_scattered(table),
                fragments=len(table.get_fragments()),
                versions=len(table.versions()),
                missing=tuple(schema.missing_columns(names)),
                outdated=table.count_rows(old),
            )

    def __len__(self) -> int:
        with self._table.use() as table:
            count: int = table.count_rows()
            return count

    def _merge(self, data_for: Callable[[Any], Any]) -> None:
        """Write rows, in the place of those of the same `id`; `data_for` makes them for a schema."""

        def merge(table: Any) -> None:
            builder = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            builder.execute(data_for(table.schema))

        self._table.commit(merge)


@dataclass(frozen=True)
class Condition:
    """The state of a table: what `PageStore.examine` sees."""

    rows: int
    doubled: int
    """Rows that `mend` would take out."""
    format: int
    """Of the table: `table.FORMAT` is that of this program."""
    key: bool
    """Whether `id` is the key, so that writers at the same time double nothing."""
    vectors: VectorType
    """How a vector is kept."""
    dimension: int
    fields: Fields
    """{name: type} of what a search can be narrowed by."""
    indexes: tuple[IndexState, ...]
    scattered: bool
    """Whether `keep_up` would join fragments."""
    fragments: int
    versions: int
    missing: tuple[str, ...]
    """Columns that a page index has and this table has not, though it cannot do without."""
    outdated: int
    """Rows whose text was read by an earlier version of this program, which may have read it differently."""


def _nearest(table: Any, vector: Vector, k: int, meant: str | None) -> list[Scored]:
    indexed = upkeep.has_index(table, "vector") and (meant is None or table.count_rows(meant) > _FEW)

    def look(limit: int) -> Any:
        if vector_type(table.schema) == "int8":
            return _compared(table, vector, meant, limit)
        refined = max(_REFINED_TIMES, ceil(_REFINED / limit))
        how = {"nprobes": _PROBES, "refine_factor": refined} if indexed else {"use_index": False}
        nearest = {"column": "vector", "q": vector, "k": limit, "metric": "cosine", **how}
        query = {"nearest": nearest, "filter": meant, "prefilter": True, "batch_size": _COMPARED}
        return table.to_table(columns=["id", "_distance"], with_row_id=True, **query)

    return _ranked(look, lambda found: 1 - found["_distance"].to_numpy(), k)


def _compared(table: Any, vector: Vector, meant: str | None, limit: int) -> Any:
    """Return the rows nearest to a vector, all being compared here, as Lance returns them: it compares no int8."""
    nearest = _NEAREST.empty_table()
    for batch in table.to_batches(columns=["id", "vector"], filter=meant, with_row_id=True, batch_size=_COMPARED):
        distances = pa.array(1 - vectors_in(batch["vector"]) @ vector, pa.float32())
        found = pa.table([batch["id"], batch["_rowid"], distances], schema=_NEAREST)
        nearest = pa.concat_tables([nearest, found])
        nearest = nearest.take(np.argsort(nearest["_distance"].to_numpy(), kind="stable")[:limit])
    return nearest


def _matching(table: Any, text: str, k: int, meant: str | None) -> list[Scored]:
    def look(limit: int) -> Any:
        query = {"full_text_query": MatchQuery(text, "text"), "limit": limit}
        return table.to_table(columns=["id", "_score"], filter=meant, prefilter=True, with_row_id=True, **query)

    return _ranked(look, lambda found: found["_score"].to_numpy(), k)


def _ranked(look: Callable[[int], Any], scores_of: Callable[[Any], Any], k: int) -> list[Scored]:
    """Return the k best rows, the best first, and each `id` once: as many are looked for as that takes."""
    limit = k
    while True:
        found = look(limit)
        scores = scores_of(found)
        ids, addresses = found["id"].to_pylist(), found["_rowid"].to_pylist()
        once: dict[str, Scored] = {}
        for place in np.argsort(-scores, kind="stable"):
            once.setdefault(ids[place], Scored(ids[place], addresses[place], float(scores[place])))
        if len(once) >= k or len(found) < limit:
            return list(once.values())[:k]
        limit *= 2


def _with_rows(table: Any, placed: Sequence[Placed], columns: Sequence[str]) -> list[tuple[Placed, dict[str, Any]]]:
    metadata = schema.metadata_columns(table.schema)
    addresses = ", ".join(str(place.address) for place in placed)
    found = table.to_table(
        columns=[*columns, *metadata], filter=f"_rowid IN ({addresses})" if placed else "false", with_row_id=True
    )
    rows = {row.pop("_rowid"): row for row in found.to_pylist()}
    for row in rows.values():
        schema.gather_metadata(row, metadata)
    return [(place, rows[place.address]) for place in placed]


def _delete(table: Any, condition: str | None) -> int:
    count: int = table.count_rows(condition)
    if count:
        table.delete(condition)
    return count


def _all(equal: Mapping[str, str]) -> str | None:
    return " AND ".join(f"{column} = {literal(value)}" for column, value in equal.items()) or None


def _among(column: str, values: Iterable[str]) -> str:
    inside = ", ".join(map(literal, values))
    return f"{column} IN ({inside})" if inside else "false"
