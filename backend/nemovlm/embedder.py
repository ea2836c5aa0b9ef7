"""`Embedder`: the one door to every engine.

It turns what users pass into checked items, sends them off in windows of bounded size, and lets nothing out
that is not a proper embedding of the right item. It knows no protocol, no model code and no framework.
"""

import asyncio
import os
import weakref
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias, Unpack

import numpy as np

from nemovlm import runtime
from nemovlm.engines.base import Engine, Item, Outcome, finish
from nemovlm.engines.cached import CachedEngine
from nemovlm.errors import ConfigurationError, EngineError, InputError, ModelNotServedError, NemoVLMError
from nemovlm.inputs import (
    Embeddable,
    Modality,
    OnError,
    Passage,
    Role,
    Truncate,
    Vector,
    as_passage,
    check_on_error,
    leave_out,
)
from nemovlm.models.catalogue import CATALOGUE, DEFAULT_MODEL, ModelCard
from nemovlm.models.checkpoint import Checkpoint, find_checkpoint
from nemovlm.models.tiling import Tiling
from nemovlm.router import build_engine, choose_engine
from nemovlm.settings import EngineName, Options, Settings
from nemovlm.windows import drain, windows

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the number of items done so far, and with their total where it is known."""

_Results: TypeAlias = list[Vector | NemoVLMError]
_Futures: TypeAlias = Generator[Future[_Results], None, None]

# While one window is computed, the next is prepared and the one after it is read.
_WINDOWS_AHEAD = 2
# A server computes several requests at once, and pages make one request a window.
_WINDOWS_AHEAD_REMOTE = 8


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
    """Empty where a server decides."""
    space: str


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
        knobs: `engine`, `base_url`, `api_key`, `dimensions`, `truncate` and all others of
            `nemovlm.settings.Knobs`, which describes each. One that is None is read from `NEMOVLM_<NAME>` in the
            environment.

    Raises:
        ConfigurationError: A setting is wrong; `UnknownModelError` for the model, with the nearest known id.
        CheckpointError: The folder is no checkpoint.
    """

    def __init__(self, model: str | Path | None = None, **knobs: Unpack[Options]) -> None:
        self._open(Settings.given(model=None if model is None else str(model), **knobs))

    def _open(self, settings: Settings) -> None:
        self._settings = settings
        self._usage = Usage()
        self._engine_task: asyncio.Task[Engine] | None = None
        self._finalizer: weakref.finalize[..., object] | None = None
        self._found: Checkpoint | None = None
        self._full: int | None = None
        if settings.model is None and any(address.hosted for address in settings.addresses):
            settings = settings.model_copy(update={"model": DEFAULT_MODEL})
        if settings.model is not None:
            self._take(settings, find_checkpoint(settings.model, settings.revision, served=settings.remote))
        elif not settings.remote:
            raise ConfigurationError(
                "no model was chosen: pass a model id (see `nemovlm models`) or a folder, or set NEMOVLM_MODEL; "
                "'nemovlm/pocket' needs no download"
            )

    def _take(self, settings: Settings, checkpoint: Checkpoint) -> None:
        checkpoint = checkpoint.coarser(settings.max_tiles)
        if checkpoint.folder and not checkpoint.card.revision:
            settings = settings.model_copy(update={"model": str(checkpoint.folder)})  # right in another folder too
        self._settings, self._found, self._full = settings, checkpoint, checkpoint.card.dimension
        if settings.dimensions and self._full and settings.dimensions > self._full:
            raise ConfigurationError(
                f"dimensions={settings.dimensions} is more than the {self._full} that {checkpoint.card.id} has"
            )

    @property
    def _checkpoint(self) -> Checkpoint:
        if self._found is None:  # nobody named the model: its server does
            runtime.wait(runtime.submit(self._engine()))
        assert self._found  # noqa: S101 - an engine does not start without
        return self._found

    @property
    def _card(self) -> ModelCard:
        return self._checkpoint.card

    # What it is

    @property
    def settings(self) -> Settings:
        """The settings that it was made with, whether given or read from the environment."""
        return self._settings

    @property
    def model(self) -> str:
        """The id of the model, or the name of its folder. If nobody chose one, the server is asked what it has."""
        return self._card.id

    @property
    def dimension(self) -> int:
        """Components of a vector. Of a model that only its server knows, the server is asked, once."""
        if not self._components:
            runtime.wait(runtime.submit(self._engine()))
        assert self._components  # noqa: S101 - an engine does not start without
        return self._components

    @property
    def _components(self) -> int | None:
        return self._settings.dimensions or self._full

    @property
    def usage(self) -> Usage:
        """What was embedded so far, by this object in this process."""
        return self._usage

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
        kind = self._settings.embedding_type
        exactness = "" if kind == "float" else f";{kind}"
        return f"{self._checkpoint.identity};dimensions={self.dimension}{tiles};prompts=1{exactness}"

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
            max_tokens={}
            if self._settings.remote
            else {modality: self._card.max_tokens(modality) for modality in self.modalities},
            space=self.space,
        )

    def available_models(self) -> list[str]:
        """Return the models that could be asked for: those of the server, or those that are known of a local engine.

        Raises `EngineError`.
        """
        if not self._settings.remote:
            return [card.id for card in CATALOGUE]
        from nemovlm.engines.http import served_models

        return [model.id for model in runtime.wait(runtime.submit(served_models(self._settings)))]

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
        check_on_error(on_error)
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
        check_on_error(on_error)
        return self._aresults(items, "passage", truncate, on_error, progress)

    async def aembed_items(self, items: Sequence[Item]) -> list[Outcome]:
        """Return what the engine answers for each item: raw vectors and counts of tokens, or errors. For servers."""

        async def work() -> list[Outcome]:
            return await (await self._engine()).embed(items)

        return await runtime.wait_async(runtime.submit(work()))

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
        return f"Embedder({self._found.card.id if self._found else None!r}, engine={self._settings.engine!r})"

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
        ahead = min(self._settings.max_concurrency, _WINDOWS_AHEAD_REMOTE) if self._settings.remote else _WINDOWS_AHEAD
        start = 0
        try:
            for window in windows(items):
                work = self._embed_window(window, start, role, truncate or self._settings.truncate)
                pending.append(runtime.submit(work))
                start += len(window)
                if len(pending) > ahead:
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
        checked = [_check(item, role, truncate) for item in window]
        good = [item for item in checked if isinstance(item, Item)]
        answers = await engine.embed(good) if good else []
        if len(answers) != len(good):
            raise EngineError(f"the engine answered for {len(answers)} of {len(good)} items; nothing was kept of them")
        answer = iter(answers)
        results: _Results = []
        for offset, (item, entry) in enumerate(zip(checked, window, strict=True)):
            result = self._finish(next(answer) if isinstance(item, Item) else item)
            if isinstance(result, NemoVLMError):
                result.at((isinstance(entry, Passage) and entry.label) or f"item {start + offset}", start + offset)
            results.append(result)
        return results

    def _finish(self, outcome: Outcome) -> Vector | NemoVLMError:
        if isinstance(outcome, NemoVLMError):
            return outcome
        result = finish(outcome.vector, full=self._full, dimensions=self.dimension)
        if not isinstance(result, NemoVLMError):
            self._usage = Usage(self._usage.items + 1, self._usage.tokens + outcome.tokens)
        return result

    async def _engine(self) -> Engine:
        """Return the running engine, starting it on first use. Only the private loop comes here: no lock."""
        task = self._engine_task
        # A task of another loop is one that was inherited through a fork; a failed start is tried again.
        if task is None or task.get_loop() is not asyncio.get_running_loop() or (task.done() and task.exception()):
            task = self._engine_task = asyncio.create_task(self._start())
            # Frameworks drop what they use without closing it.
            self._finalizer = weakref.finalize(self, _let_go, task, os.getpid())
            self._finalizer.atexit = False
        return await asyncio.shield(task)

    async def _start(self) -> Engine:
        if self._found is None:
            name = await self._served_model()
            self._take(self._settings.model_copy(update={"model": name}), find_checkpoint(name, served=True))
        engine = await asyncio.to_thread(
            lambda: build_engine(choose_engine(self._settings), self._checkpoint, self._settings)
        )
        await engine.start()
        if not self._components:
            try:
                self._full = await _learn_dimension(engine)
            except BaseException:
                await engine.close()
                raise
        if (cache := self._settings.cache) is not None:
            sizes = {size for size in (self._full, self._settings.dimensions) if size}
            return CachedEngine(engine, cache, self.space, sizes)
        return engine

    async def _served_model(self) -> str:
        """Return the model to ask a server for if nobody chose one: the first that is no variant of another."""
        from nemovlm.engines.http import served_models

        served = await served_models(self._settings)
        if not served:
            raise ModelNotServedError("no model was chosen, and the server has none: pass model")
        return next((model.id for model in served if model.id == model.root), served[0].id)

    async def _stop(self) -> None:
        task, self._engine_task = self._engine_task, None
        if task is not None and self._finalizer is not None:
            self._finalizer.detach()
            await _close(task)

    def _stack(self, vectors: Iterable[Vector | None]) -> Vector:
        rows = [vector for vector in vectors if vector is not None]
        return np.stack(rows) if rows else np.empty((0, self.dimension), dtype=np.float32)


async def _close(task: asyncio.Task[Engine]) -> None:
    if task.get_loop() is asyncio.get_running_loop():
        with suppress(NemoVLMError):  # an engine that could not start has nothing to close
            await (await task).close()


def _let_go(task: asyncio.Task[Engine], process: int) -> None:
    """Close an engine that nobody has any more, from whatever thread; a forked child has nothing to close."""
    if os.getpid() == process:
        task.get_loop().call_soon_threadsafe(lambda: _keep(asyncio.create_task(_close(task))))


_closing: set[asyncio.Task[None]] = set()  # a loop alone would let tasks be collected


def _keep(closing: asyncio.Task[None]) -> None:
    _closing.add(closing)
    closing.add_done_callback(_forget)


def _forget(closing: asyncio.Task[None]) -> None:
    _closing.discard(closing)
    if not closing.cancelled():
        closing.exception()  # seen to: when Python ends, threads are gone before engines, and nobody is left to be told


async def _learn_dimension(engine: Engine) -> int:
    (outcome,) = await engine.embed([Item("query", "dimension", None, "END")])
    if isinstance(outcome, NemoVLMError):
        raise outcome
    return outcome.vector.size


def _check(item: Embeddable, role: Role, truncate: Truncate) -> Item | NemoVLMError:
    try:
        passage = as_passage(item)
    except NemoVLMError as error:
        return error
    return Item(role, "" if passage.modality == "image" else passage.text or "", passage.image, truncate)


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
