"""`PageIndex`: the pages of many PDFs in one folder, found by text or by image.

Rows are written as they come, with the digests by which a later run knows what it need not do again: a run
that is stopped, killed or fails keeps what it has done, and the next one goes on from there.
"""

import hashlib
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from nemovlm.embedder import Embedder, Progress
from nemovlm.errors import ConfigurationError, InputError, NemoVLMError, PageIndexError, PdfError, SpaceMismatchError
from nemovlm.images import encode_jpeg
from nemovlm.index.store import PageStore
from nemovlm.inputs import Embeddable, Modality, Passage
from nemovlm.models.tiling import NEMOTRON_TILING, Tiling
from nemovlm.pdf import Page, count_pages, iter_pages, pdfs_below

_THUMBNAIL_EDGE = 400  # pixels: enough to recognise a page, some 25 kB
# Pages that are embedded by their text are rendered for the thumbnail alone.
_THUMBNAIL_TILING = Tiling(tile=192)
_LOOKUP_PAGES = 16
# What a kill may cost at the most: so many pages, or so many seconds of work.
_FLUSH_PAGES = 64
_FLUSH_SECONDS = 5.0

_HIT_COLUMNS = ("document", "page", "label", "total", "text", "thumbnail")


@dataclass(frozen=True)
class Hit:
    """A page that was found. `score` is its cosine similarity with the query: 1 at the most."""

    score: float
    document: str
    page: int
    """0-based."""
    label: str
    total: int
    text: str
    thumbnail: bytes = field(repr=False)
    """A JPEG, 400 pixels on the longer side."""

    def load(self, **options: Any) -> Page:
        """Render the page again from its PDF, with the options of `iter_pages`. Raises `PdfError`."""
        return next(iter_pages(self.document, pages=[self.page], **options))


@dataclass
class AddReport:
    """What `PageIndex.add` did, in pages, except for `documents`."""

    documents: int = 0
    embedded: int = 0
    reused: int = 0
    """Equal to a page that was there, so its vector was taken over."""
    unchanged: int = 0
    """Already there."""
    failed: list[NemoVLMError] = field(default_factory=list)
    """One error for each document or page that was left out."""

    def __str__(self) -> str:
        counts = {
            "taken over from equal pages": self.reused,
            "already there": self.unchanged,
            "left out": len(self.failed),
        }
        more = "".join(f", {count} {what}" for what, count in counts.items() if count)
        documents = "1 document" if self.documents == 1 else f"{self.documents} documents"
        return f"{documents}: {self.embedded} pages embedded{more}"


class PageIndex:
    """An index of PDF pages in a folder.

    Args:
        folder: Where the index lives; made by the first `add`.
        embedder: What embeds pages and queries. Default, for an index that exists: an `Embedder` with the model
            that the index was made with.

    Raises:
        SpaceMismatchError: The index holds vectors of another space than the embedder's.
        IndexStorageError: The folder cannot be read, or is no index.
        ConfigurationError: A new index without an embedder.
    """

    def __init__(self, folder: str | Path, embedder: Embedder | None = None) -> None:
        self.folder = Path(folder)
        self._store = PageStore.open(self.folder)
        if embedder is None:
            if self._store is None:
                raise ConfigurationError(f"there is no page index in {folder}: index PDFs first, or check the path")
            embedder = Embedder(**self._store.meta["embedder"])
        self.embedder = embedder
        if self._store and self._store.meta["space"] != embedder.space:
            raise SpaceMismatchError(
                f"the index in {folder} was made with {self._store.meta['space']}, and its vectors cannot be compared "
                f"with those of {embedder.space}; use the same model and settings, or another folder"
            )

    def add(
        self,
        sources: str | Path | Iterable[str | Path],
        *,
        modality: Modality | None = None,
        password: str | None = None,
        workers: int = 1,
        progress: Progress | None = None,
    ) -> AddReport:
        """Index PDFs, or all PDFs below folders, and report what was done.

        Pages that are there already, by content, are not embedded again; a changed PDF replaces its pages. A
        PDF or page that cannot be read or embedded is left out and reported; the others are indexed.

        Args:
            sources: Files and folders.
            modality: What of a page is embedded. Default: image and text, the text cut to the model's limit and
                the image alone where there is none; with a model that reads text only, the text.
            password: For encrypted PDFs.
            workers: Processes to render in.
            progress: Called with the pages done and the pages in all.

        Raises:
            PageIndexError: There is no PDF among the sources; `IndexStorageError`: the folder cannot be written.
            ConfigurationError: The model does not take the modality.
        """
        run = _Run(self, self._checked(modality), password, workers, progress)
        documents = [document for path in pdf_files(sources) if (document := run.inspect(path))]
        for document in documents:
            run.add(document)
        if self._store and run.report.embedded + run.report.reused:
            self._store.compact()
        return run.report

    def search(self, query: Embeddable, k: int = 5) -> list[Hit]:
        """Return the k pages nearest to a question (`str`), or to an image or passage, the best first.

        Raises `InputError` for an empty question, and whatever embedding the query raises.
        """
        if k < 1:
            raise InputError(f"k={k}: ask for at least one page")
        if isinstance(query, str) and not query.strip():
            raise InputError("the question is empty")
        if isinstance(query, str):
            vector = self.embedder.embed_query(query)
        else:
            vector = self.embedder.embed([query], truncate="END")[0]  # as pages are
        if self._store is None:
            return []
        return [Hit(score=score, **row) for score, row in self._store.nearest(vector, k, _HIT_COLUMNS)]

    def delete(self, document: str | Path) -> int:
        """Take a document's pages out of the index, by its path; return how many they were."""
        return self._store.delete(document=str(Path(document).resolve())) if self._store else 0

    def documents(self) -> dict[str, int]:
        """Return {path: pages in the index}."""
        return dict(Counter(row["document"] for row in self._store.rows(["document"]))) if self._store else {}

    def __len__(self) -> int:
        return len(self._store) if self._store else 0

    def _checked(self, modality: Modality | None) -> Modality:
        if modality is None:
            return self.embedder.modalities[-1]
        if modality not in self.embedder.modalities:
            raise ConfigurationError(
                f"{self.embedder.model} does not take {modality!r}; it takes: {', '.join(self.embedder.modalities)}"
            )
        return modality

    def _writable(self) -> PageStore:
        """Return the store, making it if need be: before any page is embedded, so that a full disk costs nothing."""
        if self._store is None:
            settings = self.embedder.settings
            recipe = {name: getattr(settings, name) for name in ("model", "revision", "dimensions", "max_tiles")}
            meta = {"space": self.embedder.space, "embedder": recipe}
            self._store = PageStore.create(self.folder, self.embedder.dimension, meta)
        return self._store


def is_index(folder: str | Path) -> bool:
    """Return whether there is a page index in `folder`."""
    return PageStore.exists(Path(folder))


def embedder_of(folder: str | Path, **knobs: Any) -> Embedder:
    """Return an embedder like the one that the index in `folder` was made with.

    `knobs` are arguments of `Embedder` that do not change the vectors: engine, base_url, device and so on.
    Raises `ConfigurationError` if there is no index.
    """
    store = PageStore.open(Path(folder))
    if store is None:
        raise ConfigurationError(f"there is no page index in {folder}: index PDFs first, or check the path")
    return Embedder(**store.meta["embedder"], **knobs)


def pdf_files(sources: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return the PDFs that files and folders stand for: absolute, each once, folders in order of name.

    Raises `PageIndexError` if there is none. A file is taken whatever its name, and whether or not it exists.
    """
    if isinstance(sources, (str, Path)):
        sources = [sources]
    found: dict[Path, None] = {}
    folders = []
    for source in map(Path, sources):
        if source.is_dir():
            folders.append(str(source))
            found.update(dict.fromkeys(path.resolve() for path in pdfs_below(source)))
        else:
            found[source.resolve()] = None
    if not found:
        raise PageIndexError(f"there is no PDF in {', '.join(folders) or 'an empty list'}")
    return list(found)


@dataclass(frozen=True)
class _Document:
    path: Path
    sha256: str
    total: int


class _Run:
    """One call of `PageIndex.add`."""

    def __init__(
        self, index: PageIndex, modality: Modality, password: str | None, workers: int, progress: Progress | None
    ) -> None:
        self.report = AddReport()
        self._index = index
        self._modality = modality
        self._password = password
        self._workers = workers
        self._progress = progress
        self._total = 0
        self._done = 0

    def inspect(self, path: Path) -> _Document | None:
        """Look at a PDF before the work begins; None, and an error in the report, if it cannot be opened."""
        try:
            total = count_pages(path, password=self._password)
            with path.open("rb") as file:
                document = _Document(path, hashlib.file_digest(file, "sha256").hexdigest(), total)
        except PdfError as error:
            self.report.failed.append(error)
            return None
        self._total += total
        return document

    def add(self, document: _Document) -> None:
        """Bring the index up to date with a document."""
        store = self._index._writable()
        name, version = str(document.path), {"document_sha256": document.sha256, "modality": self._modality}
        rows = store.rows(["page", *version], document=name)
        there = {row["page"] for row in rows if all(row[key] == value for key, value in version.items())}
        self.report.documents += 1
        self.report.unchanged += len(there)
        end = self._done + document.total
        self._advance(len(there))
        missing = [page for page in range(document.total) if page not in there]
        if missing:
            self._write(store, self._rows(store, document, missing))
        if len(rows) > len(there):
            store.delete(document=name, but=version)
        self._advance(end - self._done)

    def _write(self, store: PageStore, rows: Iterator[dict[str, Any]]) -> None:
        batch: list[dict[str, Any]] = []
        written = time.monotonic()
        try:
            for row in rows:
                batch.append(row)
                self._advance(1)
                if len(batch) >= _FLUSH_PAGES or time.monotonic() - written > _FLUSH_SECONDS:
                    store.write(batch)
                    batch, written = [], time.monotonic()
        finally:  # after Ctrl-C too, even in the middle of a write: writing a row twice is harmless
            if batch:
                store.write(batch)

    def _rows(self, store: PageStore, document: _Document, missing: list[int]) -> Iterator[dict[str, Any]]:
        """Yield a row for every page that has a vector, in order."""
        waiting: deque[dict[str, Any]] = deque()
        passages = self._passages(store, document, missing, waiting)
        for vector in self._index.embedder.stream(passages, on_error=self.report.failed.append, truncate="END"):
            yield from _known(waiting)
            row = waiting.popleft()
            if vector is not None:
                self.report.embedded += 1
                yield {**row, "vector": vector}
        yield from _known(waiting)

    def _passages(
        self, store: PageStore, document: _Document, missing: list[int], waiting: deque[dict[str, Any]]
    ) -> Iterator[Passage]:
        """Read pages, put their rows into `waiting`, and yield what has to be embedded: rows without a vector."""
        pages = iter_pages(
            document.path,
            pages=missing,
            password=self._password,
            workers=min(self._workers, len(missing)),
            tiling=_THUMBNAIL_TILING if self._modality == "text" else self._index.embedder.tiling or NEMOTRON_TILING,
            on_error=self.report.failed.append,
        )
        while group := list(islice(pages, _LOOKUP_PAGES)):
            rows = [self._row(page, document) for page in group]
            vectors = store.vectors(row["content"] for row in rows)
            for page, row in zip(group, rows, strict=True):
                passage = page.passage(self._modality)
                if row["content"] in vectors:
                    self.report.reused += 1
                    waiting.append({**row, "vector": vectors[row["content"]]})
                elif self._modality == "text" and not page.text:
                    what = "the page has no text layer, and only text is embedded; a model that sees images can read it"
                    self.report.failed.append(InputError(what).at(passage.label or ""))
                else:
                    waiting.append(row)
                    yield passage

    def _row(self, page: Page, document: _Document) -> dict[str, Any]:
        return {
            "id": f"{document.path}#page={page.index + 1}",
            "document": str(document.path),
            "document_sha256": document.sha256,
            "page": page.index,
            "label": page.label,
            "total": page.total,
            "width": page.width,
            "height": page.height,
            "text": page.text,
            "modality": self._modality,
            "content": hashlib.sha256(f"{self._modality}\0{page.sha256}".encode()).hexdigest(),
            "thumbnail": encode_jpeg(page.image, longest_edge=_THUMBNAIL_EDGE),
        }

    def _advance(self, pages: int) -> None:
        self._done += pages
        if self._progress and pages:
            self._progress(self._done, self._total)


def _known(waiting: deque[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    while waiting and "vector" in waiting[0]:
        yield waiting.popleft()
