"""What is known of how a model sees images, before any is loaded."""

from typing import Protocol


class Vision(Protocol):
    """How many pixels of an image a model reads, and how many tokens they become. `Tiling` is one way."""

    @property
    def fingerprint(self) -> str:
        """What of it decides over vectors and can be set: a part of the name of the vector space, as in `tiles=6`."""

    @property
    def max_tokens(self) -> int:
        """The most image tokens that any image becomes."""

    def render_size(self, width: float, height: float) -> tuple[int, int]:
        """Return the pixels (width, height) at which to render a page of `width` x `height` points."""

    def usable_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the pixels (width, height) to which an image can be shrunk at no loss to the model."""
