"""`PageIndex`: the pages of many PDFs in one folder, found by text or by image."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from threading import Lock
from typing import TYPE_CHECKING, Any, Unpack, get_args

from nemovlm.errors import MissingExtraError

# What Lance warns of on stderr, such as parts of an index without vectors, concerns nobody. It looks once, at import.
os.environ.setdefault("LANCE_LOG", "error")
try:  # before any file of this folder asks for them
    import lance  # noqa: F401
    import pyarrow as pa  # noqa: F401
except ImportError as missing:
    raise MissingExtraError("the page index", "index") from missing

from nemovlm.choices import PAGE_MEMORY, PAGE_TIMEOUT, SearchMode, VectorType
from nemovlm.embedder import Embedder, Progress
from nemovlm.errors import ConfigurationError, InputError, PageIndexError, SpaceMismatchError
from nemovlm.index.description import IndexDescription, describe
from nemovlm.index.fields import BUILT_IN, Fields
from nemovlm.index.filters import Field, Filter, Where
from nemovlm.index.hit import Hit
from nemovlm.index.report import AddReport
from nemovlm.index.store import PageStore
from nemovlm.index.upkeep import IndexState, TextOptions
from nemovlm.inputs import Embeddable, Modality, replace_surrogates
from nemovlm.paths import lasting_path, local_path, path_of, readable_name
from nemovlm.settings import Options

if TYPE_CHECKING:
    from nemovlm.index.run import Metadata
    from nemovlm.pdf import Password, ReadOptions

__all__ = [
    "AddReport",
    "Field",
    "Filter",
    "Hit",
    "IndexDescription",
    "IndexState",
    "PageIndex",
    "TextOptions",
    "Where",
    "is_index",
    "path_of",
]

_MADE = Lock()
_HIT_COLUMNS = ("document", "page", "label", "total", "text", "thumbnail")


class PageIndex:
    """An index of PDF pages in a folder.

    Args:
        folder: Where the index lives; made by the first `add`.
        embedder: What embeds pages and queries. Default, for an index that exists: an `Embedder` with the model
            that the index was made with, made when it is first needed; `mode="text"` needs none.
        vectors: How a new index keeps vectors. `float16` takes half the space and finds the same. `int8` takes a
            quarter, but Lance has no index for it, so that every page is compared: for some 100,000 pages at most.
        texts: How a new index takes texts apart into words.
        settings: Of that `Embedder`, such as `engine`, `base_url` and `device`: those that do not change the vectors.

    Raises:
        SpaceMismatchError: The index holds vectors of another space than the embedder's.
        IndexStorageError: The folder cannot be read, or is no index, or a newer version has made it.
        ConfigurationError: A new index without an embedder, or settings beside one, or `vectors` or `texts` that are
            not those of the index.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        embedder: Embedder | None = None,
        *,
        vectors: VectorType | None = None,
        texts: TextOptions | None = None,
        **settings: Unpack[Options],
    ) -> None:
        self.folder = local_path(folder).absolute()
        self._vectors = vectors
        self._texts = texts
        self._store = PageStore.open(self.folder)
        self._settings = {name: value for name, value in settings.items() if value is not None}
        if embedder is not None and settings:
            raise ConfigurationError(f"an embedder has its settings already; {', '.join(settings)} cannot be added")
        if embedder is None and self._store is None:
            raise ConfigurationError(f"there is no page index in {folder}: index PDFs first, or check the path")
        self._embedder = embedder
        if self._store is not None:
            self._check(self._store)
        if self._settings:
            _ = self.embedder  # what is wrong with them is told now

    @property
    def embedder(self) -> Embedder:
        """What embeds pages and queries.

        Raises:
            SpaceMismatchError: The model that the index was made with makes other vectors now.
            ConfigurationError: Its engine or model cannot be had.
        """
        if self._embedder is None:
            embedder = Embedder(**self._recipe())
            self._check_space(self._opened, embedder)
            with _MADE:  # threads that come at the same time take one, or each would load the model
                self._embedder = self._embedder or embedder
        return self._embedder

    def add(
        self,
        sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        modality: Modality | None = None,
        metadata: "Metadata" = None,
        password: "Password" = None,
        workers: int = 1,
        page_timeout: float | None = PAGE_TIMEOUT,
        page_memory: int | None = PAGE_MEMORY,
        refresh_text: bool = False,
        verify: bool = False,
        prune: bool = False,
        progress: Progress | None = None,
    ) -> AddReport:
        """Index PDFs, or all PDFs below folders, and report what was done.

        Pages that are there already, by content, are not embedded again; a changed PDF replaces its pages, and one
        that was moved takes them along. A PDF or page that cannot be read or embedded is left out and reported; the
        others are indexed. Others may add, delete and search at the same time, in this process or in any other: every
        page is there once.

        Args:
            sources: Files and folders. In folders, names that begin with "." or "~$" are left out, and links are
                followed. A file is indexed once, whatever leads to it.
            modality: What of a page is embedded. Default: image and text, the text cut to the model's limit and
                the image alone where there is none; with a model that reads text only, the text; with `refresh_text`,
                what was embedded of the document before.
            metadata: What is said of the documents, {name: str, int, float or bool}, or a function that returns it for
                a path. A search can be narrowed by it. It takes the place of what was said before; None leaves that.
            password: For encrypted PDFs; several are tried one after the other.
            workers: Processes to render in.
            page_timeout: Seconds that a page may take to be read; then it is left out. None: any time.
            page_memory: Bytes that it may take (known on Linux alone). None: any.
            refresh_text: Read the texts of pages anew that were indexed by an earlier version of this program, which
                may have read them differently. A page is embedded again if its text took part and is another one.
            verify: Read files, too, that have the size and date that they had; else they are taken for unchanged.
            prune: Take out the documents below the folders among the sources whose files are there no more.
            progress: Called with the pages done and the pages in all.

        Raises:
            InputError: Metadata of all documents cannot be kept. Of one document, it is reported, and left out.
            PageIndexError: There is no PDF among the sources.
            SpaceMismatchError: Another process has made the index since this one was opened, with another model.
            IndexStorageError: The folder cannot be written.
            IndexBusyError: Others kept writing to it.
            ConfigurationError: The model does not take the modality.
            EngineError: The engine cannot work at all.
        """
        from nemovlm.index.prune import gone
        from nemovlm.index.run import Run
        from nemovlm.pdf import find_pdfs

        reading: ReadOptions = {
            "password": password,
            "workers": workers,
            "page_timeout": page_timeout,
            "page_memory": page_memory,
        }
        chosen = None if modality is None and refresh_text else self._checked(modality)
        given = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
        if (store := self._existing()) is not None:
            store.migrate()
        run = Run(
            store,
            self._writable,
            self.embedder,
            chosen,
            reading,
            metadata=metadata,
            verify=verify,
            refresh_text=refresh_text,
            progress=progress,
        )
        run.add(find_pdfs(given))
        if (store := self._store) is not None:
            if prune:
                run.report.pruned = store.delete_documents(gone(store.documents(), given))
            store.keep_up()
        return run.report

    def search(
        self, query: Embeddable, k: int = 5, *, mode: SearchMode | None = None, where: Where | None = None
    ) -> list[Hit]:
        """Return the k best pages for a question (`str`), or those nearest to an image or passage, the best first.

        Args:
            query: What is asked.
            k: Pages to find.
            mode: By meaning (`vector`), by words (`text`, which needs no model), or by both (`hybrid`). Default:
                `hybrid` for a question, which found most in the measurements of `benchmarks/RESULTS.md`; else `vector`.
            where: Pages that are meant: a filter made of `Field`, or a dict of fields and their values.

        Raises:
            InputError: The question is empty, or the query cannot be embedded, or the filter names what is not there.
            EngineError: The engine failed.
            IndexStorageError: The folder cannot be read.
        """
        if isinstance(query, str):
            return self.search_many([query], k, mode=mode, where=where)[0]
        _check_k(k)
        if mode not in {None, "vector"}:
            raise InputError(f"mode={mode!r} takes a question; pictures and passages are searched for by their vectors")
        vectors = self.embedder.embed([query], truncate="END")  # as pages are
        return self._found(k, where, [{"vector": vectors[0]}])[0]

    def search_many(
        self, questions: Sequence[str], k: int = 5, *, mode: SearchMode | None = None, where: Where | None = None
    ) -> list[list[Hit]]:
        """Return for each question what `search` does. They are embedded together, which is faster.

        Raises:
            NemoVLMError: Like `search`.
        """
        _check_k(k)
        if any(not question.strip() for question in questions):
            raise InputError("the question is empty")
        if mode not in {None, *get_args(SearchMode)}:
            raise InputError(f"mode={mode!r}: there are {', '.join(get_args(SearchMode))}")
        queries: list[dict[str, Any]] = [{} for _ in questions]
        if mode != "text":
            for query, vector in zip(queries, self.embedder.embed_queries(questions), strict=True):
                query["vector"] = vector
        if mode != "vector":
            for query, question in zip(queries, questions, strict=True):
                query["text"] = replace_surrogates(question)
        return self._found(k, where, queries)

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
        return store.documents()

    @property
    def fields(self) -> Fields:
        """{name: type} of the fields that a search can be narrowed by."""
        return BUILT_IN if (store := self._existing()) is None else store.fields

    def describe(self) -> IndexDescription:
        """Return what the index is, and how up to date what makes it quick is. Needs no model, and writes nothing.

        Raises:
            IndexStorageError: The folder cannot be read.
            PageIndexError: There is no index yet.
        """
        return describe(self._opened)

    def optimize(self) -> IndexDescription:
        """Bring the index up to date for searching, whatever there is to do, and describe it.

        `add` does it by itself when it is due, so that this is for those who want to wait for it now. Others may read
        and write meanwhile.

        Raises:
            IndexStorageError: The folder cannot be written; all pages are still there.
            IndexBusyError: Others kept writing to it.
            PageIndexError: There is no index yet.
        """
        self._opened.optimize()
        return self.describe()

    def __getstate__(self) -> dict[str, Any]:
        """What another process opens it by: the table is opened anew."""
        return self.__dict__ | {"_store": None}

    def __len__(self) -> int:
        return 0 if (store := self._existing()) is None else len(store)

    def _found(self, k: int, where: Where | None, queries: Sequence[Mapping[str, Any]]) -> list[list[Hit]]:
        if (store := self._existing()) is None:
            return [[] for _ in queries]
        found = (store.search(k, _HIT_COLUMNS, where=where, **query) for query in queries)
        return [
            [Hit(place.score, by_vector=place.by_vector, by_text=place.by_text, **row) for place, row in rows]
            for rows in found
        ]

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
            self._check(store)
            self._store = store
        return self._store

    @property
    def _opened(self) -> PageStore:
        if (store := self._existing()) is None:
            raise PageIndexError(f"there is no page index in {self.folder} yet: index PDFs first")
        return store

    def _recipe(self) -> dict[str, Any]:
        """Return the settings of an embedder like the one that made the index."""
        recipe: dict[str, Any] = self._opened.meta["embedder"] | self._settings
        return recipe

    def _writable(self) -> PageStore:
        """Return the table, made if there is none, or else mended if that is due."""
        store = self._existing()
        if store is None:
            settings = self.embedder.settings
            recipe = {name: getattr(settings, name) for name in ("model", "revision", "dimensions", "max_tiles")}
            vectors, texts = self._vectors or "float32", self._texts or TextOptions()
            meta = {"space": self.embedder.space, "embedder": recipe, "vectors": vectors, "texts": asdict(texts)}
            store = PageStore.create(self.folder, self.embedder.dimension, meta, vectors, texts)
            self._check(store)  # which may be that of another process
            self._store = store
        store.migrate()
        return store

    def _check(self, store: PageStore) -> None:
        """Raise an error if the index is of another kind than the one that was asked for."""
        if self._embedder is not None:
            self._check_space(store, self._embedder)
        wanted = {"vectors": self._vectors, "texts": self._texts and asdict(self._texts)}
        there = {"vectors": "float32", "texts": asdict(TextOptions()), **store.meta}
        for name, value in wanted.items():
            if value is not None and value != there[name]:
                raise ConfigurationError(
                    f"the index in {self.folder} was made with {name}={there[name]}, which cannot be changed to "
                    f"{value}; leave it out, or index the PDFs into another folder"
                )

    def _check_space(self, store: PageStore, embedder: Embedder) -> None:
        if store.meta["space"] != embedder.space:
            raise SpaceMismatchError(
                f"the index in {self.folder} was made with {store.meta['space']}, and its vectors cannot be compared "
                f"with those of {embedder.space}; use the same model and settings, or another folder"
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
