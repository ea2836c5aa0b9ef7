"""`ModelCard`: the facts of one model that do not depend on who runs it."""

from dataclasses import dataclass, field

from nemovlm.choices import Modality
from nemovlm.errors import InputError
from nemovlm.models.tiling import Tiling
from nemovlm.models.vision import Vision


@dataclass(frozen=True)
class ModelCard:
    """The facts of one model. It may have come from the catalogue or from the files of a folder."""

    id: str
    architecture: str | None
    """As `config.json` names it. None for a model that is known by name alone, because a server runs it."""
    dimension: int | None
    """Numbers in a vector; None where only the server knows."""
    max_text_tokens: int
    """The most tokens of a prompt without an image."""
    max_tokens_with_image: int
    """The most tokens of a prompt with one, its image tokens included."""
    revision: str | None = None
    """The commit of the hub repository, or the digest of a folder. None: not known, so the caller must pin one."""
    aliases: tuple[str, ...] = ()
    on_hub: bool = True
    vision: Vision | None = None
    """How images are seen; None for a model that reads text only, and for one that only its server knows."""
    matryoshka: tuple[int, ...] = field(default=())
    """The shorter dimensions that the model was trained for, if any."""
    license: str = ""
    note: str = ""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The kinds of input that the model takes."""
        return ("text", "image", "text_image") if self.vision or not self.architecture else ("text",)

    @property
    def tiling(self) -> Tiling | None:
        """How images are cut, where the model sees them in tiles."""
        return self.vision if isinstance(self.vision, Tiling) else None

    @property
    def takes_images(self) -> bool:
        """Whether the model takes images."""
        return "image" in self.modalities

    def require_vision(self) -> None:
        """Check that the model takes images.

        Raises:
            InputError: It does not.
        """
        if not self.takes_images:
            raise InputError(f"{self.id} reads text only; give it a text, or take a model that sees images")

    def max_tokens(self, modality: Modality) -> int:
        """Return the most tokens of a prompt, its image tokens included."""
        return self.max_text_tokens if modality == "text" else self.max_tokens_with_image
