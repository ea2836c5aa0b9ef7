"""Tiny checkpoints in the layout NVIDIA publishes, and the images that go with the golden vectors.

Every weight comes from numpy's PCG64 bit stream, seeded by the tensor's own name, so a tensor has the same
numbers on every machine, with every torch, in every variant of the checkpoint: a text checkpoint carries
exactly the language model of the vision-language one. This file knows names, shapes and scales, and nothing
of how a model computes.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Shape = tuple[int, ...]
Weights = dict[str, NDArray[np.float32]]
Json = dict[str, Any]

SEED = 20260
LLM_WIDTH, LLM_LAYERS, LLM_FFN, HEADS, KV_HEADS, HEAD_DIM = 128, 2, 256, 4, 2, 32
VIT_WIDTH, VIT_LAYERS, VIT_FFN, VIT_HEADS, TILE, PATCH = 32, 2, 64, 2, 64, 8
TOKENS_PER_TILE = (TILE // PATCH) ** 2 // 4  # the pixel shuffle folds 2x2 patches into one token
MAX_TILES = 6
# Larger than the published ones and nobody's default: who does not read them from the file is found out.
VIT_EPS, LLM_EPS = 1e-4, 1e-3

BOS, EOS, IMG_START, IMG_END, IMG_CONTEXT = range(256, 261)
SPECIAL_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<img>", "</img>", "<IMG_CONTEXT>")
# A few merges make "passage: " + "the" come out otherwise than its two halves, as in a real tokenizer.
MERGES = (("t", "h"), ("th", "e"), ("i", "n"), ("e", "r"), ("Ġ", "the"), ("Ġ", "a"))
VOCABULARY = 272  # some rows more than the tokenizer has tokens, again as in the real one
# An original length so small that every rotary frequency changes but the two fastest.
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Storage(TypedDict, total=False):
    """How the weights lie in the folder, and the damage a test wants; names are those in the file."""

    shards: int  # over 1: that many files and an index
    dtype: str
    drop: Collection[str]  # tensors to leave out
    extra: Collection[str]  # tensors no model asks for
    misshape: Collection[str]  # tensors to write with one row too many


def write_vl_checkpoint(
    folder: Path,
    *,
    spelling: Literal["nested", "flat"] = "nested",
    head: bool = False,
    lm_head: bool = False,
    ps_version: str | None = "v2",
    rope_scaling: Json | None = None,
    max_position_embeddings: int = 1024,
    **storage: Unpack[Storage],
) -> Path:
    """Write a `LlamaNemotronVLModel`; `nested` and `flat` name its tower as transformers 4 and 5 do."""
    tower = "vision_model.vision_model." if spelling == "nested" else "vision_model."
    weights = {
        **_draw_all(_vision_shapes(head), tower),
        **_draw_all(_projector_shapes(), ""),
        **_draw_all(_language_shapes(lm_head), "language_model."),
    }
    config = {
        "architectures": ["LlamaNemotronVLModel"],
        "model_type": "llama_nemotron_vl",
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": VIT_WIDTH,
            "intermediate_size": VIT_FFN,
            "num_hidden_layers": VIT_LAYERS,
            "num_attention_heads": VIT_HEADS,
            "num_channels": 3,
            "image_size": TILE,
            "patch_size": PATCH,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": VIT_EPS,
        },
        "llm_config": _language_config(rope_scaling, max_position_embeddings),
        "force_image_size": TILE,
        "downsample_ratio": 0.5,
        "img_context_token_id": IMG_CONTEXT,
        "pooling": "avg",
        "dynamic_image_size": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": MAX_TILES,
    }
    if ps_version is not None:
        config["ps_version"] = ps_version
    _save(folder, config, weights, **storage)
    _write_json(folder / "processor_config.json", {"max_input_tiles": MAX_TILES})
    return folder


def write_text_checkpoint(
    folder: Path,
    *,
    rope_scaling: Json | None = None,
    max_position_embeddings: int = 1024,
    **storage: Unpack[Storage],
) -> Path:
    """Write a `LlamaBidirectionalModel`: the same language model by itself."""
    config = {**_language_config(rope_scaling, max_position_embeddings), "pooling": "avg"}
    _save(folder, config, _draw_all(_language_shapes(lm_head=False), ""), **storage)
    return folder


def case_image(name: str) -> Image.Image:
    """Return the image a golden case calls by this name."""
    width, height, mode = {
        "portrait": (300, 424, "RGB"),  # a page: 2x3 tiles
        "landscape": (424, 240, "RGB"),
        "square": (200, 200, "RGB"),
        "banner": (500, 80, "RGB"),
        "tiny": (40, 30, "RGB"),  # has to be enlarged
        "icon": (48, 48, "RGB"),  # one tile, and therefore no thumbnail
        "noise": (150, 100, "RGB"),
        "gray": (96, 96, "L"),
        "translucent": (128, 96, "RGBA"),
    }[name]
    if name == "noise":
        pixels = (_bits(name, height * width * 3) >> 56).astype(np.uint8)
        return Image.fromarray(pixels.reshape(height, width, 3))
    y, x = np.mgrid[0:height, 0:width]
    page = np.stack([x * 255 // width, y * 255 // height, (x + 2 * y) % 256, 64 + x * 191 // width], axis=-1)
    if name == "portrait":  # lines of "print" on near white
        page[:, :, :3] = 250 - 220 * ((y // 6 % 3 == 0) & (x // 5 * 7 % 11 > 3))[:, :, None]
    if name == "square":  # a disc, so that the corners and the middle differ
        page[(x - 100) ** 2 + (y - 100) ** 2 < 3600] = (200, 30, 40, 255)
    channels = {"L": page[:, :, 2], "RGB": page[:, :, :3], "RGBA": page}[mode]
    return Image.fromarray(np.ascontiguousarray(channels, dtype=np.uint8))


def _language_config(rope_scaling: Json | None, max_position_embeddings: int) -> Json:
    return {
        "architectures": ["LlamaBidirectionalModel"],
        "model_type": "llama_bidirec",
        "hidden_size": LLM_WIDTH,
        "intermediate_size": LLM_FFN,
        "num_hidden_layers": LLM_LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "rms_norm_eps": LLM_EPS,
        "rope_theta": 500000.0,
        "rope_scaling": rope_scaling,
        "max_position_embeddings": max_position_embeddings,
        "vocab_size": VOCABULARY,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }


def _language_shapes(lm_head: bool) -> dict[str, Shape]:
    layer: dict[str, Shape] = {
        "input_layernorm.weight": (LLM_WIDTH,),
        "post_attention_layernorm.weight": (LLM_WIDTH,),
        "self_attn.q_proj.weight": (HEADS * HEAD_DIM, LLM_WIDTH),
        "self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, LLM_WIDTH),
        "self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, LLM_WIDTH),
        "self_attn.o_proj.weight": (LLM_WIDTH, HEADS * HEAD_DIM),
        "mlp.gate_proj.weight": (LLM_FFN, LLM_WIDTH),
        "mlp.up_proj.weight": (LLM_FFN, LLM_WIDTH),
        "mlp.down_proj.weight": (LLM_WIDTH, LLM_FFN),
    }
    shapes: dict[str, Shape] = {"embed_tokens.weight": (VOCABULARY, LLM_WIDTH), "norm.weight": (LLM_WIDTH,)}
    shapes |= {f"layers.{i}.{name}": shape for i in range(LLM_LAYERS) for name, shape in layer.items()}
    if lm_head:
        shapes["lm_head.weight"] = (VOCABULARY, LLM_WIDTH)
    return shapes


def _vision_shapes(head: bool) -> dict[str, Shape]:
    layer = {
        **_affine("layer_norm1", VIT_WIDTH),
        **_affine("layer_norm2", VIT_WIDTH),
        **_affine("self_attn.q_proj", VIT_WIDTH, VIT_WIDTH),
        **_affine("self_attn.k_proj", VIT_WIDTH, VIT_WIDTH),
        **_affine("self_attn.v_proj", VIT_WIDTH, VIT_WIDTH),
        **_affine("self_attn.out_proj", VIT_WIDTH, VIT_WIDTH),
        **_affine("mlp.fc1", VIT_FFN, VIT_WIDTH),
        **_affine("mlp.fc2", VIT_WIDTH, VIT_FFN),
    }
    shapes = {
        **_affine("embeddings.patch_embedding", VIT_WIDTH, 3, PATCH, PATCH),
        "embeddings.position_embedding.weight": ((TILE // PATCH) ** 2, VIT_WIDTH),
        **{f"encoder.layers.{i}.{name}": shape for i in range(VIT_LAYERS) for name, shape in layer.items()},
        **_affine("post_layernorm", VIT_WIDTH),
    }
    if head:
        shapes |= {
            "head.probe": (1, 1, VIT_WIDTH),
            "head.attention.in_proj_weight": (3 * VIT_WIDTH, VIT_WIDTH),
            "head.attention.in_proj_bias": (3 * VIT_WIDTH,),
            **_affine("head.attention.out_proj", VIT_WIDTH, VIT_WIDTH),
            **_affine("head.layernorm", VIT_WIDTH),
            **_affine("head.mlp.fc1", VIT_FFN, VIT_WIDTH),
            **_affine("head.mlp.fc2", VIT_WIDTH, VIT_FFN),
        }
    return shapes


def _projector_shapes() -> dict[str, Shape]:
    return {
        **_affine("mlp1.0", 4 * VIT_WIDTH),
        **_affine("mlp1.1", LLM_WIDTH, 4 * VIT_WIDTH),
        **_affine("mlp1.3", LLM_WIDTH, LLM_WIDTH),
    }


def _affine(name: str, rows: int, *columns: int) -> dict[str, Shape]:
    """Shapes of a norm (`rows` only), linear or convolution layer with a bias."""
    return {f"{name}.weight": (rows, *columns), f"{name}.bias": (rows,)}


def _bits(name: str, count: int) -> NDArray[np.uint64]:
    """Return random 64-bit words: numpy promises this stream, but not the one of its normal distribution."""
    return np.random.PCG64([SEED, crc32(name.encode())]).random_raw(count)


def _draw(name: str, shape: Shape) -> NDArray[np.float32]:
    """Draw one tensor at a scale that keeps signals at about unit size from layer to layer."""
    noise = (_bits(name, int(np.prod(shape))) >> 40).astype(np.float32) / np.float32(2**23) - 1  # in [-1, 1)
    if name.endswith("bias"):
        noise *= np.float32(0.2)
    elif len(shape) == 1:
        noise = 1 + np.float32(0.3) * noise  # a norm's gain
    elif "embed_tokens" in name:
        noise *= np.float32(1.7)
    elif "position_embedding" not in name:
        fan_in = int(np.prod(shape[1:]))
        noise *= np.float32(2.5) / np.float32(fan_in) ** np.float32(0.5)
    return noise.reshape(shape)


def _draw_all(shapes: Mapping[str, Shape], prefix: str) -> Weights:
    return {prefix + name: _draw(name, shape) for name, shape in shapes.items()}


def _save(
    folder: Path,
    config: Json,
    weights: Weights,
    *,
    shards: int = 1,
    dtype: str = "float32",
    drop: Collection[str] = (),
    extra: Collection[str] = (),
    misshape: Collection[str] = (),
) -> None:
    """Write config, tokenizer and weights, the last in `shards` files and with the asked-for damage."""
    if unknown := {*drop, *misshape} - weights.keys():
        raise KeyError(f"no such tensors: {sorted(unknown)}")
    weights = {name: array for name, array in weights.items() if name not in drop}
    weights |= {name: np.concatenate([weights[name], weights[name][:1]]) for name in misshape}
    weights |= {name: _draw(name, (4, 4)) for name in extra}
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(weights)
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    if shards == 1:
        files = ["model.safetensors"]
    for i, file in enumerate(files):
        _save_tensors({name: weights[name] for name in names[i::shards]}, dtype, folder / file)
    if shards > 1:
        size = sum(array.size for array in weights.values()) * (4 if dtype == "float32" else 2)
        weight_map = {name: files[i % shards] for i, name in enumerate(names)}
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)
    _write_json(folder / "config.json", {**config, "torch_dtype": dtype})
    _write_tokenizer(folder)


def _save_tensors(weights: Weights, dtype: str, file: Path) -> None:
    metadata = {"format": "pt"}
    if dtype == "float32":
        from safetensors.numpy import save_file

        save_file(weights, file, metadata)
    else:  # numpy has no bfloat16
        import torch
        from safetensors.torch import save_file as save_tensors

        tensors = {name: torch.from_numpy(array).to(getattr(torch, dtype)) for name, array in weights.items()}
        save_tensors(tensors, file, metadata)


def _write_tokenizer(folder: Path) -> None:
    """Write a byte-level BPE in the manner of Llama 3: its split, BOS in front, nothing behind."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    merged = [left + right for left, right in MERGES]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL_TOKENS, *merged]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(MERGES)))
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS]
    tokenizer.add_special_tokens(special)
    bos = SPECIAL_TOKENS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, BOS)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": bos,
            "eos_token": SPECIAL_TOKENS[1],
            "pad_token": SPECIAL_TOKENS[1],
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 1024,
            "clean_up_tokenization_spaces": False,
        },
    )


def _write_json(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
