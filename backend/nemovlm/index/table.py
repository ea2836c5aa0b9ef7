"""A table of Lance in a folder: opened at its latest version at each use, and changed by atomic commits.

Any number of processes may write at the same time: a change that another forestalled is made again. The table is one
of LanceDB's, and can be opened with it; what is needed here of that is in Lance itself, whose package takes a third of
the time to import.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import lance
import pyarrow as pa
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from nemovlm.errors import IndexBusyError, IndexStorageError, NemoVLMError, one_line

T = TypeVar("T")

_RUST_PLACE = re.compile(r", \S+\.rs:\d+:\d+")  # Lance names its own source in its messages
_RAISED = (OSError, RuntimeError, ValueError, pa.ArrowException)  # by Lance: any of these

FORMAT = 2
"""Of the tables that this program makes: 1 has no columns for metadata and of files, and may lack the key."""
_FORMAT = "nemovlm.format"

_TABLE = "pages"
_META = b"nemovlm"
# Lance repeats most writes that conflict by itself, for half a minute, but not all; each attempt here is that again.
_ATTEMPTS = 8
_WAIT = wait_random_exponential(multiplier=0.1, max=5)
# Lance's caches would grow with the table while it is written, and hold what is read of its indexes.
_INDEX_CACHE_BYTES = 512 * 2**20
_METADATA_CACHE_BYTES = 64 * 2**20


class Table:
    """A table that exists.

    Raises:
        IndexStorageError: The folder cannot be read, or holds something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._session = lance.Session(
            index_cache_size_bytes=_INDEX_CACHE_BYTES, metadata_cache_size_bytes=_METADATA_CACHE_BYTES
        )
        with storage(folder):
            table = self._latest()
            format_of(table)
            self.meta: Mapping[str, Any] = self._meta(table)
            """What was said when the table was made; it never changes."""

    @staticmethod
    def exists(folder: Path) -> bool:
        """Return whether there is a table in `folder`.

        Raises:
            IndexStorageError: The folder cannot be read.
        """
        versions = _place(folder) / "_versions"
        with storage(folder):
            return versions.is_dir() and any(path.suffix == ".manifest" for path in versions.iterdir())

    @staticmethod
    def create(folder: Path, schema: Any, meta: Mapping[str, Any], finish: Callable[[Any], None]) -> None:
        """Make an empty table, if no other process has just made one.

        Args:
            folder: Where; made if it is not there.
            schema: Its columns.
            meta: What is said of it for good.
            finish: Does what is to be done to the table before anybody finds it.

        Raises:
            IndexStorageError: The folder cannot be written.
        """
        schema = schema.with_metadata({_META: json.dumps(dict(meta)).encode()})
        with storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Elsewhere first: nobody finds a table that is half made, and of two processes the second makes none.
            with TemporaryDirectory(prefix=".making-", dir=folder) as making:
                finish(lance.write_dataset(schema.empty_table(), _place(Path(making))))
                try:
                    _place(Path(making)).rename(_place(folder))
                except OSError:
                    if not Table.exists(folder):
                        raise

    @contextmanager
    def use(self) -> Iterator[Any]:
        """Hand out the table as it is now, if it is still the one that was opened.

        Raises:
            IndexStorageError: It is not, or what is done with it fails.
        """
        with storage(self.folder):
            if not self.exists(self.folder) or self._meta(table := self._latest()) != self.meta:
                raise IndexStorageError(
                    f"the index in {self.folder} was deleted or replaced while it was open; open it again"
                )
            format_of(table)
            yield table

    def commit(self, change: Callable[[Any], T]) -> T:
        """Make a change to the table; again if it failed because another writer made one in between.

        Raises:
            IndexBusyError: Others were quicker each time.
            IndexStorageError: It fails by itself.
        """
        retrying = Retrying(
            retry=retry_if_exception_type(IndexBusyError), stop=stop_after_attempt(_ATTEMPTS), wait=_WAIT, reraise=True
        )
        result: T = retrying(self.attempt, change)
        return result

    def attempt(self, change: Callable[[Any], T]) -> T:
        """Make a change. What Lance raises has no types; a table that moved on meanwhile tells conflicts from faults.

        Raises:
            IndexBusyError: Another writer was quicker, so that Lance refused the change as a whole.
            IndexStorageError: It fails by itself.
        """
        with self.use() as table:
            before = table.version
            try:
                return change(table)
            except NemoVLMError:
                raise
            except _RAISED as error:
                if table.latest_version == before:
                    raise
                raise IndexBusyError(
                    f"others kept writing to the index in {self.folder} ({_reason(error)}); run this again when they "
                    "are done: what was indexed before is still there"
                ) from error

    def _latest(self) -> Any:
        """Return the table as it is now. Each use has one of its own: one table is not for several threads at once."""
        return lance.dataset(_place(self.folder), session=self._session)

    def _meta(self, table: Any) -> dict[str, Any]:
        metadata = table.schema.metadata or {}
        if _META not in metadata:
            raise IndexStorageError(f"{self.folder} holds a table that is no page index; take another folder")
        meta: dict[str, Any] = json.loads(metadata[_META])
        return meta


def format_of(table: Any) -> int:
    """Return the format of a table.

    Raises:
        IndexStorageError: A newer version of this program has made it.
    """
    number = int(table.config().get(_FORMAT, 1))
    if number > FORMAT:
        raise IndexStorageError(
            f"the index is of format {number}, and this version of nemovlm knows {FORMAT}: upgrade nemovlm "
            "(pip install --upgrade nemovlm)"
        )
    return number


def set_format(table: Any) -> None:
    """Say that a table is of the format of this program."""
    if format_of(table) < FORMAT:
        table.update_config({_FORMAT: str(FORMAT)})


@contextmanager
def storage(folder: Path) -> Iterator[None]:
    """Raise what Lance or the system raises as `IndexStorageError`."""
    try:
        yield
    except NemoVLMError:
        raise
    except _RAISED as error:
        if lacking := _lacking(folder):
            raise IndexStorageError(
                f"the index in {folder} lacks {len(lacking)} of its files, such as {lacking[0]}: was it copied while "
                "somebody wrote to it? Copy it again when nobody does, or delete the folder and index again"
            ) from error
        raise IndexStorageError(
            f"the index in {folder} cannot be read or written ({_reason(error)}); check the folder's permissions and "
            "the space on the disk; what was indexed before is still there"
        ) from error


def _lacking(folder: Path) -> list[str]:
    """Return the files of a table that are not there, or not whole; none if it cannot be said."""
    place = _place(folder)
    with suppress(*_RAISED):
        table = lance.dataset(place)
        parts = table.get_fragments()
        sizes = {f"data/{file.path}": file.file_size_bytes for part in parts for file in part.data_files()}
        sizes |= {name: None for part in parts if (name := part.deletion_file())}
        sizes |= {f"_indices/{it.uuid}": it.size_bytes for index in table.describe_indices() for it in index.segments}
        return [name for name, size in sizes.items() if not _is_whole(place / name, size)]
    return []


def _is_whole(path: Path, size: int | None) -> bool:
    files = path.iterdir() if path.is_dir() else [path]
    return path.exists() and (not size or sum(file.stat().st_size for file in files) == size)


def _place(folder: Path) -> Path:
    return folder / f"{_TABLE}.lance"


def _reason(error: BaseException) -> str:
    return _RUST_PLACE.sub("", one_line(error))
