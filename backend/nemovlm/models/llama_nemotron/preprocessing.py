"""An item becomes token ids and tiles: the same for every local engine."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nemovlm.images import view_image
from nemovlm.inputs import Item
from nemovlm.models.card import ModelCard
from nemovlm.models.llama_nemotron.prompts import prompt
from nemovlm.models.prompt_encoder import PromptEncoder

IMAGE_TOKENS = ("<img>", "<IMG_CONTEXT>", "</img>")
"""The token before the features of an image, the one for each of them, and the one after them."""


class Parts(NamedTuple):
    """An item with its image apart."""

    before: list[int]
    """Token ids before the image, or all of them."""
    tiles: NDArray[np.uint8] | None
    """(t, side, side, 3), RGB."""
    image_tokens: int
    """How many tokens stand for the image, its delimiters included."""
    after: list[int]
    """Token ids after the image."""


class Preprocessor:
    """Takes items apart for one checkpoint.

    Raises:
        CheckpointError: Its tokenizer cannot be used, or lacks the tokens of images.
    """

    def __init__(self, folder: Path, card: ModelCard, max_tokens: int | None) -> None:
        self._card = card
        self.encoder = PromptEncoder(folder, card, max_tokens, prompt)
        self.image_ids = self.encoder.special_ids(*IMAGE_TOKENS) if card.vision else []
        """The ids of `IMAGE_TOKENS`; none where the model has no vision."""

    def __call__(self, item: Item) -> Parts:
        """Return the parts of an item, within the limit.

        Raises:
            InputError: The image cannot be read, the model takes none, or the prompt is too long.
        """
        if item.image is None:
            return Parts(self.encoder.encode(item).before, None, 0, [])
        self._card.require_vision()
        tiling = self._card.tiling
        assert tiling is not None  # noqa: S101 - all of the family that see do so in tiles
        tiles = tiling.cut(view_image(item.image))
        image_tokens = len(tiles) * tiling.tokens_per_tile + 2  # with one before and one after them
        before, after = self.encoder.encode(item, image_tokens)
        return Parts(before, tiles, image_tokens, after)
