"""What the pocket model can do. Its weights may be trained anew: nothing here holds a vector, or one single picture."""

import re
from pathlib import Path

import numpy as np
import pytest
import reportlab  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nemovlm import Embedder, Passage
from nemovlm.inputs import Item
from nemovlm.models.checkpoint import find_checkpoint
from nemovlm.models.llama_nemotron.cards import POCKET
from nemovlm.models.llama_nemotron.local import LocalLlamaNemotron
from tests.support.once import once
from tests.support.reference import load_reference
from tests.support.samples import SAMPLES

VERA = str(Path(reportlab.__file__).parent / "fonts" / "Vera.ttf")
PAGES, SNIPPETS, WORDS = 16, (3, 15, 27), 7


def paragraphs() -> list[str]:
    """Sixteen paragraphs of plain prose out of the sample library, of 40 words and more, every other one."""
    parts = re.split(r"\n\s*\n|\n-----\n|~~~\n|>>>\n", "\n\n".join(sample.text for sample in SAMPLES))
    prose = [" ".join(part.split()) for part in parts if re.match(r"[A-Z][a-z']* [^|<\[]*$", part.strip())]
    return [text for text in prose if len(text.split()) >= 40][::2][:PAGES]


def printed(text: str) -> Image.Image:
    """A square of black print on white: four of the model's tiles."""
    font = ImageFont.truetype(VERA, 18)
    page = Image.new("RGB", (512, 512), "white")
    draw = ImageDraw.Draw(page)
    lines = [""]
    for word in text.split():
        wider = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], wider] if draw.textlength(wider, font) <= 464 else [*lines, word]
    draw.multiline_text((24, 24), "\n".join(lines), "black", font, spacing=9)
    return page


def test_its_attention_is_the_shift_that_stands_for_it(pocket: Embedder) -> None:
    """Computed in full, as transformers and vLLM do it, the attention of its tower makes the same vectors."""
    folder = find_checkpoint(POCKET).folder
    assert folder is not None
    local = LocalLlamaNemotron(folder, find_checkpoint(POCKET).card, max_tokens=None, device="cpu", dtype="float32")
    page = printed(paragraphs()[0])
    items = [
        local.prepare(Item("passage", text, image, "END")) for text, image in (("a caption", page), ("words", None))
    ]
    full = load_reference(folder).embed(items, local.image_token)
    full /= np.linalg.norm(full, axis=1, keepdims=True)
    ours = pocket.embed([Passage(text="a caption", image=page), Passage(text="words")])
    assert np.abs(ours - full).max() <= 1e-6


@pytest.fixture(scope="session")
def found(pocket: Embedder, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.int64]:
    """Which picture comes first for each of three snippets a page: (pages, snippets)."""

    def search(folder: Path) -> None:
        texts = paragraphs()
        assert len(set(texts)) == PAGES
        snippets = [" ".join(text.split()[start : start + WORDS]) for text in texts for start in SNIPPETS]
        scores = pocket.embed_queries(snippets) @ pocket.embed([printed(text) for text in texts]).T
        np.save(folder / "first.npy", scores.argmax(axis=1).reshape(PAGES, len(SNIPPETS)))

    first: NDArray[np.int64] = np.load(once(tmp_path_factory, "pocket-found", search) / "first.npy")
    return first


def test_words_find_the_picture_that_they_are_on(found: NDArray[np.int64]) -> None:
    """Seven words of a page find its picture among sixteen, by what is printed on it, mostly (by chance: 6 %)."""
    assert (found == np.arange(PAGES)[:, None]).mean() >= 0.5


def test_words_find_no_other_picture(found: NDArray[np.int64]) -> None:
    """The same questions, paired in any way with other pages than their own, are near chance."""
    paired = [(found == (np.arange(PAGES)[:, None] + shift) % PAGES).mean() for shift in range(1, PAGES)]
    assert max(paired) <= 0.15


def test_text_finds_text(pocket: Embedder) -> None:
    """Among texts nearly every snippet finds its page."""
    texts = paragraphs()
    snippets = [" ".join(text.split()[start : start + WORDS]) for start in SNIPPETS for text in texts]
    first = (pocket.embed_queries(snippets) @ pocket.embed(texts).T).argmax(axis=1)
    right = np.tile(np.arange(PAGES), len(SNIPPETS))
    assert (first == right).mean() >= 0.9, [s for s, hit in zip(snippets, first == right, strict=True) if not hit]


def test_rounding_leaves_vectors_of_pages_alone(pocket: Embedder) -> None:
    """In bfloat16 a printed page has the vector that it has in float32, with a cosine of 0.99."""
    pages = [printed(text) for text in paragraphs()[::4]]
    with Embedder("nemovlm/pocket", dtype="bfloat16") as rounded:
        assert (rounded.embed(pages) * pocket.embed(pages)).sum(axis=1).min() >= 0.99
