"""The life of one engine: which model it runs, started on first use and once a process, closed or let go of."""

import asyncio
import logging
import os
import weakref
from contextlib import suppress

from nemovlm import runtime
from nemovlm.engines.base import OtherServerError, RunningEngine
from nemovlm.engines.cached import CachedEngine
from nemovlm.engines.choice import Route, build_engine, choose_engine
from nemovlm.errors import ConfigurationError, ModelNotServedError, NemoVLMError
from nemovlm.inputs import Item
from nemovlm.models.catalogue import DEFAULT_MODEL
from nemovlm.models.checkpoint import Checkpoint, find_checkpoint
from nemovlm.models.families import family_of
from nemovlm.settings import Settings

_log = logging.getLogger("nemovlm")


class EngineHandle:
    """The engine of one `Embedder`, and the model that it runs.

    Making it loads nothing and opens no connection. Its coroutines run on the private loop of `nemovlm.runtime`.

    Args:
        settings: What the user chose. Where nobody chose a model, the server is asked for one when the engine starts.

    Raises:
        ConfigurationError: There is no model, or `dimensions` is more than it has.
        CheckpointError: The folder is no checkpoint.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        """As the user gave them, with the model that was found since."""
        self.known_checkpoint: Checkpoint | None = None
        """None until the server has told its model."""
        self.native_dimension: int | None = None
        """Numbers in a vector of the engine's, before `dimensions` are cut. None until a server was asked."""
        self._task: asyncio.Task[RunningEngine] | None = None
        self._finalizer: weakref.finalize[..., object] | None = None
        self._route: Route | None = None
        if settings.model is None and any(address.hosted for address in settings.addresses):
            settings = settings.model_copy(update={"model": DEFAULT_MODEL})
        if settings.model is not None:
            self._set_checkpoint(settings, find_checkpoint(settings.model, settings.revision, served=settings.remote))
        elif not settings.remote:
            raise ConfigurationError(
                "no model was chosen: pass a model id (see `nemovlm models`) or a folder, or set NEMOVLM_MODEL; "
                "'nemovlm/pocket' needs no download"
            )

    def _set_checkpoint(self, settings: Settings, checkpoint: Checkpoint) -> None:
        checkpoint = checkpoint.with_max_tiles(settings.max_tiles)
        if checkpoint.folder and not checkpoint.card.revision:
            settings = settings.model_copy(update={"model": str(checkpoint.folder)})  # right in another folder too
        self.settings, self.known_checkpoint = settings, checkpoint
        self.native_dimension = checkpoint.card.dimension
        if settings.dimensions and self.native_dimension and settings.dimensions > self.native_dimension:
            raise ConfigurationError(
                f"dimensions={settings.dimensions} is more than the {self.native_dimension} that "
                f"{checkpoint.card.id} has"
            )

    @property
    def checkpoint(self) -> Checkpoint:
        """The model. Blocks on the server, once, where only it knows.

        Raises:
            EngineError: The server cannot be asked, or has no model.
        """
        if self.known_checkpoint is None:
            runtime.run(self.engine())
        assert self.known_checkpoint  # noqa: S101 - an engine does not start without
        return self.known_checkpoint

    @property
    def route(self) -> Route:
        """Which engine it is and why: as it was started, or else as it would be, as far as that is known.

        Raises:
            MissingExtraError: None can be had.
        """
        return self._route or choose_engine(self.settings)

    @property
    def dimension(self) -> int:
        """Numbers in a vector that comes out. Blocks on the server, once, where only it knows.

        Raises:
            EngineError: The server cannot be asked.
        """
        if not self._known_dimension:
            runtime.run(self.engine())
        assert self._known_dimension  # noqa: S101 - an engine does not start without
        return self._known_dimension

    @property
    def _known_dimension(self) -> int | None:
        return self.settings.dimensions or self.native_dimension

    @property
    def space(self) -> str:
        """The fingerprint of the vector space. Blocks like `checkpoint` and `dimension`."""
        checkpoint, kind = self.checkpoint, self.settings.embedding_type
        vision, prompts = checkpoint.card.vision, family_of(checkpoint.card.architecture).prompt_version
        parts = [checkpoint.identity, f"dimensions={self.dimension}"]
        parts += [vision.fingerprint] if vision else []
        parts += [f"prompts={prompts}"]
        parts += [kind] if kind != "float" else []
        return ";".join(parts)

    async def engine(self) -> RunningEngine:
        """Return the running engine, starting it on first use.

        Raises:
            NemoVLMError: It cannot start. The next call tries again.
        """
        task = self._task  # only the private loop comes here: no lock
        # A task of another loop is one that was inherited through a fork.
        if task is None or task.get_loop() is not asyncio.get_running_loop() or _failed(task):
            task = self._task = asyncio.create_task(self._start())
            # Frameworks drop what they use without closing it.
            self._finalizer = weakref.finalize(self, _let_go, task, os.getpid())
            self._finalizer.atexit = False
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Give back memory and connections. The next use starts the engine again."""
        task, self._task = self._task, None
        if task is not None and self._finalizer is not None:
            self._finalizer.detach()
            await _close(task)

    async def _start(self) -> RunningEngine:
        if self.known_checkpoint is None:
            name = await self._served_model()
            settings = self.settings.model_copy(update={"model": name})
            await asyncio.to_thread(lambda: self._set_checkpoint(settings, find_checkpoint(name, served=True)))
        engine = await self._start_engine(await asyncio.to_thread(choose_engine, self.settings))
        try:
            if not self._known_dimension:
                self.native_dimension = await _learn_dimension(engine)
            if (cache := self.settings.cache) is None:
                return engine
            dimensions = {number for number in (self.native_dimension, self.settings.dimensions) if number}
            space = await asyncio.to_thread(lambda: self.space)  # of a folder it is made by reading it
            return CachedEngine(engine, cache, space, dimensions)
        except BaseException:
            await engine.close()
            raise

    async def _start_engine(self, route: Route) -> RunningEngine:
        """Start the engine of `route`, or the one that the servers turn out to be for, unless it was chosen."""
        engine = await asyncio.to_thread(lambda: build_engine(route, self.checkpoint, self.settings))
        try:
            await engine.start()
        except OtherServerError as other:
            if self.settings.engine != "auto" or other.engine is None or self.settings.embedding_type != "float":
                raise
            _log.warning("engine %s is taken, because %s", other.engine, other.reason)
            return await self._start_engine(Route(other.engine, other.reason))
        self._route = route
        return engine

    async def _served_model(self) -> str:
        """Return the model to ask a server for if nobody chose one: the first that is no variant of another."""
        from nemovlm.engines.remote.discovery import served_models

        served = await served_models(self.settings)
        if not served:
            raise ModelNotServedError("no model was chosen, and the server has none: pass model")
        return next((model.id for model in served if model.id == model.root), served[0].id)


def _failed(task: asyncio.Task[RunningEngine]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


async def _learn_dimension(engine: RunningEngine) -> int:
    (outcome,) = await engine.embed([Item("query", "dimension", None, "END")])
    if isinstance(outcome, NemoVLMError):
        raise outcome
    return outcome.vector.size


async def _close(task: asyncio.Task[RunningEngine]) -> None:
    if task.get_loop() is asyncio.get_running_loop():
        with suppress(NemoVLMError):  # an engine that could not start has nothing to close
            await (await task).close()


def _let_go(task: asyncio.Task[RunningEngine], process: int) -> None:
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
