"""The family's models in this process: how the torch modules are fed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nemovlm.inputs import Item
from nemovlm.models.base import ModelInput
from nemovlm.models.card import ModelCard
from nemovlm.models.llama_nemotron.module import LlamaNemotronVLModel, load_model
from nemovlm.models.llama_nemotron.preprocessing import Preprocessor


class LocalLlamaNemotron:
    """A checkpoint with its weights on a device. See `nemovlm.models.base.LocalModel`.

    Raises:
        CheckpointError: The files cannot be used.
    """

    def __init__(self, folder: Path, card: ModelCard, *, max_tokens: int | None, device: str, dtype: str) -> None:
        self._preprocess = Preprocessor(folder, card, max_tokens)
        self._module = load_model(folder, device=device, dtype=getattr(torch, dtype))
        self._device = device

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
        """Return the vectors (n, d) of a batch, padded to its longest item, not normalized."""
        lengths = [len(item.ids) for item in batch]
        longest = max(lengths)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)  # (n, longest)
        for row, item in zip(ids, batch, strict=True):
            row[: len(item.ids)] = torch.as_tensor(item.ids)
        mask = None
        if min(lengths) < longest:
            mask = (torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)).long().to(self._device)
        tiles = [item.pixels for item in batch if item.pixels is not None]
        if not tiles:
            vectors = self._module(ids.to(self._device), mask)
        else:
            assert isinstance(self._module, LlamaNemotronVLModel)  # noqa: S101 - only its cards have vision
            features = self._module.image_features(torch.from_numpy(np.concatenate(tiles)).to(self._device))
            vectors = self._module(ids.to(self._device), mask, features, self._preprocess.image_ids[1])
        numbers: NDArray[np.float32] = vectors.cpu().numpy()
        return numbers
