"""PDFs as LlamaIndex documents or nodes, one a page: the image, with the text beside it."""

import base64
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from uuid import NAMESPACE_URL, uuid5

from llama_index.core.node_parser.interface import NodeParser
from llama_index.core.readers.base import BasePydanticReader
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    ImageNode,
    MediaResource,
    MetadataMode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.utils import get_cache_dir
from pydantic import Field

from nemovlm import runtime
from nemovlm.errors import PdfError
from nemovlm.images import encode_png
from nemovlm.integrations import readable
from nemovlm.on_error import apply_on_error
from nemovlm.paths import local_path, readable_name
from nemovlm.pdf import PAGE_MEMORY, PAGE_TIMEOUT, Page, page_id, pdfs_at, read_pages, require_local_path

_FOR_CONTENT = "pass its path, or the file system that it is on as fs"
# Of no use to a model that reads the metadata. `image_sha256` keeps pages apart in LlamaIndex's caches.
_NOT_FOR_MODELS = (
    *("file_path", "page", "total_pages", "image_sha256", "width", "height", "dpi"),
    *("producer", "creator", "creationdate", "moddate"),
)


class _Page(Document):
    """A document that changes only if a model would see a change.

    LlamaIndex counts all metadata, and so every page of a PDF that has a new date or one page more as changed.
    """

    @property
    def hash(self) -> str:
        """Digest of id, text, metadata for models, and image."""
        seen = [self.id_, self.get_content(MetadataMode.EMBED), self.get_content(MetadataMode.LLM)]
        if self.image_resource is not None:
            seen.append(self.metadata["image_sha256"])
        return sha256("\0".join(seen).encode("utf-8", "surrogatepass")).hexdigest()


class _ImagePage(_Page, ImageDocument):
    pass


class NemoVLMPDFReader(BasePydanticReader):
    """Reads a PDF, or all PDFs in a folder and below, one document a page, lazily: pages are rendered a few ahead.

    A page becomes an `ImageDocument` with image and text, or with `images=False` a `Document` with its text. Its id
    is the same whenever it is read, and its hash for as long as it looks and reads the same. So `refresh_ref_docs`,
    `delete_ref_doc` and the upserts of an `IngestionPipeline` go page by page. (For that, documents name no source: all
    three look for the id of a document's source instead of its own, and find none.)

    Metadata: `file_name`, `file_path`, `page` (0-based), `page_label`, `total_pages`, `width` and `height` (points),
    `dpi`, `image_sha256` (of the pixels), and what the PDF says of itself.
    """

    is_remote: bool = False
    images: bool = Field(default=True, description="Whether documents carry the image of the page.")
    image_dir: Path | None = Field(
        default=None,
        description="Where images are written, as PNGs named by digest. Default: a folder in LlamaIndex's cache.",
    )
    inline: bool = Field(
        default=False,
        description="Documents hold the image itself. LlamaIndex loses that of a document that it stores or caches.",
    )
    pages: list[int] | None = Field(default=None, description="0-based indexes. Default: all.")
    password: str | list[str] | None = Field(
        default=None, exclude=True, repr=False, description="For encrypted PDFs; several are tried one after the other."
    )
    dpi: float | None = Field(default=None, description="Default: what fills the tiles of the Nemotron VL models.")
    workers: int = Field(default=1, ge=1, description="Processes to render in.")
    page_timeout: float | None = Field(
        default=PAGE_TIMEOUT, gt=0, description="Seconds that a page may take; then it cannot be read. None: any time."
    )
    page_memory: int | None = Field(
        default=PAGE_MEMORY, gt=0, description="Bytes that rendering may take (known on Linux alone). None: any."
    )
    embedded: bool = Field(default=False, description="Read PDFs that are attached to one as well, as to a portfolio.")
    on_error: Literal["raise", "skip"] = Field(
        default="raise", description="What to do with a file or page that cannot be read; skip warns in the log."
    )

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex knows it."""
        return "NemoVLMPDFReader"

    def lazy_load_data(
        self, file: str | os.PathLike[str], extra_info: dict[str, Any] | None = None, fs: Any = None, **_: Any
    ) -> Iterable[Document]:
        """Yield one document a page, rendering a few ahead.

        Args:
            file: The path of a PDF, or of a folder: in it, names that begin with "." or "~$" are left out, links are
                followed, and a file comes once.
            extra_info: More metadata; it wins over the reader's own.
            fs: An fsspec file system that `file` is on, which is no folder then.

        Raises:
            PdfError: A PDF, a page or a folder cannot be read, unless `on_error` says otherwise; or there is no PDF.
            ImageError: An image cannot be written.
            ConfigurationError: `file` is no path.
        """
        for path in self._files(file, fs):
            for page in self._pages(path, fs):
                facts = self._facts(page, path, extra_info)
                # Never None: a document without a text resource has no content at all, whatever its metadata.
                facts["text_resource"] = MediaResource(text=page.text)
                yield self._image_document(page, facts) if self.images else _Page(**facts)

    async def aload_data(self, *args: Any, **kwargs: Any) -> list[Document]:
        """`load_data` for async code, on a thread that is not of the caller's pool."""
        return await runtime.in_thread(self.load_data, *args, **kwargs)

    def load_nodes(
        self, file: str | os.PathLike[str], extra_info: dict[str, Any] | None = None, fs: Any = None
    ) -> list[TextNode]:
        """Return one node a page, those of a PDF chained in order, with it as their source: pages are never split.

        `ImageNode`s, or `TextNode`s with `images=False`; `delete_ref_doc` with its path takes those of a PDF out
        of an index. The arguments are those of `lazy_load_data`.

        Raises:
            PdfError: Like `lazy_load_data`, and `ImageError`.
        """
        return [node for path in self._files(file, fs) for node in self._nodes(path, extra_info, fs)]

    def _nodes(self, file: str | os.PathLike[str], extra_info: dict[str, Any] | None, fs: Any) -> list[TextNode]:
        name = readable_name(file)
        source = pdf_source(name)
        nodes: list[TextNode] = []
        for page in self._pages(file, fs):
            facts = self._facts(page, file, extra_info)
            facts |= {"id_": _node_id(facts["id_"], page.sha256), "text": page.text}
            node = self._image_node(page, facts) if self.images else TextNode(**facts)
            node.relationships[NodeRelationship.SOURCE] = source
            if nodes:
                node.relationships[NodeRelationship.PREVIOUS] = nodes[-1].as_related_node_info()
                nodes[-1].relationships[NodeRelationship.NEXT] = node.as_related_node_info()
            nodes.append(node)
        return nodes

    def _files(self, file: str | os.PathLike[str], fs: Any) -> Iterator[str | os.PathLike[str]]:
        if fs is not None or not os.path.isdir(path := require_local_path(file, _FOR_CONTENT)):
            yield file
            return
        for found in pdfs_at(path):
            if pdf := apply_on_error(found, self.on_error):
                yield pdf

    def _pages(self, file: str | os.PathLike[str], fs: Any) -> Iterator[Page]:
        content = require_local_path(file, _FOR_CONTENT) if fs is None else _read(file, fs)
        if isinstance(content, PdfError):
            apply_on_error(content, self.on_error)
            return
        results = read_pages(
            content,
            pages=self.pages,
            password=self.password,
            dpi=self.dpi,
            workers=self.workers,
            page_timeout=self.page_timeout,
            page_memory=self.page_memory,
            embedded=self.embedded,
            name=readable_name(file),
        )
        with closing(results):
            for result in results:
                if page := apply_on_error(result, self.on_error):
                    yield page

    def _facts(self, page: Page, file: str | os.PathLike[str], extra_info: dict[str, Any] | None) -> dict[str, Any]:
        name, known = readable_name(file), {key: value for key, value in page.metadata.items() if value != ""}
        identity = page_id(f"{name}/{page.embedded}" if page.embedded else name, page.index)
        return page_facts(identity, name, known | readable(extra_info or {}))

    def _image_document(self, page: Page, facts: dict[str, Any]) -> ImageDocument:
        place = {"data": _base64(page)} if self.inline else {"path": self._save(page)}
        return _ImagePage(**facts, image_resource=MediaResource(**place, mimetype="image/png"))

    def _image_node(self, page: Page, facts: dict[str, Any]) -> ImageNode:
        place = {"image": _base64(page).decode()} if self.inline else {"image_path": str(self._save(page))}
        return ImageNode(**facts, **place, image_mimetype="image/png")

    def _save(self, page: Page) -> Path:
        return page.save_image(local_path(self.image_dir or Path(get_cache_dir()) / "nemovlm-pages"))


def page_facts(identity: str, name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the id of a page of the PDF `name` and its metadata, as fields of a document or node."""
    return {
        "id_": identity,
        "metadata": {"file_name": Path(name).name, "file_path": name, **metadata},
        "excluded_embed_metadata_keys": list(_NOT_FOR_MODELS),
        "excluded_llm_metadata_keys": list(_NOT_FOR_MODELS),
    }


def pdf_source(name: str) -> RelatedNodeInfo:
    """Return what the nodes of the PDF `name` have as their source."""
    return RelatedNodeInfo(node_id=name, metadata={"file_path": name})


def _base64(page: Page) -> bytes:
    return base64.b64encode(encode_png(page.image))


def _read(file: str | os.PathLike[str], fs: Any) -> bytes | PdfError:
    try:
        with fs.open(str(file), "rb") as remote:
            content: bytes = remote.read()
    except OSError as error:
        reason = error.strerror or type(error).__name__  # not `one_line`: the rest is often nothing but the path again
        failure = PdfError(f"the file cannot be read: {reason}").at(str(file))
        failure.__cause__ = error
        return failure
    return content


class NemoVLMPageParser(NodeParser):
    """Makes one node of each page: an `ImageNode` of an `ImageDocument`, a `TextNode` of any other document.

    Other node parsers cut a page with much text in pieces, and embed its image once for each.
    """

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex knows it."""
        return "NemoVLMPageParser"

    def _parse_nodes(self, nodes: Sequence[BaseNode], show_progress: bool = False, **_: Any) -> list[BaseNode]:
        return [_node(node) for node in nodes]


def _node_id(document_id: str, content: str) -> str:
    """Return the id of a node, another one for other content: some stores keep the old vector of an id they have."""
    return str(uuid5(NAMESPACE_URL, f"{document_id}#{content}"))


def _node(document: BaseNode) -> TextNode:
    facts: dict[str, Any] = {
        "id_": _node_id(document.node_id, document.hash),
        "text": document.get_content(),
        "metadata": document.metadata,
        "excluded_embed_metadata_keys": document.excluded_embed_metadata_keys,
        "excluded_llm_metadata_keys": document.excluded_llm_metadata_keys,
        "relationships": {NodeRelationship.SOURCE: document.as_related_node_info()},
    }
    if not isinstance(document, ImageDocument):
        return TextNode(**facts)
    places = {name: getattr(document, name) for name in ("image", "image_path", "image_url", "image_mimetype")}
    return ImageNode(**facts, **places)
