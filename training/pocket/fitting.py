"""From a tower that spells to a model that embeds: everything that follows without training by gradients.

*The projector, first half.* A hidden unit is one feature of `codes`, an AND of five sets of characters, in the left
or in the right column of the 2 x 2 patches it sees. The tower tells the characters as numbers near 0 and 1, so the
unit adds up what it tells of its five sets, takes off some less than five, and GELU does the rest.

*The projector, second half.* Ridge regression from the hidden units to the features as they should have been,
centred, weighted by rarity, and whitened."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from .codes import FEATURES, Features
from .drawing import ALPHABET, CLASSES, SIDE, WINDOW, load_font, windows_of
from .loop import Tile, pixels_of
from .reading import SPELLED, Reader
from .tower import WIDTH

HIDDEN = 2 * FEATURES  # units of the projector, and of the language model: the architecture has one number for both
GAIN, THRESHOLD = 3.0, 3.5  # of the hidden units
RIDGE = 0.01
SHRINKAGE = 0.05  # of the covariance, relative to its mean eigenvalue
COUNT_POWER = 0.75  # a word counts for the whitening as often as it stands in the text, to this power

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Space:
    """The code of runs of letters: features minus `mean` for each, times `whitening` (1024, 1024)."""

    features: Features
    widths: Matrix
    """How wide characters are, (37,), on average one: wide ones cover more patches and are told more often."""
    mean: Matrix
    whitening: Matrix

    def centred(self, windows: NDArray[np.integer]) -> Matrix:
        """(n, 1024): the features of windows (n, 5), without their mean, times the rarity of the run."""
        return np.float32((self.features(windows) - self.mean) * self.features.weights(windows)[:, None])

    def printed(self, words: Sequence[str]) -> Matrix:
        """What a perfect reader would say of each word: (words, 1024), as codes are."""
        result = np.zeros((len(words), FEATURES), np.float32)
        for start in range(0, len(words), 10_000):
            spelled = [[window for _, window in windows_of(word)] for word in words[start : start + 10_000]]
            windows = np.array([window for word in spelled for window in word])
            owners = torch.repeat_interleave(torch.tensor([len(word) for word in spelled]))
            said = self.centred(windows) * self.widths[windows[:, WINDOW // 2], None]
            sums = torch.zeros(len(spelled), FEATURES).index_add_(0, owners, torch.from_numpy(said))
            result[start : start + 10_000] = sums.numpy() @ self.whitening
        return result


def widths_of(fonts: Sequence[str]) -> Matrix:
    """The average advance of each class over the fonts, of both cases of letters, with mean 1."""
    advances = np.mean([[load_font(font, 100)[1][letter] for letter in ALPHABET] for font in fonts], axis=0)
    return np.append(advances / advances.mean(), 0).astype(np.float32)


def space_of(words: Counter[str], fonts: Sequence[str]) -> Space:
    """The space of the words' features."""
    features, widths = Features(words), widths_of(fonts)
    numbers: Counter[tuple[int, ...]] = Counter()  # many characters have the same window
    for word, number in words.items():
        if set(word) <= set(ALPHABET):
            for _, window in windows_of(word):
                numbers[window] += number**COUNT_POWER
    windows = np.array(list(numbers))
    often = np.array(list(numbers.values()))
    on = features(windows)
    loud = features.weights(windows) * widths[windows[:, WINDOW // 2]]
    heard = often * loud
    mean = (heard @ on / heard.sum()).astype(np.float32)
    centred = (on - mean) * loud[:, None]
    covariance = (centred * often[:, None]).T @ centred / often.sum()
    values, vectors = np.linalg.eigh(covariance)
    # Symmetric: the vectors of equal values, which may differ from machine to machine, do not matter.
    whitening = (vectors / np.sqrt(values + SHRINKAGE * values.mean()) @ vectors.T).astype(np.float32)
    return Space(features, widths, mean, whitening)


class Projector(nn.Module):
    """Merged patches (b, 16, 16, 768) become codes (b, 16, 16, 1024), by way of hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4 * WIDTH, HIDDEN)
        self.outer = nn.Linear(HIDDEN, FEATURES)
        nn.init.zeros_(self.outer.bias)

    def hidden(self, states: Tensor) -> Tensor:
        # What is merged has been normalised patch by patch: normalising it again, as the model does, changes nothing.
        return F.gelu(self.inner(merged(states)))

    def forward(self, states: Tensor) -> Tensor:
        return self.outer(self.hidden(states))  # type: ignore[no-any-return]


def merged(states: Tensor) -> Tensor:
    """(b, 32, 32, c) -> (b, 16, 16, 4 c): upper left, upper right, lower left, lower right."""
    b, side, _, c = states.shape
    return states.view(b, side // 2, 2, side // 2, 2, c).transpose(2, 3).reshape(b, side // 2, side // 2, 4 * c)


@torch.no_grad()
def make_projector(reader: Reader, space: Space, tiles: Sequence[Tile]) -> tuple[Projector, float]:
    """The projector for a tower, and the share of the variance of the tokens' features that it explains on
    `tiles`."""
    projector = Projector()
    weight = reader.letters.weight.view(SPELLED, CLASSES, WIDTH)
    bias = reader.letters.bias.view(SPELLED, CLASSES)
    sets = torch.from_numpy(space.features.sets).float()
    sums = torch.einsum("pcf,pcd->fd", sets, weight)
    inner = torch.zeros(2, FEATURES, 4, WIDTH)
    for column in range(2):
        for row in range(2):
            inner[column, :, 2 * row + column] = GAIN * sums
    projector.inner.weight.copy_(inner.reshape(HIDDEN, 4 * WIDTH))
    offset = GAIN * (2 * torch.einsum("pcf,pc->f", sets, bias) - THRESHOLD)
    projector.inner.bias.copy_(offset.repeat(2))

    gram, cross, total = np.zeros((HIDDEN, HIDDEN)), np.zeros((HIDDEN, FEATURES)), 0.0
    for start in range(0, len(tiles), 8):
        batch = tiles[start : start + 8]
        said = projector.hidden(reader.tower(pixels_of(batch))).flatten(0, 2).double().numpy()
        wanted = features_of(batch, space)
        gram += said.T @ said
        cross += said.T @ wanted
        total += float(np.square(wanted).sum())
    outer = np.linalg.solve(gram + RIDGE * np.diag(gram).mean() * np.eye(HIDDEN), cross)
    explained = (2 * (outer * cross).sum() - (outer * (gram @ outer)).sum()) / total
    projector.outer.weight.copy_(torch.from_numpy((outer @ space.whitening).T))
    return projector, explained


def features_of(batch: Sequence[Tile], space: Space) -> Matrix:
    """What each token of the tiles shows: (tiles * 256, 1024), the centred features of its characters, as wide as they
    are."""
    size = SIDE * SIDE // 4
    windows = np.concatenate([labels.shown for _, labels in batch])
    tokens = np.concatenate([labels.squares + np.int64(size * tile) for tile, (_, labels) in enumerate(batch)])
    shares = np.concatenate([labels.shares for _, labels in batch])
    result = torch.zeros(size * len(batch), FEATURES)
    result.index_add_(0, torch.from_numpy(tokens), torch.from_numpy(space.centred(windows) * shares[:, None]))
    return result.numpy()


def signs(name: str, size: int) -> Matrix:
    """`size` pseudo-random signs that depend on the name alone."""
    bits = np.frombuffer(hashlib.shake_256(name.encode()).digest(size // 8), np.uint8)
    return np.where(np.unpackbits(bits), 1, -1).astype(np.float32)
