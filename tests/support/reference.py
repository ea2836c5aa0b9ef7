"""The Nemotron models built of transformers' own parts, which pad their batches: what the package's module is held to.

It is also what the package ran before it had modules of its own, so that benchmarks compare with it.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, SiglipVisionConfig, SiglipVisionModel

from nemovlm.models.base import ModelInput
from nemovlm.models.files import read_json, weight_files
from nemovlm.models.llama_nemotron.layout import canonical_names


class Reference(nn.Module):
    """A model with or without vision, by its `config.json`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        llm = deepcopy({**config.get("llm_config", config), "is_causal": False, "use_cache": False})
        self.language_model = LlamaModel(LlamaConfig(**llm))
        if "vision_config" in config:
            vision = SiglipVisionConfig(**{**config["vision_config"], "vision_use_head": False})
            self.vision_model = SiglipVisionModel(vision)
            self.shuffle = round(1 / float(config.get("downsample_ratio", 0.5)))
            self.transposed = config.get("ps_version", "v2") != "v1"
            merged, width = vision.hidden_size * self.shuffle**2, self.language_model.config.hidden_size
            self.mlp1 = nn.Sequential(
                nn.LayerNorm(merged), nn.Linear(merged, width), nn.GELU(), nn.Linear(width, width)
            )

    def image_features(self, tiles: Tensor) -> Tensor:
        """Return (k, w) for tiles (t, side, side, 3) uint8."""
        pixels = (tiles.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        states = self.vision_model(pixel_values=pixels.to(self.mlp1[1].weight.dtype)).last_hidden_state
        tile_count, patches, channels = states.shape
        side, s = round(patches**0.5), self.shuffle
        x = states.reshape(tile_count, side, side // s, channels * s).permute(0, 2, 1, 3)
        x = x.reshape(tile_count, side // s, side // s, channels * s * s)
        if self.transposed:
            x = x.permute(0, 2, 1, 3)
        features: Tensor = self.mlp1(x.reshape(tile_count, -1, channels * s * s))
        return features.flatten(0, 1)

    def forward(self, ids: Tensor, mask: Tensor | None, features: Tensor | None, image_token: int | None) -> Tensor:
        """Return (b, w) float32 for `ids` (b, l) and a mask that is 0 on padding."""
        embeddings = self.language_model.embed_tokens(ids)
        if features is not None:
            places = torch.eq(ids, image_token or 0).unsqueeze(-1)
            embeddings = embeddings.masked_scatter(places, features.to(embeddings.dtype))
        states = self.language_model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False)
        states = states.last_hidden_state.float()
        if mask is None:
            return states.mean(dim=1)
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1)

    @torch.inference_mode()
    def embed(self, batch: Sequence[ModelInput], image_token: int | None) -> NDArray[np.float32]:
        """Return the vectors (n, d) of a batch, padded to its longest item, not normalized."""
        device = self.language_model.embed_tokens.weight.device
        lengths = [len(item.ids) for item in batch]
        ids = torch.zeros(len(batch), max(lengths), dtype=torch.long)
        for row, item in zip(ids, batch, strict=True):
            row[: len(item.ids)] = torch.as_tensor(item.ids)
        mask = None
        if min(lengths) < max(lengths):
            mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long().to(device)
        tiles = [item.pixels for item in batch if item.pixels is not None]
        features = self.image_features(torch.from_numpy(np.concatenate(tiles)).to(device)) if tiles else None
        vectors: NDArray[np.float32] = self(ids.to(device), mask, features, image_token).cpu().numpy()
        return vectors


def load_reference(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Reference:
    """Build the model of a checkpoint."""
    config = read_json(folder, "config.json")
    with torch.device(device):
        model = Reference(config).to(dtype).eval().requires_grad_(False)
    prefix = "" if "vision_config" in config else "language_model."
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        found = load_file(path)
        weights |= {prefix + target: found[name] for name, target in canonical_names(found).items()}
    model.load_state_dict(weights)
    return model
