"""The scripts that make the pocket model: what the labels say, that the tower survives its translation, that runs
resume."""

import random
from pathlib import Path

import numpy as np
import pytest
import reportlab
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import SiglipVisionConfig, SiglipVisionModel

from training.pocket import drawing, reading, tower
from training.pocket.corpus import Document, distinct
from training.pocket.evaluation import interval, ranks_of
from training.pocket.fitting import merged
from training.pocket.muon import orthogonal
from training.pocket.pages import make_pages

FONT = str(Path(reportlab.__file__).parent / "fonts" / "Vera.ttf")
WORDS = ["Pack", "my", "box", "with", "five", "dozen", "liquor", "jugs,", "said", "the", "fox", "in", "1984"]


@given(st.text(alphabet="abzXY019'-. é", max_size=12))
def test_windows_are_those_of_the_words_that_the_tokenizer_sees(word: str) -> None:
    """Each letter and digit has a window with itself in the middle, and nothing of the next word."""
    windows = drawing.windows_of(word)
    assert [index for index, _ in windows] == [i for i, c in enumerate(word) if c.lower() in drawing.ALPHABET]
    for index, window in windows:
        assert drawing.ALPHABET[window[2]] == word[index].lower()
    spelled = "".join((drawing.ALPHABET + " ")[w[2]] + (" " if w[3] == drawing.GAP else "") for _, w in windows)
    expected = "".join(c if c.lower() in drawing.ALPHABET else "" if c == "'" else " " for c in word).lower()
    assert spelled.split() == expected.split()


def test_the_labels_of_a_tile_spell_its_text() -> None:
    """Along a line, the middles name the drawn words' characters in order; the same seed gives the same tile."""
    tile, labels = drawing.draw_tile(random.Random(3), ["abcdefghijklmnopqrstuvwxyz"], [FONT])
    again, labels_again = drawing.draw_tile(random.Random(3), ["abcdefghijklmnopqrstuvwxyz"], [FONT])
    assert (tile == again).all()
    assert (labels.windows == labels_again.windows).all()
    assert labels.middles.any()
    named = labels.windows[labels.middles]
    assert (named < drawing.CLASSES).all()
    assert (named[:, 2] != drawing.GAP).all()
    followed = (named[:, 3] == named[:, 2] + 1) & (named[:, 2] < 25)
    assert followed.mean() > 0.4  # most words are drawn as they are given


def test_attention_does_what_the_shifts_did() -> None:
    """The exported tower is the trained one, however loud what patches show, where a plain match would lose its
    way."""
    torch.manual_seed(0)
    trained = tower.Tower()
    with torch.no_grad():
        for layer in trained.layers:
            layer.fc2.weight.mul_(40)
            layer.fc2.bias.normal_(std=3)
    exported = SiglipVisionModel(SiglipVisionConfig(**{**tower.siglip_config(), "vision_use_head": False})).eval()
    weights = tower.siglip_weights(trained)
    missing = exported.load_state_dict(weights, strict=False)
    assert not missing.missing_keys
    assert not missing.unexpected_keys
    pixels = torch.rand(2, 256, 256) * 2 - 1
    pixels[:, 100:] = 1.0  # blank paper, whose states are short
    with torch.no_grad():
        shifted = trained(pixels).flatten(1, 2)
        attended = exported(pixel_values=pixels[:, None].expand(-1, 3, -1, -1)).last_hidden_state
    assert float((shifted - attended).abs().max()) < 1e-3


def test_patches_are_merged_as_the_model_merges_them() -> None:
    """Upper left, upper right, lower left, lower right: the order of `LlamaNemotronVLModel`'s pixel shuffle."""
    states = torch.arange(16.0).view(1, 4, 4, 1)
    assert merged(states).view(4, 4).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 16, 16)])
def test_muon_makes_updates_nearly_orthogonal(shape: tuple[int, int, int]) -> None:
    """All singular values come near one."""
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape), iterations=8))
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.4


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps, a stop and two more give the weights of four steps, and the log goes on."""
    monkeypatch.setattr(reading, "BLOCK", 8)

    def train(run: Path, stop: int | None) -> dict[str, torch.Tensor]:
        with monkeypatch.context() as patch:
            if stop:
                patch.setattr(reading.Tiles, "batches", stopping(reading.Tiles.batches, stop))
            reading.train(WORDS * 40, [FONT], run, steps=4, seed=1, workers=1, keep=1)
        state: dict[str, torch.Tensor] = torch.load(run / "reader.pt", weights_only=True)["model"]
        return state

    whole = train(tmp_path / "whole", None)
    half = train(tmp_path / "half", 2)
    assert any(not torch.equal(half[name], whole[name]) for name in whole)
    resumed = train(tmp_path / "half", None)
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, rtol=1e-5, atol=1e-6)


def stopping(batches, stop):  # type: ignore[no-untyped-def]
    def some(self, step):  # type: ignore[no-untyped-def]
        yield from (batch for batch, _ in zip(batches(self, step), range(stop), strict=False))

    return some


def test_copies_of_training_text_are_no_test() -> None:
    """A document that shares its runs of words with a training document is dropped; another stays."""
    rng = random.Random(0)
    text = " ".join(f"w{rng.randrange(1000)}" for _ in range(300))
    other = " ".join(f"w{rng.randrange(1000)}" for _ in range(300))
    trained = Document("a", "a", text)
    candidates = [
        Document("b", "copy", text.upper()),
        Document("b", "half", f"{text[:900]} {other}"),
        Document("b", "new", other),
    ]
    assert [document.path for document in distinct(candidates, [trained])] == ["new"]


def test_pages_differ_and_hold_their_snippets() -> None:
    """Pages have 100 to 300 words of one document, share no text, and questions stand on them."""
    rng = random.Random(0)
    documents = [
        Document("a", str(n), " ".join("".join(rng.choices("abcdefgh", k=rng.randint(3, 8))) for _ in range(900)))
        for n in range(3)
    ]
    pages = make_pages(documents, [FONT], 6, seed=1)
    assert len({page.text for page in pages}) == 6
    for page in pages:
        assert 100 <= len(page.words) <= 300
        assert page.image.size == (512, 768)
        assert page.snippet(rng) in page.text
        assert 5 <= len(page.snippet(rng).split()) <= 8


def test_figures_count_what_is_nearer_than_the_right_page() -> None:
    """Ranks are those of the question's own page, and an interval holds its mean."""
    passages = np.eye(4, dtype=np.float32)
    queries = np.array([[1, 0, 0, 0], [0.9, 0.5, 0, 0], [0.9, 0.5, 0.8, 0.7]], np.float32)
    questions = [(0, "a"), (1, "b"), (1, "c")]
    assert ranks_of(passages, queries, questions).tolist() == [0, 1, 3]
    hits = np.array([True, False, True, True])
    assert interval(hits, np.array([0, 0, 1, 2])).startswith(" 75.0 (")
