"""Where a checkpoint is, and what tells it from others. Knows files; knows no layout and no torch module.

Nothing but JSON and safetensors is ever fetched or opened, so no code from the hub can run.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from nemovlm.errors import CheckpointError, ConfigurationError, MissingExtraError, UnknownModelError, one_line
from nemovlm.models.card import ModelCard
from nemovlm.models.catalogue import CATALOGUE, find_card, nearest
from nemovlm.models.families import architecture_of, family_of
from nemovlm.models.files import read_json, weight_files
from nemovlm.models.llama_nemotron.cards import MAX_TEXT_TOKENS, MAX_TOKENS_WITH_IMAGE
from nemovlm.paths import local_path


@dataclass(frozen=True)
class Checkpoint:
    """A model that was found: its card, and its folder unless it has to be fetched first, or a server runs it."""

    card: ModelCard
    folder: Path | None

    @property
    def identity(self) -> str:
        """What tells these weights from any others: model id and revision, or a digest of the folder's files.

        Of a model whose weights only its server knows: the id.
        """
        name = (find_card(self.card.id) or self.card).id  # a server may know it by an alias
        if self.card.revision:
            return f"{name}@{self.card.revision[:12]}"
        return f"checkpoint@{_digest(self.folder)}" if self.folder else f"{name}@served"

    def with_max_tiles(self, max_tiles: int | None) -> "Checkpoint":
        """Return it with images cut into at most so many tiles, where it cuts images and a number is given."""
        if not (max_tiles and self.card.tiling):
            return self
        return replace(self, card=replace(self.card, vision=replace(self.card.tiling, max_tiles=max_tiles)))

    def fetch(self) -> Path:
        """Return the folder, downloading it from the hub at the card's revision if need be.

        Raises:
            CheckpointError: The hub cannot be reached, or does not give the files out.
            MissingExtraError: The hub's client is not installed.
        """
        if self.folder is not None:
            return self.folder
        try:
            from huggingface_hub import constants, snapshot_download
        except ImportError as error:
            raise MissingExtraError("the hub client", "local") from error
        constants.HF_HUB_DISABLE_TELEMETRY = True  # it asks and tells the hub which tools run it, among other things
        try:
            return Path(
                snapshot_download(self.card.id, revision=self.card.revision, allow_patterns=["*.json", "*.safetensors"])
            )
        except Exception as error:  # the hub client has no common base for what the network may do
            raise CheckpointError(
                f"{self.card.id} at revision {self.card.revision} could not be downloaded ({one_line(error)}); "
                "check the network and, for a gated model, HF_TOKEN, or pass the folder of a copy"
            ) from error


def find_checkpoint(model: str, revision: str | None = None, *, served: bool = False) -> Checkpoint:
    """Return the checkpoint that a model id or a folder names, without network and without loading anything.

    Args:
        model: An id of the catalogue, or a folder.
        revision: The commit of the hub repository. Default: the one that the catalogue pins.
        served: Whether a server has the weights: then any id will do, no revision is needed, the server is asked for
            the very name that was given, and a folder is one only if its path is absolute or begins with a dot or `~`.

    Raises:
        UnknownModelError: There is no such model; it names the nearest known id.
        CheckpointError: The folder is no checkpoint.
        ConfigurationError: A hub model has no pinned revision.
    """
    card = find_card(model)
    if card and revision:
        if not served and not card.on_hub and revision != card.revision:
            raise ConfigurationError(
                f"{card.id} travels in this package, at revision {card.revision!r}; there is no revision {revision!r}"
            )
        card = replace(card, revision=revision)
    if served and model and not model.startswith(("/", ".", "~")):
        unknown = ModelCard(model, None, None, MAX_TEXT_TOKENS, MAX_TOKENS_WITH_IMAGE, on_hub=False)
        return Checkpoint(replace(card, id=model) if card else unknown, None)
    if card is None:
        if not model or not local_path(model).is_dir():
            guess = nearest(model)
            known = ", ".join(card.id for card in CATALOGUE)
            raise UnknownModelError(
                f"there is no model {model!r} and no such folder; "
                + (f"did you mean {guess!r}?" if guess else f"known models: {known}")
            )
        folder = local_path(model).resolve()
        return Checkpoint(_card_of_folder(folder), folder)
    if not card.on_hub:
        return Checkpoint(card, Path(str(files("nemovlm"))) / "pocket")
    if card.revision is None:
        raise ConfigurationError(
            f"the catalogue pins no hub revision of {card.id}: pass revision='<commit>', or the folder of a copy"
        )
    return Checkpoint(card, None)


def _card_of_folder(folder: Path) -> ModelCard:
    config = read_json(folder, "config.json")
    return family_of(architecture_of(config)).read_card(folder, config)


def _digest(folder: Path) -> str:
    """Return a digest of every file that decides over the vectors: copies of a folder are one space."""
    parts = [*weight_files(folder), *(folder / name for name in ("config.json", "tokenizer.json"))]
    parts += [path for path in [folder / "processor_config.json"] if path.exists()]
    total = hashlib.sha256()
    for path in parts:
        try:
            stat = path.stat()
            total.update(_file_digest(path, stat.st_mtime_ns, stat.st_size))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({one_line(error)})") from error
    return total.hexdigest()[:12]


@lru_cache(maxsize=64)
def _file_digest(path: Path, modified: int, size: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
