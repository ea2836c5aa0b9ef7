"""Whole pages, printed as a person would print them, and questions about them; for fitting and for evaluation.

A page is 512 x 768 pixels, one column, with 100 to 300 words of one document in one font; a question is five to eight
of its words in a row. Harder kinds are made of such pages: scans, large titles, charts and tables.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .corpus import SHARED, Document, shingles, words_to_draw
from .drawing import load_font

WIDTH, HEIGHT = 512, 768
MARGIN = 28


@dataclass(frozen=True)
class Page:
    image: Image.Image
    words: tuple[str, ...]
    """As printed, in order."""
    font: str
    size: int

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def snippet(self, rng: random.Random) -> str:
        """Five to eight consecutive words."""
        return snippet_of(self.words, rng, 5)


def snippet_of(words: Sequence[str], rng: random.Random, shortest: int) -> str:
    """So many to eight consecutive words."""
    length = rng.randint(shortest, 8)
    start = rng.randrange(len(words) - length + 1)
    return " ".join(words[start : start + length])


def print_page(words: Sequence[str], font_path: str, size: int, columns: int = 1, leading: float = 1.3) -> Page:
    """The words that fit, printed in black on white at `size` pixels, in columns."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    width = (WIDTH - (columns + 1) * MARGIN) / columns
    left = y = float(MARGIN)
    printed = []
    for line in _lines(words, font_path, size, width):
        if y > MARGIN and y + size * leading > HEIGHT - MARGIN:
            left += width + MARGIN
            y = float(MARGIN)
            if left > WIDTH - MARGIN:
                break
        _print_line(draw, left, y, line, font_path, size)
        printed.extend(word for _, word in line)
        y += size * leading
    return Page(image, tuple(printed), font_path, size)


def _lines(words: Sequence[str], font_path: str, size: int, width: float) -> list[list[tuple[float, str]]]:
    """The words in lines of at most `width` pixels, each with its distance from the left."""
    font, advances, _, _ = load_font(font_path, size)
    lines: list[list[tuple[float, str]]] = []
    x = 0.0
    for word in words:
        length = font.getlength(word)
        if not lines or (x > 0 and x + length > width):
            lines.append([])
            x = 0.0
        lines[-1].append((x, word))
        x += length + advances[" "]
    return lines


def _print_line(
    draw: ImageDraw.ImageDraw, left: float, top: float, line: list[tuple[float, str]], font_path: str, size: int
) -> None:
    for x, word in line:
        draw.text((left + x, top), word, "black", load_font(font_path, size)[0])


def titled(page: Page, rng: random.Random) -> tuple[Page, str]:
    """The page's words in two kinds: a large title of some of them, which stand nowhere else, above the others; and
    that title."""
    start = rng.randrange(len(page.words) - 4)
    title = page.words[start : start + 4]
    rest = [word for word in page.words if word not in title]
    size = rng.randint(28, 44)
    body = print_page(rest, page.font, page.size)
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    lines = _lines(title, page.font, size, WIDTH - 2 * MARGIN)
    for number, line in enumerate(lines):
        _print_line(draw, MARGIN, MARGIN / 2 + 1.2 * size * number, line, page.font, size)
    y = MARGIN / 2 + 1.2 * size * (len(lines) - 1)
    image.paste(body.image, (0, int(y + 1.4 * size)))
    return replace(page, image=image), " ".join(title)


def charted(page: Page, rng: random.Random) -> tuple[Page, str]:
    """A bar chart above a table, whose labels are words of the page; and three of the labels."""
    words = sorted({word for word in page.words if word.isalpha() and 3 < len(word) < 13})
    labels = rng.sample(words, min(20, len(words)))
    size = rng.randint(11, 15)
    font, _, _, _ = load_font(page.font, size)
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    bars, cells = labels[:8], labels[8:]
    for index, label in enumerate(bars):
        top = 40 + index * 36
        draw.text((MARGIN, top + 4), label, "black", font)
        colour = tuple(rng.randint(40, 200) for _ in range(3))
        draw.rectangle((160, top, 160 + rng.randint(40, 300), top + 24), fill=colour)
    draw.line((160, 30, 160, 330), "black")
    for index, label in enumerate(cells):
        row, column = divmod(index, 3)
        left, top = MARGIN + column * 152, 400 + row * 40
        draw.rectangle((left, top, left + 152, top + 40), outline="grey")
        draw.text((left + 8, top + 10), label, "black", font)
    return replace(page, image=image, words=tuple(labels)), " ".join(rng.sample(labels, 3))


def scanned(page: Page, rng: random.Random) -> Page:
    """The page as a scanner would see it: turned by up to one degree, a little blurred, grey and noisy."""
    grey = page.image.convert("L").rotate(rng.uniform(-1, 1), Image.Resampling.BICUBIC, fillcolor=255)
    pixels = np.asarray(grey.filter(ImageFilter.GaussianBlur(0.4)), np.float32)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(pixels.shape, dtype=np.float32)
    seen = np.clip(30 + 0.82 * pixels + 8 * noise, 0, 255).astype(np.uint8)
    return replace(page, image=Image.fromarray(seen).convert("RGB"))


def make_pages(
    documents: Sequence[Document], fonts: Sequence[str], number: int, seed: int, columns: int = 1
) -> list[Page]:
    """So many pages, from as many documents as there are, without two that share a tenth of their runs of words."""
    rng = random.Random(seed)
    order = list(documents)
    rng.shuffle(order)
    pages: list[Page] = []
    known: set[int] = set()
    turn = 0
    while len(pages) < number:
        document = order[turn % len(order)]
        turn += 1
        words = [word for word in words_to_draw([document]) if re.search("[A-Za-z0-9]", word)]
        length = rng.randint(100, 300)
        if len(words) < length:
            if turn > 50 * len(order):
                raise ValueError(f"{len(documents)} documents have no {number} pages that differ")
            continue
        start = rng.randrange(len(words) - length + 1)
        chosen = words[start : start + length]
        own = shingles(" ".join(chosen))
        if not own or len(own & known) >= SHARED * len(own) or sum(bool(re.search("[a-z]{3}", w)) for w in chosen) < 60:
            continue
        page = print_page(chosen, fonts[len(pages) % len(fonts)], rng.randint(10, 20), columns)
        if len(page.words) < 100:
            continue
        known |= own
        pages.append(page)
    return pages
