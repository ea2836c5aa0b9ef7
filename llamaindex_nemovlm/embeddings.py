"""`NemoVLMEmbedding`: an `Embedder` as LlamaIndex wants it."""

from typing import Any

from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import ImageType
from pydantic import ConfigDict, Field

from nemovlm.adapter import Adapter
from nemovlm.images import image_source
from nemovlm.inputs import Passage, Vector


class NemoVLMEmbedding(Adapter, MultiModalEmbedding):
    """Text and images in one vector space, for LlamaIndex: `embed_model` and `image_embed_model` alike.

    The fields are the arguments of `nemovlm.Embedder`; what is None is read from `NEMOVLM_*`. Errors are those of
    `Embedder`. Texts and images are embedded as passages, queries as queries.
    """

    model_config = ConfigDict(extra="forbid")

    embed_batch_size: int = Field(default=64, gt=0, le=2048)

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        if self._embedder.settings.model:  # else only the server knows, and it is not asked yet
            self.model_name = self._embedder.model

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex knows it."""
        return "NemoVLMEmbedding"

    def _get_query_embedding(self, query: str) -> Embedding:
        return _list(self._embedder.embed_query(query))

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return _list(await self._embedder.aembed_query(query))

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return [_list(vector) for vector in self._embedder.embed(_texts(texts))]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return [_list(vector) for vector in await self._embedder.aembed(_texts(texts))]

    def _get_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return self._get_image_embeddings([img_file_path])[0]

    async def _aget_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return (await self._aget_image_embeddings([img_file_path]))[0]

    def _get_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        return [_list(vector) for vector in self._embedder.embed(_images(img_file_paths))]

    async def _aget_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        return [_list(vector) for vector in await self._embedder.aembed(_images(img_file_paths))]


def _texts(texts: list[str]) -> list[Passage]:
    return [Passage(text=text) for text in texts]


def _images(references: list[ImageType]) -> list[Passage]:
    return [Passage(image=image_source(reference)) for reference in references]


def _list(vector: Vector) -> list[float]:
    numbers: list[float] = vector.tolist()
    return numbers
