"""Draw small pictures of text, and say which character each patch shows.

A picture is made of bands, one below the other, each with its own font, size and colours, so that one batch shows
many fonts. What is drawn is known to the pixel: words are set one by one, and each character's box follows from the
font's advances. A picture is drawn up to 1.7 times too large and then shrunk with a slightly wrong aspect ratio, as
pages are when they are cut into tiles, so that strokes fall between pixels as they do there."""

from __future__ import annotations

import math
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

TILE = 256  # pixels, each way
PATCH = 8
SIDE = TILE // PATCH
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
GAP = len(ALPHABET)  # the class of a space, of punctuation, and of nothing at all
CLASSES = GAP + 1
WINDOW = 5  # characters around, and with, the one that a patch shows
UNKNOWN = 255  # a label that is not asked for

_CLASS = {letter: index for index, letter in enumerate(ALPHABET)} | {
    letter: index for index, letter in enumerate(string.ascii_uppercase)
}


@dataclass
class Labels:
    """What a picture shows."""

    windows: NDArray[np.uint8]
    """The window of the character on each patch: (side, side, 5)."""
    middles: NDArray[np.bool_]
    """True for the patches through which the middle of a line of text runs: (side, side)."""
    shown: NDArray[np.uint8]
    """The window of each character in each square of 2 x 2 patches that holds some of its middle: (n, 5)."""
    squares: NDArray[np.uint8]
    """The number of that square, from 0 to 255: (n,)."""
    shares: NDArray[np.float32]
    """How much of the character the square holds, in patches: (n,)."""


@dataclass
class _Line:
    top: float  # of capital letters
    bottom: float  # the baseline
    boxes: list[tuple[float, float, tuple[int, ...]]] = field(default_factory=list)


@lru_cache(maxsize=4000)
def load_font(path: str, size: int) -> tuple[ImageFont.FreeTypeFont, dict[str, float], float, float]:
    """The font, its advances, and where capitals begin and the baseline is, below the point at which it is drawn."""
    font = ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
    advances = {letter: font.getlength(letter) for letter in string.printable[:95]}
    _, top, _, bottom = font.getbbox("H")
    return font, advances, float(top), float(bottom)


def windows_of(word: str) -> list[tuple[int, tuple[int, ...]]]:
    """(index in the word, window) for each letter and digit; what is neither ends a word, but for apostrophes."""
    result: list[tuple[int, tuple[int, ...]]] = []
    run: list[int] = []

    def close() -> None:
        classes = [GAP, GAP, *(_CLASS[word[i]] for i in run), GAP, GAP]
        result.extend((i, tuple(classes[n : n + WINDOW])) for n, i in enumerate(run))
        run.clear()

    for index, letter in enumerate(word):
        if letter in _CLASS:
            run.append(index)
        elif not (letter == "'" and run):
            close()
    close()
    return result


def draw_tile(rng: random.Random, words: Sequence[str], fonts: Sequence[str]) -> tuple[NDArray[np.uint8], Labels]:
    """A picture (256, 256) uint8 of running text from `words`, in some of the `fonts`, with its labels."""
    scale = 1.0 if rng.random() < 0.35 else rng.uniform(1.0, 1.7)
    stretch = 1.0 if scale == 1.0 else rng.uniform(0.94, 1.06)
    width, height = round(TILE * scale * stretch), round(TILE * scale / stretch)
    canvas = Image.new("L", (width, height), 255)
    lines: list[_Line] = []
    top = 0
    bands = rng.choice((1, 2, 2, 3, 3))
    for band in range(bands):
        bottom = height if band == bands - 1 else top + round(height / bands * rng.uniform(0.8, 1.2))
        _draw_band(rng, canvas, (0, top, width, min(bottom, height)), scale, words, fonts, lines)
        top = bottom
    if canvas.size != (TILE, TILE):
        canvas = canvas.resize((TILE, TILE), Image.Resampling.BICUBIC)
    if rng.random() < 0.08:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7)))
    pixels = np.asarray(canvas).astype(np.float32)
    if rng.random() < 0.25:
        noise = np.random.default_rng(rng.getrandbits(32)).standard_normal((TILE, TILE), dtype=np.float32)
        pixels += noise * rng.uniform(2, 14)
    labels = _label(lines, TILE / width, TILE / height)
    return np.clip(pixels, 0, 255).astype(np.uint8), labels


def _draw_band(
    rng: random.Random,
    canvas: Image.Image,
    box: tuple[int, int, int, int],
    scale: float,
    words: Sequence[str],
    fonts: Sequence[str],
    lines: list[_Line],
) -> None:
    left, top, right, bottom = box
    kind = rng.random()
    legible = kind > 0.05
    size = 8.5 * (22 / 8.5) ** rng.random() if kind > 0.13 else rng.uniform(22, 36) if legible else rng.uniform(3.5, 6)
    font, advances, cap, base = load_font(rng.choice(fonts), max(3, round(size * scale)))
    paper, ink = _colours(rng)
    band = Image.new("L", (right - left, bottom - top), paper)
    draw = ImageDraw.Draw(band)
    margin = rng.choice((0.0, rng.uniform(-30, 60) * scale))
    edge = (right - left) * (1.0 if rng.random() < 0.7 else rng.uniform(0.5, 1.0)) + 60 * scale * (rng.random() < 0.5)
    leading = font.size * rng.uniform(1.08, 1.7)
    at = rng.randrange(len(words))
    y = rng.uniform(-1.0, 0.7) * font.size
    while y < band.height:
        x, line = margin, _Line(top + y + cap, top + y + base)
        while x < edge:
            word = _word(rng, words, at)
            at += 1
            length = font.getlength(word)
            if legible:
                _place(line, word, x, length, advances)
            draw.text((x, y), word, ink, font)
            x += length + advances[" "] * (1 if rng.random() < 0.95 else rng.uniform(1, 4))
        lines.append(line)
        y += leading * (1 if rng.random() < 0.93 else 1.8)
    if rng.random() < 0.12:
        _rule(rng, draw, band.size, (paper + ink) // 2 if rng.random() < 0.5 else ink)
    canvas.paste(band, (left, top))


def _rule(rng: random.Random, draw: ImageDraw.ImageDraw, size: tuple[int, int], ink: int) -> None:
    """Some straight lines, as tables, charts and underlined words have them."""
    for _ in range(rng.randint(1, 5)):
        x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        end = (rng.uniform(x, size[0]), y) if rng.random() < 0.5 else (x, rng.uniform(y, size[1]))
        draw.line((x, y, *end), ink, rng.choice((1, 1, 2)))


def _word(rng: random.Random, words: Sequence[str], at: int) -> str:
    kind = rng.random()
    if kind < 0.70:
        word = words[at % len(words)]
    elif kind < 0.82:
        word = rng.choice(words)
    elif kind < 0.95:
        word = "".join(rng.choices(ALPHABET[:26], k=rng.randint(2, 9)))
    else:
        word = "".join(rng.choices(ALPHABET[26:] * 3 + ALPHABET[:26] + ".,-", k=rng.randint(1, 7)))
    kind = rng.random()
    return word.upper() if kind < 0.06 else word.capitalize() if kind < 0.14 else word


def _place(line: _Line, word: str, x: float, length: float, advances: dict[str, float]) -> None:
    plain = [advances.get(letter, advances["n"]) for letter in word]
    ratio = length / sum(plain)  # kerning
    starts = np.concatenate([[0.0], np.cumsum(plain)]) * ratio + x
    line.boxes.extend((starts[i], starts[i + 1], window) for i, window in windows_of(word))


def _colours(rng: random.Random) -> tuple[int, int]:
    if rng.random() < 0.55:
        return 255, 0
    while True:
        paper, ink = rng.randrange(256), rng.randrange(256)
        if rng.random() < 0.75:
            paper, ink = max(paper, ink), min(paper, ink)
        if abs(paper - ink) > 90:
            return paper, ink


def _label(lines: list[_Line], across: float, down: float) -> Labels:
    windows = np.full((SIDE, SIDE, WINDOW), UNKNOWN, np.uint8)
    windows[:, :, WINDOW // 2] = GAP
    nearest = np.full(SIDE, np.inf)
    centres = np.arange(SIDE) * PATCH + PATCH / 2
    middles = np.zeros((SIDE, SIDE), bool)
    held: list[tuple[int, tuple[int, ...], float]] = []
    for line in lines:
        top, bottom = line.top * down, line.bottom * down
        middle = (top + bottom) / 2
        distance = np.abs(centres - middle)
        rows = np.nonzero((distance <= (bottom - top) / 2 + 2.5) & (distance < nearest))[0]
        nearest[rows] = distance[rows]
        windows[rows] = UNKNOWN
        windows[rows, :, WINDOW // 2] = GAP
        middles[rows] = False
        row = int(middle // PATCH)
        for x0, x1, window in line.boxes:
            first = max(0, int(np.ceil(x0 * across / PATCH - 0.5)))
            last = min(SIDE, int(np.ceil(x1 * across / PATCH - 0.5)))
            if last > first:  # some patch's centre lies on it
                windows[rows, first:last] = window
                if row in rows:
                    middles[row, first:last] = True
            if row in rows:
                left, right = max(0.0, x0 * across / PATCH), min(float(SIDE), x1 * across / PATCH)
                for column in range(int(left) // 2, math.ceil(right / 2)):
                    share = min(right, 2 * column + 2) - max(left, 2 * column)
                    held.append((row // 2 * (SIDE // 2) + column, window, share))
    squares, shown, shares = zip(*held, strict=True) if held else ((), (), ())
    return Labels(
        windows,
        middles,
        np.array(shown, np.uint8).reshape(-1, WINDOW),
        np.array(squares, np.uint8),
        np.array(shares, np.float32),
    )
