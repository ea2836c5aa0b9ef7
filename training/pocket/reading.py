"""The tower learns to read: every patch says which character it shows.

It says so to two heads. The first names the character and two on either side, wherever there is ink; it teaches to
read, and is thrown away. The second spells: on the patches through which the middle of a line runs, and only there,
it says 1 for the character, the one before and the one behind, and 0 for all others. From the second head the
projector is made, without any training (`fitting.py`); that is why it has to be linear, and nearly right in its
values, not only in which is the highest.

Tiles are drawn while it trains, a block at a time, and each is seen twice.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from .drawing import CLASSES, UNKNOWN, WINDOW, Labels, draw_tile
from .muon import Muon
from .tower import WIDTH, Tower

BATCH = 4  # tiles
BLOCK = 256  # tiles drawn at once
WARMUP = 100  # steps
RATE = 2e-3
DECAY = 0.5  # the last part of the steps, in which the rate falls to zero
NAMING, SPELLING = 0.2, 4.0  # the weights of the two losses
SPELLED = 3  # characters that the second head tells

Tile: TypeAlias = tuple[NDArray[np.uint8], Labels]

_words: list[str] = []
_fonts: list[str] = []


def _prepare(words: list[str], fonts: list[str]) -> None:
    torch.set_num_threads(1)
    _words[:], _fonts[:] = words, fonts


def _draw(seed: int) -> Tile:
    return draw_tile(random.Random(seed), _words, _fonts)


class Tiles:
    """Tiles drawn by as many processes as there are cores; the same seed gives the same tiles."""

    def __init__(self, words: list[str], fonts: Sequence[str], seed: int, workers: int) -> None:
        self.seed = seed
        self.pool = ProcessPoolExecutor(workers, initializer=_prepare, initargs=(words, list(fonts)))

    def block(self, number: int) -> list[Tile]:
        first = (self.seed << 32) + number * BLOCK
        return list(self.pool.map(_draw, range(first, first + BLOCK), chunksize=16))

    def batches(self, step: int) -> Iterator[list[Tile]]:
        """Batches from the one of `step` on, without end."""
        per_block = 2 * BLOCK // BATCH
        for number in range(step // per_block, 1 << 30):
            tiles = self.block(number)
            order = [int(i) for turn in range(2) for i in np.random.default_rng((number, turn)).permutation(BLOCK)]
            for at in range(step % per_block if number == step // per_block else 0, per_block):
                yield [tiles[i] for i in order[at * BATCH : (at + 1) * BATCH]]


def pixels_of(batch: Sequence[Tile]) -> Tensor:
    return torch.from_numpy(np.stack([tile for tile, _ in batch])).float() / 127.5 - 1


def windows_of(batch: Sequence[Tile]) -> Tensor:
    return torch.from_numpy(np.stack([labels.windows for _, labels in batch])).long()


class Reader(nn.Module):
    """The tower with its two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = Tower()
        self.names = nn.Linear(WIDTH, WINDOW * CLASSES)
        self.letters = nn.Linear(WIDTH, SPELLED * CLASSES)
        nn.init.zeros_(self.letters.weight)  # whatever it says at first would teach the tower nonsense
        nn.init.zeros_(self.letters.bias)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 32, 32, 5, 37) logits of names, and (b, 32, 32, 3, 37) letters, for (b, 256, 256) pixels."""
        states = self.tower(pixels)
        names = self.names(states).unflatten(-1, (WINDOW, CLASSES))
        return names, self.letters(states).unflatten(-1, (SPELLED, CLASSES))


def spelled(batch: Sequence[Tile]) -> Tensor:
    """What the second head should say: (b, 32, 32, 3, 37) of zeros and ones."""
    windows = torch.from_numpy(np.stack([labels.windows for _, labels in batch])).long()
    middles = torch.from_numpy(np.stack([labels.middles for _, labels in batch]))
    first = (WINDOW - SPELLED) // 2
    wanted = torch.zeros(*windows.shape[:3], SPELLED, CLASSES)
    at = middles.nonzero(as_tuple=True)
    wanted[at] = F.one_hot(windows[at][:, first : first + SPELLED], CLASSES).float()
    return wanted


def naming_loss(logits: Tensor, windows: Tensor) -> Tensor:
    """Cross-entropy: of the middle character on every patch (blank ones count little), of the others where one is."""
    losses = F.cross_entropy(
        logits.flatten(0, 3), windows.where(windows != UNKNOWN, -100).flatten(), ignore_index=-100, reduction="none"
    ).view(windows.shape)
    shown = windows[..., WINDOW // 2] != CLASSES - 1
    weight = torch.tensor([0.15, 0.25, 1.0, 0.25, 0.15]) * shown.unsqueeze(-1)
    weight[..., WINDOW // 2] += 0.1 * ~shown
    return (losses * weight).sum() / weight.sum()


def accuracy(logits: Tensor, windows: Tensor) -> Tensor:
    """The share of patches with a character whose character, at each place of the window, is named right: (5,)."""
    shown = windows[..., WINDOW // 2] != CLASSES - 1
    return (logits.argmax(-1) == windows)[shown].float().mean(0)


def optimizers(model: Reader) -> list[torch.optim.Optimizer]:
    """Muon for the tower's matrices, Adam for the rest."""
    matrices = [
        linear.weight for layer in model.tower.layers for linear in (layer.value, layer.out, layer.fc1, layer.fc2)
    ]
    chosen = {id(weight) for weight in matrices}
    rest = [weight for weight in model.parameters() if id(weight) not in chosen]
    return [Muon(matrices, lr=RATE), torch.optim.AdamW(rest, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)]


def scheduled(step: int, first: int, steps: int) -> float:
    """The share of the learning rate: up (after each start), level, and at the end down to zero."""
    return min(1.0, (step - first + 1) / WARMUP, (steps - step) / (DECAY * (steps - first)))


def train(
    words: list[str], fonts: Sequence[str], run: Path, *, steps: int, seed: int, workers: int, keep: int = 250
) -> None:
    """Train until `steps` steps are done, from where the run in the folder stopped, if it did.

    The state is kept every `keep` steps; `log.jsonl` in the same folder tells how it went.
    """
    run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = Reader()
    groups = optimizers(model)
    first = step = 0
    saved = run / "reader.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        first, step = state["first"], state["step"]
        if state["steps"] == steps:
            for group, content in zip(groups, state["optimizers"], strict=True):
                group.load_state_dict(content)
        else:  # a longer run than was planned: the rate rises once more
            first = step
    started, began = time.time(), step
    sums: list[Tensor] = []
    for batch in Tiles(words, fonts, seed, workers).batches(step):
        if step >= steps:
            break
        for group in groups:
            for parameters in group.param_groups:
                parameters["lr"] = RATE * scheduled(step, first, steps)
        windows, wanted = windows_of(batch), spelled(batch)
        names, letters = model(pixels_of(batch))
        missed = F.mse_loss(letters, wanted) / wanted.square().mean().clamp(min=1e-6)
        loss = NAMING * naming_loss(names, windows) + SPELLING * missed
        for group in groups:
            group.zero_grad()
        loss.backward()
        for group in groups:
            group.step()
        step += 1
        sums.append(torch.stack([missed.detach(), accuracy(names, windows)[WINDOW // 2]]))
        if step % 50 == 0 or step == steps:
            missing, named = (round(float(value), 4) for value in torch.stack(sums).nanmean(0))
            pace = round((time.time() - started) / (step - began), 3)
            with (run / "log.jsonl").open("a") as log:
                print(json.dumps({"step": step, "missed": missing, "named": named, "seconds": pace}), file=log)
            sums.clear()
        if step % keep == 0 or step == steps:
            content = {"model": model.state_dict(), "optimizers": [group.state_dict() for group in groups]}
            torch.save({**content, "first": first, "step": step, "steps": steps}, run / "new.pt")
            (run / "new.pt").replace(saved)


def load(run: Path) -> Reader:
    """The reader as the run in the folder left it."""
    reader = Reader()
    reader.load_state_dict(torch.load(run / "reader.pt", weights_only=True)["model"])
    return reader.eval()
