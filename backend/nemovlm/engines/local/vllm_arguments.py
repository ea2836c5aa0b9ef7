"""What vLLM is told of a model of any family, be it in this process or a server of its own.

Nothing that decides over vectors is left to what a repository's files say, nor to the user. Imports no vLLM.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from nemovlm.errors import ConfigurationError
from nemovlm.models.card import ModelCard
from nemovlm.models.families import family_of
from nemovlm.settings import Settings

BATCH_TOKENS = {"cuda": 16384, "cpu": 4096}
"""Tokens of one step of the engine by device, as vLLM itself has them for large GPUs: 9 pages."""
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_STREAM": "ext://sys.stderr"}
"""What vLLM finds in the environment unless the user has set it: it would send usage statistics to its makers, and log
to standard output, where results go."""
# Without a KV cache no more is taken than weights and activations need. All that this does is that vLLM wants so much
# to be free when it starts, and others may be at work there too (its default is 0.9, NeMo-Retriever's 0.45).
_MEMORY_SHARE = 0.3
# What has a setting of its own, or may not be changed because vectors would be others, or code from a hub would run.
_FIXED = {
    "model": "model",
    "tokenizer": "model",
    "revision": "revision",
    "dtype": "dtype",
    "max_model_len": "max_tokens",
    "max_num_batched_tokens": "batch_tokens",
    "runner": None,
    "convert": None,
    "pooler_config": None,
    "hf_overrides": None,
    "trust_remote_code": None,
    "limit_mm_per_prompt": None,
    "mm_processor_kwargs": None,
}


def engine_arguments(
    folder: str, card: ModelCard, settings: Settings, device: str, *, whole_images: bool
) -> dict[str, Any]:
    """Return arguments of vLLM's engine, `engine_options` not among them.

    Without `whole_images` an image comes as the family's `vllm_prompts` makes it.
    """
    longest = max(card.max_tokens(modality) for modality in card.modalities)
    longest = min(longest, settings.max_tokens or longest)
    arguments: dict[str, Any] = {
        "model": folder,
        "runner": "pooling",
        "dtype": dtype_on(device, settings),
        "max_model_len": longest,
        # Nothing is computed in parts, so a step must hold the longest prompt.
        "max_num_batched_tokens": max(longest, settings.batch_tokens or BATCH_TOKENS[device]),
        "gpu_memory_utilization": _MEMORY_SHARE,
        "enable_prefix_caching": False,
        "use_tqdm_on_load": False,
    }
    return arguments | family_of(card.architecture).vllm_arguments(card, whole_images=whole_images)


def dtype_on(device: str, settings: Settings) -> str:
    """Return what the model computes in."""
    if settings.dtype != "auto":
        return settings.dtype
    return "bfloat16" if device == "cuda" else "float32"


def refuse_fixed(names: Iterable[str], where: str, more: Mapping[str, str | None] = MappingProxyType({})) -> None:
    """Check that none of `names`, which the user gave `where`, is fixed here or among `more`.

    Raises:
        ConfigurationError: One is.
    """
    fixed = {name: f"setting {setting}" if setting else None for name, setting in _FIXED.items()} | dict(more)
    for name in names:
        if name in fixed:
            raise ConfigurationError(
                f"{where} must not hold {name!r}: "
                + (f"it is the {fixed[name]}" if fixed[name] else "the vectors, or what code runs, depend on it")
            )
