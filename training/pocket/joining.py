"""Tower and projector learn together to say the code of what each token shows.

The projector starts as `fitting.make_projector` makes it, which does most of the work; what it cannot know is how the
tower errs. The loss has two halves, both in the space of codes and relative to the length of what is wanted: what is
wrong with each token, and what is wrong with the sum over a tile, in which errors that are independent fade and those
that are not add up. Naming characters goes on beside it, so that the tower does not forget how to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from . import loop, reading
from .drawing import WINDOW
from .fitting import Projector, Space, features_of
from .loop import Tile, Tiles, pixels_of
from .muon import Muon

RATE = 1.5e-3  # of the tower's matrices
PROJECTED = 0.005  # the rate of the projector's matrices, relative to the size of their numbers
OTHER = 5e-4
NAMING = 0.1
SAVED = "joined.pt"


class Joined(nn.Module):
    """A reader with its projector."""

    def __init__(self, reader: reading.Reader, projector: Projector) -> None:
        super().__init__()
        self.reader = reader
        self.projector = projector

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 32, 32, 5, 37) logits of names and (b, 256, 1024) codes, for (b, 256, 256) pixels."""
        states = self.reader.tower(pixels)
        return self.reader.named(states), self.projector(states).flatten(1, 2)


def train(joined: Joined, space: Space, tiles: Tiles, run: Path, *, steps: int, keep: int = 250) -> None:
    """Train until `steps` steps are done, from where the run in the folder stopped, if it did."""
    device = loop.best_device()
    joined.to(device)
    whitening = torch.from_numpy(space.whitening).to(device)

    def figures_of(batch: Sequence[Tile]) -> dict[str, Tensor]:
        features = torch.from_numpy(features_of(batch, space)).to(device)
        wanted = (features @ whitening).view(len(batch), -1, whitening.shape[1])
        windows = reading.windows_of(batch).to(device)
        with loop.rounded(device):
            names, codes = joined(pixels_of(batch).to(device))
        wrong, names = codes.float() - wanted, names.float()
        token = wrong.square().sum() / wanted.square().sum()
        tile = wrong.sum(1).square().sum() / wanted.sum(1).square().sum()
        return {
            "loss": token + tile + NAMING * reading.naming_loss(names, windows),
            "token": token,
            "tile": tile,
            "named": reading.accuracy(names, windows)[WINDOW // 2],
        }

    matrices = reading.matrices(joined.reader.tower)
    inner, outer = joined.projector.inner.weight, joined.projector.outer.weight
    chosen = {id(weight) for weight in (*matrices, inner, outer, *joined.reader.letters.parameters())}
    rest = [weight for weight in joined.parameters() if id(weight) not in chosen]
    sized = [
        {"params": [weight], "lr": PROJECTED * float(weight.detach().square().mean().sqrt())}
        for weight in (inner, outer)
    ]
    adam = torch.optim.Adam([{"params": rest, "lr": OTHER}, *sized], betas=(0.9, 0.98))
    groups = [Muon(matrices, lr=RATE), adam]
    loop.train(joined, groups, figures_of, tiles, run / SAVED, steps=steps, keep=keep)


def load(run: Path) -> Joined:
    """Tower and projector as the run in the folder left them."""
    joined = Joined(reading.Reader(), Projector())
    joined.load_state_dict(torch.load(run / SAVED, map_location="cpu", weights_only=True)["model"])
    return joined.eval()
