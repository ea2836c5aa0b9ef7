"""The language model, which is made, not trained: two layers of four attention heads each, and one MLP.

*A weight survives the norm.* The final RMSNorm gives every token the same length, which would erase the weights of
words. So a token's state is longer than its code: the rest is ballast, in dimensions for which the final norm has the
weight zero. All states have one length; how much of it is code and how much ballast decides how loud the token is in
the average. Blank patches, "the", the prompt and the beginning-of-sequence token are ballast, but for a trace of code
that keeps the vector of an empty text away from zero.

*Repetition saturates.* A head of the second layer counts how often a token's stem occurs in the text. Part of the
ballast is a short second code, the key: a token's query equals its key, so that copies see each other with the same
logit S, and strangers with a logit near 0. Only the slowest pairs of the rotary embedding are used, which turn by a
few hundredths of a radian over the whole context, so position does not matter. The beginning-of-sequence token is an
anchor for the softmax: everybody sees it with the logit S + log(R). Of n copies the attention mass is n / (R + n),
for large R about n / R. The head adds that mass, magnified, to the ballast: the state of each copy grows from 1 to
1 + n / k1, the final norm divides by that, and n copies together weigh about n / (1 + n / k1). This is the saturation
of BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009).

*Pictures saturate too*, by the other head of the second layer. What a patch shows has no fixed key, and its code is
short or long; but the first layer's norm makes all lengths one, if a patch comes without ballast. So the projector
gives patches their code, a shape (a random projection of the code, the raw material of a key) and hardly anything
else. In the first layer one head lets each patch look at itself and at what has the same shape, and writes the shape,
now of one length, into the state: that is its key. The other head brings the ballast that text has from the
beginning: patches look with it at the beginning-of-sequence token, which has it for them; text looks away.

*Pieces of a word know each other.* The other two heads of the first layer look at the token before, by the fastest
pairs of the rotary embedding, and fetch what it tells of its last letters; the first layer's MLP makes of these and of
the token's own first letters what the two have to say together (`tokens.Seams`)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .codes import FEATURES
from .fitting import HIDDEN, signs
from .tokens import SEAM, STEMS, UNITS, Codes
from .vocabulary import BOS, IMAGE_TOKENS, PAD, PROMPT

RESERVED = HIDDEN - FEATURES - STEMS  # the final norm's weight is zero up to here; the code follows
HEADS, HEAD_DIM = 4, 64
MAX_POSITIONS = 10_240
ROPE_THETA = 1e12  # so that the slow half of the 32 rotary pairs turns by < 0.01 rad over MAX_POSITIONS
RMS_EPS = 1e-5
LENGTH = math.sqrt(HIDDEN)  # of a state behind a norm, and of those with ballast before it

# The layout of a state.
KEYS = 32  # dimensions 0..31: the key of a text token, +-KEY_LEVEL
KEY_LEVEL = 2.0
BRAKE = KEYS  # a constant; the heads that count copies add to it
BRAKE_LEVEL = 40.0
ANCHOR = KEYS + 1  # non-zero only in the beginning-of-sequence token
FILLER = KEYS + 2  # whatever is left of the length
EYES = KEYS + 3  # positive in patches, negative in text
PATCH_LEVEL, TEXT_LEVEL = 0.2, -1.0
SHAPE = KEYS + 4  # 32 dimensions: a patch's shape
SEEN = SHAPE + KEYS  # 32 dimensions: a patch's key
FIRST = SEEN + KEYS  # 94 dimensions: what a token tells of its first letters
LAST = FIRST + SEAM  # 94 dimensions: what it tells of its last
BEFORE = LAST + SEAM  # 94 dimensions: what the token before it told of its last

LOUDEST = 6.0  # the length of the code of one of the heaviest tokens
SHAPE_SHARE = 2.0  # the length of a shape, relative to its code
ROUNDED = 2.5  # steps of rounding in the root mean square of a number
SEAM_ROUNDED = 5.0

# The heads.
SELF_LOGIT = 32.0
BALLAST_LOGIT = 20.0
COPY_LOGIT = 24.0  # S of text: 8192 strangers together stay below a hundredth of one copy
ALIKE_LOGIT = 8.0  # S of patches, which are never quite alike
ANCHOR_ODDS = 128.0  # R
K1 = 1.5  # as in BM25
PATCH_K1 = 0.5
BEFORE_LOGITS = (24.0, *6 * (16.0,))  # of the fastest pairs; all other tokens together get less than a thousandth

_PAIRS = HEAD_DIM // 2
_SLOW = [*range(_PAIRS - KEYS // 2, _PAIRS), *range(HEAD_DIM - KEYS // 2, HEAD_DIM)]
_BIAS = _PAIRS - KEYS // 2 - 1  # the next slowest


def scale_of(codes: Codes) -> float:
    """By how much codes are multiplied before they are put into states."""
    lengths = np.hypot(np.linalg.norm(codes.letters, axis=1), np.linalg.norm(codes.stems, axis=1))
    return LOUDEST / float(np.percentile(lengths, 99))


def table_of(vocabulary: dict[str, str], codes: Codes) -> Tensor:
    """The embedding of each token: (tokens, 2048)."""
    scale = scale_of(codes)
    letters = _rounded(torch.from_numpy(scale * codes.letters), ROUNDED)
    spoken = torch.cat([letters, torch.from_numpy(scale * codes.stems)], dim=1)
    first, last = _rounded(codes.seams.first, SEAM_ROUNDED), _rounded(codes.seams.last, SEAM_ROUNDED)
    table = torch.zeros(len(vocabulary), HIDDEN)
    for index, (row, (token, stem)) in enumerate(zip(table, vocabulary.items(), strict=True)):
        if token == PAD:
            continue
        if token not in (PROMPT, *IMAGE_TOKENS):
            row[RESERVED:] = spoken[index]
        row[FIRST:LAST], row[LAST:BEFORE] = first[index], last[index]
        row[EYES] = TEXT_LEVEL
        if token == BOS:
            row[ANCHOR] = LENGTH
            continue
        row[:KEYS] = KEY_LEVEL * torch.from_numpy(signs("key " + stem, KEYS))
        row[BRAKE] = BRAKE_LEVEL
        row[FILLER] = math.sqrt(HIDDEN - float(row.square().sum()))
    return table


def _rounded(numbers: Tensor, steps: float) -> Tensor:
    """To multiples of a power of two, of which about so many are in the root mean square of what is not zero."""
    size = float(numbers[numbers != 0].square().mean().sqrt())
    step = 2.0 ** round(math.log2(size / steps))
    return (numbers / step).round() * step


def patch_states(outer: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (2048, hidden) and bias (2048,) that make states of patches, for a weight (1024, hidden) and a bias
    (1024,) that make scaled codes of runs."""
    directions, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((FEATURES, KEYS)))
    weight, bias = torch.zeros(HIDDEN, outer.shape[1]), torch.zeros(HIDDEN)
    weight[RESERVED : RESERVED + FEATURES], bias[RESERVED : RESERVED + FEATURES] = outer, offset
    shape = SHAPE_SHARE * math.sqrt(FEATURES / KEYS) * torch.from_numpy(directions.T).float()
    weight[SHAPE : SHAPE + KEYS], bias[SHAPE : SHAPE + KEYS] = shape @ outer, shape @ offset
    bias[EYES] = PATCH_LEVEL
    return weight, bias


def weights_of(vocabulary: dict[str, str], codes: Codes) -> dict[str, Tensor]:
    """The state dict of transformers' `LlamaModel`."""
    heard = torch.ones(HIDDEN)
    heard[:RESERVED] = 0
    weights = {"embed_tokens.weight": table_of(vocabulary, codes), "norm.weight": heard}
    first = [_key_head(), _ballast_head(), _before_head(0), _before_head(SEAM // 2)]
    second = [_text_counter(), _patch_counter(), _head(), _head()]
    gate, up, down = torch.zeros(UNITS, HIDDEN), torch.zeros(UNITS, HIDDEN), torch.zeros(HIDDEN, UNITS)
    nothing = (gate.clone(), up.clone(), down.clone())
    gate[:, FIRST:LAST], up[:, BEFORE : BEFORE + SEAM] = codes.seams.gate, codes.seams.up
    down[RESERVED : RESERVED + FEATURES] = scale_of(codes) * codes.seams.down
    for index, (heads, mlp) in enumerate(((first, (gate, up, down)), (second, nothing))):
        q, k, v, o = (list(part) for part in zip(*heads, strict=True))
        layer = {
            "input_layernorm": torch.ones(HIDDEN),
            "self_attn.q_proj": torch.cat(q),
            "self_attn.k_proj": torch.cat(k),
            "self_attn.v_proj": torch.cat(v),
            "self_attn.o_proj": torch.cat(o, dim=1),
            "post_attention_layernorm": torch.ones(HIDDEN),
            **{f"mlp.{name}_proj": part for name, part in zip(("gate", "up", "down"), mlp, strict=True)},
        }
        weights |= {f"layers.{index}.{name}.weight": tensor for name, tensor in layer.items()}
    return weights


def _head() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key and value (64, 2048) and output (2048, 64) of a head that does nothing."""
    q, k, v = (torch.zeros(HEAD_DIM, HIDDEN) for _ in range(3))
    return q, k, v, torch.zeros(HIDDEN, HEAD_DIM)


def _key_head() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v, o = _head()
    for index, dimension in enumerate(_SLOW):
        q[dimension, SHAPE + index] = math.sqrt(HEAD_DIM) * SELF_LOGIT / HIDDEN
        k[dimension, SHAPE + index] = 1.0
        v[index, SHAPE + index] = 1.0
        o[SEEN + index, index] = KEY_LEVEL * math.sqrt(KEYS) / LENGTH
    return q, k, v, o


def _ballast_head() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v, o = _head()
    q[_BIAS, EYES] = 1.0
    k[_BIAS, ANCHOR] = BALLAST_LOGIT * math.sqrt(HEAD_DIM) / LENGTH
    v[0, ANCHOR] = 1 / LENGTH
    o[BRAKE, 0] = BRAKE_LEVEL
    o[FILLER, 0] = math.sqrt(HIDDEN - BRAKE_LEVEL**2 - KEYS * KEY_LEVEL**2)
    return q, k, v, o


def _before_head(start: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Looks one token back, and fetches half of what that tells of its last letters, from `start` on.

    All have the same query, turned by one position, and the same key, so that the match of two is the sum of
    cos(w (distance - 1)) over the frequencies w. (The rotation is that of transformers' `rotate_half`.)"""
    q, k, v, o = _head()
    for pair, logit in enumerate(BEFORE_LOGITS):
        size, back = math.sqrt(logit * math.sqrt(HEAD_DIM)), ROPE_THETA ** (-pair / _PAIRS)
        q[pair, BRAKE], q[pair + _PAIRS, BRAKE] = (
            size * math.cos(back) / BRAKE_LEVEL,
            -size * math.sin(back) / BRAKE_LEVEL,
        )
        k[pair, BRAKE], k[pair, ANCHOR] = size / BRAKE_LEVEL, size / LENGTH
    for index in range(SEAM // 2):
        v[index, LAST + start + index] = 1.0
        o[BEFORE + start + index, index] = 1.0
    return q, k, v, o


def _text_counter() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _counter(0, COPY_LOGIT, K1)


def _patch_counter() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _counter(SEEN, ALIKE_LOGIT, PATCH_K1)


def _counter(keys: int, logit: float, k1: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v, o = _head()
    for index, dimension in enumerate(_SLOW):
        q[dimension, keys + index] = math.sqrt(HEAD_DIM) * logit / (KEYS * KEY_LEVEL**2)
        k[dimension, keys + index] = 1.0
    q[_BIAS, BRAKE] = 1.0
    k[_BIAS, ANCHOR] = (logit + math.log(ANCHOR_ODDS)) * math.sqrt(HEAD_DIM) / BRAKE_LEVEL / LENGTH
    v[0, BRAKE] = 1 / BRAKE_LEVEL
    o[BRAKE, 0] = BRAKE_LEVEL * ANCHOR_ODDS / k1
    return q, k, v, o


def config_of(vocabulary: dict[str, str]) -> dict[str, object]:
    tokens = list(vocabulary)
    return {
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
        "intermediate_size": UNITS,
        "is_causal": False,
        "max_position_embeddings": MAX_POSITIONS,
        "mlp_bias": False,
        "num_attention_heads": HEADS,
        "num_hidden_layers": 2,
        "num_key_value_heads": HEADS,
        "pad_token_id": tokens.index(PAD),
        "pooling": "avg",
        "pretraining_tp": 1,
        "rms_norm_eps": RMS_EPS,
        "rope_scaling": None,
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": True,
        "use_cache": False,
        "vocab_size": len(vocabulary),
    }
