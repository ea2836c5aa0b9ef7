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

from nemovlm.engines.base import Answer, Item, Outcome, eyes_of
from nemovlm.engines.batching import next_batch
from nemovlm.engines.pipeline import Pipeline
from nemovlm.errors import EngineError, EngineUnavailableError, MissingExtraError
from nemovlm.images import load_image
from nemovlm.models.catalogue import ModelCard
from nemovlm.models.checkpoint import Checkpoint, check_folder
from nemovlm.settings import DtypeName, Settings

try:
    import torch

    from nemovlm.engines.encoding import PromptEncoder
    from nemovlm.models.nemotron_vl import LlamaNemotronVLModel, load_model
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
        self._device = _pick_device(settings.device)
        self._dtype = _pick_dtype(settings.dtype, self._device)
        self._batch_tokens = settings.batch_tokens or _BATCH_TOKENS[self._device.partition(":")[0]]
        self._pipeline = Pipeline(self._prepare, self._next_batch, self._compute)

    @property
    def device(self) -> str:
        """The torch device."""
        return self._device

    @property
    def dtype(self) -> str:
        """The torch dtype of the weights."""
        return str(self._dtype).removeprefix("torch.")

    async def start(self) -> None:
        """Fetch the checkpoint if need be, and load it. Raises `CheckpointError`."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nemovlm-compute")
        await self._on_thread(self._load)

    async def embed(self, batch: Sequence[Item]) -> list[Outcome]:
        """Answer for every item of `batch`, in its order."""
        return await self._pipeline.embed(batch)

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
        tiling = eyes_of(self._card)
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


def cuda_available() -> bool:
    """Return whether torch can compute on an NVIDIA GPU here."""
    return torch.cuda.is_available()


def _pick_device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if cuda_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = wanted.partition(":")[0]
    usable = {"cpu": True, "cuda": cuda_available(), "mps": torch.backends.mps.is_available()}
    if not usable.get(kind):
        have = ", ".join(name for name, there in usable.items() if there)
        raise EngineUnavailableError(f"there is no device {wanted!r} here; torch offers: {have}")
    return wanted


def _pick_dtype(wanted: DtypeName, device: str) -> torch.dtype:
    if wanted != "auto":
        dtype: torch.dtype = getattr(torch, wanted)
        return dtype
    fast = device.startswith("cuda") and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if fast else torch.float32
