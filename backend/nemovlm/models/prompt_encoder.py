"""An item's prompt as token ids within the limit, with a gap where the image goes: the same for every local engine."""

from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from nemovlm.errors import CheckpointError
from nemovlm.inputs import Item
from nemovlm.models.base import MakePrompt
from nemovlm.models.card import ModelCard
from nemovlm.models.truncation import common_prefix_length, truncate_tokens


class Encoding(NamedTuple):
    """Token ids `before` and `after` the image; without an image `after` is empty."""

    before: list[int]
    after: list[int]


class PromptEncoder:
    """Makes token ids of items, with the tokenizer of a checkpoint.

    Args:
        folder: Where `tokenizer.json` is.
        card: The model, for its limits.
        max_tokens: A lower limit than the model's own.
        prompt: Makes the prompt of an item.

    Raises:
        CheckpointError: The tokenizer cannot be used.
    """

    def __init__(self, folder: Path, card: ModelCard, max_tokens: int | None, prompt: MakePrompt) -> None:
        self._card = card
        self._max_tokens = max_tokens
        self._prompt = prompt
        self._path = folder / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(self._path))
        except Exception as error:  # the library raises bare Exception for a file that it cannot use
            raise CheckpointError(f"{self._path} cannot be used ({error})") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._begin: list[int] = self._tokenizer.encode("").ids  # what the post-processor puts first: BOS

    def encode(self, item: Item, image_tokens: int = 0) -> Encoding:
        """Return the ids of `item`, whose image takes `image_tokens` of the limit, all that stand for it included.

        Raises:
            InputTooLongError: The limit would cut something that may not be cut.
        """
        prefix, text, suffix = self._prompt(item.role, item.text, image=item.image is not None)
        if item.image is not None:  # the two parts are apart in the whole prompt as well
            head, tail = [*self._begin, *self.ids(prefix)], self.ids(text)
        else:
            ids = self.ids(prefix + text)
            fixed = common_prefix_length(ids, self.ids(prefix))
            head, tail = [*self._begin, *ids[:fixed]], ids[fixed:]
        end = self.ids(suffix) if suffix else []
        limit = self._card.max_tokens(item.modality)
        limit = min(limit, self._max_tokens or limit)
        tail = [*truncate_tokens(len(head) + image_tokens + len(end), tail, limit, item), *end]
        return Encoding(head, tail) if item.image is not None else Encoding([*head, *tail], [])

    def ids(self, text: str) -> list[int]:
        """Return the tokens of `text` by itself, special ones not added."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def special_ids(self, *names: str) -> list[int]:
        """Return the ids of special tokens.

        Raises:
            CheckpointError: The tokenizer lacks one.
        """
        ids = [self._tokenizer.token_to_id(name) for name in names]
        found = [number for number in ids if number is not None]
        if len(found) < len(names):
            raise CheckpointError(f"{self._path} lacks one of the tokens {', '.join(names)}")
        return found
