"""How the family's checkpoints are laid out, as published: what `config.json` says, and what weights are called.

`LlamaNemotronVLModel` has vision and text, `LlamaBidirectionalModel` text alone.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nemovlm.errors import CheckpointError
from nemovlm.models.card import ModelCard
from nemovlm.models.files import config_errors, read_json, weight_files
from nemovlm.models.llama_nemotron.cards import MAX_TEXT_TOKENS, MAX_TOKENS_WITH_IMAGE, TEXT, VISION
from nemovlm.models.tiling import Tiling


def read_card(folder: Path, config: Mapping[str, Any]) -> ModelCard:
    """Return what the files of a checkpoint say of it.

    Raises:
        CheckpointError: They are incomplete.
    """
    weight_files(folder)
    with config_errors(folder):
        vision = VISION in config["architectures"]
        text_config = config["llm_config"] if vision else config
        longest = int(text_config["max_position_embeddings"])
        return ModelCard(
            id=folder.name,
            architecture=VISION if vision else TEXT,
            dimension=int(text_config["hidden_size"]),
            on_hub=False,
            vision=tiling_of(config, read_json(folder, "processor_config.json")) if vision else None,
            max_text_tokens=min(longest, MAX_TEXT_TOKENS),
            max_tokens_with_image=min(longest, MAX_TOKENS_WITH_IMAGE),
            matryoshka=tuple(config.get("matryoshka_dimensions") or ()),
        )


def check(folder: Path, card: ModelCard) -> None:
    """Check that a checkpoint is what its card says.

    Raises:
        CheckpointError: It is not.
    """
    config = read_json(folder, "config.json")
    wanted = card.tiling
    with config_errors(folder):
        width = int((config["llm_config"] if wanted else config)["hidden_size"])
        found = tiling_of(config, read_json(folder, "processor_config.json")) if wanted else None
    if width != card.dimension:
        raise CheckpointError(f"{folder} makes vectors of dimension {width}; {card.id} has {card.dimension}")
    if found and wanted and (found.tile, found.tokens_per_tile) != (wanted.tile, wanted.tokens_per_tile):
        raise CheckpointError(
            f"{folder} cuts tiles of {found.tile} pixels worth {found.tokens_per_tile} tokens; {card.id} has "
            f"{wanted.tile} and {wanted.tokens_per_tile}"
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


def canonical_names(names: Iterable[str]) -> Mapping[str, str]:
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
