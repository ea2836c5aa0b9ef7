"""What an engine is, and what a proper embedding is. Knows no framework and no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nemovlm.errors import EngineError, NemoVLMError
from nemovlm.inputs import Modality, Role, Truncate, Vector


@dataclass(frozen=True, slots=True)
class Item:
    """One checked input, as engines get it: `image` is RGB, and `text` is empty where there is none."""

    role: Role
    text: str
    image: Image.Image | None
    truncate: Truncate

    @property
    def modality(self) -> Modality:
        """What the item consists of."""
        if self.image is None:
            return "text"
        return "text_image" if self.text else "image"


Outcome: TypeAlias = NDArray[np.float32] | NemoVLMError
"""What an engine answers for one item: a raw vector (d,), or the error that concerns this item alone."""


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


def finish(outcome: Outcome, *, full: int, dimensions: int) -> Vector | NemoVLMError:
    """Turn a raw vector (full,) into a unit vector (dimensions,), or into the error that it deserves.

    Cutting before scaling is how Matryoshka embeddings are defined (Kusupati et al. 2022, arXiv:2205.13147).
    """
    if isinstance(outcome, NemoVLMError):
        return outcome
    if outcome.shape != (full,):
        return EngineError(f"the engine answered with shape {outcome.shape} instead of ({full},)")
    vector = outcome[:dimensions].astype(np.float64)
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0.0:
        what = "a zero vector" if length == 0.0 else "numbers that are not finite"
        return EngineError(
            f"the engine answered with {what}; this input has no usable embedding in this dtype: try dtype='float32'"
        )
    return (vector / length).astype(np.float32)
