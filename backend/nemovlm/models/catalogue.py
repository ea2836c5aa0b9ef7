"""What is known of each model, as frozen rows: a new model is a new row.

Sources of the facts: the model cards, NVIDIA's NeMo-Retriever (`_set_p_max_length`: 8192 tokens for text, 10240
for text with an image), and mteb's `nvidia_nemotron_vl_models.py` (revision, dimension).
"""

from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Literal, TypeAlias

from nemovlm.errors import InputError
from nemovlm.inputs import Modality
from nemovlm.models.tiling import NEMOTRON_TILING, Tiling

Architecture: TypeAlias = Literal["LlamaNemotronVLModel", "LlamaBidirectionalModel"]

POCKET = "nemovlm/pocket"
"""The model that travels in this package."""

DEFAULT_MODEL = "nvidia/llama-nemotron-embed-vl-1b-v2"
"""The model to take where there is a GPU or a server for it, and nobody chose."""

MAX_TEXT_TOKENS = 8192
MAX_TOKENS_WITH_IMAGE = 10240


@dataclass(frozen=True)
class ModelCard:
    """The facts of one model that do not depend on who runs it."""

    id: str
    architecture: Architecture | None
    """None for a model that is known by name alone, because a server runs it."""
    dimension: int | None
    """Components of a vector; None where only the server knows."""
    revision: str | None = None
    """The commit of the hub repository, or the digest of a folder. None: not known, so the caller must pin one."""
    aliases: tuple[str, ...] = ()
    on_hub: bool = True
    tiling: Tiling | None = None
    """How images are cut; None for a model that reads text only."""
    max_text_tokens: int = MAX_TEXT_TOKENS
    max_tokens_with_image: int = MAX_TOKENS_WITH_IMAGE
    matryoshka: tuple[int, ...] = field(default=())
    """The shorter dimensions that the model was trained for, if any."""
    licence: str = ""
    note: str = ""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The kinds of input that the model takes."""
        return ("text", "image", "text_image") if self.tiling or not self.architecture else ("text",)

    @property
    def vision(self) -> bool:
        """Whether the model takes images."""
        return "image" in self.modalities

    def require_vision(self) -> None:
        """Check that the model takes images.

        Raises:
            InputError: It does not.
        """
        if not self.vision:
            raise InputError(f"{self.id} reads text only; give it a text, or take a model that sees images")

    @property
    def image_tiling(self) -> Tiling:
        """How the model cuts images, for an engine that cuts them itself.

        Raises:
            InputError: The model takes no images.
        """
        self.require_vision()
        assert self.tiling is not None  # noqa: S101 - what sees, and is no server's, sees in tiles
        return self.tiling

    def max_tokens(self, modality: Modality) -> int:
        """Return the most tokens of a prompt, its image tokens included."""
        return self.max_text_tokens if modality == "text" else self.max_tokens_with_image


CATALOGUE: tuple[ModelCard, ...] = (
    ModelCard(
        id=DEFAULT_MODEL,
        architecture="LlamaNemotronVLModel",
        dimension=2048,
        revision="859e1f2dac29c56c37a5279cf55f53f3e74efc6b",
        tiling=NEMOTRON_TILING,
        licence="NVIDIA Open Model License",
        note="text, page images and both together; 1.7 B parameters",
    ),
    ModelCard(
        id="nvidia/llama-3.2-nemoretriever-1b-vlm-embed-v1",
        architecture="LlamaNemotronVLModel",
        dimension=2048,
        tiling=NEMOTRON_TILING,
        licence="NVIDIA Community Model License",
        note="the first of the family; offered as a NIM",
    ),
    ModelCard(
        id="nvidia/llama-nemotron-embed-1b-v2",
        architecture="LlamaBidirectionalModel",
        dimension=2048,
        aliases=("nvidia/llama-3.2-nv-embedqa-1b-v2",),
        matryoshka=(384, 512, 768, 1024),
        licence="NVIDIA Open Model License",
        note="text only; 1.2 B parameters",
    ),
    ModelCard(
        id=POCKET,
        architecture="LlamaNemotronVLModel",
        dimension=2048,
        revision="3",
        on_hub=False,
        tiling=replace(NEMOTRON_TILING, tile=256),
        licence="Apache-2.0",
        note="travels in the package; reads print and finds words rather than meanings; for trials, demos and tests",
    ),
)


def find_card(model: str) -> ModelCard | None:
    """Return the row of a model id or one of its aliases."""
    return next((card for card in CATALOGUE if model == card.id or model in card.aliases), None)


def nearest(model: str) -> str | None:
    """Return the known id that `model` is probably a misspelling of."""
    ids = {name.lower(): card.id for card in CATALOGUE for name in (card.id, *card.aliases)}
    short = {name.partition("/")[2]: known for name, known in ids.items()}
    known = ids | short
    match = get_close_matches(model.lower(), known, n=1, cutoff=0.4)
    return known[match[0]] if match else None
