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

VECTOR_INDEX = "vector_idx"
TEXT_INDEX = "text_idx"
_KINDS = {VECTOR_INDEX: "IVF_RQ", TEXT_INDEX: "INVERTED"}

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
# From so many components of vectors on (16,384 pages of 2048), comparing each takes longer than a tenth of a second.
_COMPONENTS = 2**25
# RaBitQ (https://arxiv.org/abs/2405.12497) takes vectors of such lengths only.
_MULTIPLE = 8
# Vectors from which the centers of partitions are found, for each of them; Lance makes partitions of some 4096.
_SAMPLE_RATE = 64
# An index is extended when so many rows are not in it. Texts are broken into words to be looked through, which is slow.
_BEHIND = {TEXT_INDEX: 256}
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
    """As Lance calls it: `BTREE` for looking up, `INVERTED` for words, `IVF_RQ` for vectors."""
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
        "text", "INVERTED", name=TEXT_INDEX, replace=True, **{names.get(name, name): said[name] for name in said}
    )


def has_index(table: Any, name: str) -> bool:
    """Return whether a table has an index of this name."""
    return any(index.name == name for index in table.describe_indices())


def states(table: Any) -> list[IndexState]:
    """Return the state of every index of a table."""
    return [_state(table, index.name, index.field_names[0]) for index in table.describe_indices()]


def is_scattered(table: Any) -> bool:
    """Return whether joining fragments is worth it."""
    lengths = [fragment.physical_rows - fragment.num_deletions for fragment in table.get_fragments()]
    small = [length for length in lengths if length < _LARGE]
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
    rows = table.count_rows()
    there = {index.name: index for index in table.describe_indices()}
    changes: list[Callable[[Any], object]] = [_join] if is_scattered(table) else []
    for name, column in _wanted(table, rows).items():
        if name not in there:
            changes.append(partial(_build, name=name, column=column))
        elif (behind := rows - there[name].num_rows_indexed) > (0 if whole else _BEHIND.get(name, _BEHIND_ELSE)):
            changes.append(partial(_extend, name=name, column=column, behind=behind))
    return changes


def _wanted(table: Any, rows: int) -> dict[str, str]:
    """Return {name of an index: its column} for those that pay."""
    wanted = {TEXT_INDEX: "text"}
    if rows >= _LOOKUP_ROWS:
        wanted |= {f"{column}_idx": column for column in (*_LOOKUP_COLUMNS, *metadata_columns(table.schema))}
    dimension = table.schema.field("vector").type.list_size
    if rows * dimension >= _COMPONENTS and not dimension % _MULTIPLE:
        wanted[VECTOR_INDEX] = "vector"
    return wanted


def _build(table: Any, *, name: str, column: str) -> None:
    if name == TEXT_INDEX:
        make_text_index(table, TextOptions())  # of a table of an earlier format
    elif name == VECTOR_INDEX:
        table.create_index(column, "IVF_RQ", name=name, metric="cosine", replace=True, sample_rate=_SAMPLE_RATE)
    else:
        table.create_scalar_index(column, "BTREE", name=name, replace=True)


def _extend(table: Any, *, name: str, column: str, behind: int) -> None:
    parts = _state(table, name, column).parts
    joined = _joined(parts, behind)
    if name == VECTOR_INDEX and joined == len(parts):
        _build(table, name=name, column=column)  # its partitions are found anew, among all rows
    else:
        table.optimize.optimize_indices(index_names=[name], num_indices_to_merge=joined)


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


def _state(table: Any, name: str, column: str) -> IndexState:
    said = table.stats.index_stats(name)
    return IndexState(
        column=column,
        kind=_KINDS.get(name, "BTREE"),
        rows=said["num_indexed_rows"],
        behind=said["num_unindexed_rows"],
        parts=tuple(said["num_indexed_rows_per_delta"]),
    )


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
