"""Indexes as earlier versions left them: without the key of `id`, and with rows that are there more than once."""

from collections.abc import Callable
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


def with_old_texts(folder: Path, change: Callable[[str], str]) -> None:
    """Write the table of an index anew as the first version of the program left it: with other texts and vectors."""
    connection = lancedb.connect(folder)
    old = connection.open_table("pages")
    schema = pa.schema([field for field in old.schema if field.name != "text_version"], metadata=old.schema.metadata)
    rows = old.to_arrow().to_pylist()
    for row in rows:
        if row["text"] is not None and (text := change(row["text"])) != row["text"]:
            vector = row["vector"] if row["modality"] == "image" else [-number for number in row["vector"]]
            row |= {"text": text, "content": f"of {text}", "vector": vector}
    connection.drop_table("pages")
    connection.create_table("pages", pa.Table.from_pylist(rows, schema=schema))
