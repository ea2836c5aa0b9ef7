"""An item's prompt as token ids within the limit, with a gap where the image goes: the same for every local engine."""

from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from nemovlm.errors import CheckpointError
from nemovlm.inputs import Item
from nemovlm.models.catalogue import ModelCard
from nemovlm.models.llama_nemotron.prompts import prompt
from nemovlm.models.truncation import common_prefix_length, truncate_tokens

IMAGE_TOKENS = ("<img>", "<IMG_CONTEXT>", "</img>")
"""What stands before the features of an image, for each of them, and behind them."""


class Encoding(NamedTuple):
    """Token ids `before` and `after` the image; without an image `after` is empty."""

    before: list[int]
    after: list[int]


class PromptEncoder:
    """Makes token ids of items, with the tokenizer of the checkpoint in `folder`. Raises `CheckpointError`.

    Args:
        folder: Where `tokenizer.json` is.
        card: The model, for its limits.
        max_tokens: A lower limit than the model's own.
    """

    def __init__(self, folder: Path, card: ModelCard, max_tokens: int | None) -> None:
        self._card = card
        self._max_tokens = max_tokens
        path = folder / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for a file that it cannot use
            raise CheckpointError(f"{path} cannot be used ({error})") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._begin: list[int] = self._tokenizer.encode("").ids  # what the post-processor puts first: BOS
        # A model without eyes needs none of them.
        self.image_ids = tuple(self._tokenizer.token_to_id(name) or 0 for name in IMAGE_TOKENS)
        if card.tiling and not all(self.image_ids):
            raise CheckpointError(f"{path} lacks one of the tokens {', '.join(IMAGE_TOKENS)}")

    def encode(self, item: Item, image_tokens: int = 0) -> Encoding:
        """Return the ids of `item`, whose image takes `image_tokens` of the limit, all that stand for it included.

        Raises `InputTooLongError` where the limit would cut something that may not be cut.
        """
        prefix, text = prompt(item.role, item.text, image=item.image is not None)
        if item.image is not None:  # the two parts are apart in the whole prompt as well
            head, tail = [*self._begin, *self.ids(prefix)], self.ids(text)
        else:
            ids = self.ids(prefix + text)
            fixed = common_prefix_length(ids, self.ids(prefix))
            head, tail = [*self._begin, *ids[:fixed]], ids[fixed:]
        limit = self._card.max_tokens(item.modality)
        tail = truncate_tokens(len(head) + image_tokens, tail, min(limit, self._max_tokens or limit), item)
        return Encoding(head, tail) if item.image is not None else Encoding([*head, *tail], [])

    def ids(self, text: str) -> list[int]:
        """Return the tokens of `text` by itself, special ones not added."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids
