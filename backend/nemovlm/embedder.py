"""`Embedder`: the one door to every engine.

It turns what users pass into checked items, sends them off in windows of bounded size, and lets nothing out
that is not a proper embedding of the right item. It knows no protocol, no model code and no framework.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np

from nemovlm import runtime
from nemovlm.engines.base import Engine, Item, finish
from nemovlm.errors import ConfigurationError, EngineError, InputError, NemoVLMError
from nemovlm.images import load_image
from nemovlm.inputs import Embeddable, Modality, OnError, Passage, Role, Truncate, Vector, as_passage, leave_out
from nemovlm.models.checkpoint import find_checkpoint
from nemovlm.models.tiling import Tiling
from nemovlm.router import build_engine, choose_engine
from nemovlm.settings import DtypeName, EngineName, Settings
from nemovlm.windows import drain, windows

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the number of items done so far, and with their total where it is known."""

_Results: TypeAlias = list[Vector | NemoVLMError]
_Futures: TypeAlias = Generator[Future[_Results], None, None]

# While one window is computed, the next is prepared and the one after it is read.
_WINDOWS_AHEAD = 2


@dataclass(frozen=True)
class Description:
    """What an `Embedder` is, and why it came to be so."""

    model: str
    revision: str | None
    engine: EngineName
    reason: str
    device: str
    dtype: str
    dimension: int
    modalities: tuple[Modality, ...]
    max_tokens: dict[Modality, int]
    space: str


class Embedder:
    """Embeds queries and passages with one model on one engine.

    Every vector is float32, finite and of unit length, so a dot product is the cosine similarity. Sync and
    async methods do the same work on one private event loop; an instance may be shared by threads, used in
    any number of `asyncio.run`, pickled, and carried into a forked child, which loads the model anew.

    The constructor opens no connection, loads no weights and starts no thread; the first use does, once.

    Args:
        model: A model id of the catalogue (`nemovlm models`), or a folder with a checkpoint. Default:
            `NEMOVLM_MODEL`.
        revision: The commit of the hub repository, where the catalogue's own is not wanted.
        engine: `"auto"` (default), `"transformers"`, `"vllm"`, `"nim"` or `"vllm-server"`.
        base_url: The address of a remote engine.
        api_key: Its key. Never shown, never logged.
        dimensions: Keep the first so many components. Default: all.
        truncate: `"NONE"` (default: a text over the limit is an error), `"END"` or `"START"`.
        max_tokens: A lower limit than the model's own.
        max_tiles: Tiles an image may be cut into. Default: the model's own.
        device: `"auto"` (default), `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`.
        dtype: `"auto"` (default: bfloat16 on a GPU that has it, else float32), `"float32"`, ...
        batch_tokens: Tokens in one forward pass. Default: by device.

    Every argument is read from `NEMOVLM_<NAME>` in the environment where it is None.

    Raises:
        ConfigurationError: A setting is wrong; `UnknownModelError` for the model, with the nearest known id.
        CheckpointError: The folder is no checkpoint.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        revision: str | None = None,
        engine: EngineName | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        dimensions: int | None = None,
        truncate: Truncate | None = None,
        max_tokens: int | None = None,
        max_tiles: int | None = None,
        device: str | None = None,
        dtype: DtypeName | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self._open(
            Settings.given(
                model=None if model is None else str(model),
                revision=revision,
                engine=engine,
                base_url=base_url,
                api_key=api_key,
                dimensions=dimensions,
                truncate=truncate,
                max_tokens=max_tokens,
                max_tiles=max_tiles,
                device=device,
                dtype=dtype,
                batch_tokens=batch_tokens,
            )
        )

    def _open(self, settings: Settings) -> None:
        if settings.model is None:
            raise ConfigurationError(
                "no model was chosen: pass a model id (see `nemovlm models`) or a folder, or set NEMOVLM_MODEL; "
                "'nemovlm/pocket' needs no download"
            )
        checkpoint = find_checkpoint(settings.model, settings.revision)
        if settings.max_tiles and checkpoint.card.tiling:
            tiling = replace(checkpoint.card.tiling, max_tiles=settings.max_tiles)
            checkpoint = replace(checkpoint, card=replace(checkpoint.card, tiling=tiling))
        if checkpoint.folder and not checkpoint.card.revision:
            settings = settings.model_copy(update={"model": str(checkpoint.folder)})  # right in another folder too
        self._settings = settings
        self._checkpoint = checkpoint
        self._card = checkpoint.card
        self._engine_task: asyncio.Task[Engine] | None = None
        if (settings.dimensions or 0) > self._card.dimension:
            raise ConfigurationError(
                f"dimensions={settings.dimensions} is more than the {self._card.dimension} that {self._card.id} has"
            )

    # What it is

    @property
    def settings(self) -> Settings:
        """The settings that it was made with, whether given or read from the environment."""
        return self._settings

    @property
    def model(self) -> str:
        """The id of the model, or the name of its folder."""
        return self._card.id

    @property
    def dimension(self) -> int:
        """Components of a vector."""
        return self._settings.dimensions or self._card.dimension

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The kinds of passage that the model takes: `text`, and for a model with eyes `image` and `text_image`."""
        return self._card.modalities

    @property
    def tiling(self) -> Tiling | None:
        """How the model cuts images, or None if it reads text only."""
        return self._card.tiling

    @property
    def space(self) -> str:
        """The name of the vector space: weights, dimensions and tiles.

        Vectors may be compared if, and only if, their spaces are the same string. It does not depend on the
        engine, the device or the dtype. For a folder it is made from the content of its files.
        """
        tiles = f";tiles={self._card.tiling.max_tiles}" if self._card.tiling else ""
        return f"{self._checkpoint.identity};dimensions={self.dimension}{tiles};prompts=1"

    def describe(self) -> Description:
        """Return what this embedder is and why, without loading weights."""
        route = choose_engine(self._settings)
        engine = build_engine(route, self._checkpoint, self._settings)
        return Description(
            model=self._card.id,
            revision=self._card.revision,
            engine=route.engine,
            reason=route.reason,
            device=engine.device,
            dtype=engine.dtype,
            dimension=self.dimension,
            modalities=self.modalities,
            max_tokens={modality: self._card.max_tokens(modality) for modality in self.modalities},
            space=self.space,
        )

    # Queries

    def embed_query(self, text: str) -> Vector:
        """Return the vector (d,) of a query. Raises `InputError`, `EngineError`, `CheckpointError`."""
        vector: Vector = self.embed_queries([text])[0]
        return vector

    def embed_queries(self, texts: Sequence[str]) -> Vector:
        """Return the vectors (n, d) of queries, in order. Raises like `embed_query`, naming the item."""
        return self._stack(self._results(_queries(texts), "query"))

    async def aembed_query(self, text: str) -> Vector:
        """`embed_query` for async code."""
        vector: Vector = (await self.aembed_queries([text]))[0]
        return vector

    async def aembed_queries(self, texts: Sequence[str]) -> Vector:
        """`embed_queries` for async code."""
        return self._stack([vector async for vector in self._aresults(_queries(texts), "query")])

    # Passages

    def embed(
        self,
        items: Sequence[Embeddable],
        *,
        truncate: Truncate | None = None,
        progress: Progress | None = None,
    ) -> Vector:
        """Return the vectors (n, d) of passages, in order.

        A `str` is a text, never a path; a `Path`, a Pillow image or bytes are an image; a `Passage` may have
        both. Raises `InputError`, `EngineError`, `CheckpointError`, the first two naming the item.
        """
        items = _sequence(items)
        return self._stack(self._results(items, "passage", truncate, "raise", progress, len(items)))

    async def aembed(
        self,
        items: Sequence[Embeddable],
        *,
        truncate: Truncate | None = None,
        progress: Progress | None = None,
    ) -> Vector:
        """`embed` for async code."""
        items = _sequence(items)
        results = self._aresults(items, "passage", truncate, "raise", progress, len(items))
        return self._stack([vector async for vector in results])

    def stream(
        self,
        items: Iterable[Embeddable],
        *,
        on_error: OnError = "raise",
        truncate: Truncate | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Vector | None]:
        """Yield the vector (d,) of each passage, in order, reading `items` only as far ahead as keeps busy.

        With `on_error="skip"`, or a function that is called with the error, an item that fails yields None, so
        that `zip(items, stream)` never pairs a vector with the wrong item.
        """
        return self._results(items, "passage", truncate, on_error, progress)

    def astream(
        self,
        items: Iterable[Embeddable] | AsyncIterable[Embeddable],
        *,
        on_error: OnError = "raise",
        truncate: Truncate | None = None,
        progress: Progress | None = None,
    ) -> AsyncIterator[Vector | None]:
        """`stream` for async code. `items` may be async as well; a sync one is read in a worker thread."""
        return self._aresults(items, "passage", truncate, on_error, progress)

    # Life

    def close(self) -> None:
        """Give back memory and connections. Closing twice is harmless; a later use starts again."""
        runtime.wait(runtime.submit(self._stop()))

    async def aclose(self) -> None:
        """`close` for async code."""
        await runtime.wait_async(runtime.submit(self._stop()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"Embedder({self._card.id!r}, engine={self._settings.engine!r}, dimension={self.dimension})"

    def __getstate__(self) -> Settings:
        return self._settings

    def __setstate__(self, settings: Settings) -> None:
        self._open(settings)

    # How it works: windows go to the private loop, their outcomes come back in order

    def _results(
        self,
        items: Iterable[Embeddable],
        role: Role,
        truncate: Truncate | None = None,
        on_error: OnError = "raise",
        progress: Progress | None = None,
        total: int | None = None,
    ) -> Iterator[Vector | None]:
        done = 0
        with closing(self._submitted(items, role, truncate)) as futures:
            for future in futures:
                for outcome in runtime.wait(future):
                    yield _settle(outcome, on_error)
                    done += 1
                if progress:
                    progress(done, total)

    async def _aresults(
        self,
        items: Iterable[Embeddable] | AsyncIterable[Embeddable],
        role: Role,
        truncate: Truncate | None = None,
        on_error: OnError = "raise",
        progress: Progress | None = None,
        total: int | None = None,
    ) -> AsyncIterator[Vector | None]:
        done = 0
        if isinstance(items, AsyncIterable):
            items = drain(items, asyncio.get_running_loop())
        with closing(self._submitted(items, role, truncate)) as futures:
            while (future := await asyncio.to_thread(next, futures, None)) is not None:
                for outcome in await runtime.wait_async(future):
                    yield _settle(outcome, on_error)
                    done += 1
                if progress:
                    progress(done, total)

    def _submitted(self, items: Iterable[Embeddable], role: Role, truncate: Truncate | None) -> _Futures:
        """Yield a future for every window, a few of them submitted ahead.

        If reading `items` fails, what was read before is still yielded; if the reader stops, the rest is
        cancelled.
        """
        pending: deque[Future[_Results]] = deque()
        start = 0
        try:
            for window in windows(items):
                work = self._embed_window(window, start, role, truncate or self._settings.truncate)
                pending.append(runtime.submit(work))
                start += len(window)
                if len(pending) > _WINDOWS_AHEAD:
                    yield pending.popleft()
            while pending:
                yield pending.popleft()
        except Exception:
            while pending:
                yield pending.popleft()
            raise
        finally:
            for future in pending:
                future.cancel()

    async def _embed_window(self, window: Sequence[Embeddable], start: int, role: Role, truncate: Truncate) -> _Results:
        engine = await self._engine()
        checked = await asyncio.to_thread(lambda: [_check(item, role, truncate) for item in window])
        good = [item for item in checked if isinstance(item, Item)]
        answers = await engine.embed(good) if good else []
        if len(answers) != len(good):
            raise EngineError(f"the engine answered for {len(answers)} of {len(good)} items; nothing was kept of them")
        answer = iter(answers)
        results: _Results = []
        for offset, (item, entry) in enumerate(zip(checked, window, strict=True)):
            outcome = next(answer) if isinstance(item, Item) else item
            result = finish(outcome, full=self._card.dimension, dimensions=self.dimension)
            if isinstance(result, NemoVLMError):
                result.at((isinstance(entry, Passage) and entry.label) or f"item {start + offset}")
            results.append(result)
        return results

    async def _engine(self) -> Engine:
        """Return the running engine, starting it on first use. Only the private loop comes here: no lock."""
        task = self._engine_task
        # A task of another loop is one that was inherited through a fork; a failed start is tried again.
        if task is None or task.get_loop() is not asyncio.get_running_loop() or (task.done() and task.exception()):
            task = self._engine_task = asyncio.create_task(self._start())
        return await asyncio.shield(task)

    async def _start(self) -> Engine:
        engine = await asyncio.to_thread(
            lambda: build_engine(choose_engine(self._settings), self._checkpoint, self._settings)
        )
        await engine.start()
        return engine

    async def _stop(self) -> None:
        task, self._engine_task = self._engine_task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            with suppress(NemoVLMError):  # an engine that could not start has nothing to close
                await (await task).close()

    def _stack(self, vectors: Iterable[Vector | None]) -> Vector:
        rows = [vector for vector in vectors if vector is not None]
        return np.stack(rows) if rows else np.empty((0, self.dimension), dtype=np.float32)


def _check(item: Embeddable, role: Role, truncate: Truncate) -> Item | NemoVLMError:
    try:
        passage = as_passage(item)
        image = None if passage.image is None else load_image(passage.image)
    except NemoVLMError as error:
        return error
    return Item(role, "" if passage.modality == "image" else passage.text or "", image, truncate)


def _settle(outcome: Vector | NemoVLMError, on_error: OnError) -> Vector | None:
    if not isinstance(outcome, NemoVLMError):
        return outcome
    leave_out(outcome, on_error)
    return None


def _sequence(items: Sequence[Embeddable]) -> Sequence[Embeddable]:
    if isinstance(items, (str, bytes, Path, Passage)):
        raise InputError(f"pass a list of items, not a single {type(items).__name__}: embed([item])")
    return list(items)


def _queries(texts: Sequence[str]) -> Sequence[str]:
    _sequence(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"a query is a text, not a {type(text).__name__}; embed images with embed()").at(
                f"item {index}"
            )
    return texts
