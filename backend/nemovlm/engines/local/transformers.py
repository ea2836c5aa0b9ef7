"""The local engine on torch and transformers: CPU, CUDA or MPS.

Items are prepared in worker threads, and computed on a thread of their own, in batches that are filled by tokens and
not by count. How a model is fed, its family knows.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TypeVar

from nemovlm.engines.base import Answer, Outcome, Placement
from nemovlm.engines.local.batching import next_batch
from nemovlm.engines.pipeline import Pipeline
from nemovlm.errors import EngineError, MissingExtraError, one_line
from nemovlm.models.base import ModelInput
from nemovlm.models.checkpoint import Checkpoint
from nemovlm.models.families import family_of
from nemovlm.settings import Settings
from nemovlm.threads import ThreadPool

try:
    import torch

    from nemovlm.engines.local.devices import pick_device, pick_dtype
except ImportError as missing:
    raise MissingExtraError("the transformers engine", "local") from missing

# Families import these when a model is loaded, which takes seconds; that they are missing should be known before.
if not all(find_spec(name) for name in ("transformers", "tokenizers", "safetensors")):
    raise MissingExtraError("the transformers engine", "local")

T = TypeVar("T")

# Tokens of one forward pass. More fill an H200 no better, and double the memory (benchmarks/gpu.py); on a CPU more than
# two pages only cost memory, while short texts gain from company (benchmarks/engine.py).
_BATCH_TOKENS = {"cuda": 8192, "mps": 8192, "cpu": 4096}


class TransformersEngine:
    """Runs a checkpoint in this process. See `nemovlm.engines.base.Engine` for the contract."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        self._checkpoint = checkpoint
        self._card = checkpoint.card
        self._max_tokens = settings.max_tokens
        self._device, self._dtype = self.placement(settings)
        self._batch_tokens = settings.batch_tokens or _BATCH_TOKENS[self._device.partition(":")[0]]

    @staticmethod
    def placement(settings: Settings) -> Placement:
        """Return the torch device, and the dtype of the weights.

        Raises:
            EngineUnavailableError: There is no such device here.
        """
        device = pick_device(settings.device)
        return Placement(device, pick_dtype(settings.dtype, device))

    async def start(self) -> None:
        """Fetch the checkpoint if need be, and load it.

        Raises:
            CheckpointError: It is not what its card says, or cannot be fetched.
        """
        # On a GPU the next pass is put together and sent there while one computes.
        passes = 2 if self._device.startswith("cuda") else 1
        self._threads = ThreadPool(passes, "nemovlm-compute")
        await self._on_thread(self._load)
        self._pipeline = Pipeline(self._model.prepare, self._next_batch, self._compute, passes)
        self.embed = self._pipeline.embed

    async def close(self) -> None:
        """Drop the weights, once the passes under way have ended."""
        self._pipeline.close()
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self._unload)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _load(self) -> None:
        folder = self._checkpoint.fetch()
        family = family_of(self._card.architecture)
        family.check(folder, self._card)
        self._model = family.load(
            folder, self._card, max_tokens=self._max_tokens, device=self._device, dtype=self._dtype
        )

    def _unload(self) -> None:
        del self._model
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()  # torch would keep it for itself, and another engine may be next

    def _next_batch(self, waiting: Mapping[int, ModelInput]) -> list[int]:
        return next_batch({number: len(item.ids) for number, item in waiting.items()}, self._batch_tokens)

    async def _compute(self, items: Sequence[ModelInput]) -> Sequence[Outcome]:
        return await self._on_thread(partial(self._run, items))

    def _run(self, items: Sequence[ModelInput]) -> Sequence[Outcome]:
        try:
            vectors = self._model.embed(items)
            return [Answer(vector, len(item.ids)) for vector, item in zip(vectors, items, strict=True)]
        except torch.OutOfMemoryError as error:
            if len(items) == 1:
                return [EngineError(f"the GPU has too little memory for this item ({one_line(error)})")]
        except RuntimeError as error:  # out of memory is one of these where there is no CUDA
            said = f"torch failed: {one_line(error)}; a lower batch_tokens needs less memory"
            return [EngineError(said) for _ in items]
        # The GPU is a small one, or others have taken of its memory meanwhile: half as much at once, from now on. Not
        # while the error is handled: it would keep what the pass had in memory.
        self._batch_tokens = sum(len(item.ids) for item in items) // 2
        half = len(items) // 2
        return [*self._run(items[:half]), *self._run(items[half:])]
