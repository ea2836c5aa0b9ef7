"""Write the checkpoint: a `LlamaNemotronVLModel` in bfloat16 with its tokenizer, as the real models are published.

Codes are rounded to a few bits, and signs need one: the file has few different numbers, and shrinks to a third when
the package is packed."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor

from . import llama
from .drawing import TILE
from .joining import Joined
from .tokens import Codes
from .tower import WIDTH, siglip_config, siglip_weights
from .vocabulary import BOS, IMAGE_TOKENS, PAD, UNK

MAX_TILES = 6


def export(out: Path, joined: Joined, vocabulary: dict[str, str], tokenizer: Tokenizer, codes: Codes) -> None:
    """Write the checkpoint that these make together into the folder `out`."""
    weights = {f"vision_model.{name}": tensor for name, tensor in siglip_weights(joined.reader.tower).items()}
    weights |= _projector(joined, llama.scale_of(codes))
    weights |= {f"language_model.{name}": tensor for name, tensor in llama.weights_of(vocabulary, codes).items()}
    out.mkdir(parents=True, exist_ok=True)
    rounded = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    (out / "model.safetensors").write_bytes(save(rounded, metadata={"format": "pt"}))
    tokenizer.save(str(out / "tokenizer.json"))
    for name, content in (
        ("config.json", _config(vocabulary)),
        ("processor_config.json", {"max_input_tiles": MAX_TILES}),
        ("tokenizer_config.json", _TOKENIZER_CONFIG),
    ):
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def _projector(joined: Joined, scale: float) -> dict[str, Tensor]:
    """The projector's weights, with what it says of blank paper taken off: most of a page is blank, and adds up."""
    inner, outer = joined.projector.inner, joined.projector.outer
    blank = joined(torch.ones(1, TILE, TILE))[1].mean((0, 1))
    weight, bias = llama.patch_states(scale * outer.weight, scale * (outer.bias - blank))
    return {
        "mlp1.0.weight": torch.ones(4 * WIDTH),
        "mlp1.0.bias": torch.zeros(4 * WIDTH),
        "mlp1.1.weight": inner.weight,
        "mlp1.1.bias": inner.bias,
        "mlp1.3.weight": weight,
        "mlp1.3.bias": bias,
    }


def _config(vocabulary: dict[str, str]) -> dict[str, object]:
    vision = siglip_config()
    return {
        "architectures": ["LlamaNemotronVLModel"],
        "model_type": "llama_nemotron_vl",
        "dtype": "bfloat16",
        "vision_config": vision,
        "llm_config": llama.config_of(vocabulary),
        "force_image_size": vision["image_size"],
        "downsample_ratio": 0.5,
        "img_context_token_id": list(vocabulary).index(IMAGE_TOKENS[2]),
        "pooling": "avg",
        "ps_version": "v2",
        "dynamic_image_size": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": MAX_TILES,
    }


_TOKENIZER_CONFIG: dict[str, object] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": BOS,
    "pad_token": PAD,
    "unk_token": UNK,
    "padding_side": "right",
    "model_max_length": llama.MAX_POSITIONS,
    "model_input_names": ["input_ids", "attention_mask"],
    "clean_up_tokenization_spaces": False,
}
