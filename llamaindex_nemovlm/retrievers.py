"""The pages of a `PageIndex` as LlamaIndex nodes, from a question or a picture."""

import os
from collections.abc import Sequence
from typing import Unpack

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores import MetadataFilters

from llamaindex_nemovlm.filters import page_filter
from llamaindex_nemovlm.readers import NemoVLMPDFReader, page_facts, pdf_source
from nemovlm import runtime
from nemovlm.choices import SearchMode
from nemovlm.errors import ConfigurationError
from nemovlm.images import image_source
from nemovlm.index import Hit, PageIndex, Where, path_of
from nemovlm.index.filters import all_of
from nemovlm.inputs import Passage
from nemovlm.pdf import page_id
from nemovlm.settings import Options


class NemoVLMPageIndexRetriever(BaseRetriever):
    """Finds pages in an index that `nemovlm index` or `PageIndex.add` has made.

    A question is looked for as `mode` says; a `QueryBundle` with an `image_path` by that picture alone, whatever the
    mode. The score is that of `Hit`.

    A page becomes the `ImageNode` that `reader.load_nodes` makes of it, with the same id, and what `PageIndex.add` was
    told of the document is metadata as well. For that, the page is read again from its PDF. With a reader that has
    `images=False` no PDF is opened: nodes are `TextNode`s with the text that is in the index, and of the metadata they
    have `file_name`, `file_path`, `page` (0-based), `page_label`, `total_pages` and what `add` was told.

    Args:
        folder: Where the index is.
        index: An open one, instead of its folder.
        similarity_top_k: Pages to find.
        mode: By meaning (`vector`), by words (`text`), or by both (`hybrid`, which is the default).
        where: Pages that are meant: a filter made of `nemovlm.Field`, or a dict of fields and their values.
        filters: The same as LlamaIndex says it. Beside `where`, both have to hold.
        reader: Makes nodes of pages: where images are written, the password, what to do with a PDF that cannot be
            read. Its `pages` and `embedded` do not matter.
        callback_manager: LlamaIndex's.
        settings: Beside a folder, of the `Embedder` with the index's model, such as `base_url` and `device`. It loads
            the model at the first search.

    Raises:
        ConfigurationError: There is no index in the folder; or not one of folder and index was passed, or settings
            beside an index.
        SpaceMismatchError: With these settings, the model makes other vectors than those of the index.
        IndexStorageError: The folder cannot be read.
        InputError: A filter is empty, or has an operator or a value that there is not.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        index: PageIndex | None = None,
        similarity_top_k: int = 4,
        mode: SearchMode | None = None,
        where: Where | None = None,
        filters: MetadataFilters | None = None,
        reader: NemoVLMPDFReader | None = None,
        callback_manager: CallbackManager | None = None,
        **settings: Unpack[Options],
    ) -> None:
        super().__init__(callback_manager)
        self.index = _opened(folder, index, settings)
        self.similarity_top_k = similarity_top_k
        self.mode = mode
        self.reader = reader or NemoVLMPDFReader()
        self.where = all_of([where, None if filters is None else page_filter(filters, self.index.fields)])

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if query_bundle.image_path is None:
            hits = self.index.search(query_bundle.query_str, self.similarity_top_k, mode=self.mode, where=self.where)
        else:
            picture = Passage(image=image_source(query_bundle.image_path))
            hits = self.index.search(picture, self.similarity_top_k, where=self.where)
        return [NodeWithScore(node=node, score=hit.score) for hit in hits for node in self._nodes(hit)]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await runtime.in_thread(self._retrieve, query_bundle)

    def _nodes(self, hit: Hit) -> Sequence[TextNode]:
        """Return the node of a page; none if it cannot be read, and the reader leaves out such pages."""
        if not self.reader.images:
            return [_text_node(hit)]
        reader = self.reader.model_copy(update={"pages": [hit.page], "embedded": False})
        return reader.load_nodes(path_of(hit.document), extra_info=dict(hit.metadata))


def _opened(folder: str | os.PathLike[str] | None, index: PageIndex | None, settings: Options) -> PageIndex:
    if index is None and folder is not None:
        return PageIndex(folder, **settings)
    if index is None or folder is not None:
        raise ConfigurationError("pass the folder of a page index, or an open one as index: one of them")
    if settings:
        raise ConfigurationError(
            f"an open index has its embedder already; {', '.join(settings)} cannot be added: pass its folder"
        )
    return index


def _text_node(hit: Hit) -> TextNode:
    known = {"page": hit.page, "page_label": hit.label, "total_pages": hit.total}
    return TextNode(
        **page_facts(page_id(hit.document, hit.page), hit.document, known | dict(hit.metadata)),
        text=hit.text,
        relationships={NodeRelationship.SOURCE: pdf_source(hit.document)},
    )
