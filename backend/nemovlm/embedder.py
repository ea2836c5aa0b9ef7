"""`Embedder`: the one door to every engine.

It turns what users pass into checked items, sends them off in chunks of bounded size, and lets nothing out that is not
a proper embedding of the right item. It knows no protocol, no model code and no framework.
"""

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from concurrent.futures import Future
from contextlib import aclosing, closing
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, Self, TypeAlias, TypeVar, Unpack

import numpy as np

from nemovlm import runtime
from nemovlm.chunking import Window, aiter_chunks, iter_chunks, weigh
from nemovlm.engines.base import Outcome, normalize
from nemovlm.engines.choice import placement
from nemovlm.engines.handle import EngineHandle
from nemovlm.errors import EngineError, InputError, NemoVLMError
from nemovlm.inputs import Embeddable, Item, Modality, Passage, Role, Truncate, Vector, Vectors, as_passage
from nemovlm.models.catalogue import CATALOGUE
from nemovlm.models.tiling import Tiling
from nemovlm.models.vision import Vision
from nemovlm.on_error import OnError, apply_on_error, check_on_error
from nemovlm.settings import EngineName, Options, Settings, field_descriptions

K = TypeVar("K")

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the number of items done so far, and with their total where it is known."""

Result: TypeAlias = Vector | NemoVLMError
"""What became of one item: its vector (d,), or the error that concerns this item alone."""

_Pair: TypeAlias = tuple[K, Embeddable | NemoVLMError]
_Results: TypeAlias = list[tuple[K, Result]]

# While one chunk is computed, the next is prepared and the one after it is read.
_CHUNKS_AHEAD = 2
# A server computes several requests at once, and pages make one request a chunk.
_CHUNKS_AHEAD_REMOTE = 8


@dataclass(frozen=True)
class Description:
    """What an `Embedder` is, and why it came to be so."""

    model: str
    revision: str | None
    engine: EngineName
    reason: str
    """Why this engine: it reads on from "engine X because ..."."""
    device: str
    """`cpu`, `cuda`, `mps`; of a remote engine the hosts."""
    dtype: str
    """What the model computes in: `float32`, `bfloat16`, `float16`."""
    dimension: int
    """Numbers in a vector."""
    modalities: tuple[Modality, ...]
    max_tokens: dict[Modality, int]
    """The most tokens of a prompt. Empty where a server decides."""
    space: str
    """The fingerprint of the vector space: see `Embedder.space`."""


@dataclass(frozen=True)
class Usage:
    """What was embedded: items that got a vector, and the tokens of their prompts as far as the engine told."""

    items: int = 0
    tokens: int = 0


class Embedder:
    """Embeds queries and passages with one model on one engine.

    Every vector is float32, finite and of unit length, so a dot product is the cosine similarity. Sync and
    async methods do the same work on one private event loop; an instance may be shared by threads, used in
    any number of `asyncio.run`, pickled, and carried into a forked child, which loads the model anew.

    The constructor opens no connection, loads no weights and starts no thread; the first use does, once.

    Args:
        model: A model id of the catalogue (`nemovlm models`), a folder with a checkpoint, or for a remote engine
            the name of what its server runs. Default: `NEMOVLM_MODEL`.
        settings: `engine`, `base_url`, `api_key`, `dimensions`, `truncate` and all others of
            `nemovlm.settings.EmbedderFields`. One that is None is read from `NEMOVLM_<NAME>` in the environment.

    Raises:
        ConfigurationError: A setting is wrong; `UnknownModelError` for the model, with the nearest known id.
        CheckpointError: The folder is no checkpoint.
    """

    def __init__(self, model: str | Path | None = None, **settings: Unpack[Options]) -> None:
        self._open(Settings.from_kwargs(model=None if model is None else str(model), **settings))

    def _open(self, settings: Settings) -> None:
        self._handle = EngineHandle(settings)
        self._usage = Usage()

    # What it is

    @property
    def settings(self) -> Settings:
        """The settings, whether given or read from the environment, with the model that its server named since."""
        return self._handle.settings

    @property
    def model(self) -> str:
        """The id of the model, or the name of its folder.

        If nobody chose one, this blocks, once, on asking the server what it has.
        """
        return self._handle.checkpoint.card.id

    @property
    def dimension(self) -> int:
        """Numbers in a vector. Of a model that only its server knows, this blocks, once, on asking the server."""
        return self._handle.dimension

    @property
    def usage(self) -> Usage:
        """What was embedded so far, by this object in this process."""
        return self._usage

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The kinds of passage that the model takes: `text`, and with vision `image` and `text_image`.

        Blocks like `model`.
        """
        return self._handle.checkpoint.card.modalities

    @property
    def tiling(self) -> Tiling | None:
        """How the model cuts images, or None if it does not. Blocks like `model`."""
        return self._handle.checkpoint.card.tiling

    @property
    def vision(self) -> Vision | None:
        """How the model sees images; None if it reads text only, or only its server knows. Blocks like `model`."""
        return self._handle.checkpoint.card.vision

    @property
    def space(self) -> str:
        """The fingerprint of the vector space: weights, dimensions and tiles.

        Vectors may be compared if, and only if, their spaces are the same string. It does not depend on the
        engine, the device or the dtype. For a folder it is made from the content of its files, which are read for it,
        once. Blocks like `model` and `dimension`.
        """
        return self._handle.space

    def describe(self) -> Description:
        """Return what this embedder is and why, without loading weights. Blocks like `space`.

        Raises:
            ConfigurationError: The engine cannot run here.
            EngineError: Only the server knows the model, and it cannot be asked.
        """
        settings, card = self.settings, self._handle.checkpoint.card
        route = self._handle.route
        device, dtype = placement(route, settings)
        return Description(
            model=card.id,
            revision=card.revision,
            engine=route.engine,
            reason=route.reason,
            device=device,
            dtype=dtype,
            dimension=self.dimension,
            modalities=card.modalities,
            max_tokens={} if settings.remote else {kind: card.max_tokens(kind) for kind in card.modalities},
            space=self.space,
        )

    def available_models(self) -> list[str]:
        """Return the models that could be asked for: those that are known, or of a remote engine the server's.

        Blocks on the server each time.

        Raises:
            EngineError: The server cannot be asked.
        """
        if not self.settings.remote:
            return [card.id for card in CATALOGUE]
        from nemovlm.engines.remote.discovery import served_models

        return [model.id for model in runtime.run(served_models(self.settings))]

    # Queries

    def embed_query(self, text: str) -> Vector:
        """Return the vector (d,) of a query.

        Raises:
            InputError: The text cannot be embedded.
            EngineError: The engine failed.
            CheckpointError: The weights cannot be loaded.
        """
        vector: Vector = self.embed_queries([text])[0]
        return vector

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors (n, d) of queries, in order.

        Raises:
            NemoVLMError: Like `embed_query`, naming the item.
        """
        return self._stack(self._stream(_queries(texts), "query"))

    async def aembed_query(self, text: str) -> Vector:
        """`embed_query` for async code."""
        vector: Vector = (await self.aembed_queries([text]))[0]
        return vector

    async def aembed_queries(self, texts: Sequence[str]) -> Vectors:
        """`embed_queries` for async code."""
        return self._stack([vector async for vector in self._astream(_queries(texts), "query")])

    # Passages

    def embed(
        self,
        items: Sequence[Embeddable | NemoVLMError],
        *,
        truncate: Truncate | None = None,
        progress: Progress | None = None,
    ) -> Vectors:
        """Return the vectors (n, d) of passages, in order.

        Args:
            items: A `str` is a text, never a path; a `Path`, a Pillow image or bytes are an image; a `Passage` may
                have both. An error stands for an item that failed before, and is raised in its turn.
            truncate: What to do with a text over the limit. Default: the setting.
            progress: Called with the items done and `len(items)`.

        Raises:
            InputError: An item cannot be embedded; the error names it.
            EngineError: The engine failed.
            CheckpointError: The weights cannot be loaded.
        """
        items = _sequence(items)
        return self._stack(self._stream(items, "passage", truncate, "raise", progress, len(items)))

    async def aembed(
        self,
        items: Sequence[Embeddable | NemoVLMError],
        *,
        truncate: Truncate | None = None,
        progress: Progress | None = None,
    ) -> Vectors:
        """`embed` for async code."""
        items = _sequence(items)
        vectors = self._astream(items, "passage", truncate, "raise", progress, len(items))
        return self._stack([vector async for vector in vectors])

    def stream(
        self,
        items: Iterable[Embeddable | NemoVLMError],
        *,
        on_error: OnError = "raise",
        truncate: Truncate | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Vector | None]:
        """Yield the vector (d,) of each passage, in order, reading `items` only as far ahead as keeps busy.

        Args:
            items: Like those of `embed`. One that is an error already goes the way of one that fails.
            on_error: With `"skip"`, or a function that is called with the error, an item that fails yields None, so
                that `zip(items, stream)` never pairs a vector with the wrong item.
            truncate: What to do with a text over the limit. Default: the setting.
            progress: Called with the items done, and None for their total.

        Raises:
            ConfigurationError: `on_error` is none of the policies.
            NemoVLMError: Like `embed`, unless `on_error` says otherwise.
        """
        check_on_error(on_error)
        return self._stream(items, "passage", truncate, on_error, progress)

    def astream(
        self,
        items: Iterable[Embeddable | NemoVLMError] | AsyncIterable[Embeddable | NemoVLMError],
        *,
        on_error: OnError = "raise",
        truncate: Truncate | None = None,
        progress: Progress | None = None,
    ) -> AsyncIterator[Vector | None]:
        """`stream` for async code. `items` may be async as well; a sync one is read in a worker thread."""
        check_on_error(on_error)
        return self._astream(items, "passage", truncate, on_error, progress)

    def stream_results(
        self, items: Iterable[_Pair[K]], *, truncate: Truncate | None = None
    ) -> Iterator[tuple[K, Result]]:
        """Yield (key, vector or error) for each (key, passage), in order: `stream` for whoever deals with errors.

        Args:
            items: Pairs of anything, and an item like those of `stream`.
            truncate: What to do with a text over the limit. Default: the setting.

        Raises:
            CheckpointError: The weights cannot be loaded.
            EngineError: The engine cannot work at all.
        """
        with closing(self._futures(items, "passage", truncate)) as futures:
            for future in futures:
                yield from runtime.wait(future)

    async def aembed_items(self, items: Sequence[Item]) -> list[Outcome]:
        """Return what the engine answers for each item: raw vectors and counts of tokens, or errors. For servers."""

        async def work() -> list[Outcome]:
            return await (await self._handle.engine()).embed(items)

        return await runtime.wait_async(runtime.submit(work()))

    # Life

    def close(self) -> None:
        """Give back memory and connections. Closing twice is harmless; a later use starts again."""
        runtime.run(self._handle.close())

    async def aclose(self) -> None:
        """`close` for async code."""
        await runtime.wait_async(runtime.submit(self._handle.close()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        checkpoint = self._handle.known_checkpoint
        return f"Embedder({checkpoint and checkpoint.card.id!r}, engine={self.settings.engine!r})"

    def __getstate__(self) -> Settings:
        return self.settings

    def __setstate__(self, settings: Settings) -> None:
        self._open(settings)

    # How it works: chunks go to the private loop, and their results come back in order

    def _stream(
        self,
        items: Iterable[Embeddable | NemoVLMError],
        role: Role,
        truncate: Truncate | None = None,
        on_error: OnError = "raise",
        progress: Progress | None = None,
        total: int | None = None,
    ) -> Iterator[Vector | None]:
        done = 0
        with closing(self._futures(((None, item) for item in items), role, truncate)) as futures:
            for future in futures:
                for _, result in runtime.wait(future):
                    yield apply_on_error(result, on_error)
                    done += 1
                if progress:
                    progress(done, total)

    async def _astream(
        self,
        items: Iterable[Embeddable | NemoVLMError] | AsyncIterable[Embeddable | NemoVLMError],
        role: Role,
        truncate: Truncate | None = None,
        on_error: OnError = "raise",
        progress: Progress | None = None,
        total: int | None = None,
    ) -> AsyncIterator[Vector | None]:
        done = 0
        async with aclosing(self._afutures(items, role, truncate)) as futures:
            async for future in futures:
                for _, result in await runtime.wait_async(future):
                    yield apply_on_error(result, on_error)
                    done += 1
                if progress:
                    progress(done, total)

    def _futures(
        self, items: Iterable[_Pair[K]], role: Role, truncate: Truncate | None
    ) -> Generator[Future[_Results[K]], None, None]:
        """Yield a future for every chunk, a few of them submitted ahead."""
        window: Window[_Pair[K], _Results[K]] = self._window(role, truncate)
        with window, closing(iter_chunks(items, lambda pair: weigh(pair[1]))) as chunks:
            for chunk in chunks:
                yield from window.push(chunk)
            yield from window.rest()

    async def _afutures(
        self,
        items: Iterable[Embeddable | NemoVLMError] | AsyncIterable[Embeddable | NemoVLMError],
        role: Role,
        truncate: Truncate | None,
    ) -> AsyncGenerator[Future[_Results[None]], None]:
        window: Window[_Pair[None], _Results[None]] = self._window(role, truncate)
        with window:
            async with aclosing(aiter_chunks(items, weigh)) as chunks:
                async for chunk in chunks:
                    pairs = chunk if isinstance(chunk, Exception) else [(None, item) for item in chunk]
                    for future in window.push(pairs):
                        yield future
            for future in window.rest():
                yield future

    def _window(self, role: Role, truncate: Truncate | None) -> Window[_Pair[K], _Results[K]]:
        settings = self._handle.settings
        how = truncate or settings.truncate
        most = min(settings.max_concurrency, _CHUNKS_AHEAD_REMOTE) if settings.remote else _CHUNKS_AHEAD
        return Window(lambda chunk, start: runtime.submit(self._embed_chunk(chunk, start, role, how)), most)

    async def _embed_chunk(self, chunk: Sequence[_Pair[K]], start: int, role: Role, truncate: Truncate) -> _Results[K]:
        checked = [_check(item, role, truncate) for _, item in chunk]
        good = [item for item in checked if isinstance(item, Item)]
        answers = await (await self._handle.engine()).embed(good) if good else []
        if len(answers) != len(good):
            raise EngineError(f"the engine answered for {len(answers)} of {len(good)} items; nothing was kept of them")
        answer = iter(answers)
        results: _Results[K] = []
        for index, ((key, item), entry) in enumerate(zip(chunk, checked, strict=True), start):
            result = self._finish(next(answer) if isinstance(entry, Item) else entry)
            if isinstance(result, NemoVLMError):
                result.at((isinstance(item, Passage) and item.label) or f"item {index}", index)
            results.append((key, result))
        return results

    def _finish(self, outcome: Outcome) -> Result:
        if isinstance(outcome, NemoVLMError):
            return outcome
        result = normalize(outcome.vector, native=self._handle.native_dimension, dimensions=self._handle.dimension)
        if not isinstance(result, NemoVLMError):
            self._usage = Usage(self._usage.items + 1, self._usage.tokens + outcome.tokens)
        return result

    def _stack(self, vectors: Iterable[Vector | None]) -> Vectors:
        rows = [vector for vector in vectors if vector is not None]
        return np.stack(rows) if rows else np.empty((0, self.dimension), dtype=np.float32)


class _WithSettings:
    """A docstring with all settings at its end, put together when somebody asks for it."""

    def __init__(self, docstring: str | None) -> None:
        self._docstring = docstring

    def __get__(self, *_: object) -> str | None:
        if self._docstring is None:  # with `python -OO`
            return None
        settings = [f"{name}: {text}" for name, text in field_descriptions().items() if name != "model"]
        lines = (fill(line, 112, initial_indent=" " * 8, subsequent_indent=" " * 12) for line in settings)
        return "\n".join([f"{self._docstring.rstrip()}\n\n    The settings:", *lines])


Embedder.__doc__ = _WithSettings(Embedder.__doc__)  # type: ignore[assignment] # Python asks it, as any descriptor


def _check(item: Embeddable | NemoVLMError, role: Role, truncate: Truncate) -> Item | NemoVLMError:
    if isinstance(item, NemoVLMError):
        return item
    try:
        passage = as_passage(item)
    except NemoVLMError as error:
        return error
    return Item(role, "" if passage.modality == "image" else passage.text or "", passage.image, truncate)


def _sequence(items: Sequence[Any]) -> list[Any]:
    if isinstance(items, str | bytes | bytearray | memoryview | Path | Passage) or hasattr(items, "read"):
        raise InputError(f"pass a list of items, not a single {type(items).__name__}: embed([item])")
    return list(items)


def _queries(texts: Sequence[str]) -> list[str]:
    texts = _sequence(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"a query is a text, not a {type(text).__name__}; embed images with embed()").at(
                f"item {index}", index
            )
    return texts
