"""What keeps a table quick: its fragments are joined, and Lance's indexes made and extended, when that pays.

An index is never needed for what is found: rows that are in none are looked through as well, in the same search.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from nemovlm.choices import Tokenizer
from nemovlm.errors import IndexBusyError
from nemovlm.index.schema import metadata_columns
from nemovlm.index.table import Table
from nemovlm.index.vectors import dimension_of, vector_type

# Versions of the table before this are not needed by any reader that is still at work.
_KEEP_VERSIONS = timedelta(minutes=10)
# Every write leaves a fragment. A fragment of so many rows is large enough to be left alone. Of smaller ones, joining
# rewrites the rows, so it waits until there are this many, and until this share of their rows lies outside the largest:
# all rewriting together then costs a few times what was written.
_LARGE = 2**16
_FRAGMENTS = 64
_SHARE = 0.25

# From so many rows on, the pages of one document are found faster by an index than by looking through the column.
_LOOKUP_ROWS = 10_000
_LOOKUP_COLUMNS = ("document", "document_sha256", "content")
# From so many components of vectors on (4,096 pages of 2048), comparing all takes ten times as long as an index does.
_COMPONENTS = 2**23
# RaBitQ (https://arxiv.org/abs/2405.12497) takes vectors of such lengths only. Lance takes no int8 for any index.
_MULTIPLE = 8
# Vectors from which the centers of partitions are found, for each of them; Lance makes partitions of some 4096.
_SAMPLE_RATE = 64
# An index is extended when so many rows, or components of vectors, are not in it. Texts are broken into words to be
# looked through, which is slow.
_BEHIND = {"text": 256, "vector": _COMPONENTS // 2}
_BEHIND_ELSE = 4096
# Parts of an index are joined with those that are at most so many times larger, as in a log-structured merge tree
# (O'Neil et al., 1996): each row is written again a few times in all, and a search goes through a few parts.
_RATIO = 4


@dataclass(frozen=True)
class TextOptions:
    """How texts are taken apart into words, in which `mode="text"` searches. Set when an index is made.

    The default is what found most in the measurements of `benchmarks/RESULTS.md`; see Lance's documentation of
    full-text search for what each of them does.
    """

    tokenizer: Tokenizer = "icu"
    """`icu` knows words of scripts without spaces, such as Chinese and Thai; `ngram` finds parts of words."""
    language: str = "English"
    """Of the stop words and of stemming: one of those that Lance has, such as `German`."""
    stop_words: bool = True
    """Whether the most frequent words of the language are left out."""
    stem: bool = False
    """Whether endings are left out: `report` finds `reporting`."""
    fold: bool = True
    """Whether accents are left out: `resume` finds `résumé`."""


@dataclass(frozen=True)
class IndexState:
    """One of Lance's indexes over a column."""

    column: str
    kind: str
    """Lance's name of it: `BTREE` for looking up, `INVERTED` for words, `IVF_RQ` for vectors."""
    rows: int
    """Rows that are in it."""
    behind: int
    """Rows that are not in it yet, and are looked through."""
    parts: tuple[int, ...]
    """Rows of each of its parts: the first, and what was added since."""


def make_text_index(table: Any, options: TextOptions) -> None:
    """Give a table the index of the words of its texts, with whatever rows it has."""
    said = asdict(options)
    names = {"tokenizer": "base_tokenizer", "stop_words": "remove_stop_words", "fold": "ascii_folding"}
    table.create_scalar_index(
        "text", "INVERTED", name=_name("text"), replace=True, **{names.get(name, name): said[name] for name in said}
    )


def has_index(table: Any, column: str) -> bool:
    """Return whether a table has an index over a column."""
    return any(index.name == _name(column) for index in table.describe_indices())


def states(table: Any) -> list[IndexState]:
    """Return the state of every index of a table. Reads none of them."""
    lengths = _lengths(table)
    return [
        IndexState(
            column=index.field_names[0],
            kind=index.index_type.upper(),
            rows=index.num_rows_indexed,
            behind=sum(lengths.values()) - index.num_rows_indexed,
            parts=tuple(sum(lengths.get(number, 0) for number in part.fragment_ids) for part in index.segments),
        )
        for index in table.describe_indices()
    ]


def is_scattered(table: Any) -> bool:
    """Return whether joining fragments is worth it."""
    small = [length for length in _lengths(table).values() if length < _LARGE]
    return len(small) > _FRAGMENTS and sum(small) - max(small) > _SHARE * sum(small)


def keep_up(table: Table, *, whole: bool = False) -> None:
    """Do what is due, unless another process is at it.

    Args:
        table: What is looked after.
        whole: Whether every row is to be in every index that pays; otherwise some may wait, and so may all, if others
            keep writing. It waits for another process that is at it.

    Raises:
        IndexStorageError: The disk is full, or the folder cannot be written.
        IndexBusyError: With `whole`: others kept writing.
    """
    with table.use() as now:
        due = _due(now, whole)
    if not due:
        return
    make = table.commit if whole else table.attempt
    with _alone(table.folder, wait=whole) as alone:
        if alone:
            with table.use() as now:
                due = _due(now, whole)
            for change in due:
                with nullcontext() if whole else suppress(IndexBusyError):  # a later run will
                    make(change)


def _due(table: Any, whole: bool) -> list[Callable[[Any], object]]:
    """Return the changes that a table needs, each of them a commit."""
    there = {state.column: state for state in states(table)}
    changes: list[Callable[[Any], object]] = [_join] if is_scattered(table) else []
    for column in _wanted(table):
        if column not in there:
            changes.append(partial(_build, column=column))
            continue
        behind = there[column].behind * (dimension_of(table.schema) if column == "vector" else 1)
        if behind > (0 if whole else _BEHIND.get(column, _BEHIND_ELSE)):
            changes.append(partial(_extend, column=column))
    return changes


def _wanted(table: Any) -> list[str]:
    """Return the columns over which an index pays."""
    rows = table.count_rows()
    lookups = [*_LOOKUP_COLUMNS, *metadata_columns(table.schema)] if rows >= _LOOKUP_ROWS else []
    dimension = dimension_of(table.schema)
    pays = rows * dimension >= _COMPONENTS and not dimension % _MULTIPLE and vector_type(table.schema) != "int8"
    return [*lookups, "text", *(["vector"] if pays else [])]


def _build(table: Any, *, column: str) -> None:
    if column == "text":
        make_text_index(table, TextOptions())  # of a table of an earlier format
    elif column == "vector":
        name = _name(column)
        table.create_index(column, "IVF_RQ", name=name, metric="cosine", replace=True, sample_rate=_SAMPLE_RATE)
    else:
        table.create_scalar_index(column, "BTREE", name=_name(column), replace=True)


def _extend(table: Any, *, column: str) -> None:
    state = next(state for state in states(table) if state.column == column)
    joined = _joined(state.parts, state.behind)
    if column == "vector" and joined == len(state.parts):
        _build(table, column=column)  # its partitions are found anew, among all rows
    else:
        table.optimize.optimize_indices(index_names=[_name(column)], num_indices_to_merge=joined)


def _joined(parts: Sequence[int], rows: int) -> int:
    """Return with how many of the last parts of an index new rows are joined."""
    count = 0
    for part in reversed(parts):
        if part > _RATIO * rows:
            break
        rows += part
        count += 1
    return count


def _join(table: Any) -> None:
    table.optimize.compact_files(target_rows_per_fragment=_LARGE)
    # A version with a tag, which somebody else has given it, stays; it is no error.
    table.cleanup_old_versions(_KEEP_VERSIONS, error_if_tagged_old_versions=False)


def _name(column: str) -> str:
    return f"{column}_idx"


def _lengths(table: Any) -> dict[int, int]:
    """Return {number of a fragment: rows in it}."""
    return {part.fragment_id: part.physical_rows - part.num_deletions for part in table.get_fragments()}


@contextmanager
def _alone(folder: Path, wait: bool) -> Iterator[bool]:
    """Hand out whether no other process is at it: what two did at once, one would have done for nothing.

    Nothing depends on it: where files cannot be locked, both do it, and Lance takes what the first has made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "upkeep.lock", blocking=wait)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError):
        yield True
        return
    try:
        yield True
    finally:
        lock.release()
