"""`NemoVLMEmbeddings`: an `Embedder` as LangChain and its vector stores want it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias

from langchain_core.embeddings import Embeddings
from langchain_core.stores import BaseStore
from PIL import Image
from pydantic import ConfigDict, field_validator

from langchain_nemovlm.caches import ByteStoreCache
from langchain_nemovlm.pages import passage_of
from nemovlm import runtime
from nemovlm.errors import InputError, NemoVLMError
from nemovlm.images import image_source, is_data_url
from nemovlm.images.download import ImageUrl
from nemovlm.inputs import Embeddable, Modality, Passage, Vector
from nemovlm.integrations import Adapter, passage_or_error
from nemovlm.paths import local_path

ImageReference: TypeAlias = str | Path | bytes | BinaryIO | Image.Image | ImageUrl
"""A path, a `file://` or data URL, the bytes of an image file, an open binary file, a Pillow image, or an address that
is to be fetched."""


class NemoVLMEmbeddings(Adapter, Embeddings):
    """Text and images in one vector space, for LangChain.

    The fields are the arguments of `nemovlm.Embedder`, and the two below; what is None is read from `NEMOVLM_*`. The
    names of `NVIDIAEmbeddings` are taken where it has others, so that a change of the import is enough. Vectors are
    lists of floats of unit length. Errors are those of `Embedder`.

    Among documents, a `str` is a text: only one that is wholly a data URL of an image (`data:image/png;base64,...`) is
    that image. Among images, a `str` is a path, because vector stores such as Chroma pass paths to `embed_image`.

    `cache` may be a byte store of LangChain's, such as `LocalFileStore`.
    """

    model_config = ConfigDict(frozen=True)

    image_dir: Path | None = None
    """The folder in which `NemoVLMPDFLoader(..., content="markdown")` has left images: documents that end in the name
    of one are embedded by it. Nothing outside this folder is opened."""
    page_modality: Modality = "image"
    """What of those documents is embedded: the `image`, both (`text_image`), or the `text`."""

    @field_validator("image_dir")
    @classmethod
    def _local(cls, image_dir: Path | None) -> Path | None:
        return None if image_dir is None else local_path(image_dir)

    @field_validator("cache", mode="before")
    @classmethod
    def _cache_of_bytes(cls, cache: object) -> object:
        return ByteStoreCache(cache) if isinstance(cache, BaseStore) else cache

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents as passages.

        Raises:
            InputError: It is no list of str, or one cannot be embedded.
        """
        return self.embed_passages(self._documents(texts))

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents` for async code."""
        return await self.aembed_passages(await runtime.in_thread(self._documents, texts))  # which looks for files

    def embed_query(self, text: str) -> list[float]:
        """Embed a text as a query."""
        return _lists([self._embedder.embed_query(text)])[0]

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` for async code."""
        return _lists([await self._embedder.aembed_query(text)])[0]

    def embed_image(self, uris: Sequence[ImageReference]) -> list[list[float]]:
        """Embed images as passages. The name `uris` is what vector stores that embed images call it."""
        return self.embed_passages(_images(uris))

    async def aembed_image(self, uris: Sequence[ImageReference]) -> list[list[float]]:
        """`embed_image` for async code."""
        return await self.aembed_passages(await runtime.in_thread(_images, uris))

    def embed_images(self, images: Sequence[ImageReference]) -> list[list[float]]:
        """Embed images as passages: `embed_image` under the name that other stores look for."""
        return self.embed_image(images)

    async def aembed_images(self, images: Sequence[ImageReference]) -> list[list[float]]:
        """`embed_images` for async code."""
        return await self.aembed_image(images)

    def embed_image_query(self, image: ImageReference) -> list[float]:
        """Embed one image to search with. The models know no images as queries: it is embedded as passages are."""
        return self.embed_image([image])[0]

    async def aembed_image_query(self, image: ImageReference) -> list[float]:
        """`embed_image_query` for async code."""
        return (await self.aembed_image([image]))[0]

    # Nothing is asked about nothing: not even its dimension, which a server may have to tell.

    def embed_passages(self, passages: Sequence[Embeddable | NemoVLMError]) -> list[list[float]]:
        """Embed what `Embedder.embed` takes: `Passage(text=..., image=...)` for an image with its text."""
        return _lists(self._embedder.embed(passages)) if passages else []

    async def aembed_passages(self, passages: Sequence[Embeddable | NemoVLMError]) -> list[list[float]]:
        """`embed_passages` for async code."""
        return _lists(await self._embedder.aembed(passages)) if passages else []

    def _documents(self, texts: list[str]) -> list[Passage]:
        if not isinstance(texts, list):
            raise InputError(f"embed_documents takes a list of texts, not a {type(texts).__name__}")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"embed_documents takes texts, not a {type(text).__name__}").at(f"item {index}", index)
        return [self._document(text) for text in texts]

    def _document(self, text: str) -> Passage:
        if is_data_url(text):
            return Passage(image=text)
        page = passage_of(text, self.image_dir, self.page_modality) if self.image_dir else None
        return page or Passage(text=text)


def _images(references: Sequence[ImageReference]) -> list[Passage | NemoVLMError]:
    if isinstance(references, (str, bytes, Path, Image.Image, ImageUrl)) or hasattr(references, "read"):
        raise InputError(f"pass a list of images, not a single {type(references).__name__}: embed_image([image])")
    return [passage_or_error(lambda image: Passage(image=image_source(image)), reference) for reference in references]


def _lists(vectors: Iterable[Vector]) -> list[list[float]]:
    return [vector.tolist() for vector in vectors]
