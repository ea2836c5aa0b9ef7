"""Indexes as earlier versions left them: without the key of `id`, and with rows that are there more than once."""

from pathlib import Path

import lancedb
import pyarrow as pa

from nemovlm.index.store import PageStore


def without_key(folder: Path, times: int = 1) -> None:
    """Write the table of an index anew without its key, every row so many times, each time in a write of its own."""
    connection = lancedb.connect(folder)
    old = connection.open_table("pages")
    rows = old.to_arrow()
    fields = [pa.field(field.name, field.type) for field in old.schema]
    schema = pa.schema(fields, metadata=old.schema.metadata)
    connection.drop_table("pages")
    table = connection.create_table("pages", schema=schema)
    for _ in range(times):
        table.add(rows.cast(schema))


def ids(folder: Path) -> list[str]:
    """Return the ids of all rows, sorted: each once if all is well."""
    store = PageStore.open(folder)
    assert store is not None
    return sorted(row["id"] for row in store.rows(["id"]))
