"""The family's models on vLLM: what its engine is told, and what it is given. Imports no vLLM.

vLLM gets token ids and tiles of our own making: what is embedded does not depend on its tokenization, tiling or
truncation.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nemovlm.inputs import Item
from nemovlm.models.base import VllmInput
from nemovlm.models.card import ModelCard
from nemovlm.models.llama_nemotron.preprocessing import Preprocessor


def vllm_arguments(card: ModelCard, *, whole_images: bool) -> dict[str, Any]:
    """Return the arguments of vLLM's engine for pooling, and for how images are seen.

    Without `whole_images` an image comes as a strip of the tiles that it was cut into before.
    """
    arguments: dict[str, Any] = {"pooler_config": {"seq_pooling_type": "MEAN", "use_activation": True}}
    if (tiling := card.tiling) is not None:
        longest_strip = tiling.max_tokens // tiling.tokens_per_tile
        arguments |= {
            "limit_mm_per_prompt": {"image": 1},
            "mm_processor_cache_gb": 0,  # a page is embedded once: to keep it only costs memory
            "mm_processor_kwargs": {
                "dynamic_image_size": True,
                "min_dynamic_patch": tiling.min_tiles if whole_images else 1,
                "max_dynamic_patch": tiling.max_tiles if whole_images else longest_strip,
                "use_thumbnail": tiling.thumbnail and whole_images,
            },
        }
    return arguments


class LlamaNemotronPrompts:
    """Makes vLLM's inputs for a checkpoint. See `nemovlm.models.base.VllmPrompts`.

    Raises:
        CheckpointError: The tokenizer cannot be used.
    """

    def __init__(self, folder: Path, card: ModelCard, *, max_tokens: int | None) -> None:
        self._preprocess = Preprocessor(folder, card, max_tokens)
        self._placeholder = self._preprocess.encoder.ids("<image>")

    def prepare(self, item: Item) -> VllmInput:
        """Return token ids, with vLLM's placeholder for an image, and the strip of its tiles.

        Raises:
            InputError: The item cannot be embedded.
        """
        before, tiles, image_tokens, after = self._preprocess(item)
        if tiles is None:
            return VllmInput({"prompt_token_ids": before}, len(before))
        prompt = {
            "prompt_token_ids": [*before, *self._placeholder, *after],
            "multi_modal_data": {"image": _strip(tiles)},
        }
        return VllmInput(prompt, len(before) + image_tokens + len(after))


def _strip(tiles: NDArray[np.uint8]) -> Image.Image:
    """Put tiles (t, side, side, 3) one below the other into one image.

    Of all grids vLLM's processor then chooses 1 x t, whose shape fits exactly, resizes nothing, and cuts the very
    tiles that were put in; without `use_thumbnail` it adds none.
    """
    return Image.fromarray(tiles.reshape(-1, *tiles.shape[2:]))
