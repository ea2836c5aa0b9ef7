"""Where a checkpoint is and what its files say. Knows file layouts; knows no torch module.

Two layouts are read, as published: `LlamaNemotronVLModel` (vision and text) and `LlamaBidirectionalModel` (text).
Nothing but JSON and safetensors is ever fetched or opened, so no code from the hub can run.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from nemovlm.errors import CheckpointError, ConfigurationError, MissingExtraError, UnknownModelError
from nemovlm.models.catalogue import (
    CATALOGUE,
    MAX_TEXT_TOKENS,
    MAX_TOKENS_WITH_IMAGE,
    Architecture,
    ModelCard,
    find_card,
    nearest,
)
from nemovlm.models.tiling import Tiling

_WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"


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
        return replace(self, card=replace(self.card, tiling=replace(self.card.tiling, max_tiles=max_tiles)))

    def fetch(self) -> Path:
        """Return the folder, downloading it from the hub at the card's revision if need be.

        Raises `CheckpointError` if the hub cannot be reached or does not give the files out.
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
                f"{self.card.id} at revision {self.card.revision} could not be downloaded ({_first_line(error)}); "
                "check the network and, for a gated model, HF_TOKEN, or pass the folder of a copy"
            ) from error


def find_checkpoint(model: str, revision: str | None = None, *, served: bool = False) -> Checkpoint:
    """Return the checkpoint that a model id or a folder names, without network and without loading anything.

    `served` says that a server has the weights: then any id will do, no revision is needed, the server is asked for
    the very name that was given, and a folder is one only if it is given as an absolute path or begins with a dot.

    Raises `UnknownModelError` (with the nearest known id), `CheckpointError`, or `ConfigurationError` where a
    hub model has no pinned revision.
    """
    card = find_card(model)
    if card and revision:
        if not served and not card.on_hub and revision != card.revision:
            raise ConfigurationError(
                f"{card.id} travels in this package, at revision {card.revision!r}; there is no revision {revision!r}"
            )
        card = replace(card, revision=revision)
    if served and model and not model.startswith(("/", ".")):
        unknown = ModelCard(id=model, architecture=None, dimension=None, on_hub=False)
        return Checkpoint(replace(card, id=model) if card else unknown, None)
    if card is None:
        if not model or not Path(model).is_dir():
            guess = nearest(model)
            known = ", ".join(card.id for card in CATALOGUE)
            raise UnknownModelError(
                f"there is no model {model!r} and no such folder; "
                + (f"did you mean {guess!r}?" if guess else f"known models: {known}")
            )
        folder = Path(model).resolve()
        return Checkpoint(_card_of_folder(folder), folder)
    if not card.on_hub:
        return Checkpoint(card, Path(str(files("nemovlm"))) / "pocket")
    if card.revision is None:
        raise ConfigurationError(
            f"the catalogue pins no hub revision of {card.id}: pass revision='<commit>', or the folder of a copy"
        )
    return Checkpoint(card, None)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return a JSON file of a checkpoint; an absent `processor_config.json` counts as empty.

    Raises `CheckpointError`.
    """
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if name == "processor_config.json":
            return {}
        raise CheckpointError(f"{folder} has no {name}: it is no checkpoint folder") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / name} cannot be read ({_first_line(error)})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{folder / name} must hold a JSON object")
    return content


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint. Raises `CheckpointError` if one is missing."""
    if (folder / _WEIGHTS_INDEX).exists():
        try:
            names = sorted(
                {folder.joinpath(name).name for name in read_json(folder, _WEIGHTS_INDEX)["weight_map"].values()}
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder / _WEIGHTS_INDEX} maps no weights to files") from error
    else:
        names = [_WEIGHTS]
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no weights: {name} is missing")
    return [folder / name for name in names]


def canonical_names(names: Iterator[str] | list[str]) -> Mapping[str, str]:
    """Return {name in the file: name in the module} for the weights that the module has a use for.

    Checkpoints saved by transformers 4 spell the tower `vision_model.vision_model.`; some nest the text model
    as `language_model.model.`. Left out: the attention-pooling head of the tower, a language-model head, and
    position tables that are computed.
    """
    kept = {}
    for name in names:
        new = name.replace("vision_model.vision_model.", "vision_model.", 1)
        new = new.replace("language_model.model.", "language_model.", 1)
        computed = new.endswith(("rotary_emb.inv_freq", "embeddings.position_ids"))
        if not (computed or new.startswith("vision_model.head.") or "lm_head." in new):
            kept[name] = new
    return kept


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture that a `config.json` names. Raises `CheckpointError` for any other."""
    names = config.get("architectures") or ["none"]
    names = names if isinstance(names, list) else [names]
    for known in get_args(Architecture):
        if known in names:
            return known  # type: ignore[no-any-return] # get_args() of a Literal of str
    raise CheckpointError(
        f"the checkpoint's architecture is {names[0]}; this package runs {' and '.join(get_args(Architecture))}"
    )


def tiling_of(config: Mapping[str, Any], processor: Mapping[str, Any]) -> Tiling:
    """Return the tiling of a vision checkpoint, with the fallbacks that vLLM's processor has."""
    side = int(config.get("force_image_size") or config["vision_config"]["image_size"])
    patches = side // int(config["vision_config"]["patch_size"])
    dynamic = processor.get("dynamic_image_size", config.get("dynamic_image_size", True))
    smallest = processor.get("min_input_tiles", config.get("min_dynamic_patch", 1)) if dynamic else 1
    largest = processor.get("max_input_tiles", config.get("max_dynamic_patch", 6)) if dynamic else 1
    if not 1 <= int(smallest) <= int(largest):
        raise ValueError(f"a number of tiles from {smallest} to {largest}")
    return Tiling(
        tile=side,
        tokens_per_tile=int(patches**2 * float(config.get("downsample_ratio", 0.5)) ** 2),
        min_tiles=int(smallest),
        max_tiles=int(largest),
    )


def check_folder(folder: Path, card: ModelCard) -> None:
    """Raise `CheckpointError` unless a checkpoint is what its card says: its vectors would be wrong otherwise."""
    config = read_json(folder, "config.json")
    with _complete(folder):
        width = int((config["llm_config"] if card.tiling else config)["hidden_size"])
        found = tiling_of(config, read_json(folder, "processor_config.json")) if card.tiling else None
    if width != card.dimension:
        raise CheckpointError(f"{folder} makes {width} components; {card.id} has {card.dimension}")
    wanted = card.tiling
    if found and wanted and (found.tile, found.tokens_per_tile) != (wanted.tile, wanted.tokens_per_tile):
        raise CheckpointError(
            f"{folder} cuts tiles of {found.tile} pixels worth {found.tokens_per_tile} tokens; {card.id} has "
            f"{wanted.tile} and {wanted.tokens_per_tile}"
        )


def _card_of_folder(folder: Path) -> ModelCard:
    config = read_json(folder, "config.json")
    architecture = architecture_of(config)
    weight_files(folder)
    with _complete(folder):
        vision = architecture == "LlamaNemotronVLModel"
        text_config = config["llm_config"] if vision else config
        longest = int(text_config["max_position_embeddings"])
        return ModelCard(
            id=folder.name,
            architecture=architecture,
            dimension=int(text_config["hidden_size"]),
            on_hub=False,
            tiling=tiling_of(config, read_json(folder, "processor_config.json")) if vision else None,
            max_text_tokens=min(longest, MAX_TEXT_TOKENS),
            max_tokens_with_image=min(longest, MAX_TOKENS_WITH_IMAGE),
            matryoshka=tuple(config.get("matryoshka_dimensions") or ()),
        )


@contextmanager
def _complete(folder: Path) -> Iterator[None]:
    """Say of a `config.json` that lacks what is read here that it does."""
    try:
        yield
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is incomplete: {error} is missing or unusable") from error


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
            raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    return total.hexdigest()[:12]


@lru_cache(maxsize=64)
def _file_digest(path: Path, modified: int, size: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
