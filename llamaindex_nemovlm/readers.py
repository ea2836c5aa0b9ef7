"""PDFs as LlamaIndex documents or nodes, one a page: the picture, with the text beside it."""

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llama_index.core.readers.base import BasePydanticReader
from llama_index.core.schema import (
    Document,
    ImageDocument,
    ImageNode,
    MediaResource,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from pydantic import Field

from nemovlm.images import encode_png
from nemovlm.pdf import Page, iter_pages

# Of no use to a model that reads the metadata; `image_sha256` keeps pages apart in LlamaIndex's caches.
_NOT_FOR_MODELS = ["image_sha256", "width", "height", "dpi", "producer", "creator", "creationdate", "moddate"]


class NemoVLMPDFReader(BasePydanticReader):
    """Reads PDFs, one document a page, lazily.

    A page becomes an `ImageDocument` with picture and text, or with `images=False` a `Document` with its text.
    Metadata: `file_name`, `file_path`, `page` (0-based), `page_label`, `total_pages`, `width` and `height`
    (points), `dpi`, `image_sha256` (of the pixels), and what the PDF says of itself.
    """

    is_remote: bool = False
    images: bool = Field(default=True, description="Whether documents carry the picture of the page.")
    image_dir: Path | None = Field(
        default=None, description="Write pictures there as PNG and refer to them; by default documents hold them."
    )
    password: str | None = Field(default=None, exclude=True, repr=False, description="For encrypted PDFs.")
    dpi: float | None = Field(default=None, description="Default: what fills the tiles of the Nemotron VL models.")
    workers: int = Field(default=1, ge=1, description="Processes to render in.")

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex knows it."""
        return "NemoVLMPDFReader"

    def lazy_load_data(
        self, file: str | Path, extra_info: dict[str, Any] | None = None, fs: Any = None, **_: Any
    ) -> Iterable[Document]:
        """Yield one document a page. Raises `nemovlm.errors.PdfError`.

        Args:
            file: The path of a PDF.
            extra_info: More metadata; it wins over the reader's own.
            fs: An fsspec file system that `file` is on.
        """
        for page in self._pages(file, fs):
            # Never None: a document without a text resource has no content at all, whatever its metadata.
            common = self._common(page, file, extra_info) | {"text_resource": MediaResource(text=page.text)}
            if not self.images:
                yield Document(**common)
                continue
            picture = self._picture(page)
            place = {"path": picture} if isinstance(picture, Path) else {"data": picture}
            yield ImageDocument(**common, image_resource=MediaResource(**place, mimetype="image/png"))

    def load_nodes(self, file: str | Path, extra_info: dict[str, Any] | None = None) -> list[TextNode]:
        """Return one node a page, chained in order, with the PDF as their source: pages are never split.

        `ImageNode`s, or `TextNode`s with `images=False`. Raises `nemovlm.errors.PdfError`.
        """
        source = RelatedNodeInfo(node_id=str(file), metadata={"file_path": str(file)})
        nodes: list[TextNode] = []
        for page in self._pages(file, None):
            common = self._common(page, file, extra_info) | {"text": page.text}
            if self.images:
                picture = self._picture(page)
                place = {"image_path": str(picture)} if isinstance(picture, Path) else {"image": picture.decode()}
                node: TextNode = ImageNode(**common, **place, image_mimetype="image/png")
            else:
                node = TextNode(**common)
            node.relationships[NodeRelationship.SOURCE] = source
            if nodes:
                node.relationships[NodeRelationship.PREVIOUS] = nodes[-1].as_related_node_info()
                nodes[-1].relationships[NodeRelationship.NEXT] = node.as_related_node_info()
            nodes.append(node)
        return nodes

    def _pages(self, file: str | Path, fs: Any) -> Iterator[Page]:
        source = file
        if fs is not None:
            with fs.open(str(file), "rb") as remote:
                source = remote.read()
        return iter_pages(source, password=self.password, dpi=self.dpi, workers=self.workers)

    def _common(self, page: Page, file: str | Path, extra_info: dict[str, Any] | None) -> dict[str, Any]:
        known = {name: value for name, value in page.metadata.items() if value != ""}
        metadata = {"file_name": Path(file).name, "file_path": str(file), **known}
        return {
            "id_": f"{file}#page={page.index + 1}",
            "metadata": metadata | (extra_info or {}),
            "excluded_embed_metadata_keys": list(_NOT_FOR_MODELS),
            "excluded_llm_metadata_keys": list(_NOT_FOR_MODELS),
        }

    def _picture(self, page: Page) -> Path | bytes:
        """Return the file that holds the picture, or the picture itself in base64."""
        if self.image_dir is None:
            return base64.b64encode(encode_png(page.image))
        return page.save_image(self.image_dir)
