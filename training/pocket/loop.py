"""The training loop: tiles, a rate that rises and falls, a state that is kept, a log.

Tiles are drawn while it trains, a block at a time, and each is seen twice."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .drawing import Labels, draw_tile

BATCH = 8  # tiles
BLOCK = 256  # tiles drawn at once
WARMUP = 100  # steps
DECAY = 0.5  # the last part of the steps, in which the rate falls to zero

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


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rounded(device: torch.device) -> torch.autocast:
    """Compute a block in bfloat16, where that is quicker: with AVX2 alone it is emulated, and six times slower."""
    quick = device.type != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.autocast(device.type, torch.bfloat16, enabled=quick)


def pixels_of(batch: Sequence[Tile]) -> Tensor:
    return torch.from_numpy(np.stack([tile for tile, _ in batch])).float() / 127.5 - 1


def scheduled(step: int, first: int, steps: int) -> float:
    """The share of the learning rate: up (after each start), level, and at the end down to zero."""
    return min(1.0, (step - first + 1) / WARMUP, (steps - step) / (DECAY * (steps - first)))


def train(
    model: nn.Module,
    groups: Sequence[torch.optim.Optimizer],
    figures_of: Callable[[Sequence[Tile]], Mapping[str, Tensor]],
    tiles: Tiles,
    saved: Path,
    *,
    steps: int,
    keep: int = 250,
) -> None:
    """Train until `steps` steps are done, from where the run that left the file `saved` stopped, if one did.

    `figures_of` a batch are its loss, by the name "loss", and what else the log should tell. The state is kept every
    `keep` steps; a log of the same name tells how it went.
    """
    saved.parent.mkdir(parents=True, exist_ok=True)
    rates = [[parameters["lr"] for parameters in group.param_groups] for group in groups]
    first = step = 0
    if saved.exists():
        state = torch.load(saved, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        first, step = state["first"], state["step"]
        if state["steps"] == steps:
            for group, content in zip(groups, state["optimizers"], strict=True):
                group.load_state_dict(content)
        else:  # a longer run than was planned: the rate rises once more
            first = step
    started, began = time.time(), step
    seen: list[Mapping[str, Tensor]] = []
    for batch in tiles.batches(step):
        if step >= steps:
            break
        share = scheduled(step, first, steps)
        for group, own in zip(groups, rates, strict=True):
            for parameters, rate in zip(group.param_groups, own, strict=True):
                parameters["lr"] = rate * share
        figures = figures_of(batch)
        for group in groups:
            group.zero_grad()
        figures["loss"].backward()
        for group in groups:
            group.step()
        step += 1
        seen.append({name: figure.detach() for name, figure in figures.items()})
        if step % 50 == 0 or step == steps:
            line = {name: round(float(torch.stack([part[name] for part in seen]).nanmean()), 4) for name in seen[0]}
            pace = round((time.time() - started) / (step - began), 3)
            with saved.with_suffix(".jsonl").open("a") as log:
                print(json.dumps({"step": step, **line, "seconds": pace}), file=log)
            seen.clear()
        if step % keep == 0 or step == steps:
            content = {"model": model.state_dict(), "optimizers": [group.state_dict() for group in groups]}
            new = saved.with_suffix(".new")
            torch.save({**content, "first": first, "step": step, "steps": steps}, new)
            new.replace(saved)
