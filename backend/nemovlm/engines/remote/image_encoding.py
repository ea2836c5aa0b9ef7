"""An image becomes a file that a server takes: no more pixels than the model can use, no more bytes than allowed."""

from nemovlm.images import Encoded, ImageSource, compact
from nemovlm.models.card import ModelCard

# Pixels that a NIM takes, on the shorter and the longer side (model card of llama-3.2-nemoretriever-1b-vlm-embed-v1).
_MAX_SIDES = (8192, 16384)


def encode_image(image: ImageSource, card: ModelCard, max_bytes: int) -> Encoded:
    """Return `image` as a PNG or JPEG file of `max_bytes` at the most.

    Raises:
        ImageError: It cannot be read, or does not fit.
        InputError: The model takes no images.
    """
    card.require_vision()
    return compact(image, card.vision.usable_size if card.vision else _usable_size, max_bytes)


def _usable_size(width: int, height: int) -> tuple[int, int]:
    shorter, longer = sorted((width, height))
    scale = min(1.0, _MAX_SIDES[0] / shorter, _MAX_SIDES[1] / longer)
    return max(1, int(width * scale)), max(1, int(height * scale))
