"""The pages of a `PageIndex` as LangChain documents, from a question."""

from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from pydantic import ConfigDict, Field

from langchain_nemovlm.retrievers import PagePrompts
from nemovlm import runtime
from nemovlm.choices import SearchMode
from nemovlm.errors import ConfigurationError
from nemovlm.index import Filter, Hit, PageIndex, Where
from nemovlm.index.filters import all_of
from nemovlm.pdf import page_id
from nemovlm.settings import EmbedderFields


class NemoVLMPageIndexRetriever(PagePrompts, EmbedderFields):
    """Finds pages in an index that `nemovlm index` or `PageIndex.add` has made, and can show them to a chat model.

    The fields are those below and, beside a `folder`, the settings of an `Embedder` that do not change its vectors,
    such as `base_url` and `device`. The model is that of the index, and is loaded by the first search.

    `k`, `mode` and `where` may be said in a call as well: `retriever.invoke(question, k=2)`. There, `where` is one more
    condition: what the retriever itself leaves out, no call brings back.

    Documents have the text of the page, and the id that `NemoVLMPDFLoader` gives them for the same path. Metadata are
    flat scalars: what `PageIndex.add` was told of the document; `source`, `file_path`, `page` (0-based), `page_label`,
    `total_pages`, `doc_id`; `score`, as in `Hit`; and where the page is among the nearest, or those with the words of
    the question, `vector_rank` and `vector_score`, `text_rank` and `text_score`.

    Raises:
        ConfigurationError: There is no index in the folder; or neither folder nor index was passed, or two that do not
            fit, or settings beside an index.
        SpaceMismatchError: With these settings, the model makes other vectors than those of the index.
        IndexStorageError: The folder cannot be read.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, protected_namespaces=())

    folder: Path | None = None
    """Where the index is."""
    index: PageIndex | None = Field(default=None, exclude=True, repr=False)
    """An open one, instead of its folder. Once the object is made, it is there in any case."""
    k: int = Field(default=4, ge=1)
    """Pages to find."""
    mode: SearchMode | None = None
    """By meaning (`vector`), by words (`text`), or by both (`hybrid`, which is the default)."""
    where: Filter | dict[str, Any] | None = None
    """Pages that are meant: a filter made of `Field`, or a dict of fields and their values."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        settings = self.arguments()
        if self.index is None:
            if self.folder is None:
                raise ConfigurationError("pass the folder of a page index, or an open one as index")
            self.index = PageIndex(self.folder, **settings)
        elif self.folder is None and settings:
            raise ConfigurationError(
                f"an open index has its embedder already; {', '.join(settings)} cannot be added: pass its folder"
            )
        elif self.folder not in {None, self.index.folder}:
            raise ConfigurationError(
                f"the index is that in {self.index.folder}, not in {self.folder}: pass one of them"
            )
        self.folder = self.index.folder  # who makes another of all fields, as `configurable_fields` does, may pass both

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        mode: SearchMode | None = None,
        where: Where | None = None,
    ) -> list[Document]:
        return self._search(query, k, mode, where)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        mode: SearchMode | None = None,
        where: Where | None = None,
    ) -> list[Document]:
        return await runtime.in_thread(self._search, query, k, mode, where)

    def _search(self, query: str, k: int | None, mode: SearchMode | None, where: Where | None) -> list[Document]:
        assert self.index is not None  # noqa: S101 - the constructor has seen to it
        hits = self.index.search(
            query,
            self.k if k is None else k,
            mode=self.mode if mode is None else mode,
            where=all_of([self.where, where]),
        )
        return [_document(hit) for hit in hits]


def _document(hit: Hit) -> Document:
    identity = page_id(hit.document, hit.page)
    metadata = {
        **hit.metadata,
        "source": hit.document,
        "file_path": hit.document,
        "page": hit.page,
        "page_label": hit.label,
        "total_pages": hit.total,
        "doc_id": identity,
        "score": hit.score,
    }
    for name, place in (("vector", hit.by_vector), ("text", hit.by_text)):
        if place is not None:
            metadata |= {f"{name}_rank": place.rank, f"{name}_score": place.score}
    return Document(id=identity, page_content=hit.text, metadata=metadata)
