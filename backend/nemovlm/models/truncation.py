"""A prompt within the limit: what of it may be cut, and by how much."""

from collections.abc import Sequence
from itertools import takewhile

from nemovlm.errors import InputTooLongError
from nemovlm.inputs import Item


def common_prefix_length(ids: Sequence[int], prefix: Sequence[int]) -> int:
    """Return where the text begins in the `ids` of a whole prompt, given those of its prefix alone.

    The tokenizer may merge the end of the prefix with the text, so the prefix is as long as the ids agree.
    """
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, prefix, strict=False)))


def truncate_tokens(fixed: int, text: Sequence[int], limit: int, item: Item) -> list[int]:
    """Cut the tokens of a text so that they fit `limit` beside `fixed` other ones (prefix, image and suffix).

    Raises:
        InputTooLongError: That would cut something that may not be cut.
    """
    total, room = fixed + len(text), limit - fixed
    if total > limit and (item.truncate == "NONE" or room < 0):
        kind = "text and image have" if item.modality == "text_image" else f"{item.modality} has"
        advice = "shorten the text or pass truncate='END'" if room >= 0 else "allow more tokens or fewer tiles"
        raise InputTooLongError(
            f"the {kind} {total} tokens, over the limit of {limit}; {advice}", tokens=total, limit=limit
        )
    if total > limit:
        text = text[:room] if item.truncate == "END" else text[len(text) - room :]
    return list(text)
