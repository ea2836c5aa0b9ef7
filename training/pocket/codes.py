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

FEATURES = 768
PLACES = (1, 2, 3)  # of the window that a feature asks about: the character and its neighbours
IDF_POWER = 0.5
_FLOOR = 0.25  # the weight of the most common runs


class Features:
    """Features of windows (n, 5) of classes: (n, 512) float32 of zeros and ones; the words decide what is rare."""

    def __init__(self, words: Counter[str]) -> None:
        generator = np.random.default_rng(0)
        self.sets = generator.random((WINDOW, CLASSES, FEATURES)) < 0.5
        self.sets[WINDOW // 2, CLASSES - 1] = False  # a gap has no features
        runs: Counter[tuple[int, ...]] = Counter()
        for word, number in words.items():
            for _, window in windows_of(word):
                runs[window[1:4]] += number
        total = sum(runs.values())
        highest = math.log(total)
        lowest = math.log(total / runs.most_common(1)[0][1])
        self.idf = np.full((CLASSES,) * 3, 1.0, np.float32)
        for run, number in runs.items():
            rarity = (math.log(total / number) - lowest) / (highest - lowest)
            self.idf[run] = _FLOOR + (1 - _FLOOR) * rarity**IDF_POWER

    def __call__(self, windows: NDArray[np.integer]) -> NDArray[np.float32]:
        on = np.ones((len(windows), FEATURES), bool)
        for place in PLACES:
            on &= self.sets[place][windows[:, place]]
        return on.astype(np.float32)

    def weights(self, windows: NDArray[np.integer]) -> NDArray[np.float32]:
        """How rare the three characters in the middle of each window are: (n,) from 0.25 to 1."""
        return self.idf[windows[:, 1], windows[:, 2], windows[:, 3]]
