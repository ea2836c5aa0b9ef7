"""What a family of models is: everything that is particular about some architectures, as one object.

Engines, the command line and the index know no family; they ask for the one of a card (`families.family_of`). So a new
family is a folder or file beside `llama_nemotron`, and its name in `families.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from nemovlm.choices import Role
from nemovlm.models.card import ModelCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nemovlm.inputs import Item


class Prompt(NamedTuple):
    """`prefix`, then the image (if any), then `text`, then `suffix`. Truncation touches the text alone.

    With an image, the parts before and after it are tokenized apart, as they are in the whole string, where the special
    tokens of the image stand between them. Without one prefix and text are one string.
    """

    prefix: str
    text: str
    suffix: str = ""


class MakePrompt(Protocol):
    """Makes the exact prompt of an item."""

    def __call__(self, role: Role, text: str, *, image: bool) -> Prompt:
        """Return the prompt for a text, which may be empty, and an image if there is one."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """An item as a model in this process takes it. A family may add what its images need besides."""

    ids: Sequence[int]
    """Token ids of the prompt, with those that stand for the image."""
    pixels: "NDArray[Any] | None" = None
    """The image, in the layout of the family."""


class LocalModel(Protocol):
    """A model with its weights, on a device of this process."""

    def prepare(self, item: "Item") -> ModelInput:
        """Return `item` as `embed` takes it. Called from several threads.

        Raises:
            InputError: The item cannot be embedded.
        """

    def embed(self, batch: Sequence[ModelInput]) -> "NDArray[np.float32]":
        """Return the vectors (n, d) of a batch, not normalized.

        Raises:
            RuntimeError: torch failed; out of memory is one of these.
        """


class VllmInput(NamedTuple):
    """An item as vLLM's engine takes it, and the tokens that it will have there."""

    prompt: dict[str, Any]
    tokens: int


class VllmPrompts(Protocol):
    """What vLLM's engine is given for items: token ids and pixels of our own making."""

    def prepare(self, item: "Item") -> VllmInput:
        """Return `item` as vLLM takes it. Called from several threads.

        Raises:
            InputError: The item cannot be embedded.
        """


class Family(Protocol):
    """A family of models, as `llama_nemotron` is one. To import it is cheap: functions load what they need."""

    @property
    def architectures(self) -> tuple[str, ...]:
        """As `config.json` names them."""

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The models that are known: the rows of the catalogue."""

    @property
    def prompt_version(self) -> int:
        """A number that changes with the prompts, because the vectors do: a part of the name of the vector space."""

    @property
    def chat_template(self) -> Path | None:
        """The chat template that makes the family's prompts on a vLLM server, if there is one."""

    def read_card(self, folder: Path, config: Mapping[str, Any]) -> ModelCard:
        """Return what the files of a checkpoint say of it, given its `config.json`.

        Raises:
            CheckpointError: They are incomplete.
        """

    @property
    def prompt(self) -> MakePrompt:
        """The exact prompts that the models were trained with."""

    def escape_special_tokens(self, text: str) -> str:
        """Return `text` without meaning for the tokenizer: what looks like a special token is none any more."""

    def check(self, folder: Path, card: ModelCard) -> None:
        """Check that a checkpoint is what its card says: its vectors would be wrong otherwise.

        Raises:
            CheckpointError: It is not.
        """

    def check_weights(self, folder: Path) -> None:
        """Check the weights, for others who load them: vLLM 0.32 takes a missing one for one of random numbers.

        Raises:
            CheckpointError: Some are missing, left over, or of another shape.
        """

    def load(self, folder: Path, card: ModelCard, *, max_tokens: int | None, device: str, dtype: str) -> LocalModel:
        """Load a checkpoint into this process.

        Args:
            folder: The checkpoint, which `check` has seen.
            card: What is known of it.
            max_tokens: A lower limit than the model's own.
            device: Of torch.
            dtype: What to compute in: `float32`, `bfloat16`, `float16`.

        Raises:
            CheckpointError: The files cannot be used.
        """

    def vllm_prompts(self, folder: Path, card: ModelCard, *, max_tokens: int | None) -> VllmPrompts:
        """Return what makes vLLM's inputs for a checkpoint.

        Raises:
            CheckpointError: The tokenizer cannot be used.
        """

    def vllm_arguments(self, card: ModelCard, *, whole_images: bool) -> dict[str, Any]:
        """Return the arguments of vLLM's engine that decide over vectors: pooling, and how images are seen.

        Without `whole_images` an image comes as `vllm_prompts` makes it.
        """

    def register_with_vllm(self) -> None:
        """Make the family's configurations known, so that vLLM runs no code of a repository for them."""
