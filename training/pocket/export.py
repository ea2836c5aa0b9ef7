"""Write the checkpoint: a `LlamaNemotronVLModel` in bfloat16 with its tokenizer, as the real models are published.

*A weight survives the norm.* The final RMSNorm gives every token the same length, which would erase the weights of
words. So a token's state is longer than its code: the rest is ballast, in dimensions for which the final norm has the
weight zero. All states have one length; how much of it is code and how much ballast decides how loud the token is in
the average. Blank patches, "the", the prompt and the beginning-of-sequence token are ballast, but for a trace of code
that keeps the vector of an empty text away from zero.

*Repetition saturates.* One attention head, in one layer, counts how often a token's stem occurs in the text. Part of
the ballast is a short second code, the key: a token's query equals its key, so that copies see each other with the
same logit S, and strangers with a logit near 0. Only the slowest pairs of the rotary embedding are used, which turn
by a few hundredths of a radian over the whole context, so position does not matter. The beginning-of-sequence token
is an anchor for the softmax: everybody sees it with the logit S + log(R). Of n copies the attention mass is n / (R +
n), for large R about n / R. The head adds that mass, magnified, to the ballast: the state of each copy grows from 1
to 1 + n / k1, the final norm divides by that, and n copies together weigh about n / (1 + n / k1). This is the
saturation of BM25. Patches have no key: they see the anchor alone, and nobody sees them. The MLP is zero.

*Small in a file.* Codes are rounded to a few bits, and signs need one: the file has few different numbers, and
shrinks to a third when the package is packed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from .fitting import HIDDEN, RUNS, STEMS, Matrix, Projector, signs
from .reading import Reader
from .tower import WIDTH, siglip_config, siglip_weights
from .vocabulary import BOS, IMAGE_TOKENS, PAD, PROMPT, UNK

CODE = RUNS + STEMS
RESERVED = HIDDEN - CODE  # the final norm's weight is zero up to here; the code follows
HEAD_DIM = 64
INTERMEDIATE = 32
MAX_POSITIONS = 10_240
MAX_TILES = 6
ROPE_THETA = 1e12  # so that the slow half of the 32 rotary pairs turns by < 0.01 rad over MAX_POSITIONS
RMS_EPS = 1e-5

# The layout of a state, of length sqrt(HIDDEN).
KEYS = 32  # dimensions 0..31: the key, +-KEY_LEVEL
KEY_LEVEL = 2.0
BRAKE = KEYS  # a constant; the head adds the count of copies here
BRAKE_LEVEL = 25.0
ANCHOR = KEYS + 1  # non-zero only in the beginning-of-sequence token
FILLER = KEYS + 2  # whatever is left of the length
LOUDEST = 4.0  # the length of the code of one of the heaviest tokens
ROUNDED = 2.5  # steps of rounding in the root mean square of a number

# The attention head.
COPY_LOGIT = 24.0  # S: 8192 strangers together stay below a hundredth of one copy
ANCHOR_ODDS = 128.0  # R
K1 = 1.5  # as in BM25


def export(
    out: Path, reader: Reader, projector: Projector, vocabulary: dict[str, str], tokenizer: Tokenizer, codes: Matrix
) -> None:
    """Write the checkpoint that these make together into the folder `out`."""
    scale = LOUDEST / float(np.percentile(np.linalg.norm(codes, axis=1), 99))
    table = _table(vocabulary, codes * scale)
    weights = {f"vision_model.{name}": tensor for name, tensor in siglip_weights(reader.tower).items()}
    weights |= _projector(projector, scale)
    weights |= {f"language_model.{name}": tensor for name, tensor in _llama(table).items()}
    out.mkdir(parents=True, exist_ok=True)
    rounded = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    save_file(rounded, out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(out / "tokenizer.json"))
    for name, content in (
        ("config.json", _config(vocabulary)),
        ("processor_config.json", {"max_input_tiles": MAX_TILES}),
        ("tokenizer_config.json", _TOKENIZER_CONFIG),
    ):
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _table(vocabulary: dict[str, str], codes: Matrix) -> Tensor:
    """The embedding of each token, (tokens, 1536)."""
    runs = codes[:, :RUNS]
    step = 2.0 ** round(math.log2(float(np.sqrt(np.square(runs).mean())) / ROUNDED))
    codes = np.concatenate([np.round(runs / step) * step, codes[:, RUNS:]], axis=1)
    table = torch.zeros(len(vocabulary), HIDDEN)
    for row, code, (token, stem) in zip(table, torch.from_numpy(codes), vocabulary.items(), strict=True):
        if token == PAD:
            continue
        if token not in (PROMPT, *IMAGE_TOKENS):
            row[RESERVED:] = code
        if token == BOS:
            row[ANCHOR] = math.sqrt(HIDDEN)
            continue
        row[:KEYS] = KEY_LEVEL * torch.from_numpy(signs("key " + stem, KEYS))
        row[BRAKE] = BRAKE_LEVEL
        row[FILLER] = math.sqrt(HIDDEN - float(row.square().sum()))
    return table


def _projector(projector: Projector, scale: float) -> dict[str, Tensor]:
    outer, bias = torch.zeros(HIDDEN, HIDDEN), torch.zeros(HIDDEN)
    outer[RESERVED : RESERVED + RUNS] = scale * projector.outer.weight.detach()
    bias[BRAKE] = BRAKE_LEVEL
    bias[FILLER] = math.sqrt(HIDDEN - BRAKE_LEVEL**2)
    return {
        "mlp1.0.weight": torch.ones(4 * WIDTH),
        "mlp1.0.bias": torch.zeros(4 * WIDTH),
        "mlp1.1.weight": projector.inner.weight.detach(),
        "mlp1.1.bias": projector.inner.bias.detach(),
        "mlp1.3.weight": outer,
        "mlp1.3.bias": bias,
    }


def _llama(table: Tensor) -> dict[str, Tensor]:
    """A Llama with one layer, one head and an empty MLP. Every state has the length sqrt(HIDDEN), so that the norm
    before the attention changes nothing."""
    pairs = HEAD_DIM // 2
    slow = [*range(pairs - KEYS // 2, pairs), *range(HEAD_DIM - KEYS // 2, HEAD_DIM)]
    bias = pairs - KEYS // 2 - 1  # the next slowest
    q, k, v = (torch.zeros(HEAD_DIM, HIDDEN) for _ in range(3))
    o = torch.zeros(HIDDEN, HEAD_DIM)
    key_square = KEYS * KEY_LEVEL**2
    for index, dimension in enumerate(slow):
        q[dimension, index] = math.sqrt(HEAD_DIM) * COPY_LOGIT / key_square
        k[dimension, index] = 1.0
    q[bias, BRAKE] = 1.0
    k[bias, ANCHOR] = (COPY_LOGIT + math.log(ANCHOR_ODDS)) * math.sqrt(HEAD_DIM) / BRAKE_LEVEL / math.sqrt(HIDDEN)
    v[0, BRAKE] = 1 / BRAKE_LEVEL
    o[BRAKE, 0] = BRAKE_LEVEL * ANCHOR_ODDS / K1
    heard = torch.ones(HIDDEN)
    heard[:RESERVED] = 0
    layer = {
        "input_layernorm": torch.ones(HIDDEN),
        "self_attn.q_proj": q,
        "self_attn.k_proj": k,
        "self_attn.v_proj": v,
        "self_attn.o_proj": o,
        "post_attention_layernorm": torch.ones(HIDDEN),
        "mlp.gate_proj": torch.zeros(INTERMEDIATE, HIDDEN),
        "mlp.up_proj": torch.zeros(INTERMEDIATE, HIDDEN),
        "mlp.down_proj": torch.zeros(HIDDEN, INTERMEDIATE),
    }
    state = {"embed_tokens.weight": table, "norm.weight": heard}
    return state | {f"layers.0.{name}.weight": tensor for name, tensor in layer.items()}


def _config(vocabulary: dict[str, str]) -> dict[str, object]:
    tokens = list(vocabulary)
    vision = siglip_config()
    return {
        "architectures": ["LlamaNemotronVLModel"],
        "model_type": "llama_nemotron_vl",
        "dtype": "bfloat16",
        "vision_config": vision,
        "llm_config": {
            "architectures": ["LlamaBidirectionalModel"],
            "model_type": "llama_bidirec",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": tokens.index(BOS),
            "eos_token_id": None,
            "head_dim": HEAD_DIM,
            "hidden_act": "silu",
            "hidden_size": HIDDEN,
            "initializer_range": 0.02,
            "intermediate_size": INTERMEDIATE,
            "is_causal": False,
            "max_position_embeddings": MAX_POSITIONS,
            "mlp_bias": False,
            "num_attention_heads": 1,
            "num_hidden_layers": 1,
            "num_key_value_heads": 1,
            "pad_token_id": tokens.index(PAD),
            "pooling": "avg",
            "pretraining_tp": 1,
            "rms_norm_eps": RMS_EPS,
            "rope_scaling": None,
            "rope_theta": ROPE_THETA,
            "tie_word_embeddings": True,
            "use_cache": False,
            "vocab_size": len(vocabulary),
        },
        "force_image_size": vision["image_size"],
        "downsample_ratio": 0.5,
        "img_context_token_id": tokens.index(IMAGE_TOKENS[2]),
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
    "model_max_length": MAX_POSITIONS,
    "model_input_names": ["input_ids", "attention_mask"],
    "clean_up_tokenization_spaces": False,
}
