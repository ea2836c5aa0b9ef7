"""What an engine is, and what a proper embedding is. Knows no framework and no model."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from nemovlm.errors import ConfigurationError, EngineError, InputError, NemoVLMError, one_line
from nemovlm.inputs import Item, Vector
from nemovlm.models.checkpoint import Checkpoint
from nemovlm.settings import EngineName, Settings

T = TypeVar("T")


class Answer(NamedTuple):
    """The raw vector (d,) of one item, and the tokens of its prompt.

    An engine that is told the tokens of a whole batch only shares them out among its items.
    """

    vector: NDArray[np.float32]
    tokens: int


Outcome: TypeAlias = Answer | NemoVLMError
"""What an engine answers for one item, or the error that concerns this item alone."""


class Placement(NamedTuple):
    """Where and in what an engine computes."""

    device: str
    """`cpu`, `cuda:0`, a host name."""
    dtype: str
    """`float32`, `bfloat16`, `float16`."""


class OtherServerError(ConfigurationError):
    """The servers are of a kind that another engine is for. `reason` reads on from "engine X because ..."."""

    def __init__(self, message: str, *, engine: EngineName | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.engine = engine
        """The one that they are for, if they are all of a kind."""
        self.reason = reason


class RunningEngine(Protocol):
    """Something that embeds. All coroutines run on the private loop of `nemovlm.runtime`."""

    async def embed(self, batch: Sequence[Item], /) -> list[Outcome]:
        """Answer for every item of `batch`, in its order. One bad item never costs another its vector."""

    async def close(self) -> None:
        """Give back memory and connections. The engine is not used again."""


class Engine(RunningEngine, Protocol):
    """An engine as it is made."""

    async def start(self) -> None:
        """Load or connect. Called once, before anything else; raises if the engine cannot work."""


class EngineClass(Protocol):
    """What makes an engine, not started yet, and can say beforehand where it would compute."""

    def __call__(self, checkpoint: Checkpoint, settings: Settings) -> Engine:
        """Make the engine for a model."""

    def placement(self, settings: Settings) -> Placement:
        """Return where the engine would compute.

        Raises:
            ConfigurationError: It cannot run here, or not with these settings.
        """


def attempt(work: Callable[[Item], T], item: Item) -> T | NemoVLMError:
    """Return what `work` makes of an item, or what it raises: whatever that is, it concerns this item alone."""
    try:
        return work(item)
    except NemoVLMError as error:
        return error
    except Exception as error:  # a decoder, a tokenizer, or an object that somebody passed as an image
        failure = InputError(f"it cannot be prepared ({type(error).__name__}: {one_line(error)})")
        failure.__cause__ = error
        return failure


def normalize(vector: NDArray[np.float32], *, native: int | None, dimensions: int) -> Vector | EngineError:
    """Slice a raw vector (native,) to (dimensions,), and scale that to unit Euclidean length, in float32.

    Cutting before scaling is how Matryoshka embeddings are defined (Kusupati et al. 2022, arXiv:2205.13147).

    Args:
        vector: As the engine made it; a remote one may have cut it to (dimensions,) already.
        native: Numbers in an uncut vector of the model's. None: nobody knows.
        dimensions: Numbers to keep.

    Returns:
        The vector, or an `EngineError` for another shape, for zeros, and for NaN or infinity.
    """
    if vector.ndim != 1 or (vector.size < dimensions if native is None else vector.size not in {native, dimensions}):
        return EngineError(f"the engine answered with shape {vector.shape} instead of ({native or dimensions},)")
    wide = vector[:dimensions].astype(np.float64)
    length = float(np.linalg.norm(wide))
    if not np.isfinite(length) or length == 0.0:
        what = "a zero vector" if length == 0.0 else "numbers that are not finite"
        return EngineError(
            f"the engine answered with {what}: this input has no usable embedding in the dtype that the model computes "
            "in, where that is not float32 already"
        )
    return (wide / length).astype(np.float32)
