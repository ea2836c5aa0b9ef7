"""Tables of earlier formats made ones of this: while others read and write, and whatever step is the last.

Every step leaves each `id` there, and does nothing where another process has done it before.
"""

from collections.abc import Callable
from operator import methodcaller
from typing import Any

import pyarrow.compute as pc

from nemovlm.index.schema import KEY, later_columns
from nemovlm.index.table import FORMAT, Table, format_of, set_format

# So many doubled rows are taken out at once: what still is a condition of reasonable length.
_DOUBLED = 10_000


def mend(table: Table) -> None:
    """Give a table the key, the columns and the format that it was made without, and keep one row of each `id`.

    It is the one at the highest address: the last written, unless fragments were joined meanwhile. Rows go by their
    address, which is never given to another row; so two processes that do this at once take out the same rows, and one
    that is killed leaves the rest for the next. Reads the column `id`: .1 s for a million rows.
    """
    for is_there, change in _STEPS:
        with table.use() as now:
            done = is_there(now)
        if not done:
            table.commit(change)
    while rows := _doubled_of(table):  # again: others may have written meanwhile
        for start in range(0, len(rows), _DOUBLED):
            addresses = ", ".join(map(str, rows[start : start + _DOUBLED]))
            table.commit(methodcaller("delete", f"_rowid IN ({addresses})"))
    with table.use() as now:
        old = format_of(now) < FORMAT
    if old:
        table.commit(set_format)


def has_key(table: Any) -> bool:
    """Return whether writes of one row at the same time conflict, so that none is doubled."""
    return any(name.startswith(KEY.encode()) for name in table.schema.field("id").metadata or {})


def doubled(table: Any) -> list[int]:
    """Return the addresses of all rows of each `id` but the highest. Reads that column alone."""
    found = table.to_table(columns=["id"], with_row_id=True)
    if pc.count_distinct(found["id"]).as_py() == len(found):
        return []
    kept = found.group_by("id").aggregate([("_rowid", "max")])["_rowid_max"]
    return sorted({*found["_rowid"].to_pylist()}.difference(kept.to_pylist()))


def _doubled_of(table: Table) -> list[int]:
    with table.use() as now:
        return doubled(now)


def _set_key(table: Any) -> None:
    if not has_key(table):  # another process may have set it before this attempt
        table.alter_columns({"path": "id", "nullable": False})
        table.update_field_metadata({"id": {KEY: "true"}})


def _has_columns(table: Any) -> bool:
    return not _absent(table)


def _add_columns(table: Any) -> None:
    if absent := _absent(table):
        table.add_columns(absent)


def _absent(table: Any) -> list[Any]:
    return [column for column in later_columns() if column.name not in table.schema.names]


_STEPS: list[tuple[Callable[[Any], bool], Callable[[Any], None]]] = [(has_key, _set_key), (_has_columns, _add_columns)]
