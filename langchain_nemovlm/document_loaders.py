"""PDFs as LangChain documents, one a page: text, and the page's picture for whoever can look at it."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from langchain_core.document_loaders import BaseBlobParser, BaseLoader, Blob
from langchain_core.documents import Document
from langchain_core.messages.content import ImageContentBlock, create_image_block

from nemovlm.images import encode_png
from nemovlm.inputs import OnError
from nemovlm.pdf import Page, iter_pages


class NemoVLMPDFParser(BaseBlobParser):
    """Parses a PDF blob into one document a page, lazily.

    `page_content` is the page's text layer or, with `content="image"`, its picture as bare base64 of a PNG, which
    is how LangChain's multimodal recipes hold images. Metadata are flat scalars: `source`, `page` (0-based),
    `page_label`, `total_pages`, `width` and `height` (points), `page_sha256`, and `image_path` where `image_dir`
    is given.

    Args:
        content: What goes into `page_content`.
        image_dir: Write every page there as a PNG.
        password: For encrypted PDFs.
        dpi: Resolution of the picture. Default: what fills the tiles of the Nemotron VL models.
        workers: Processes to render in.
        on_error: What to do with a page that fails, as in `nemovlm.iter_pages`.
    """

    def __init__(
        self,
        *,
        content: Literal["text", "image"] = "text",
        image_dir: str | Path | None = None,
        password: str | None = None,
        dpi: float | None = None,
        workers: int = 1,
        on_error: OnError = "raise",
    ) -> None:
        self.content = content
        self.image_dir = Path(image_dir) if image_dir is not None else None
        self.options: dict[str, Any] = {"password": password, "dpi": dpi, "workers": workers, "on_error": on_error}

    def lazy_parse(self, blob: Blob) -> Iterator[Document]:
        """Yield one document a page. Raises `nemovlm.errors.PdfError`."""
        for page in iter_pages(Path(blob.path) if blob.path else blob.as_bytes(), **self.options):
            yield self._document(page, str(blob.source or page.source))

    def _document(self, page: Page, source: str) -> Document:
        metadata = {"source": source, **page.metadata}
        png = encode_png(page.image) if self.image_dir or self.content == "image" else b""
        if self.image_dir:
            self.image_dir.mkdir(parents=True, exist_ok=True)
            path = self.image_dir / f"{page.sha256}.png"
            path.write_bytes(png)
            metadata["image_path"] = str(path)
        content = base64.b64encode(png).decode("ascii") if self.content == "image" else page.text
        return Document(id=f"{source}#page={page.index + 1}", page_content=content, metadata=metadata)


class NemoVLMPDFLoader(BaseLoader):
    """Loads one PDF, one document a page; the options are those of `NemoVLMPDFParser`."""

    def __init__(self, file_path: str | Path, **options: Any) -> None:
        self.file_path = Path(file_path)
        self._parser = NemoVLMPDFParser(**options)

    def lazy_load(self) -> Iterator[Document]:
        """Yield one document a page, rendering each when it is asked for."""
        yield from self._parser.lazy_parse(Blob.from_path(self.file_path, mime_type="application/pdf"))


def page_to_content_block(document: Document, *, password: str | None = None) -> ImageContentBlock:
    """Return the picture of a page as a content block for a chat message (base64 PNG).

    It is taken from `image_path` if the document has one, and else rendered again from its `source` and `page`.
    Raises `nemovlm.errors.PdfError`, or `KeyError` for a document that is no page of this loader.
    """
    if path := document.metadata.get("image_path"):
        png = Path(path).read_bytes()
    else:
        source, index = document.metadata["source"], document.metadata["page"]
        png = encode_png(next(iter_pages(source, pages=[index], password=password)).image)
    return create_image_block(base64=base64.b64encode(png).decode("ascii"), mime_type="image/png")
