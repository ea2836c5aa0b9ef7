"""The local engine on torch and transformers: CPU, CUDA or MPS.

Items are tokenised and cut into tiles in a worker thread, and computed on a thread of their own, in batches
that are filled by tokens and not by count. This is the only file that knows how the module is fed.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from nemovlm.engines.base import Answer, Outcome, Placement
from nemovlm.engines.local.batching import next_batch
from nemovlm.engines.pipeline import Pipeline
from nemovlm.errors import EngineError, MissingExtraError
from nemovlm.images import load_image
from nemovlm.inputs import Item
from nemovlm.models.catalogue import ModelCard
from nemovlm.models.checkpoint import Checkpoint, check_folder
from nemovlm.settings import Settings

try:
    import torch

    from nemovlm.engines.local.devices import pick_device, pick_dtype
    from nemovlm.models.llama_nemotron.module import LlamaNemotronVLModel, load_model
    from nemovlm.models.prompt_encoder import PromptEncoder
except ImportError as missing:
    raise MissingExtraError("the transformers engine", "local") from missing

T = TypeVar("T")

# Tokens of one forward pass. A GPU needs large batches to be filled; on a CPU more than two pages only cost
# memory, while short texts gain from company (benchmarks/engine.py).
_BATCH_TOKENS = {"cuda": 32768, "mps": 8192, "cpu": 4096}


@dataclass(frozen=True, slots=True)
class Prepared:
    """An item as the module wants it: token ids with room for the image, and tiles (t, side, side, 3) uint8."""

    ids: Sequence[int]
    tiles: NDArray[np.uint8] | None = None


class TransformersEngine:
    """Runs a checkpoint in this process. See `nemovlm.engines.base.Engine` for the contract."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        self._checkpoint = checkpoint
        self._card: ModelCard = checkpoint.card
        self._max_tokens = settings.max_tokens
        self._device = pick_device(settings.device)
        self._dtype = pick_dtype(settings.dtype, self._device)
        self._batch_tokens = settings.batch_tokens or _BATCH_TOKENS[self._device.partition(":")[0]]
        self._pipeline = Pipeline(self._prepare, self._next_batch, self._compute)
        self.embed = self._pipeline.embed

    @staticmethod
    def placement(settings: Settings) -> Placement:
        """Return the torch device, and the dtype of the weights.

        Raises:
            EngineUnavailableError: There is no such device here.
        """
        device = pick_device(settings.device)
        return Placement(device, str(pick_dtype(settings.dtype, device)).removeprefix("torch."))

    async def start(self) -> None:
        """Fetch the checkpoint if need be, and load it.

        Raises:
            CheckpointError: It is not what its card says, or cannot be fetched.
        """
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nemovlm-compute")
        await self._on_thread(self._load)

    async def close(self) -> None:
        """Drop the weights, once the pass under way has ended."""
        self._pipeline.close()
        await self._on_thread(self._unload)
        self._thread.shutdown(wait=False)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _load(self) -> None:
        folder = self._checkpoint.fetch()
        check_folder(folder, self._card)
        self._encoder = PromptEncoder(folder, self._card, self._max_tokens)
        self._model = load_model(folder, device=self._device, dtype=self._dtype)

    def _unload(self) -> None:
        del self._model
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()  # torch would keep it for itself, and another engine may be next

    def _prepare(self, item: Item) -> Prepared:
        if item.image is None:
            return Prepared(self._encoder.encode(item).before)
        tiling = self._card.image_tiling
        tiles = tiling.cut(load_image(item.image))
        start, context, end = self._encoder.image_ids
        image = [start, *[context] * (len(tiles) * tiling.tokens_per_tile), end]
        before, after = self._encoder.encode(item, len(image))
        return Prepared([*before, *image, *after], tiles)

    def _next_batch(self, waiting: Mapping[int, Prepared]) -> list[int]:
        return next_batch({number: len(item.ids) for number, item in waiting.items()}, self._batch_tokens)

    async def _compute(self, items: Sequence[Prepared]) -> Sequence[Outcome]:
        return await self._on_thread(partial(self._run, items))

    def _run(self, items: Sequence[Prepared]) -> Sequence[Outcome]:
        try:
            vectors: NDArray[np.float32] = self._forward(items).cpu().numpy()
        except RuntimeError as error:  # out of memory is one of these
            reason = str(error).partition("\n")[0]
            return [EngineError(f"torch failed: {reason}; a lower batch_tokens needs less memory") for _ in items]
        return [Answer(vector, len(item.ids)) for vector, item in zip(vectors, items, strict=True)]

    @torch.inference_mode()
    def _forward(self, items: Sequence[Prepared]) -> torch.Tensor:
        lengths = [len(item.ids) for item in items]
        longest = max(lengths)
        ids = torch.zeros(len(items), longest, dtype=torch.long)
        for row, item in zip(ids, items, strict=True):
            row[: len(item.ids)] = torch.as_tensor(item.ids)
        mask = None
        if min(lengths) < longest:
            mask = (torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)).long().to(self._device)
        tiles = [item.tiles for item in items if item.tiles is not None]
        if not tiles:
            return cast(torch.Tensor, self._model(ids.to(self._device), mask))
        assert isinstance(self._model, LlamaNemotronVLModel)  # noqa: S101 - only its cards have a tiling
        features = self._model.image_features(torch.from_numpy(np.concatenate(tiles)).to(self._device))
        return cast(torch.Tensor, self._model(ids.to(self._device), mask, features, self._encoder.image_ids[1]))
