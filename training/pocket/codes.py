"""What a page should say of its text: features of the characters, which a projector can compute and words share.

A character's features are ANDs: feature i is on if the character two before it is in set i1, the one before in set
i2, and so on, over the window of five, where the sets are random. So two words have as many features in common as
they have runs of letters in common, also words that nobody has seen in training. Each is weighted by how rare the run
is (idf)."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from .drawing import CLASSES, WINDOW, windows_of

FEATURES = 1024
DENSITY = 0.6  # the share of the characters that a set holds
IDF_POWER = 0.5
_FLOOR = 0.25  # the weight of the most common runs
_DIGITS = CLASSES ** np.arange(WINDOW)


class Features:
    """Features of windows (n, 5) of classes: (n, 1024) float32 of zeros and ones; the words decide what is rare."""

    def __init__(self, words: Counter[str]) -> None:
        generator = np.random.default_rng(0)
        self.sets = generator.random((WINDOW, CLASSES, FEATURES)) < DENSITY
        self.sets[WINDOW // 2, CLASSES - 1] = False  # a gap has no features
        runs: Counter[tuple[int, ...]] = Counter()
        for word, number in words.items():
            for _, window in windows_of(word):
                runs[window] += number
        numbers = np.array(list(runs.values()), float)
        most = numbers.max()
        rarity = np.log(most / numbers) / math.log(most)
        known = np.array(list(runs), np.int64) @ _DIGITS
        order = np.argsort(known)
        self.known = known[order]
        self.idf = (_FLOOR + (1 - _FLOOR) * rarity**IDF_POWER)[order].astype(np.float32)

    def __call__(self, windows: NDArray[np.integer]) -> NDArray[np.float32]:
        on = np.ones((len(windows), FEATURES), bool)
        for place in range(WINDOW):
            on &= self.sets[place][windows[:, place]]
        return on.astype(np.float32)

    def weights(self, windows: NDArray[np.integer]) -> NDArray[np.float32]:
        """How rare each window is: (n,) from 0.25 to 1."""
        wanted = windows.astype(np.int64) @ _DIGITS
        at = np.searchsorted(self.known, wanted).clip(max=len(self.known) - 1)
        return np.where(self.known[at] == wanted, self.idf[at], np.float32(1))
