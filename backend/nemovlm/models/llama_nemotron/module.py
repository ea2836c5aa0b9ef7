"""The Nemotron embedding models as torch modules, built from transformers' own parts, and their weights.

A vision tower (SigLIP, without its pooling head), pixel shuffle, a projector, and a Llama without the causal
mask; the vector is the mean over all tokens. Text-only checkpoints are the Llama alone.

Sources: vLLM 0.32 `vllm/model_executor/models/nemotron_vl.py` and NVIDIA's `nemo_automodel` 0.7.0
`components/models/llama_nemotron_vl/model.py`; shapes below use b items, l tokens, t tiles, h hidden size.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, SiglipVisionConfig, SiglipVisionModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from nemovlm.errors import CheckpointError
from nemovlm.models.files import read_json, weight_files
from nemovlm.models.llama_nemotron.cards import VISION
from nemovlm.models.llama_nemotron.layout import canonical_names

_MEAN, _STD = 0.5, 0.5  # SigLIP's, for all three channels (`SIGLIP_MEAN`, `SIGLIP_STD` in vLLM's processor)


class LlamaBidirectionalModel(nn.Module):
    """A text-only embedding model: every token sees every other, and the vector is their mean."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.language_model = _bidirectional_llama(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return (b, h) float32, not normalized, for `input_ids` (b, l) and a mask (b, l) that is 0 on padding."""
        return self.pool(self._token_embeddings(input_ids), attention_mask)

    def pool(self, embeddings: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Run the Llama over token embeddings (b, l, h) and average over the tokens that are no padding."""
        states: Tensor = self.language_model(
            inputs_embeds=embeddings, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state.float()
        if attention_mask is None:
            return states.mean(dim=1)
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(dim=1) / mask.sum(dim=1)

    def _token_embeddings(self, input_ids: Tensor) -> Tensor:
        embeddings: Tensor = self.language_model.embed_tokens(input_ids)
        return embeddings


class LlamaNemotronVLModel(LlamaBidirectionalModel):
    """The same with vision: image features take the places of `<IMG_CONTEXT>` tokens among the text tokens."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config["llm_config"])
        vision = SiglipVisionConfig(**{**config["vision_config"], "vision_use_head": False})
        self.vision_model = SiglipVisionModel(vision)
        self.shuffle = round(1 / float(config.get("downsample_ratio", 0.5)))
        # Absent means v2: NVIDIA's own code knows no such field and always transposes.
        self.transposed = config.get("ps_version", "v2") != "v1"
        merged, hidden = vision.hidden_size * self.shuffle**2, self.language_model.config.hidden_size
        self.mlp1 = nn.Sequential(nn.LayerNorm(merged), nn.Linear(merged, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    def image_features(self, tiles: Tensor) -> Tensor:
        """Return (t * tokens_per_tile, h) for tiles (t, side, side, 3) uint8, in the order of the tiles."""
        pixels = (tiles.permute(0, 3, 1, 2).float() / 255 - _MEAN) / _STD
        dtype = next(self.mlp1.parameters()).dtype
        states = self.vision_model(pixel_values=pixels.to(dtype)).last_hidden_state
        features: Tensor = self.mlp1(self._pixel_shuffle(states))
        return features.flatten(0, 1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        image_features: Tensor | None = None,
        image_token_id: int | None = None,
    ) -> Tensor:
        """Return (b, h) float32, not normalized.

        `image_features` (k, h) replace the k tokens `image_token_id` of the batch, item after item.
        """
        embeddings = self._token_embeddings(input_ids)
        if image_features is not None:
            places = torch.eq(input_ids, image_token_id or 0).unsqueeze(-1)
            embeddings = embeddings.masked_scatter(places, image_features.to(embeddings.dtype))
        return self.pool(embeddings, attention_mask)

    def _pixel_shuffle(self, states: Tensor) -> Tensor:
        """Merge each square of s x s patches into one: (t, p * p, c) -> (t, p * p / s**2, c * s**2)."""
        tiles, patches, channels = states.shape
        side, s = round(patches**0.5), self.shuffle
        x = states.reshape(tiles, side, side // s, channels * s).permute(0, 2, 1, 3)
        x = x.reshape(tiles, side // s, side // s, channels * s * s)
        if self.transposed:
            x = x.permute(0, 2, 1, 3)
        return x.reshape(tiles, -1, channels * s * s)


def load_model(folder: Path, *, device: str, dtype: torch.dtype) -> LlamaBidirectionalModel:
    """Build the module that the checkpoint in `folder` describes, with its weights, ready to run.

    Raises:
        CheckpointError: Like `check_weights`.
    """
    model, names = _matched(folder)
    weights: dict[str, Tensor] = {}
    for path, targets in names.items():
        with _open(path) as file:
            weights |= {target: file.get_tensor(name).to(dtype) for name, target in targets.items()}
    model.load_state_dict(weights, assign=True)
    _restore_buffers(model)
    return model.to(device).eval()


def check_weights(folder: Path) -> None:
    """Check that all weights are there, of the right shape, and no others.

    Raises:
        CheckpointError: Naming every weight that is missing, left over or of another shape.
    """
    _matched(folder)


def _bidirectional_llama(config: Mapping[str, Any]) -> LlamaModel:
    # transformers 5 drops the causal mask where the config says so (`masking_utils.create_causal_mask`)
    # and writes into the dictionaries that it is given, hence the copy.
    return LlamaModel(LlamaConfig(**deepcopy({**config, "is_causal": False, "use_cache": False})))


def _matched(folder: Path) -> tuple[LlamaBidirectionalModel, dict[Path, dict[str, str]]]:
    """Return the module without weights, and for each file {name in the file: name in the module}."""
    config = read_json(folder, "config.json")
    kind = LlamaNemotronVLModel if VISION in config["architectures"] else LlamaBidirectionalModel
    try:
        with torch.device("meta"):  # no memory and no random numbers for weights that are replaced later
            model = kind(config)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is unusable: {error}") from error
    expected = {name: list(weight.shape) for name, weight in model.state_dict().items()}
    prefix = "" if kind is LlamaNemotronVLModel else "language_model."
    found: dict[Path, dict[str, str]] = {}
    unknown: list[str] = []
    misshapen: dict[str, str] = {}
    for path in weight_files(folder):
        found[path] = {}
        with _open(path) as file:
            for name, canonical in canonical_names(file.keys()).items():
                target = prefix + canonical
                if target not in expected:
                    unknown.append(name)
                elif (shape := list(file.get_slice(name).get_shape())) != expected[target]:
                    misshapen[target] = f"{name} is {shape} instead of {expected[target]}"
                else:
                    found[path][name] = target
    there = {target for targets in found.values() for target in targets.values()}
    missing = [name.removeprefix(prefix) for name in expected if name not in there and name not in misshapen]
    complaints = {
        "weights of another shape than config.json says": list(misshapen.values()),
        "weights are missing": missing,
        "weights that the model does not have": unknown,
    }
    if any(complaints.values()):
        raise CheckpointError(
            f"{folder} does not fit: " + "; ".join(f"{what}: {_some(of)}" for what, of in complaints.items() if of)
        )
    return model, found


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or incomplete ({error}); fetch it again") from error


def _restore_buffers(model: LlamaBidirectionalModel) -> None:
    """Compute the tables that no checkpoint holds, and that building on the meta device left empty."""
    llama = model.language_model
    llama.rotary_emb = LlamaRotaryEmbedding(llama.config)
    if isinstance(model, LlamaNemotronVLModel):
        embeddings = model.vision_model.embeddings
        embeddings.register_buffer(
            "position_ids", torch.arange(embeddings.num_positions).unsqueeze(0), persistent=False
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
