"""A family of models that is like none in the package, in one file: what a new family has to bring, and no more.

Its images are not cut into tiles but resized in steps of 28 pixels, its prompt is a chat template with words after the
text, and its vector is the state of the last token of a causal model. The model itself is a toy.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file

from nemovlm.images import load_image
from nemovlm.inputs import Item, Role
from nemovlm.models.base import ModelInput, Prompt, VllmPrompts
from nemovlm.models.card import ModelCard
from nemovlm.models.prompt_encoder import PromptEncoder
from tests.support.checkpoints import VOCABULARY, write_text_checkpoint

STEP, MOST_STEPS, WIDTH, DECAY = 28, 6, 32, 0.9

architectures = ("StepModel",)
cards = ()
prompt_version = 7
chat_template = None


@dataclass(frozen=True)
class Steps:
    """Images of whole steps, at the most so many on a side. A `Vision`."""

    most: int = MOST_STEPS
    fingerprint = f"steps={MOST_STEPS}"

    @property
    def max_tokens(self) -> int:
        return self.most**2

    def render_size(self, width: float, height: float) -> tuple[int, int]:
        scale = self.most * STEP / max(width, height)
        return self._whole(width * scale), self._whole(height * scale)

    def usable_size(self, width: int, height: int) -> tuple[int, int]:
        scale = min(1.0, self.most * STEP / max(width, height))
        return self._whole(width * scale), self._whole(height * scale)

    def _whole(self, side: float) -> int:
        return min(self.most, max(1, round(side / STEP))) * STEP


def read_card(folder: Path, config: Mapping[str, Any]) -> ModelCard:
    return ModelCard(
        folder.name, "StepModel", WIDTH, config["longest"], config["longest"], on_hub=False, vision=Steps()
    )


def prompt(role: Role, text: str, *, image: bool) -> Prompt:
    return Prompt(f"[system] {role}\n[user] ", text, "\n[answer]<|end_of_text|>")


def escape_special_tokens(text: str) -> str:
    return text.replace("<", "(")


def check(folder: Path, card: ModelCard) -> None:
    assert load_file(folder / "model.safetensors")["patch"].shape == (STEP * STEP * 3, card.dimension)


def check_weights(folder: Path) -> None:
    raise NotImplementedError


class Model:
    def __init__(self, folder: Path, card: ModelCard, max_tokens: int | None) -> None:
        self._encoder = PromptEncoder(folder, card, max_tokens, prompt)
        (self._image_token,) = self._encoder.special_ids("<IMG_CONTEXT>")
        weights = load_file(folder / "model.safetensors")
        self._embed, self._patch = torch.from_numpy(weights["embed"]), torch.from_numpy(weights["patch"])

    def prepare(self, item: Item) -> ModelInput:
        if item.image is None:
            return ModelInput(self._encoder.encode(item).before)
        pixels = patches(load_image(item.image))
        before, after = self._encoder.encode(item, len(pixels))
        return ModelInput([*before, *[self._image_token] * len(pixels), *after], pixels)

    def embed(self, batch: Sequence[ModelInput]) -> NDArray[np.float32]:
        return np.stack([self._embed_one(item) for item in batch])

    def _embed_one(self, item: ModelInput) -> NDArray[np.float32]:
        ids = torch.tensor(item.ids)
        states = self._embed[ids]
        if item.pixels is not None:
            states[ids == self._image_token] = torch.from_numpy(item.pixels).float() / 255 @ self._patch
        last = torch.zeros(WIDTH)
        for state in states:  # causal: each token sees those before it, and the last sees them all
            last = DECAY * last + state
        return last.numpy()


def patches(image: Image.Image) -> NDArray[np.uint8]:
    """Return the steps of an image, row by row: (steps, 28 * 28 * 3)."""
    width, height = Steps().usable_size(*image.size)
    pixels = np.asarray(image.resize((width, height)))
    grid = pixels.reshape(height // STEP, STEP, width // STEP, STEP, 3).swapaxes(1, 2)
    return grid.reshape(-1, STEP * STEP * 3)


def load(folder: Path, card: ModelCard, *, max_tokens: int | None, device: str, dtype: str) -> Model:
    return Model(folder, card, max_tokens)


def vllm_prompts(folder: Path, card: ModelCard, *, max_tokens: int | None) -> VllmPrompts:
    raise NotImplementedError


def vllm_arguments(card: ModelCard, *, whole_images: bool) -> dict[str, Any]:
    raise NotImplementedError


def register_with_vllm() -> None:
    raise NotImplementedError


def write_checkpoint(folder: Path, longest: int = 200) -> Path:
    """Write a checkpoint of the family, with random weights and the tokenizer of the other tiny ones."""
    write_text_checkpoint(folder)
    random = np.random.default_rng(5)
    weights = {"embed": random.normal(size=(VOCABULARY, WIDTH)), "patch": random.normal(size=(STEP * STEP * 3, WIDTH))}
    save_file({name: weight.astype(np.float32) for name, weight in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architectures": ["StepModel"], "longest": longest}))
    return folder
