"""From a tower that spells to a model that embeds: everything that follows without training by gradients.

*The projector, first half.* A hidden unit is one feature of `codes`, an AND of five sets of characters, in the left
or in the right column of the 2 x 2 patches it sees. The tower tells the characters as numbers near 0 and 1, so the
unit adds up what it tells of its five sets, takes off some less than five, and GELU does the rest.

*The projector, second half.* Ridge regression from the hidden units to the features as they should have been,
centred, weighted by rarity, whitened, and cut to the `RUNS` directions in which words differ most.

*The table of tokens.* The first `RUNS` numbers of a token's code are the same features: those of a word's pieces add up
to the sum over its characters, by least squares over the words of the training text; so a word and its picture have
the same code, and the query finds the page. The other `STEMS` numbers are a code of signs for the token's stem, which
pictures lack: text against text is matched by words too. The codes of the loudest stems are the perpendicular rows of
one Hadamard matrix, the next ones the same rows with some columns negated, and so on."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from .codes import FEATURES, Features
from .drawing import ALPHABET, CLASSES, SIDE, WINDOW, load_font, windows_of
from .loop import Tile, pixels_of
from .reading import SPELLED, Reader
from .tower import WIDTH

HIDDEN = 2 * FEATURES  # units of the projector, and of the language model: the architecture has one number for both
RUNS, STEMS = 1024, 768
STEM_SHARE = 2.0  # the length of the average token's stem code, as a multiple of that of its features
QUIETEST = 0.4  # the weight of the runs of words that carry no topic: in a row of words of a page they do say something
GAIN, THRESHOLD = 3.0, 3.5  # of the hidden units
RIDGE = 0.01
SHRINKAGE = 0.05  # of the covariance, relative to its mean eigenvalue
DOUBT = 0.03  # the ridge of tokens' codes, relative to a word of average number
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


def widths_of(fonts: Sequence[str]) -> Matrix:
    """The average advance of each class over the fonts, of both cases of letters, with mean 1."""
    advances = np.mean([[load_font(font, 100)[1][letter] for letter in ALPHABET] for font in fonts], axis=0)
    return np.append(advances / advances.mean(), 0).astype(np.float32)


def space_and_runs(
    words: Counter[str], tokenizer: Tokenizer, tokens: int, fonts: Sequence[str]
) -> tuple[Space, Matrix]:
    """The space of the words' features, and the code of runs of each token: (tokens, 1024)."""
    features, widths = Features(words), widths_of(fonts)
    allowed = set(ALPHABET)
    types = [word for word in words if set(word) <= allowed]
    numbers = np.array([words[word] for word in types]) ** COUNT_POWER
    windows = [window for word in types for _, window in windows_of(word)]
    owners = np.repeat(np.arange(len(types)), [len(word) for word in types])
    # Many characters have the same window, and few windows make the sums small.
    distinct, place = np.unique(np.array(windows), axis=0, return_inverse=True)
    on = features(distinct)
    loud = features.weights(distinct) * widths[distinct[:, WINDOW // 2]]
    often = np.bincount(place, weights=numbers[owners], minlength=len(distinct))
    heard = often * loud
    mean = (heard @ on / heard.sum()).astype(np.float32)
    centred = (on - mean) * loud[:, None]
    covariance = (centred * often[:, None]).T @ centred / often.sum()
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[-RUNS:], vectors[:, -RUNS:]
    whitening = (vectors / np.sqrt(values + SHRINKAGE * values.mean())).astype(np.float32)
    printed = torch.zeros(len(types), FEATURES)  # what a perfect reader would say of each word
    for start in range(0, len(owners), 100_000):
        part = slice(start, start + 100_000)
        printed.index_add_(0, torch.from_numpy(owners[part]), torch.from_numpy(centred[place[part]]))
    pieces = [encoding.ids for encoding in tokenizer.encode_batch(types, add_special_tokens=False)]
    runs = shared_out(printed, pieces, torch.from_numpy(numbers / numbers.mean()).float(), tokens)
    return Space(features, widths, mean, whitening), runs.numpy() @ whitening


def shared_out(printed: Tensor, pieces: Sequence[Sequence[int]], numbers: Tensor, tokens: int) -> Tensor:
    """For each token a row (tokens, c), such that those of a word's pieces add up to what is printed of it (words, c),
    as nearly as can be: least squares, in which words count by their numbers (words,)."""
    gram, cross = torch.zeros(tokens, tokens), torch.zeros(tokens, printed.shape[1])
    lengths = torch.tensor([len(cut) for cut in pieces])
    token, word = torch.tensor([token for cut in pieces for token in cut]), torch.repeat_interleave(lengths)
    for start in range(0, len(token), 100_000):
        part = slice(start, start + 100_000)
        cross.index_add_(0, token[part], numbers[word[part], None] * printed[word[part]])
    pairs = [(one, other) for cut in pieces for one in cut for other in cut]
    gram.index_put_(tuple(torch.tensor(pairs).T), numbers.repeat_interleave(lengths**2), accumulate=True)
    gram.diagonal().add_(DOUBT)
    return torch.cholesky_solve(cross, torch.linalg.cholesky(gram))


def stem_codes(stems: Sequence[str], loudness: dict[str, float]) -> dict[str, Matrix]:
    """A code of 768 signs for each stem."""
    rows = _hadamard(STEMS)
    codes: dict[str, Matrix] = {}
    negated = np.ones(STEMS, np.float32)
    for rank, stem in enumerate(sorted(set(stems), key=lambda stem: (-loudness[stem], stem))):
        basis, row = divmod(rank, STEMS)
        if row == 0:
            negated = signs(f"basis {basis}", STEMS)
        codes[stem] = rows[row] * negated
    return codes


def token_codes(runs: Matrix, vocabulary: dict[str, str], weights: Sequence[float], often: dict[str, int]) -> Matrix:
    """The code of each token, (tokens, 1024 + 768): its runs, then its stem."""
    stems = list(vocabulary.values())
    loudness: defaultdict[str, float] = defaultdict(float)
    for stem, weight in zip(stems, weights, strict=True):
        loudness[stem] = max(loudness[stem], weight**2 * often.get(stem, 0))
    codes = stem_codes(stems, loudness)
    runs = runs * np.maximum(np.array(weights), QUIETEST)[:, None]
    spoken = np.stack([codes[stem] * weight for stem, weight in zip(stems, weights, strict=True)])
    scale = STEM_SHARE * np.linalg.norm(runs, axis=1).mean() / np.linalg.norm(spoken, axis=1).mean()
    return np.concatenate([runs, scale * spoken], axis=1)


class Projector(nn.Module):
    """Merged patches (b, 16, 16, 768) become codes (b, 16, 16, 1024), by way of hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4 * WIDTH, HIDDEN)
        self.outer = nn.Linear(HIDDEN, RUNS)
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


def _hadamard(size: int) -> Matrix:
    """Signs in perpendicular rows. `size` is 12 (Paley's construction) times a power of two."""
    squares = {number * number % 11 for number in range(11)}
    matrix = np.ones((12, 12), np.float32)
    for row in range(11):
        for column in range(11):
            matrix[row + 1, column + 1] = 1 if (row - column) % 11 in squares else -1
    matrix[1:, 0] = -1
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix
