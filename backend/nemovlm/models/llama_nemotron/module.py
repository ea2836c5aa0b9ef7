"""The Nemotron embedding models as torch modules: a vision tower, a projector, a Llama, and the mean over all tokens.

Text-only checkpoints are the Llama alone. Items of a batch are packed, so that nothing is computed for padding.

Sources: vLLM 0.32 `vllm/model_executor/models/nemotron_vl.py` and NVIDIA's `nemo_automodel` 0.7.0
`components/models/llama_nemotron_vl/model.py`. Shapes: b items of n tokens in all, t tiles of p * p patches of width c,
w the width of the Llama.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nemovlm.models.llama_nemotron.llama import Llama
from nemovlm.models.llama_nemotron.packing import Packing
from nemovlm.models.llama_nemotron.siglip import Siglip
from nemovlm.models.llama_nemotron.sizes import LlamaSizes, SiglipSizes


class LlamaBidirectionalModel(nn.Module):
    """A text-only embedding model, as `config.json` describes it.

    Raises:
        KeyError: A field of `config` is missing.
        TypeError: One is of another type.
        ValueError: It describes a model that this code cannot compute.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.language_model = Llama(LlamaSizes.of(config))

    def forward(self, ids: Tensor, packing: Packing) -> Tensor:
        """Return vectors (b, w) float32, not normalized, for token ids (n,)."""
        return self._pool(self.language_model.embed(ids), packing)

    def _pool(self, states: Tensor, packing: Packing) -> Tensor:
        return packing.mean(self.language_model(states, packing))


class LlamaNemotronVLModel(LlamaBidirectionalModel):
    """The same with vision: features of tiles take the places of `<IMG_CONTEXT>` tokens among the text tokens."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config["llm_config"])
        sizes = SiglipSizes.of(config["vision_config"])
        self.vision_model = Siglip(sizes)
        self._shuffle = round(1 / float(config.get("downsample_ratio", 0.5)))
        # Absent means v2: NVIDIA's own code knows no such field and always transposes.
        self._transposed = config.get("ps_version", "v2") != "v1"
        merged, width = sizes.width * self._shuffle**2, self.language_model.norm.weight.numel()
        self.mlp1 = nn.Sequential(nn.LayerNorm(merged), nn.Linear(merged, width), nn.GELU(), nn.Linear(width, width))

    def image_features(self, tiles: Tensor) -> Tensor:
        """Return the features (t * tokens_per_tile, w) of tiles (t, side, side, 3) uint8, tile after tile."""
        features: Tensor = self.mlp1(self._pixel_shuffle(self.vision_model(tiles)))
        return features.flatten(0, 1)

    def forward(self, ids: Tensor, packing: Packing, images: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return vectors (b, w) float32, not normalized, for token ids (n,).

        `images` are the features (k, w) of the batch's images, and their places (k,) int64 among the tokens.
        """
        states = self.language_model.embed(ids)
        if images is not None:
            features, places = images
            states.index_copy_(0, places, features)
        return self._pool(states, packing)

    def _pixel_shuffle(self, states: Tensor) -> Tensor:
        """Merge each square of s x s patches into one: (t, p * p, c) -> (t, p * p / s**2, c * s**2)."""
        tiles, patches, channels = states.shape
        side, s = round(patches**0.5), self._shuffle
        x = states.reshape(tiles, side, side // s, channels * s).permute(0, 2, 1, 3)
        x = x.reshape(tiles, side // s, side // s, channels * s * s)
        if self._transposed:
            x = x.permute(0, 2, 1, 3)
        return x.reshape(tiles, -1, channels * s * s)
