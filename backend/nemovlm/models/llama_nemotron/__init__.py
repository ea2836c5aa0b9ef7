"""NVIDIA's embedding models that are made of a Llama: with vision (Nemotron VL), and for text alone.

Images are cut into tiles, a prompt is a role before the text, and the vector is the mean over all tokens. This module
is a `nemovlm.models.base.Family`, which says what each of its names is.
"""

from pathlib import Path
from typing import Any

from nemovlm.models.base import LocalModel, VllmPrompts
from nemovlm.models.card import ModelCard
from nemovlm.models.llama_nemotron.cards import CARDS, TEXT, VISION
from nemovlm.models.llama_nemotron.layout import check, read_card
from nemovlm.models.llama_nemotron.prompts import PROMPT_VERSION, escape_special_tokens, prompt

__all__ = [
    "architectures",
    "cards",
    "chat_template",
    "check",
    "check_weights",
    "escape_special_tokens",
    "load",
    "prompt",
    "prompt_version",
    "read_card",
    "register_with_vllm",
    "vllm_arguments",
    "vllm_prompts",
]

architectures = (VISION, TEXT)
cards = CARDS
prompt_version = PROMPT_VERSION
chat_template = Path(__file__).with_name("nemotron_embed.jinja")


def check_weights(folder: Path) -> None:
    """See `Family.check_weights`."""
    from nemovlm.models.llama_nemotron.weights import check_weights

    check_weights(folder)


def load(folder: Path, card: ModelCard, *, max_tokens: int | None, device: str, dtype: str) -> LocalModel:
    """See `Family.load`."""
    from nemovlm.models.llama_nemotron.local import LocalLlamaNemotron

    return LocalLlamaNemotron(folder, card, max_tokens=max_tokens, device=device, dtype=dtype)


def vllm_prompts(folder: Path, card: ModelCard, *, max_tokens: int | None) -> VllmPrompts:
    """See `Family.vllm_prompts`."""
    from nemovlm.models.llama_nemotron.vllm import LlamaNemotronPrompts

    return LlamaNemotronPrompts(folder, card, max_tokens=max_tokens)


def vllm_arguments(card: ModelCard, *, whole_images: bool) -> dict[str, Any]:
    """See `Family.vllm_arguments`."""
    from nemovlm.models.llama_nemotron.vllm import vllm_arguments

    return vllm_arguments(card, whole_images=whole_images)


def register_with_vllm() -> None:
    """See `Family.register_with_vllm`."""
    from nemovlm.models.llama_nemotron.vllm_configs import register

    register()
