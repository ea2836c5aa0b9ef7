"""What the language model holds of each token: the code of its letters, that of its stem, and what it needs to know at
a seam.

*Letters.* The first `FEATURES` numbers of a code are in the space of `fitting`: those of a word's pieces add up to what
a perfect reader would say of the printed word, so that a question and the picture of a page have the same code.

*Seams.* A word in pieces is more than their sum: the features of a character at a seam are ANDs of letters of both
pieces. So each token has two more short codes, one of its first letters and one of its last, and a piece that goes on
with a word adds `down @ (silu(gate @ first) * (up @ last))`, where `last` is of the piece before it: what the MLP of a
Llama layer computes, and much of what the AND wants. Nets that see four letters make the short codes, learnt with the
three matrices on the words of the training text; in between, the codes of letters are shared out anew by least squares.

*Stems.* The other `STEMS` numbers are a code of signs for the token's stem, which pictures lack: text against text is
matched by words too. The codes of the loudest stems are the perpendicular rows of one Hadamard matrix, the next ones
the same rows with some columns negated, and so on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .codes import FEATURES
from .drawing import ALPHABET, CLASSES, GAP, WINDOW
from .fitting import COUNT_POWER, Matrix, Space, signs
from .vocabulary import CONTINUES, ENDINGS, SPECIAL, Vocabulary

STEMS = 640
SEAM = 94  # numbers that tell a token's first letters, and as many for its last
UNITS = 512  # of the MLP
STEM_SHARE = 2.0  # the length of the average token's stem code, as a multiple of that of its letters
QUIETEST = 0.4  # the weight of the letters of words that carry no topic: in a row of words they do say something
PIECE = 0.7  # the same for pieces that go on with a word and are no endings: such words are rare
DOUBT = 0.03  # the ridge of tokens' codes, relative to a word of average number
REACH = WINDOW - 1  # letters that can share a window with one beyond the seam
BATCH = 512  # words
RATE = 3e-3
SEAM_LENGTH = 3.5  # of the average short code, where a token's state is 45 long


@dataclass(frozen=True)
class Seams:
    """What pieces of words add where they meet."""

    first: Tensor
    """Of each token that goes on with a word, its first letters; zeros for all others: (tokens, 94)."""
    last: Tensor
    """Of each token, its last letters: (tokens, 94)."""
    gate: Tensor
    """(512, 94), for `first`."""
    up: Tensor
    """(512, 94), for `last`."""
    down: Tensor
    """(1024, 512)."""


@dataclass(frozen=True)
class Codes:
    """What the language model holds of each token, but for what all have."""

    letters: Matrix
    """(tokens, 1024)."""
    stems: Matrix
    """(tokens, 640)."""
    seams: Seams


class Cut:
    """Words in pieces."""

    def __init__(self, pieces: Sequence[Sequence[int]], numbers: Tensor, tokens: int) -> None:
        """`numbers` say how much each word counts."""
        self.numbers = numbers
        self.lengths = torch.tensor([len(cut) for cut in pieces])
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.token = torch.tensor([token for cut in pieces for token in cut])
        self.word = torch.repeat_interleave(self.lengths)
        gram = torch.zeros(tokens, tokens)
        pairs = [(one, other) for cut in pieces for one in cut for other in cut]
        gram.index_put_(tuple(torch.tensor(pairs).T), numbers.repeat_interleave(self.lengths**2), accumulate=True)
        gram.diagonal().add_(DOUBT)
        self.factor = torch.linalg.cholesky(gram)

    def shared_out(self, wanted: Tensor) -> Tensor:
        """For each token a row (tokens, c), such that those of a word's pieces add up to what is wanted of it
        (words, c), as nearly as can be: least squares, in which words count by their numbers."""
        cross = torch.zeros(len(self.factor), wanted.shape[1])
        for token, word in zip(self.token.split(100_000), self.word.split(100_000), strict=True):
            cross.index_add_(0, token, self.numbers[word, None] * wanted[word])
        return torch.cholesky_solve(cross, self.factor)

    def added(self, rows: Tensor) -> Tensor:
        """For each word, the sum of its tokens' rows: (words, c)."""
        result = torch.zeros(len(self.lengths), rows.shape[1])
        for token, word in zip(self.token.split(100_000), self.word.split(100_000), strict=True):
            result.index_add_(0, word, rows[token])
        return result

    def seams(self, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens before and after each seam of some words, and which of these words it is in."""
        inside = self.lengths[words] - 1
        which = torch.repeat_interleave(inside)
        nth = torch.arange(len(which)) - (inside.cumsum(0) - inside)[which]
        at = self.starts[words][which] + nth
        return self.token[at], self.token[at + 1], which


class _Learner(nn.Module):
    def __init__(self, tokens: Sequence[str]) -> None:
        super().__init__()
        self.heads, self.tails = _letters_of(tokens)
        self.first, self.last = _net(), _net()
        self.gate, self.up = (nn.Linear(SEAM, UNITS, bias=False) for _ in range(2))
        self.down = nn.Linear(UNITS, FEATURES, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        first, last = self.first(self.heads[after]), self.last(self.tails[before])
        return self.down(F.silu(self.gate(first)) * self.up(last))  # type: ignore[no-any-return]

    @torch.no_grad()
    def seams(self, tokens: Sequence[str]) -> Seams:
        first, last = self.first(self.heads), self.last(self.tails)
        first *= torch.tensor([[token.startswith(CONTINUES)] for token in tokens])
        last *= torch.tensor([[token not in SPECIAL] for token in tokens])
        grow, stretch = (SEAM_LENGTH / part[part.any(1)].norm(dim=1).mean() for part in (first, last))
        gate, up, down = self.gate.weight / grow, self.up.weight / stretch, self.down.weight.detach()
        return Seams(first * grow, last * stretch, gate, up, down)


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(REACH * (CLASSES + 1), 384), nn.GELU(), nn.Linear(384, SEAM))


def _letters_of(tokens: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The first letters of each token, and its last, in reverse: (tokens, 4 * 38) zeros and ones each. Before the
    first letter of a word is a gap; what is before and behind a piece is not known, which is a class of its own."""
    unknown = CLASSES
    classes = {letter: index for index, letter in enumerate(ALPHABET)}
    heads = torch.full((len(tokens), REACH), unknown)
    tails = torch.full((len(tokens), REACH), unknown)
    for head, tail, token in zip(heads, tails, tokens, strict=True):
        letters = [classes.get(letter, unknown) for letter in token.removeprefix(CONTINUES)]
        before = [] if token.startswith(CONTINUES) else [GAP]
        for row, known in ((head, letters), (tail, [*reversed(letters), *before])):
            row[: len(known)] = torch.tensor(known[:REACH])
    return F.one_hot(heads, CLASSES + 1).flatten(1).float(), F.one_hot(tails, CLASSES + 1).flatten(1).float()


def learn(space: Space, vocabulary: Vocabulary, *, steps: int, refits: int = 3) -> tuple[Matrix, Seams]:
    """The codes of the tokens' letters, (tokens, 1024), and the seams, for words of the training text."""
    torch.manual_seed(0)
    tokens = list(vocabulary.stems)
    words = sorted(word for word in vocabulary.count if set(word) <= set(ALPHABET))
    numbers = torch.tensor([vocabulary.count[word] for word in words]) ** COUNT_POWER
    numbers /= numbers.mean()
    encodings = vocabulary.tokenizer.encode_batch(words, add_special_tokens=False)
    cut = Cut([encoding.ids for encoding in encodings], numbers, len(tokens))
    wanted = torch.from_numpy(space.printed(words))
    letters = cut.shared_out(wanted)
    learner = _Learner(tokens)
    optimizer = torch.optim.Adam(learner.parameters(), lr=RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1, pct_start=0.1)
    # Half of a word's number decides how often it is drawn, half how much it then counts.
    drawn = numbers.sqrt() * (cut.lengths > 1)
    for part in range(refits):
        missing = wanted - cut.added(letters)
        for _ in range(part * steps // refits, (part + 1) * steps // refits):
            some = torch.multinomial(drawn, BATCH, replacement=True)
            said = _said(learner, cut, some)
            weights = numbers[some].sqrt()
            loss = (weights * (said - missing[some]).square().sum(1)).sum() / weights.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            said = torch.cat([_said(learner, cut, some) for some in torch.arange(len(words)).split(10_000)])
        letters = cut.shared_out(wanted - said)
    return letters.numpy(), learner.seams(tokens)


def _said(learner: _Learner, cut: Cut, words: Tensor) -> Tensor:
    """What the seams of each of the words add: (words, 1024)."""
    before, after, which = cut.seams(words)
    return torch.zeros(len(words), FEATURES).index_add(0, which, learner(before, after))


def codes_of(letters: Matrix, seams: Seams, vocabulary: Vocabulary) -> Codes:
    """Every token as loud as it is rare: letters and seams, then stems."""
    stems = list(vocabulary.stems.values())
    loudness: defaultdict[str, float] = defaultdict(float)
    for stem, weight in zip(stems, vocabulary.weights, strict=True):
        loudness[stem] = max(loudness[stem], weight**2 * vocabulary.frequency.get(stem, 0))
    codes = stem_codes(stems, loudness)
    spoken = np.stack([codes[stem] * weight for stem, weight in zip(stems, vocabulary.weights, strict=True)])
    pieces = [
        token.startswith(CONTINUES) and token.removeprefix(CONTINUES) not in ENDINGS for token in vocabulary.stems
    ]
    weights = np.maximum(vocabulary.weights, np.where(pieces, PIECE, QUIETEST)).astype(np.float32)[:, None]
    letters = letters * weights
    scale = STEM_SHARE * np.linalg.norm(letters, axis=1).mean() / np.linalg.norm(spoken, axis=1).mean()
    # What stands at a seam is as loud as the piece before it.
    loud = Seams(seams.first, seams.last * torch.from_numpy(weights), seams.gate, seams.up, seams.down)
    return Codes(letters, scale * spoken, loud)


def stem_codes(stems: Sequence[str], loudness: dict[str, float]) -> dict[str, Matrix]:
    """A code of 640 signs for each stem."""
    rows = _hadamard(STEMS)
    codes: dict[str, Matrix] = {}
    negated = np.ones(STEMS, np.float32)
    for rank, stem in enumerate(sorted(set(stems), key=lambda stem: (-loudness[stem], stem))):
        basis, row = divmod(rank, STEMS)
        if row == 0:
            negated = signs(f"basis {basis}", STEMS)
        codes[stem] = rows[row] * negated
    return codes


def _hadamard(size: int) -> Matrix:
    """Signs in perpendicular rows. `size` is 20 (Paley's construction) times a power of two."""
    prime = 19
    squares = {number * number % prime for number in range(prime)}
    matrix = np.ones((prime + 1, prime + 1), np.float32)
    for row in range(prime):
        for column in range(prime):
            matrix[row + 1, column + 1] = 1 if (row - column) % prime in squares else -1
    matrix[1:, 0] = -1
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix
