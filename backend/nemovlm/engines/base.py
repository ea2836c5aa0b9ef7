"""What an engine is, and what a proper embedding is. Knows no framework and no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nemovlm.errors import EngineError, InputError, NemoVLMError
from nemovlm.images import ImageSource
from nemovlm.inputs import Modality, Role, Truncate, Vector
from nemovlm.models.catalogue import ModelCard
from nemovlm.models.tiling import Tiling


@dataclass(frozen=True, slots=True)
class Item:
    """One input, as engines get it: `image` is as the user gave it, and `text` is empty where there is none."""

    role: Role
    text: str
    image: ImageSource | None
    truncate: Truncate

    @property
    def modality(self) -> Modality:
        """What the item consists of."""
        if self.image is None:
            return "text"
        return "text_image" if self.text else "image"


class Answer(NamedTuple):
    """The raw vector (d,) of one item, and the tokens of its prompt.

    An engine that is told the tokens of a whole batch only shares them out among its items.
    """

    vector: NDArray[np.float32]
    tokens: int


Outcome: TypeAlias = Answer | NemoVLMError
"""What an engine answers for one item, or the error that concerns this item alone."""


class Engine(Protocol):
    """Something that embeds. All coroutines run on the private loop of `nemovlm.runtime`."""

    async def start(self) -> None:
        """Load or connect. Called once, before anything else; raises if the engine cannot work."""

    async def embed(self, batch: Sequence[Item]) -> list[Outcome]:
        """Answer for every item of `batch`, in its order. One bad item never costs another its vector."""

    async def close(self) -> None:
        """Give back memory and connections. The engine is not used again."""

    @property
    def device(self) -> str:
        """Where it computes: `cpu`, `cuda:0`, a host name."""

    @property
    def dtype(self) -> str:
        """What it computes in: `float32`, `bfloat16`."""


def require_eyes(card: ModelCard) -> None:
    """Raise `InputError` if the model of `card` takes no images."""
    if "image" not in card.modalities:
        raise InputError(f"{card.id} reads text only; give it a text, or take a model that sees images")


def eyes_of(card: ModelCard) -> Tiling:
    """Return how the model of `card` cuts images, for an engine that cuts them itself. Raises `InputError`."""
    require_eyes(card)
    assert card.tiling is not None  # noqa: S101 - what sees, and is no server's, sees in tiles
    return card.tiling


def finish(vector: NDArray[np.float32], *, full: int | None, dimensions: int) -> Vector | EngineError:
    """Turn a raw vector (full,) into a unit vector (dimensions,), or into the error that it deserves.

    A remote engine may have cut it to (dimensions,) already; where `full` is None nobody knows how long it is whole.
    Cutting before scaling is how Matryoshka embeddings
    are defined (Kusupati et al. 2022, arXiv:2205.13147).
    """
    if vector.ndim != 1 or (vector.size < dimensions if full is None else vector.size not in {full, dimensions}):
        return EngineError(f"the engine answered with shape {vector.shape} instead of ({full or dimensions},)")
    wide = vector[:dimensions].astype(np.float64)
    length = float(np.linalg.norm(wide))
    if not np.isfinite(length) or length == 0.0:
        what = "a zero vector" if length == 0.0 else "numbers that are not finite"
        return EngineError(
            f"the engine answered with {what}: this input has no usable embedding in the dtype that the model computes "
            "in, where that is not float32 already"
        )
    return (wide / length).astype(np.float32)
