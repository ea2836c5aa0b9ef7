"""PDFs as LangChain documents, one a page: text, and the page's image for whoever can look at it."""

import base64
import os
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from contextlib import aclosing, closing
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from langchain_core.document_loaders import BaseBlobParser, BaseLoader, Blob
from langchain_core.documents import Document

from langchain_nemovlm.pages import markdown
from nemovlm import runtime
from nemovlm.errors import ConfigurationError
from nemovlm.images import encode_png
from nemovlm.integrations import readable
from nemovlm.on_error import OnError, apply_on_error, check_on_error
from nemovlm.paths import local_path, readable_name
from nemovlm.pdf import PAGE_MEMORY, PAGE_TIMEOUT, Page, Password, page_id, pdfs_at, read_pages, require_local_path


class NemoVLMPDFParser(BaseBlobParser):
    """Parses a PDF blob into one document a page, lazily: pages are rendered a few ahead.

    Documents have an id that is the same whenever the page is loaded by that path. Metadata are flat scalars: those of
    the blob; `source`, `file_path` (of a file), `page` (0-based), `page_label`, `total_pages`; `title`, `author`,
    `subject`, `keywords`, `creator`, `producer`, `creationdate`, `moddate` (ISO 8601), empty where the PDF does not
    say; `width` and `height` (points), `dpi`, `image_sha256` (of the pixels), `doc_id` (the id again, for
    `MultiVectorRetriever`); and where there is an image, `mime_type` and, on disk, `image_path`.

    Args:
        content: What goes into `page_content`: the `text` layer; the image as bare `base64` of a PNG, as LangChain's
            multimodal recipes hold images; the text and after it the name of the image file, as `markdown`, by which
            `NemoVLMEmbeddings(image_dir=...)` embeds the page; or nothing (`empty`).
        image_dir: Write every page there as a PNG, named by its digest. `markdown` needs it.
        pages: 0-based indexes. Default: all.
        password: For encrypted PDFs; several are tried one after the other.
        dpi: Resolution of the image. Default: what fills the tiles of the Nemotron VL models.
        workers: Processes to render in.
        page_timeout: Seconds that a page may take; then it cannot be read. None: any time.
        page_memory: Bytes that rendering may take (known on Linux alone). None: any.
        embedded: Read the PDFs that are attached to one as well, as to a portfolio: `source` ends with their names.
        on_error: What to do with a file or page that cannot be read: `"raise"`, `"skip"` it with a warning in the
            log, or call a function with the error.

    Raises:
        ConfigurationError: `markdown` without an `image_dir`, or no such content.
    """

    def __init__(
        self,
        *,
        content: Literal["text", "base64", "markdown", "empty"] = "text",
        image_dir: str | Path | None = None,
        pages: Iterable[int] | None = None,
        password: Password = None,
        dpi: float | None = None,
        workers: int = 1,
        page_timeout: float | None = PAGE_TIMEOUT,
        page_memory: int | None = PAGE_MEMORY,
        embedded: bool = False,
        on_error: OnError = "raise",
    ) -> None:
        check_on_error(on_error)
        if content not in {"text", "base64", "markdown", "empty"}:
            raise ConfigurationError(f"content={content!r} is none of 'text', 'base64', 'markdown' and 'empty'")
        if content == "markdown" and image_dir is None:
            raise ConfigurationError("content='markdown' names images on disk: pass image_dir, the folder for them")
        self.content = content
        self.image_dir = local_path(image_dir) if image_dir is not None else None
        self.on_error = on_error
        self._options: dict[str, Any] = {
            "pages": None if pages is None else list(pages),  # for every file anew
            "password": password,
            "dpi": dpi,
            "workers": workers,
            "page_timeout": page_timeout,
            "page_memory": page_memory,
            "embedded": embedded,
        }

    def lazy_parse(self, blob: Blob) -> Iterator[Document]:
        """Yield one document a page, rendering a few ahead.

        Raises:
            PdfError: The PDF or a page cannot be read, unless `on_error` says otherwise.
            ImageError: An image cannot be written.
        """
        content = _file(blob) or blob.as_bytes()
        source = None if blob.source is None else readable_name(blob.source)
        # The bytes themselves are all that tells a nameless blob from another.
        name = source or f"sha256:{sha256(blob.as_bytes()).hexdigest()}"
        with closing(read_pages(content, name=source, **self._options)) as results:
            for result in results:
                if page := apply_on_error(result, self.on_error):
                    yield self._document(page, blob, name)

    def _document(self, page: Page, blob: Blob, name: str) -> Document:
        if page.embedded:
            name = f"{name}/{page.embedded}"
        identity = page_id(name, page.index)
        facts = {key: value for key, value in page.metadata.items() if key not in page.info}
        metadata = {**page.info, **readable(blob.metadata), **facts, "source": name, "doc_id": identity}
        if _file(blob):
            metadata["file_path"] = readable_name(str(blob.path))
        content = page.text if self.content == "text" else ""
        if self.image_dir:
            file = page.save_image(self.image_dir)
            metadata |= {"mime_type": "image/png", "image_path": readable_name(file)}
            if self.content == "markdown":
                content = markdown(page, file)
        if self.content == "base64":
            metadata["mime_type"] = "image/png"
            content = base64.b64encode(encode_png(page.image)).decode("ascii")
        return Document(id=identity, page_content=content, metadata=metadata)


def _file(blob: Blob) -> Path | None:
    """Return the file to read, or None for a blob that holds its content: then its path may be that of a bucket."""
    return Path(blob.path) if blob.path and blob.data is None else None


_FOR_CONTENT = "for what is in memory, NemoVLMPDFParser().parse(Blob.from_data(data))"


class NemoVLMPDFLoader(BaseLoader):
    """Loads a PDF, or all PDFs in a folder and below, one document a page; the options are those of `NemoVLMPDFParser`.

    In folders, names that begin with "." or "~$" are left out, links are followed, and a file comes once. Lazy in async
    code as well.

    Args:
        file_path: The path of a PDF or of a folder.
        options: The arguments of `NemoVLMPDFParser`.

    Raises:
        ConfigurationError: Like `NemoVLMPDFParser`; or it is no path.
        PdfError: The path is an address.
    """

    def __init__(self, file_path: str | os.PathLike[str], **options: Any) -> None:
        self.file_path = require_local_path(file_path, _FOR_CONTENT)
        self._parser = NemoVLMPDFParser(**options)

    def lazy_load(self) -> Generator[Document, None, None]:
        """Yield one document a page, rendering a few ahead.

        Raises:
            PdfError: A PDF, a page or a folder cannot be read, unless `on_error` says otherwise; or there is no PDF.
            ImageError: An image cannot be written.
        """
        for file in pdfs_at(self.file_path):
            if path := apply_on_error(file, self._parser.on_error):
                yield from self._parser.lazy_parse(Blob.from_path(path, mime_type="application/pdf"))

    async def alazy_load(self) -> AsyncIterator[Document]:
        """`lazy_load` for async code, on a thread that is not of the caller's pool."""
        async with aclosing(runtime.iterate(self.lazy_load())) as documents:
            async for document in documents:
                yield document
