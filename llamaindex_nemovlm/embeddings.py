"""`NemoVLMEmbedding`: an `Embedder` as LlamaIndex wants it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # as it is documented
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.schema import BaseNode, ImageNode, ImageType, MetadataMode, Node
from llama_index.core.storage.kvstore.types import BaseKVStore
from llama_index.core.utils import get_tqdm_iterable
from PIL import Image
from pydantic import Field
from tqdm import tqdm

from llamaindex_nemovlm.caches import KVStoreCache
from nemovlm import runtime
from nemovlm.errors import ConfigurationError, ImageError, NemoVLMError
from nemovlm.images import ImageSource, decode_base64, has_data_scheme, image_in, image_source, read_image
from nemovlm.images.download import ImageUrl
from nemovlm.inputs import Modality, Passage, Vector
from nemovlm.integrations import Adapter, passage_or_error
from nemovlm.settings import EmbedderFields

ImageReference: TypeAlias = ImageType | Path | bytes | Image.Image | ImageUrl
"""What LlamaIndex passes for an image, and more: a path, a `file://` or data URL, an image in base64, an open binary
file, the bytes of an image file, a Pillow image, or an address that is to be fetched."""

_T = TypeVar("_T")
_E = TypeVar("_E", Embedding, Embedding | None)
_LONGEST_NAME = 1000  # what is longer is no path
_MOST = 2048  # that LlamaIndex allows
_dispatcher = get_dispatcher(__name__)


class NemoVLMEmbedding(Adapter, MultiModalEmbedding):
    """Text and images in one vector space, for LlamaIndex: `embed_model` and `image_embed_model` alike.

    The fields are the arguments of `nemovlm.Embedder`, those of LlamaIndex's own embeddings, and the ones below; what
    is None is read from `NEMOVLM_*`. Errors are those of `Embedder`. Texts and images are embedded as passages, queries
    as queries.

    As a transformation (`IngestionPipeline`, `transformations=[...]`) it embeds nodes that have an image by it, and
    others by their text.

    `embeddings_cache` is taken as `cache`: by LlamaIndex alone it would answer queries with vectors of passages, know
    nothing of the model, and leave images out.
    """

    embed_batch_size: int = Field(default=64, gt=0, le=_MOST)
    """Items between two events. On a server, by default, as many as may be under way at once."""
    page_modality: Modality = "image"
    """What of a node with an image is embedded: the `image`, its text with it (`text_image`), or the `text` alone. The
    text is that of the node, without its metadata."""
    on_error: Literal["raise", "skip"] = "raise"
    """What to do with a node that cannot be embedded, as a transformation: raise, or leave it out with a warning in the
    log. Either names the node."""
    fetch_urls: bool = False
    """Whether images may be `http://` and `https://` addresses. Otherwise these are an error."""

    def __init__(self, **fields: Any) -> None:
        if isinstance(store := fields.get("embeddings_cache"), BaseKVStore):
            fields = fields | {"cache": KVStoreCache(store), "embeddings_cache": None}
        super().__init__(**fields)
        settings = self._embedder.settings
        if settings.remote and "embed_batch_size" not in fields:
            # Not by assignment, or it would count as given, and copies with other settings would keep it.
            self.__dict__["embed_batch_size"] = min(_MOST, settings.max_batch_size * settings.max_concurrency)
        if settings.model:  # else only the server knows, and it is not asked yet
            self.model_name = self._embedder.model

    def __setattr__(self, name: str, value: Any) -> None:
        if name in EmbedderFields.model_fields or (name == "embeddings_cache" and value is not None):
            raise ConfigurationError(f"{name} is taken when the object is made; use model_copy(update=...) for another")
        super().__setattr__(name, value)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex knows it."""
        return "NemoVLMEmbedding"

    # What LlamaIndex calls for texts

    def _get_query_embedding(self, query: str) -> Embedding:
        return _list(self._embedder.embed_query(query))

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return _list(await self._embedder.aembed_query(query))

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return [_list(vector) for vector in self._embedder.embed([Passage(text=text) for text in texts])]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return [_list(vector) for vector in await self._embedder.aembed([Passage(text=text) for text in texts])]

    # What LlamaIndex calls for images

    def _get_image_embedding(self, img_file_path: ImageReference) -> Embedding:
        return self._get_image_embeddings([img_file_path])[0]

    async def _aget_image_embedding(self, img_file_path: ImageReference) -> Embedding:
        return (await self._aget_image_embeddings([img_file_path]))[0]

    def _get_image_embeddings(self, img_file_paths: Sequence[ImageReference]) -> list[Embedding]:
        return [_list(vector) for vector in self._embedder.embed(self._images(img_file_paths))]

    async def _aget_image_embeddings(self, img_file_paths: Sequence[ImageReference]) -> list[Embedding]:
        images = await runtime.in_thread(self._images, img_file_paths)
        return [_list(vector) for vector in await self._embedder.aembed(images)]

    # LlamaIndex's own methods for images know no events, no rate limiter and no end of concurrent calls, and those for
    # texts count the items of an error in each batch anew. These do the same for all.

    @_dispatcher.span
    def get_text_embedding_batch(self, texts: list[str], show_progress: bool = False, **_: Any) -> list[Embedding]:
        """Embed texts as passages, in order."""
        return self._in_batches(list(texts), self._get_text_embeddings, str, show_progress)

    @_dispatcher.span
    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **_: Any
    ) -> list[Embedding]:
        """`get_text_embedding_batch` for async code."""
        return await self._ain_batches(list(texts), self._aget_text_embeddings, str, show_progress)

    @_dispatcher.span
    def get_image_embedding(self, img_file_path: ImageReference) -> Embedding:
        """Embed an image as a passage."""
        return self.get_image_embedding_batch([img_file_path])[0]

    @_dispatcher.span
    async def aget_image_embedding(self, img_file_path: ImageReference) -> Embedding:
        """`get_image_embedding` for async code."""
        return (await self.aget_image_embedding_batch([img_file_path]))[0]

    @_dispatcher.span
    def get_image_embedding_batch(
        self, img_file_paths: Sequence[ImageReference], show_progress: bool = False
    ) -> list[Embedding]:
        """Embed images as passages, in order."""
        return self._in_batches(list(img_file_paths), self._get_image_embeddings, _image_name, show_progress)

    @_dispatcher.span
    async def aget_image_embedding_batch(
        self, img_file_paths: Sequence[ImageReference], show_progress: bool = False
    ) -> list[Embedding]:
        """`get_image_embedding_batch` for async code."""
        return await self._ain_batches(list(img_file_paths), self._aget_image_embeddings, _image_name, show_progress)

    def __call__(self, nodes: Sequence[BaseNode], show_progress: bool = False, **_: Any) -> Sequence[BaseNode]:
        """Give each node its vector, and return those that got one.

        Raises:
            NemoVLMError: Like `Embedder.embed`, naming the node, unless `on_error` says otherwise.
        """
        return _with_vectors(nodes, self._in_batches(list(nodes), self._embed_nodes, _node_name, show_progress))

    async def acall(self, nodes: Sequence[BaseNode], show_progress: bool = False, **_: Any) -> Sequence[BaseNode]:
        """`__call__` for async code."""
        return _with_vectors(nodes, await self._ain_batches(list(nodes), self._aembed_nodes, _node_name, show_progress))

    def _embed_nodes(self, nodes: Sequence[BaseNode]) -> list[Embedding | None]:
        vectors = self._embedder.stream(map(self._passage_or_error, nodes), on_error=self.on_error)
        return [None if vector is None else _list(vector) for vector in vectors]

    async def _aembed_nodes(self, nodes: Sequence[BaseNode]) -> list[Embedding | None]:
        vectors = self._embedder.astream(map(self._passage_or_error, nodes), on_error=self.on_error)
        return [None if vector is None else _list(vector) async for vector in vectors]

    def _in_batches(
        self,
        items: list[_T],
        embed: Callable[[list[_T]], list[_E]],
        name: Callable[[_T], str],
        show_progress: bool,
    ) -> list[_E]:
        vectors: list[_E] = []
        for start in get_tqdm_iterable(self._starts(items), show_progress, "Generating embeddings"):
            batch = items[start : start + self.embed_batch_size]
            if self.rate_limiter is not None:
                self.rate_limiter.acquire()
            with self._event(batch, name, start) as made:
                made.extend(embed(batch))
            vectors += made
        return vectors

    async def _ain_batches(
        self,
        items: list[_T],
        embed: Callable[[list[_T]], Awaitable[list[_E]]],
        name: Callable[[_T], str],
        show_progress: bool,
    ) -> list[_E]:
        starts = self._starts(items)
        turn = asyncio.Semaphore(self.num_workers or self._embedder.settings.max_concurrency)
        progress = tqdm(total=len(starts), desc="Generating embeddings", disable=not show_progress)

        async def work(start: int) -> list[_E]:
            async with turn:
                batch = items[start : start + self.embed_batch_size]
                if self.rate_limiter is not None:
                    await self.rate_limiter.async_acquire()
                with self._event(batch, name, start) as made:
                    made.extend(await embed(batch))
                progress.update()
                return made

        with progress:
            try:
                async with asyncio.TaskGroup() as group:  # the first failure ends them all
                    tasks = [group.create_task(work(start)) for start in starts]
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from None
        return [vector for task in tasks for vector in task.result()]

    def _starts(self, items: Sequence[object]) -> range:
        return range(0, len(items), self.embed_batch_size)

    @contextmanager
    def _event(self, batch: list[_T], name: Callable[[_T], str], start: int) -> Iterator[list[Any]]:
        """Tell LlamaIndex's observers of a batch, whose vectors are put into the list that is yielded."""
        model = self.to_payload()
        _dispatcher.event(EmbeddingStartEvent(model_dict=model))
        made: list[Embedding | None] = []
        with self.callback_manager.event(CBEventType.EMBEDDING, payload={EventPayload.SERIALIZED: model}) as event:
            try:
                yield made
            except NemoVLMError as error:
                error.shift_index(start)
                raise
            pairs = [(name(item), vector) for item, vector in zip(batch, made, strict=True) if vector is not None]
            chunks, vectors = [chunk for chunk, _ in pairs], [vector for _, vector in pairs]
            event.on_end(payload={EventPayload.CHUNKS: chunks, EventPayload.EMBEDDINGS: vectors})
        _dispatcher.event(EmbeddingEndEvent(chunks=chunks, embeddings=vectors))

    # From LlamaIndex's images and nodes to passages

    def _images(self, references: Sequence[ImageReference]) -> list[Passage | NemoVLMError]:
        return [passage_or_error(lambda image: Passage(image=self._source(image)), each) for each in references]

    def _passage_or_error(self, node: BaseNode) -> Passage | NemoVLMError:
        result = passage_or_error(self._passage, node)
        return result.at(_node_label(node)) if isinstance(result, NemoVLMError) else result

    def _source(self, reference: ImageReference) -> ImageSource:
        if isinstance(reference, str):
            if reference.lower().startswith(("http://", "https://")):
                if not self.fetch_urls:
                    raise ImageError("addresses are not fetched unless fetch_urls=True; download the image, or set it")
                return ImageUrl(reference)
            if image := image_in(reference):
                return image
        return image_source(reference)

    def _passage(self, node: BaseNode) -> Passage:
        label = _node_label(node)
        reference = None if self.page_modality == "text" else _image_of(node)
        if reference is None:
            return Passage(text=node.get_content(metadata_mode=MetadataMode.EMBED), label=label)
        text = node.get_content(metadata_mode=MetadataMode.NONE) if self.page_modality == "text_image" else None
        return Passage(text=text, image=self._source(reference), label=label)


def _image_of(node: BaseNode) -> ImageReference | None:
    if isinstance(node, ImageNode):
        return _decoded(node.image) if node.image else node.image_path or node.image_url or None
    resource = node.image_resource if isinstance(node, Node) else None
    if resource is None:
        return None
    if resource.data:
        return _decoded(resource.data)
    return resource.path or (str(resource.url) if resource.url else None)


def _decoded(letters: str | bytes) -> bytes:
    """Return the image file that a node holds in base64, by itself or as a data URL."""
    text = letters if isinstance(letters, str) else letters.decode("latin-1")
    if has_data_scheme(text):
        return read_image(text)
    try:
        content = decode_base64(text)
        # LlamaIndex encodes what is no base64, such as a data URL.
        return _decoded(content) if has_data_scheme(content[:5].decode("latin-1")) else content
    except ValueError as error:  # binascii.Error is one, and so is UnicodeEncodeError
        raise ImageError(f"the node's image is not valid base64 ({error})") from error


def _with_vectors(nodes: Sequence[BaseNode], vectors: Sequence[Embedding | None]) -> list[BaseNode]:
    for node, vector in zip(nodes, vectors, strict=True):
        node.embedding = vector
    return [node for node in nodes if node.embedding is not None]


def _image_name(reference: ImageReference) -> str:
    is_name = isinstance(reference, Path) or (
        isinstance(reference, str) and len(reference) <= _LONGEST_NAME and image_in(reference) is None
    )
    return str(reference) if is_name else "<image>"


def _node_label(node: BaseNode) -> str:
    return f"node {node.node_id}"


def _node_name(node: BaseNode) -> str:
    return node.get_content(metadata_mode=MetadataMode.EMBED) or _node_label(node)


def _list(vector: Vector) -> Embedding:
    numbers: Embedding = vector.tolist()
    return numbers
