"""One call of `PageIndex.add`: pages become rows, and what is in the index already is not embedded again.

Rows are written as they come, with the digests by which a later run knows what it need not do again: a run that is
stopped, killed or fails keeps what it has done, and the next one goes on from there.

Runs at the same time may embed the same pages, which costs time alone: a page has one row, and the last one written
stays. None takes out what another has written: only rows of versions that were there when it began on a document. If
two runs have read different versions of a PDF that changes, rows of both may be there in the end; the run with the
older one reports that the file changed, and the next run makes them one version again.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeAlias

from nemovlm.embedder import Embedder, Progress
from nemovlm.errors import InputError, NemoVLMError, PdfError, PdfPageError, one_line
from nemovlm.images import encode_jpeg
from nemovlm.index.report import AddReport
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


@dataclass(frozen=True)
class _Document:
    path: Path
    sha256: str
    total: int


class Run:
    """Brings an index up to date with some PDFs, and counts what it did in `report`.

    Args:
        writable: Returns the table, made or mended if need be: before any page is embedded, so that a full disk is
            known before the work begins.
        embedder: What embeds the pages.
        modality: What of a page is embedded. None: of a document that is there, what it was.
        reading: How PDFs are read.
        refresh_text: Whether texts that an earlier version of this program has read are read anew.
        progress: Called with the pages done and the pages in all.
    """

    def __init__(
        self,
        writable: Callable[[], PageStore],
        embedder: Embedder,
        modality: Modality | None,
        reading: ReadOptions,
        refresh_text: bool,
        progress: Progress | None,
    ) -> None:
        self.report = AddReport()
        self._writable = writable
        self._embedder = embedder
        self._modality = modality
        self._reading = reading
        self._refresh_text = refresh_text
        self._progress = progress
        self._total = 0
        self._done = 0

    def add(self, paths: Iterable[Path | PdfError]) -> None:
        """Index PDFs, in order. One that cannot be opened, or found, is left out.

        Raises:
            NemoVLMError: The index cannot be written, or the engine cannot work at all.
        """
        inspected = [path if isinstance(path, PdfError) else self._inspect(path) for path in paths]
        documents = [document for document in inspected if isinstance(document, _Document)]
        self.report.failed += [error for error in inspected if isinstance(error, PdfError)]
        self._total = sum(document.total for document in documents)
        if documents:
            store = self._writable()
            for document in documents:
                self._update(store, document)

    def _inspect(self, path: Path) -> _Document | PdfError:
        try:
            total = count_pages(path, **self._reading)
            with path.open("rb") as file:
                return _Document(path, hashlib.file_digest(file, "sha256").hexdigest(), total)
        except PdfError as error:
            return error
        except OSError as error:
            return PdfError(f"the file cannot be read: {one_line(error)}").at(readable_name(path))

    def _update(self, store: PageStore, document: _Document) -> None:
        name = readable_name(document.path)
        rows = store.rows(["page", "document_sha256", "modality", "text_version"], document=name)
        versions = [(row["document_sha256"], row["modality"]) for row in rows]
        modality = self._modality or (rows[0]["modality"] if rows else self._embedder.modalities[-1])
        version = (document.sha256, modality)
        there = {row["page"]: row for row, its in zip(rows, versions, strict=True) if its == version}
        outdated = [page for page, row in there.items() if (row["text_version"] or 1) < TEXT_VERSION]
        missing = [page for page in range(document.total) if page not in there]
        again: list[int] = []
        end = self._done + document.total
        whole = True
        self.report.documents += 1
        if outdated and self._refresh_text:
            whole, again = self._refresh(store, document, modality, outdated)
            kept = len(there) - len(outdated)
        else:
            self.report.outdated += len(outdated)
            kept = len(there)
        self.report.unchanged += kept
        self._advance(kept)
        if missing or again:
            whole &= self._write(store, document, modality, sorted(missing + again))
        stale = set(versions) - {version}
        if (missing or stale or (outdated and self._refresh_text)) and (
            now := self._inspect(document.path)
        ) != document:
            changed = PdfError("the file changed while it was indexed; index it again").at(name)
            self.report.failed.append(now if isinstance(now, PdfError) else changed)
            whole = False
        for sha256, stale_modality in stale if whole else ():
            store.delete(document=name, document_sha256=sha256, modality=stale_modality)
        self._advance(end - self._done)

    def _refresh(
        self, store: PageStore, document: _Document, modality: Modality, outdated: list[int]
    ) -> tuple[bool, list[int]]:
        """Read texts anew, and write those that do not change the vector.

        Return whether the document could be read to its end, and the pages that have to be embedded again.
        """
        name = readable_name(document.path)
        known = store.rows(["page", "text"], document=name, document_sha256=document.sha256)
        texts = {row["page"]: row["text"] for row in known}
        whole, again = True, []
        with (
            _Writer(store.write_texts, self._advance) as writer,
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
        tiling = _THUMBNAIL_TILING if modality == "text" else self._embedder.vision or NEMOTRON_TILING
        with (
            closing(read_pages(document.path, pages=missing, **self._reading | {"tiling": tiling})) as pages,
            ThreadPool(_ROW_THREADS, "nemovlm-rows") as pool,
        ):
            while group := list(islice(pages, _LOOKUP_PAGES)):
                read = [page for page in group if isinstance(page, Page)]
                rows = {row["page"]: row for row in pool.map(lambda page: self._row(page, document, modality), read)}
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
            "document": readable_name(document.path),
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
            "id": f"{readable_name(document.path)}#page={page.index + 1}",
            "document_sha256": document.sha256,
            "modality": modality,
            "text": page.text,
            "text_version": TEXT_VERSION,
        }

    def _advance(self, pages: int) -> None:
        self._done += pages
        if self._progress and pages:
            self._progress(self._done, self._total)


class _Writer:
    """Rows on their way into the table, some at a time: the rest at the end, also after Ctrl-C.

    If that comes in the middle of a write, rows are written twice, which is harmless.
    """

    def __init__(self, write: Callable[[list[Row]], None], advance: Callable[[int], None]) -> None:
        self._write = write
        self._advance = advance
        self._rows: list[Row] = []
        self._written_at = time.monotonic()

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self._advance(1)
        if len(self._rows) >= _FLUSH_PAGES or time.monotonic() - self._written_at > _FLUSH_SECONDS:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._write(self._rows)
        self._rows, self._written_at = [], time.monotonic()
