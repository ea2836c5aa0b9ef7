"""The columns of the table of a page index, and what may be in them.

`id` (document and page), `document` (path), `document_sha256`, `size` (bytes) and `modified` (ns since 1970) of its
file, `page` (0-based), `label`, `total`, `width` and `height` (points), `text`, `text_version` (how that was read; null
means 1), `modality`, `content` (digest of what was embedded), `thumbnail` (JPEG), `vector` (see `vectors`), and a
column for each field of metadata.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from nemovlm.choices import VectorType
from nemovlm.errors import InputError
from nemovlm.index.fields import BUILT_IN, Fields, Value
from nemovlm.index.vectors import column_type, kept, vector_type

# Without it, two writes of one row that overlap do not conflict, and both rows stay: those of two processes, or one
# that Ctrl-C left under way and the one after it (https://github.com/lancedb/lancedb/issues/2463).
# With an index of Lance on `id`, `merge_insert` would go past the key: there must be none on it.
KEY = "lance-schema:unenforced-primary-key"
ID = pa.field("id", pa.string(), nullable=False)

_PREFIX = "metadata_"
_OTHER_NAMES = {"path": "document"}
_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
_LATER = ("text_version", "size", "modified")


def schema(dimension: int, vectors: VectorType = "float32") -> Any:
    """Return the columns of a new table for vectors (dimension,) of a type."""
    fields = {
        "document": pa.string(),
        "document_sha256": pa.string(),
        "size": pa.int64(),
        "modified": pa.int64(),
        "page": pa.int32(),
        "label": pa.string(),
        "total": pa.int32(),
        "width": pa.float32(),
        "height": pa.float32(),
        "text": pa.string(),
        "text_version": pa.int32(),
        "modality": pa.string(),
        "content": pa.string(),
        "thumbnail": pa.binary(),
        "vector": column_type(dimension, vectors),
    }
    return pa.schema([ID.with_metadata({KEY: "true"}), *fields.items()])


def later_columns() -> list[Any]:
    """Return the columns that tables of earlier formats may lack."""
    return [schema(1).field(name) for name in _LATER]


def missing_columns(names: Iterable[str]) -> list[str]:
    """Return the columns that no table can do without, and a table with these names has not."""
    there = {*names, *_LATER}
    return [name for name in schema(1).names if name not in there]


def metadata_columns(table_schema: Any) -> dict[str, str]:
    """Return {column: name of its field} of all metadata in a table."""
    names = [name for name in table_schema.names if name.startswith(_PREFIX)]
    return {name: name.removeprefix(_PREFIX) for name in names}


def gather_metadata(row: dict[str, Any], columns: Mapping[str, str]) -> None:
    """Put the values of these columns of a row, under the names of their fields, into one: `metadata`."""
    values = {name: row.pop(column) for column, name in columns.items()}
    row["metadata"] = {name: value for name, value in values.items() if value is not None}


def metadata_values(names: Iterable[str], metadata: Mapping[str, Value]) -> dict[str, Value | None]:
    """Return {column: value} for all fields of these names: None for those that are not in `metadata`."""
    return {_PREFIX + name: metadata.get(name) for name in names}


def fields_of(table_schema: Any) -> dict[str, type]:
    """Return {field: type of its values}: what a search in a table can be narrowed by."""
    kinds = {kind: python for python, kind in _TYPES.items()}
    metadata = {name: kinds[table_schema.field(column).type] for column, name in metadata_columns(table_schema).items()}
    return {**BUILT_IN, **metadata}


def column_of(field: str) -> str:
    """Return the column of a field."""
    return _OTHER_NAMES.get(field, field) if field in BUILT_IN else _PREFIX + field


def new_columns(table_schema: Any, fields: Fields) -> list[Any]:
    """Return the columns that a table lacks for fields of metadata.

    Raises:
        InputError: A field is there with another type.
    """
    there = fields_of(table_schema)
    for name, kind in fields.items():
        if there.get(name, kind) is not kind and (there[name], kind) != (float, int):
            raise InputError(
                f"metadata {name!r} is {there[name].__name__} in this index, and {kind.__name__} here: a field has "
                "values of one type; convert it, or take another name"
            )
    return [pa.field(_PREFIX + name, _TYPES[kind]) for name, kind in fields.items() if name not in there]


def data(table_schema: Any, names: Collection[str], rows: Iterable[Mapping[str, Any]]) -> Any:
    """Return rows as data with the given columns of a table.

    `id` is never null, in whatever table: another process may give it its key before the data are written, and Lance
    refuses data of which the key could be null.
    """
    fields = [ID if name == "id" else table_schema.field(name) for name in names]
    how = vector_type(table_schema)
    made = [{**row, "vector": kept(row["vector"], how)} if "vector" in names else dict(row) for row in rows]
    return pa.Table.from_pylist(made, schema=pa.schema(fields))


def replace(rows: Any, values: Mapping[str, Sequence[Any]], table_schema: Any) -> Any:
    """Return rows, as data with all columns of a table, with other values in some, and null in those they have not."""
    fields = [ID if field.name == "id" else field for field in table_schema]
    columns = []
    for field in fields:
        if field.name in values:
            columns.append(pa.array(values[field.name], field.type))
        else:
            columns.append(rows[field.name] if field.name in rows.column_names else pa.nulls(len(rows), field.type))
    return pa.table(columns, schema=pa.schema(fields))
