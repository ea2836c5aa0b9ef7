"""One call of `PageIndex.add`: pages become rows, and what is in the index already is not embedded again.

Rows are written as they come, with the digests by which a later run knows what it need not do again: a run that is
stopped, killed or fails keeps what it has done, and the next one goes on from there.

Runs at the same time may embed the same pages, which costs time alone: a page has one row, and the last one written
stays. None takes out what another has written: only rows of versions that were there when it began on a document. If
two runs have read different versions of a PDF that changes, rows of both may be there in the end; the run with the
older one reports that the file changed, and the next run makes them one version again.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeAlias

from nemovlm.embedder import Embedder, Progress
from nemovlm.errors import InputError, NemoVLMError, PdfError, PdfPageError, one_line
from nemovlm.images import encode_jpeg
from nemovlm.index.fields import BUILT_IN, Value, check_metadata
from nemovlm.index.known import Known
from nemovlm.index.report import AddReport
from nemovlm.index.schema import metadata_values
from nemovlm.index.store import PageStore
from nemovlm.inputs import Modality, Passage
from nemovlm.models.tiling import NEMOTRON_TILING, Tiling
from nemovlm.paths import readable_name
from nemovlm.pdf import TEXT_VERSION, Page, ReadOptions, count_pages, read_pages
from nemovlm.threads import ThreadPool

Row: TypeAlias = dict[str, Any]
"""A row of the table, with or without its vector."""

_THUMBNAIL_EDGE = 400  # pixels: enough to recognize a page, some 25 kB
# Pages that are embedded by their text are rendered for the thumbnail alone.
_THUMBNAIL_TILING = Tiling(tile=192)
_TEXT_TILING = Tiling(tile=16)  # and where the text alone is wanted, for nothing
_LOOKUP_PAGES = 16
# Digests and thumbnails are made beside each other, mostly without the GIL.
_ROW_THREADS = 4
# What a kill may cost at the most: so many pages, or so many seconds of work.
_FLUSH_PAGES = 64
_FLUSH_SECONDS = 5.0
# Changes of what is said of documents cost nothing to do again, so that more of them are written at once.
_UPDATED_PAGES = 4096
# A long run brings the table up to date each time that it has written so many pages.
_KEEP_UP_PAGES = 4096
# A file that was written so shortly ago may be written again with the same date: file systems count in up to two
# seconds (FAT), others in milliseconds. Git calls such files racy (git/Documentation/technical/racy-git.txt).
_RECENT_NS = 2_000_000_000


Metadata: TypeAlias = Mapping[str, Any] | Callable[[Path], Mapping[str, Any] | None] | None
"""What is said of documents: of all of them, or by a function of the path. None: what was said before."""


@dataclass(frozen=True)
class _Stamp:
    """By what a file is known that nobody has changed: its size in bytes, and its date in ns since 1970."""

    size: int | None
    modified: int | None

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return that of a file, without the date if it may be written again before the clock has moved on."""
        recent = time.time_ns() - status.st_mtime_ns < _RECENT_NS
        return cls(status.st_size, None if recent else status.st_mtime_ns)


@dataclass(frozen=True)
class _Document:
    path: Path
    sha256: str
    total: int
    stamp: _Stamp = field(compare=False)
    metadata: Mapping[str, Value] | None = field(compare=False)
    """None: what was said before."""

    @property
    def name(self) -> str:
        return readable_name(self.path)

    def id(self, page: int) -> str:
        """Return the name of a page (0-based), which counts from 1."""
        return f"{self.name}#page={page + 1}"


class Run:
    """Brings an index up to date with some PDFs, and counts what it did in `report`.

    Args:
        store: The table, if there is one, migrated.
        make: Makes it if there is none: before any page is embedded, so that a full disk is known before the work
            begins.
        embedder: What embeds the pages.
        modality: What of a page is embedded. None: of a document that is there, what it was.
        reading: How PDFs are read.
        metadata: What is said of the documents.
        verify: Whether files are read that have the size and date that they had.
        refresh_text: Whether texts that an earlier version of this program has read are read anew.
        progress: Called with the pages done and the pages in all.
    """

    def __init__(
        self,
        store: PageStore | None,
        make: Callable[[], PageStore],
        embedder: Embedder,
        modality: Modality | None,
        reading: ReadOptions,
        *,
        metadata: Metadata = None,
        verify: bool = False,
        refresh_text: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.report = AddReport()
        self._store = store
        self._make = make
        self._embedder = embedder
        self._modality = modality
        self._reading = reading
        self._metadata = metadata if callable(metadata) or metadata is None else check_metadata(metadata)
        self._verify = verify
        self._refresh_text = refresh_text
        self._progress = progress
        self._total = 0
        self._done = 0

    def add(self, paths: Sequence[Path | PdfError]) -> None:
        """Index PDFs, in order. One that cannot be opened, or found, is left out.

        Raises:
            InputError: What is said of all documents cannot be kept.
            NemoVLMError: The index cannot be written, or the engine cannot work at all.
        """
        known = self._known([readable_name(path) for path in paths if isinstance(path, Path)])
        looked = [path if isinstance(path, PdfError) else self._look_at(path, known) for path in paths]
        documents = [found for found in looked if isinstance(found, _Document)]
        self.report.failed += [found for found in looked if isinstance(found, NemoVLMError)]
        unchanged = sum(found for found in looked if isinstance(found, int))
        self._total = unchanged + sum(document.total for document in documents)
        self._advance(unchanged)
        if not documents:
            return
        store = self._make()
        kept_up = 0
        with _Writer(store.update, lambda _: None, _UPDATED_PAGES) as updates:
            for document in documents:
                self._update(store, updates, document)
                if (written := self.report.embedded + self.report.reused) - kept_up >= _KEEP_UP_PAGES:
                    store.keep_up()
                    kept_up = written

    def _known(self, names: Sequence[str]) -> Known | None:
        if self._store is None:
            return None
        known = self._store.known(names)
        if known.doubled:  # by a program that knew nothing of the key
            self._store.mend()
            known = self._store.known(names)
        return known

    def _look_at(self, path: Path, known: Known | None) -> _Document | NemoVLMError | int:
        """Return what there may be to do, or why it cannot be done, or the pages of a document that is as it was."""
        rows = known.pages(readable_name(path)) if known else []
        try:
            metadata = self._metadata_of(path)
        except InputError as error:
            return error.at(readable_name(path))
        if not self._verify and self._is_as_before(path, rows, metadata):
            self.report.documents += 1
            self.report.unchanged += len(rows)
            self.report.outdated += sum(map(_is_outdated, rows))
            return len(rows)
        return self._inspect(path, metadata)

    def _metadata_of(self, path: Path) -> Mapping[str, Value] | None:
        if not callable(self._metadata):
            return self._metadata
        return None if (said := self._metadata(path)) is None else check_metadata(said)

    def _is_as_before(self, path: Path, rows: Sequence[Row], metadata: Mapping[str, Value] | None) -> bool:
        """Return whether there is nothing to do for a document, as far as can be told without opening it."""
        if not rows or sorted(row["page"] for row in rows) != list(range(rows[0]["total"])):
            return False
        wanted = (self._modality or rows[0]["modality"], rows[0]["document_sha256"])
        if any((row["modality"], row["document_sha256"]) != wanted for row in rows):
            return False
        if self._refresh_text and any(map(_is_outdated, rows)):
            return False
        if metadata is not None and any(row["metadata"] != metadata for row in rows):
            return False
        with suppress(OSError):
            stamp = _Stamp.of(path.stat())
            return stamp.modified is not None and all(_Stamp(row["size"], row["modified"]) == stamp for row in rows)
        return False

    def _inspect(self, path: Path, metadata: Mapping[str, Value] | None = None) -> _Document | PdfError:
        try:
            total = count_pages(path, **self._reading)
            with path.open("rb") as file:
                stamp = _Stamp.of(os.fstat(file.fileno()))
                return _Document(path, hashlib.file_digest(file, "sha256").hexdigest(), total, stamp, metadata)
        except PdfError as error:
            return error
        except OSError as error:
            return PdfError(f"the file cannot be read: {one_line(error)}").at(readable_name(path))

    def _update(self, store: PageStore, updates: "_Writer", document: _Document) -> None:
        self.report.documents += 1
        end = self._done + document.total
        try:
            store.add_fields({name: type(value) for name, value in (document.metadata or {}).items()})
        except InputError as error:
            if not callable(self._metadata):
                raise  # it is the same for all
            self.report.failed.append(error.at(document.name))
        else:
            self._bring_up_to_date(store, updates, document)
        self._advance(end - self._done)

    def _bring_up_to_date(self, store: PageStore, updates: "_Writer", document: _Document) -> None:
        rows = store.known([document.name]).pages(document.name)
        versions = [(row["document_sha256"], row["modality"]) for row in rows]
        modality = self._modality or (rows[0]["modality"] if rows else self._embedder.modalities[-1])
        version = (document.sha256, modality)
        there = {row["page"]: row for row, its in zip(rows, versions, strict=True) if its == version}
        if document.metadata is None and rows:
            document = replace(document, metadata=rows[0]["metadata"])
        outdated = [page for page, row in there.items() if _is_outdated(row)]
        missing = [page for page in range(document.total) if page not in there]
        again: list[int] = []
        whole = True
        if outdated and self._refresh_text:
            whole, again = self._refresh(store, document, modality, outdated)
            kept = len(there) - len(outdated)
        else:
            self.report.outdated += len(outdated)
            kept = len(there)
        self.report.unchanged += kept
        self._advance(kept)
        self._describe(store, updates, document, [there[page] for page in sorted(there.keys() - again)])
        if missing:
            missing = self._take_over(store, document, modality, missing)
        if missing or again:
            whole &= self._write(store, document, modality, sorted(missing + again))
        stale = set(versions) - {version}
        if (missing or stale or (outdated and self._refresh_text)) and (
            now := self._inspect(document.path)
        ) != document:
            changed = PdfError("the file changed while it was indexed; index it again").at(document.name)
            self.report.failed.append(now if isinstance(now, PdfError) else changed)
            whole = False
        for sha256, stale_modality in stale if whole else ():
            store.delete(document=document.name, document_sha256=sha256, modality=stale_modality)

    def _describe(self, store: PageStore, updates: "_Writer", document: _Document, rows: Iterable[Row]) -> None:
        """Write what is said of a document, and the date of its file, to those of its rows that have others."""
        changed = [
            row
            for row in rows
            if row["metadata"] != document.metadata or _Stamp(row["size"], row["modified"]) != document.stamp
        ]
        common = self._file_columns(store, document) if changed else {}
        for row in changed:
            self.report.described += row["metadata"] != document.metadata
            keys = {"document_sha256": row["document_sha256"], "modality": row["modality"]}
            updates.add({"id": document.id(row["page"]), **keys, **common})

    def _take_over(self, store: PageStore, document: _Document, modality: Modality, missing: list[int]) -> list[int]:
        """Copy the pages that the index has of the same file under another name; return those that it has not."""
        among = {"document_sha256": document.sha256, "modality": modality}
        rows = store.rows(["document", "page", "text_version"], **among)
        wanted = set(missing)
        pages: dict[str, dict[int, str]] = {}
        for row in rows:
            if row["document"] != document.name and row["page"] in wanted and not _is_outdated(row):
                pages.setdefault(row["document"], {})[row["page"]] = document.id(row["page"])
        if not pages:
            return missing
        other, copied = max(pages.items(), key=lambda item: len(item[1]))
        values = {"document": document.name, **self._file_columns(store, document)}
        for count in store.copy(copied, values, document=other, **among):
            self.report.reused += count
            self._advance(count)
        return [page for page in missing if page not in copied]

    def _file_columns(self, store: PageStore, document: _Document) -> Row:
        """Return what the rows of all pages of a document have in common, beside its content."""
        names = [name for name in store.fields if name not in BUILT_IN]
        stamp = {"size": document.stamp.size, "modified": document.stamp.modified}
        return {**stamp, **metadata_values(names, document.metadata or {})}

    def _refresh(
        self, store: PageStore, document: _Document, modality: Modality, outdated: list[int]
    ) -> tuple[bool, list[int]]:
        """Read texts anew, and write those that do not change the vector.

        Return whether the document could be read to its end, and the pages that have to be embedded again.
        """
        known = store.rows(["page", "text"], document=document.name, document_sha256=document.sha256)
        texts = {row["page"]: row["text"] for row in known}
        whole, again = True, []
        with (
            _Writer(store.update, self._advance) as writer,
            closing(read_pages(document.path, pages=outdated, **self._reading | {"tiling": _TEXT_TILING})) as pages,
        ):
            for page in pages:
                if isinstance(page, PdfError):
                    self.report.failed.append(page)
                    whole &= isinstance(page, PdfPageError)
                elif modality != "image" and page.text != texts[page.index]:
                    again.append(page.index)
                else:
                    self.report.refreshed += 1
                    writer.add(self._text_columns(page, document, modality))
        return whole, again

    def _write(self, store: PageStore, document: _Document, modality: Modality, missing: list[int]) -> bool:
        """Write the missing pages of a document; return whether it could be read to its end."""
        whole = True
        with _Writer(store.write, self._advance) as writer:
            passages = self._passages(store, writer, document, modality, missing)
            for row, result in self._embedder.stream_results(passages, truncate="END"):
                if not isinstance(result, NemoVLMError):
                    self.report.embedded += 1
                    writer.add(row | {"vector": result})
                    continue
                self.report.failed.append(result)
                whole &= isinstance(result, PdfPageError) or not isinstance(result, PdfError)
                if row and isinstance(result, InputError):  # it may be there, with the text of an earlier version
                    store.delete(id=row["id"])
        return whole

    def _passages(
        self, store: PageStore, writer: "_Writer", document: _Document, modality: Modality, missing: list[int]
    ) -> Iterator[tuple[Row, Passage | NemoVLMError]]:
        """Yield the row of each page that has to be embedded, and its passage or why there is none.

        What is embedded already, in an identical page, is written at once.
        """
        common = self._file_columns(store, document)
        tiling = _THUMBNAIL_TILING if modality == "text" else self._embedder.vision or NEMOTRON_TILING
        with (
            closing(read_pages(document.path, pages=missing, **self._reading | {"tiling": tiling})) as pages,
            ThreadPool(_ROW_THREADS, "nemovlm-rows") as pool,
        ):
            while group := list(islice(pages, _LOOKUP_PAGES)):
                read = [page for page in group if isinstance(page, Page)]
                made = pool.map(lambda page: self._row(page, document, modality) | common, read)
                rows = {row["page"]: row for row in made}
                vectors = store.vectors(row["content"] for row in rows.values())
                for page in group:
                    if isinstance(page, PdfError):
                        yield {}, page
                    elif (content := rows[page.index]["content"]) in vectors:
                        self.report.reused += 1
                        writer.add(rows[page.index] | {"vector": vectors[content]})
                    else:
                        yield rows[page.index], self._passage(page, modality)

    def _passage(self, page: Page, modality: Modality) -> Passage | InputError:
        if modality != "text" or page.text:
            return page.passage(modality)
        other = "index its image" if self._embedder.vision else "a model that sees images can read it"
        return InputError(f"the page has no text layer, and only text is embedded; {other}").at(page.name)

    def _row(self, page: Page, document: _Document, modality: Modality) -> Row:
        return {
            **self._text_columns(page, document, modality),
            "document": document.name,
            "page": page.index,
            "label": page.label,
            "total": page.total,
            "width": page.width,
            "height": page.height,
            "content": hashlib.sha256(f"{modality}\0{page.sha256}".encode()).hexdigest(),
            "thumbnail": encode_jpeg(page.image, longest_edge=_THUMBNAIL_EDGE),
        }

    def _text_columns(self, page: Page, document: _Document, modality: Modality) -> Row:
        return {
            "id": document.id(page.index),
            "document_sha256": document.sha256,
            "modality": modality,
            "text": page.text,
            "text_version": TEXT_VERSION,
        }

    def _advance(self, pages: int) -> None:
        self._done += pages
        if self._progress and pages:
            self._progress(self._done, self._total)


def _is_outdated(row: Row) -> bool:
    return (row["text_version"] or 1) < TEXT_VERSION


class _Writer:
    """Rows on their way into the table, some at a time: the rest at the end, also after Ctrl-C.

    If that comes in the middle of a write, rows are written twice, which is harmless.
    """

    def __init__(
        self, write: Callable[[list[Row]], None], advance: Callable[[int], None], most: int | None = None
    ) -> None:
        self._write = write
        self._advance = advance
        self._most = most
        self._rows: list[Row] = []
        self._written_at = time.monotonic()

    def add(self, row: Row) -> None:
        if self._rows and self._rows[0].keys() != row.keys():  # rows of one write have the same columns
            self._flush()
        self._rows.append(row)
        self._advance(1)
        late = time.monotonic() - self._written_at > _FLUSH_SECONDS
        if len(self._rows) >= (self._most or _FLUSH_PAGES) or (late and not self._most):
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._write(self._rows)
        self._rows, self._written_at = [], time.monotonic()
