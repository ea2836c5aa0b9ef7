"""Configurations of our models as classes that transformers knows, so that vLLM runs no code of a repository.

vLLM has the models themselves, but asks transformers for their configuration, and that would run a file from the
repository. Each of vLLM's processes, its server too, calls `register` first: it is this package's entry point in the
group `vllm.general_plugins`. Only vLLM imports this; our own module reads `config.json` as it is.
"""

from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, LlamaConfig, PretrainedConfig, SiglipVisionConfig


class LlamaBidirectionalConfig(LlamaConfig):  # type: ignore[no-untyped-call] # of the base
    """A Llama without the causal mask, whose vector is the mean over its tokens."""

    model_type = "llama_bidirec"

    def __init__(self, *, pooling: str = "avg", **rest: Any) -> None:
        self.pooling = pooling
        super().__init__(**rest)


class LlamaNemotronVLConfig(PretrainedConfig):  # type: ignore[no-untyped-call] # of the base
    """A vision tower and a language model; fields that vLLM insists on have the defaults of our own module."""

    model_type = "llama_nemotron_vl"

    def __init__(
        self,
        vision_config: dict[str, Any] | None = None,
        llm_config: dict[str, Any] | None = None,
        *,
        ps_version: str = "v2",
        pooling: str = "avg",
        force_image_size: int | None = None,
        downsample_ratio: float = 0.5,
        **rest: Any,
    ) -> None:
        self.vision_config = SiglipVisionConfig(**(vision_config or {}))
        self.llm_config = LlamaBidirectionalConfig(**(llm_config or {}))
        self.ps_version = ps_version
        self.pooling = pooling
        self.force_image_size = force_image_size or self.vision_config.image_size
        self.downsample_ratio = downsample_ratio
        super().__init__(**rest)

    def get_text_config(self, *_: Any, **__: Any) -> PretrainedConfig:
        """Return the language model's part, which vLLM sizes its engine by."""
        return self.llm_config


def register() -> None:
    """Make the two known to transformers, unless it has classes of its own for them."""
    for kind in (LlamaBidirectionalConfig, LlamaNemotronVLConfig):
        if kind.model_type not in CONFIG_MAPPING:
            AutoConfig.register(kind.model_type, kind)
