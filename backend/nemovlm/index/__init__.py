"""`PageIndex`: the pages of many PDFs in one folder, found by text or by image."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from nemovlm.choices import PAGE_MEMORY, PAGE_TIMEOUT
from nemovlm.embedder import Embedder, Progress
from nemovlm.errors import ConfigurationError, InputError, SpaceMismatchError
from nemovlm.index.report import AddReport
from nemovlm.index.store import PageStore
from nemovlm.inputs import Embeddable, Modality, Vectors
from nemovlm.paths import lasting_path, local_path, readable_name
from nemovlm.settings import Options

if TYPE_CHECKING:
    from nemovlm.pdf import Page, Password, ReadOptions

__all__ = ["AddReport", "Hit", "PageIndex", "is_index"]

_HIT_COLUMNS = ("document", "page", "label", "total", "text", "thumbnail")


@dataclass(frozen=True)
class Hit:
    """A page that was found."""

    score: float
    """The cosine similarity with the query: 1 at the most."""
    document: str
    """The path of the PDF; bytes in it that are no UTF-8 are written as `\\xe9`."""
    page: int
    """0-based."""
    label: str
    """What the document calls the page."""
    total: int
    """Pages of the document."""
    text: str
    """The text layer."""
    thumbnail: bytes = field(repr=False)
    """A JPEG, 400 pixels on the longer side."""

    def load(self, **options: Any) -> "Page":
        """Render the page again from its PDF, with the options of `iter_pages`.

        Raises:
            PdfError: The PDF or the page cannot be read.
        """
        from nemovlm.pdf import iter_pages

        return next(iter_pages(path_of(self.document), pages=[self.page], **options))


class PageIndex:
    """An index of PDF pages in a folder.

    Args:
        folder: Where the index lives; made by the first `add`.
        embedder: What embeds pages and queries. Default, for an index that exists: an `Embedder` with the model
            that the index was made with.
        settings: Of that `Embedder`, such as `engine`, `base_url` and `device`: those that do not change the vectors.

    Raises:
        SpaceMismatchError: The index holds vectors of another space than the embedder's.
        IndexStorageError: The folder cannot be read, or is no index.
        ConfigurationError: A new index without an embedder, or settings beside one.
    """

    def __init__(
        self, folder: str | os.PathLike[str], embedder: Embedder | None = None, **settings: Unpack[Options]
    ) -> None:
        self.folder = local_path(folder).absolute()
        self._store = PageStore.open(self.folder)
        if embedder is not None and settings:
            raise ConfigurationError(f"an embedder has its settings already; {', '.join(settings)} cannot be added")
        if embedder is None:
            if self._store is None:
                raise ConfigurationError(f"there is no page index in {folder}: index PDFs first, or check the path")
            given = {name: value for name, value in settings.items() if value is not None}
            embedder = Embedder(**self._store.meta["embedder"] | given)
        self.embedder = embedder
        """What embeds pages and queries."""
        if self._store is not None:
            self._check_space(self._store)

    def add(
        self,
        sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        modality: Modality | None = None,
        password: "Password" = None,
        workers: int = 1,
        page_timeout: float | None = PAGE_TIMEOUT,
        page_memory: int | None = PAGE_MEMORY,
        refresh_text: bool = False,
        progress: Progress | None = None,
    ) -> AddReport:
        """Index PDFs, or all PDFs below folders, and report what was done.

        Pages that are there already, by content, are not embedded again; a changed PDF replaces its pages. A
        PDF or page that cannot be read or embedded is left out and reported; the others are indexed. Others may add,
        delete and search at the same time, in this process or in any other: every page is there once.

        Args:
            sources: Files and folders. In folders, names that begin with "." or "~$" are left out, and links are
                followed. A file is indexed once, whatever leads to it.
            modality: What of a page is embedded. Default: image and text, the text cut to the model's limit and
                the image alone where there is none; with a model that reads text only, the text; with `refresh_text`,
                what was embedded of the document before.
            password: For encrypted PDFs; several are tried one after the other.
            workers: Processes to render in.
            page_timeout: Seconds that a page may take to be read; then it is left out. None: any time.
            page_memory: Bytes that it may take (known on Linux alone). None: any.
            refresh_text: Read the texts of pages anew that were indexed by an earlier version of this program, which
                may have read them differently. A page is embedded again if its text took part and is another one.
            progress: Called with the pages done and the pages in all.

        Raises:
            PageIndexError: There is no PDF among the sources.
            SpaceMismatchError: Another process has made the index since this one was opened, with another model.
            IndexStorageError: The folder cannot be written.
            IndexBusyError: Others kept writing to it.
            ConfigurationError: The model does not take the modality.
            EngineError: The engine cannot work at all.
        """
        from nemovlm.index.run import Run
        from nemovlm.pdf import find_pdfs

        reading: ReadOptions = {
            "password": password,
            "workers": workers,
            "page_timeout": page_timeout,
            "page_memory": page_memory,
        }
        chosen = None if modality is None and refresh_text else self._checked(modality)
        run = Run(self._writable, self.embedder, chosen, reading, refresh_text, progress)
        run.add(find_pdfs(sources))
        if self._store is not None:
            self._store.compact()
        return run.report

    def search(self, query: Embeddable, k: int = 5) -> list[Hit]:
        """Return the k pages nearest to a question (`str`), or to an image or passage, the best first.

        Raises:
            InputError: The question is empty, or the query cannot be embedded.
            EngineError: The engine failed.
            IndexStorageError: The folder cannot be read.
        """
        if isinstance(query, str):
            return self.search_many([query], k)[0]
        _check_k(k)
        return self._nearest(self.embedder.embed([query], truncate="END"), k)[0]  # as pages are

    def search_many(self, questions: Sequence[str], k: int = 5) -> list[list[Hit]]:
        """Return for each question what `search` does. They are embedded together, which is faster.

        Raises:
            NemoVLMError: Like `search`.
        """
        _check_k(k)
        if any(not question.strip() for question in questions):
            raise InputError("the question is empty")
        return self._nearest(self.embedder.embed_queries(questions), k)

    def delete(self, document: str | os.PathLike[str]) -> int:
        """Take a document's pages out of the index, by its path; return how many they were.

        Raises:
            IndexStorageError: The folder cannot be written.
        """
        if (store := self._existing()) is None:
            return 0
        return store.delete(document=readable_name(lasting_path(local_path(document))))

    def documents(self) -> dict[str, int]:
        """Return {path: pages in the index}.

        Raises:
            IndexStorageError: The folder cannot be read.
        """
        if (store := self._existing()) is None:
            return {}
        pages = dict.fromkeys((row["document"], row["page"]) for row in store.rows(["document", "page"]))
        return dict(Counter(document for document, _ in pages))

    def __len__(self) -> int:
        return 0 if (store := self._existing()) is None else len(store)

    def _nearest(self, vectors: Vectors, k: int) -> list[list[Hit]]:
        if (store := self._existing()) is None:
            return [[] for _ in vectors]
        found = (store.nearest(vector, k, _HIT_COLUMNS) for vector in vectors)
        return [[Hit(score=score, **row) for score, row in rows] for rows in found]

    def _checked(self, modality: Modality | None) -> Modality:
        if modality is None:
            return self.embedder.modalities[-1]
        if modality not in self.embedder.modalities:
            raise ConfigurationError(
                f"{self.embedder.model} does not take {modality!r}; it takes: {', '.join(self.embedder.modalities)}"
            )
        return modality

    def _existing(self) -> PageStore | None:
        """Return the table, though another process may have made it after this index was opened."""
        if self._store is None and (store := PageStore.open(self.folder)) is not None:
            self._check_space(store)
            self._store = store
        return self._store

    def _writable(self) -> PageStore:
        """Return the table, made if there is none, or else mended if that is due."""
        store = self._existing()
        if store is None:
            settings = self.embedder.settings
            recipe = {name: getattr(settings, name) for name in ("model", "revision", "dimensions", "max_tiles")}
            meta = {"space": self.embedder.space, "embedder": recipe}
            store = PageStore.create(self.folder, self.embedder.dimension, meta)
            self._check_space(store)  # which may be that of another process
            self._store = store
        store.mend()
        return store

    def _check_space(self, store: PageStore) -> None:
        if store.meta["space"] != self.embedder.space:
            raise SpaceMismatchError(
                f"the index in {self.folder} was made with {store.meta['space']}, and its vectors cannot be compared "
                f"with those of {self.embedder.space}; use the same model and settings, or another folder"
            )


def _check_k(k: int) -> None:
    if k < 1:
        raise InputError(f"k={k}: ask for at least one page")


def is_index(folder: str | os.PathLike[str]) -> bool:
    """Return whether there is a page index in `folder`.

    Raises:
        IndexStorageError: The folder cannot be read.
    """
    return PageStore.exists(local_path(folder))


def path_of(document: str) -> Path:
    r"""Return the path of a PDF by the name that it has in an index, which may have `\xe9` for bytes."""
    path = Path(document)
    if not path.exists():
        raw = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), os.fsencode(document))
        if (other := Path(os.fsdecode(raw))).exists():
            return other
    return path
