"""The tower learns to read: every patch says which character it shows.

It says so to two heads. The first names the character and two on either side, wherever there is ink; it teaches to
read, and is thrown away. The second spells: on the patches through which the middle of a line runs, and only there,
it says 1 for the character and its four neighbours, and 0 for all others. From the second head the
projector is made, without any training (`fitting.py`); that is why it has to be linear, and nearly right in its
values, not only in which is the highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import loop
from .drawing import CLASSES, UNKNOWN, WINDOW
from .loop import Tile, Tiles, pixels_of
from .muon import Muon
from .tower import WIDTH, Tower

RATE = 2e-3
NAMING, SPELLING = 0.2, 4.0  # the weights of the two losses
SPELLED = 5  # characters that the second head tells


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
        """(b, 32, 32, 5, 37) logits of names, and (b, 32, 32, 5, 37) letters, for (b, 256, 256) pixels."""
        states = self.tower(pixels)
        return self.named(states), self.letters(states).unflatten(-1, (SPELLED, CLASSES))

    def named(self, states: Tensor) -> Tensor:
        """(b, 32, 32, 5, 37) logits of names, for the tower's states."""
        return self.names(states).unflatten(-1, (WINDOW, CLASSES))


def spelled(batch: Sequence[Tile]) -> Tensor:
    """What the second head should say: (b, 32, 32, 5, 37) of zeros and ones."""
    windows = windows_of(batch)
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
    weight = torch.tensor([0.15, 0.25, 1.0, 0.25, 0.15], device=shown.device) * shown.unsqueeze(-1)
    weight[..., WINDOW // 2] += 0.1 * ~shown
    return (losses * weight).sum() / weight.sum()


def accuracy(logits: Tensor, windows: Tensor) -> Tensor:
    """The share of patches with a character whose character, at each place of the window, is named right: (5,)."""
    shown = windows[..., WINDOW // 2] != CLASSES - 1
    return (logits.argmax(-1) == windows)[shown].float().mean(0)


def matrices(tower: Tower) -> list[nn.Parameter]:
    """The tower's matrices, which Muon is for."""
    return [linear.weight for layer in tower.layers for linear in (layer.value, layer.out, layer.fc1, layer.fc2)]


def optimizers(model: Reader) -> list[torch.optim.Optimizer]:
    """Muon for the tower's matrices, Adam for the rest."""
    chosen = {id(weight) for weight in matrices(model.tower)}
    rest = [weight for weight in model.parameters() if id(weight) not in chosen]
    return [Muon(matrices(model.tower), lr=RATE), torch.optim.AdamW(rest, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)]


def train(tiles: Tiles, run: Path, *, steps: int, seed: int, keep: int = 250) -> None:
    """Train a reader until `steps` steps are done, from where the run in the folder stopped, if it did."""
    torch.manual_seed(seed)
    device = loop.best_device()
    reader = Reader().to(device)

    def figures_of(batch: Sequence[Tile]) -> dict[str, Tensor]:
        windows, wanted = windows_of(batch).to(device), spelled(batch).to(device)
        with loop.rounded(device):
            names, letters = reader(pixels_of(batch).to(device))
        names, letters = names.float(), letters.float()
        missed = F.mse_loss(letters, wanted) / wanted.square().mean().clamp(min=1e-6)
        return {
            "loss": NAMING * naming_loss(names, windows) + SPELLING * missed,
            "missed": missed,
            "named": accuracy(names, windows)[WINDOW // 2],
        }

    loop.train(reader, optimizers(reader), figures_of, tiles, run / "reader.pt", steps=steps, keep=keep)


def load(run: Path) -> Reader:
    """The reader as the run in the folder left it."""
    reader = Reader()
    reader.load_state_dict(torch.load(run / "reader.pt", map_location="cpu", weights_only=True)["model"])
    return reader.eval()
