"""`NemoVLMEmbeddings`: an `Embedder` as LangChain and its vector stores want it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from langchain_core.embeddings import Embeddings
from PIL import Image
from pydantic import ConfigDict, PrivateAttr

from nemovlm.download import ImageUrl
from nemovlm.embedder import Embedder
from nemovlm.errors import InputError
from nemovlm.images import image_source
from nemovlm.inputs import Passage, Vector
from nemovlm.settings import Knobs, peers_names

ImageReference: TypeAlias = str | Path | bytes | BinaryIO | Image.Image | ImageUrl
"""A path, a `file://` or data URL, the bytes of an image file, an open binary file, a Pillow image, or an address that
is to be fetched."""


class NemoVLMEmbeddings(Knobs, Embeddings):
    """Text and images in one vector space, for LangChain.

    The fields are the arguments of `nemovlm.Embedder`; what is None is read from `NEMOVLM_*`. Vectors are lists
    of floats of unit length. Errors are those of `Embedder`. A `str` among texts is always a text; among images
    it is a path, because vector stores such as Chroma pass paths to `embed_image`. `nvidia_base_url`,
    `nvidia_api_key`, `default_headers` and `verify_ssl` are taken as well, as `NVIDIAEmbeddings` calls them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    _embedder: Embedder = PrivateAttr()

    def __init__(self, **fields: Any) -> None:
        super().__init__(**peers_names(fields))
        self._embedder = Embedder(**self.arguments())  # checks the settings; loads nothing

    @property
    def embedder(self) -> Embedder:
        """The embedder behind it, for all that LangChain has no word for."""
        return self._embedder

    @property
    def available_models(self) -> list[str]:
        """The ids of the models that could be asked for. Of a remote engine, the server is asked each time."""
        return self._embedder.available_models()

    @classmethod
    def get_available_models(cls, **fields: Any) -> list[str]:
        """Return the `available_models` of an object with these fields."""
        return cls(**fields).available_models

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts as passages. Raises `InputError`, a ValueError, for anything that is no list of str."""
        return self._embed(_texts(texts))

    def embed_query(self, text: str) -> list[float]:
        """Embed a text as a query."""
        return _lists([self._embedder.embed_query(text)])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts as passages. Raises `InputError`, a ValueError, for anything that is no list of str."""
        return await self._aembed(_texts(texts))

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a text as a query."""
        return _lists([await self._embedder.aembed_query(text)])[0]

    def embed_image(self, uris: Sequence[ImageReference]) -> list[list[float]]:
        """Embed images as passages. The name `uris` is what vector stores with an image door call it."""
        return self._embed(_images(uris))

    def embed_images(self, images: Sequence[ImageReference]) -> list[list[float]]:
        """Embed images as passages: `embed_image` under the name that other stores look for."""
        return self.embed_image(images)

    async def aembed_image(self, uris: Sequence[ImageReference]) -> list[list[float]]:
        """Embed images as passages."""
        return await self._aembed(_images(uris))

    async def aembed_images(self, images: Sequence[ImageReference]) -> list[list[float]]:
        """Embed images as passages."""
        return await self.aembed_image(images)

    # Nothing is asked about nothing: not even its dimension, which a server may have to tell.

    def _embed(self, passages: list[Passage]) -> list[list[float]]:
        return _lists(self._embedder.embed(passages)) if passages else []

    async def _aembed(self, passages: list[Passage]) -> list[list[float]]:
        return _lists(await self._embedder.aembed(passages)) if passages else []


def _texts(texts: list[str]) -> list[Passage]:
    if not isinstance(texts, list):
        raise InputError(f"embed_documents takes a list of texts, not a {type(texts).__name__}")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"embed_documents takes texts, not a {type(text).__name__}").at(f"item {index}", index)
    return [Passage(text=text) for text in texts]


def _images(references: Sequence[ImageReference]) -> list[Passage]:
    return [Passage(image=image_source(reference)) for reference in references]


def _lists(vectors: Iterable[Vector]) -> list[list[float]]:
    return [vector.tolist() for vector in vectors]
