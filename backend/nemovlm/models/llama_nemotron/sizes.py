"""What the torch modules need to know of `config.json`: how large they are, and the constants in their formulas."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from nemovlm.models.llama_nemotron.rotary import Rotary

_SHIFTS = "attention_shifts"  # a field of our own in `vision_config`


@dataclass(frozen=True)
class LlamaSizes:
    """The sizes of a Llama, with the defaults of transformers 5 `LlamaConfig` where a field is absent."""

    vocabulary: int
    width: int
    hidden: int
    """Width of the MLP."""
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    eps: float
    rotary: Rotary

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Read the fields of `config`.

        Raises:
            KeyError: One is missing.
            TypeError: One is of another type.
            ValueError: It describes a model that this code cannot compute.
        """
        _require(config, hidden_act="silu", attention_bias=False, mlp_bias=False)
        width, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        head_width = int(config.get("head_dim") or width // heads)
        kv_heads = int(config.get("num_key_value_heads") or heads)
        if heads % kv_heads:
            raise ValueError(f"{heads} heads cannot share {kv_heads} of keys and values")
        return cls(
            vocabulary=int(config["vocab_size"]),
            width=width,
            hidden=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=kv_heads,
            head_width=head_width,
            eps=float(config.get("rms_norm_eps", 1e-6)),
            rotary=Rotary.of(config, head_width),
        )


@dataclass(frozen=True)
class SiglipSizes:
    """The sizes of a SigLIP tower, with the defaults of transformers 5 `SiglipVisionConfig`."""

    width: int
    hidden: int
    """Width of the MLP."""
    layers: int
    heads: int
    image: int
    """Pixels on each side of a tile."""
    patch: int
    """Pixels on each side of a patch."""
    eps: float
    shifts: tuple[tuple[tuple[int, int], ...], ...] = ()
    """Where the heads of each layer look: (columns to the right, rows down), going round at the edges. Empty where they
    look at what they find; only the pocket model says otherwise."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Read the fields of `config`. It raises like `LlamaSizes.of`."""
        _require(config, hidden_act="gelu_pytorch_tanh", num_channels=3)
        sizes = cls(
            width=int(config["hidden_size"]),
            hidden=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            image=int(config["image_size"]),
            patch=int(config["patch_size"]),
            eps=float(config.get("layer_norm_eps", 1e-6)),
            shifts=tuple(tuple((int(x), int(y)) for x, y in layer) for layer in config.get(_SHIFTS, ())),
        )
        if sizes.width % sizes.heads or sizes.image % sizes.patch:
            raise ValueError(f"{sizes.heads} heads in {sizes.width}, or patches of {sizes.patch} in {sizes.image}")
        if sizes.shifts and [len(layer) for layer in sizes.shifts] != [sizes.heads] * sizes.layers:
            raise ValueError(f"{_SHIFTS} are not those of {sizes.layers} layers with {sizes.heads} heads each")
        return sizes

    @property
    def side(self) -> int:
        """Patches on each side of a tile."""
        return self.image // self.patch


def _require(config: Mapping[str, Any], **fields: object) -> None:
    for name, value in fields.items():
        if (found := config.get(name, value)) != value:
            raise ValueError(f"{name} is {found!r}, and only {value!r} is known")
