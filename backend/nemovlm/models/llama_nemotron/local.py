"""The family's models in this process: how the torch modules are fed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nemovlm.inputs import Item
from nemovlm.models.base import ModelInput
from nemovlm.models.card import ModelCard
from nemovlm.models.llama_nemotron.module import LlamaNemotronVLModel
from nemovlm.models.llama_nemotron.packing import Packing
from nemovlm.models.llama_nemotron.preprocessing import Preprocessor
from nemovlm.models.llama_nemotron.weights import load_model


class LocalLlamaNemotron:
    """A checkpoint with its weights on a device. See `nemovlm.models.base.LocalModel`.

    Raises:
        CheckpointError: The files cannot be used.
    """

    def __init__(self, folder: Path, card: ModelCard, *, max_tokens: int | None, device: str, dtype: str) -> None:
        self._preprocess = Preprocessor(folder, card, max_tokens)
        self._module = load_model(folder, device=device, dtype=getattr(torch, dtype))
        self._device = device

    @property
    def image_token(self) -> int:
        """The token that stands for a feature of an image."""
        return self._preprocess.image_ids[1]

    def prepare(self, item: Item) -> ModelInput:
        """Return token ids with room for the image, and its tiles (t, side, side, 3) uint8.

        Raises:
            InputError: The item cannot be embedded.
        """
        before, tiles, image_tokens, after = self._preprocess(item)
        if tiles is None:
            return ModelInput(before)
        start, context, end = self._preprocess.image_ids
        return ModelInput([*before, start, *[context] * (image_tokens - 2), end, *after], tiles)

    @torch.inference_mode()
    def embed(self, batch: Sequence[ModelInput]) -> NDArray[np.float32]:
        """Return the vectors (n, d) of a batch, not normalized."""
        order = sorted(range(len(batch)), key=lambda index: len(batch[index].ids))
        items = [batch[index] for index in order]
        packing = Packing(tuple(len(item.ids) for item in items), self._device)
        ids = torch.cat([torch.as_tensor(item.ids) for item in items])
        tiles = [item.pixels for item in items if item.pixels is not None]
        if not tiles:
            vectors = self._module(self._put(ids), packing)
        else:
            assert isinstance(self._module, LlamaNemotronVLModel)  # noqa: S101 - only its cards have vision
            features = self._module.image_features(self._put(torch.from_numpy(np.concatenate(tiles))))
            places = (ids == self.image_token).nonzero().flatten()
            vectors = self._module(self._put(ids), packing, (features, self._put(places)))
        numbers = np.empty(vectors.shape, np.float32)
        numbers[order] = vectors.cpu().numpy()
        return numbers

    def _put(self, numbers: torch.Tensor) -> torch.Tensor:
        if self._device.startswith("cuda"):  # the copy then waits for no computation that is under way, nor we for it
            return numbers.pin_memory().to(self._device, non_blocking=True)
        return numbers.to(self._device)
