"""The local engine on torch and transformers: CPU, CUDA or MPS.

Items are tokenised and cut into tiles in a worker thread, and computed on a thread of their own, in batches
that are filled by tokens and not by count. This is the only file that knows how the module is fed.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from nemovlm.engines.base import Answer, Item, Outcome, require_eyes
from nemovlm.engines.pipeline import Pipeline
from nemovlm.errors import (
    CheckpointError,
    EngineError,
    EngineUnavailableError,
    InputTooLongError,
    MissingExtraError,
)
from nemovlm.images import load_image
from nemovlm.models.catalogue import ModelCard
from nemovlm.models.checkpoint import Checkpoint, read_json, tiling_of
from nemovlm.models.prompts import prompt
from nemovlm.settings import DtypeName, Settings

try:
    import torch
    from tokenizers import Tokenizer

    from nemovlm.models.nemotron_vl import LlamaNemotronVLModel, load_model
except ImportError as missing:
    raise MissingExtraError("the transformers engine", "local") from missing

T = TypeVar("T")

# Tokens of one forward pass. A GPU needs large batches to be filled; on a CPU more than two pages only cost
# memory, while short texts gain from company (benchmarks/engine.py).
_BATCH_TOKENS = {"cuda": 32768, "mps": 8192, "cpu": 4096}
# Padding tokens an item may bring into a pass beyond its own length: a pass of its own would cost more.
_PADDING_FOR_FREE = 32


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
        self._thread.shutdown(wait=False)
        del self._model

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _load(self) -> None:
        folder = self._checkpoint.fetch()
        self._model = load_model(folder, device=self._device, dtype=self._dtype)
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exception for a file that it cannot use
            raise CheckpointError(f"{folder / 'tokenizer.json'} cannot be used ({error})") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._begin = self._tokenizer.encode("").ids  # what the post-processor puts first: BOS
        names = ("<img>", "<IMG_CONTEXT>", "</img>")
        self._open, self._image, self._shut = (self._tokenizer.token_to_id(name) or 0 for name in names)
        self._check_against_card(folder, names)

    def _check_against_card(self, folder: Path, image_tokens: Sequence[str]) -> None:
        """Refuse a checkpoint that is not what its card says: its vectors would be wrong, or on wrong tokens."""
        width = self._model.language_model.config.hidden_size
        if width != self._card.dimension:
            raise CheckpointError(f"{folder} makes {width} components; {self._card.id} has {self._card.dimension}")
        if (wanted := self._card.tiling) is None:
            return
        if not (self._open and self._image and self._shut):
            raise CheckpointError(f"{folder / 'tokenizer.json'} lacks one of the tokens {', '.join(image_tokens)}")
        found = tiling_of(read_json(folder, "config.json"), read_json(folder, "processor_config.json"))
        if (found.tile, found.tokens_per_tile) != (wanted.tile, wanted.tokens_per_tile):
            raise CheckpointError(
                f"{folder} cuts tiles of {found.tile} pixels worth {found.tokens_per_tile} tokens; {self._card.id} has "
                f"{wanted.tile} and {wanted.tokens_per_tile}"
            )

    def _prepare(self, item: Item) -> Prepared:
        prefix, text = prompt(item.role, item.text, image=item.image is not None)
        tiles = None
        if item.image is None:
            ids = self._encode(prefix + text)
            # The tokenizer may merge across the seam, so the prefix is as long as the ids agree.
            fixed = sum(
                1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, self._encode(prefix), strict=False))
            )
            head, tail = [*self._begin, *ids[:fixed]], ids[fixed:]
        else:
            require_eyes(self._card)
            assert self._card.tiling is not None  # noqa: S101 - what sees here sees in tiles
            tiles = self._card.tiling.cut(load_image(item.image))
            count = len(tiles) * self._card.tiling.tokens_per_tile
            head = [*self._begin, *self._encode(prefix), self._open, *[self._image] * count, self._shut]
            tail = self._encode(text)
        limit = self._card.max_tokens(item.modality)
        return Prepared(fit(head, tail, min(limit, self._max_tokens or limit), item), tiles)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

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
        return cast(torch.Tensor, self._model(ids.to(self._device), mask, features, self._image))


def fit(head: Sequence[int], tail: Sequence[int], limit: int, item: Item) -> list[int]:
    """Join `head` (prefix and image, never cut) and `tail` (the text) within `limit` tokens.

    Raises `InputTooLongError` where that would cut something that may not be cut.
    """
    total, room = len(head) + len(tail), limit - len(head)
    if total > limit and (item.truncate == "NONE" or room < 0):
        kind = "text and image have" if item.modality == "text_image" else f"{item.modality} has"
        advice = "shorten the text or pass truncate='END'" if room >= 0 else "allow more tokens or fewer tiles"
        raise InputTooLongError(
            f"the {kind} {total} tokens, over the limit of {limit}; {advice}", tokens=total, limit=limit
        )
    if total > limit:
        tail = tail[:room] if item.truncate == "END" else tail[len(tail) - room :]
    return [*head, *tail]


def next_batch(lengths: Mapping[int, int], budget: int) -> list[int]:
    """Return the numbers of the items for the next pass, given the tokens of all that wait, the oldest first.

    The oldest is always among them; others of like length keep it company, within `budget` tokens when padded to
    the longest, unless the oldest alone is longer. An item that would mostly bring padding waits for a better pass.
    """
    oldest = next(iter(lengths))
    batch: list[int] = []
    padded = longest = 0
    for number in sorted(lengths, key=lambda number: abs(lengths[number] - lengths[oldest])):
        wider = max(longest, lengths[number])
        total = (len(batch) + 1) * wider
        if batch and (total > budget or total - padded > 2 * lengths[number] + _PADDING_FOR_FREE):
            break
        batch.append(number)
        padded, longest = total, wider
    return batch


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
