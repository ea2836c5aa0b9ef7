"""The scripts that make the pocket model: what the labels say, that the tower survives its translation, that runs
resume."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import reportlab
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from transformers import SiglipVisionConfig, SiglipVisionModel

from nemovlm import Embedder
from nemovlm.models.llama_nemotron.packing import Packing
from nemovlm.models.llama_nemotron.weights import load_model
from training.pocket import drawing, fitting, joining, llama, loop, reading, tokens, tower, vocabulary
from training.pocket.codes import FEATURES
from training.pocket.corpus import Document, distinct
from training.pocket.evaluation import interval, ranks_of
from training.pocket.export import export
from training.pocket.fitting import merged
from training.pocket.muon import orthogonal
from training.pocket.pages import charted, make_pages, print_page, scanned, titled
from training.pocket.vocabulary import Vocabulary

FONT = str(Path(reportlab.__file__).parent / "fonts" / "Vera.ttf")
WORDS = ["Pack", "my", "box", "with", "five", "dozen", "liquor", "jugs,", "said", "the", "fox", "in", "1984"]


def vocabulary_in_pieces() -> Vocabulary:
    """Of the words above, and of a thousand others, most of which are cut into pieces."""
    rng = random.Random(0)
    others = ["".join(rng.choices(["ba", "kel", "in", "tro", "mus", "ge"], k=rng.randint(2, 5))) for _ in range(1000)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "VOCABULARY", 800)
        patch.setattr(vocabulary, "PIECES", 60)
        return Vocabulary.of([Document("a", "a", " ".join(WORDS * 40 + others))])


SPELLED = vocabulary_in_pieces()


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
    monkeypatch.setattr(loop, "BLOCK", 8)
    monkeypatch.setattr(loop, "BATCH", 4)

    def train(run: Path, stop: int | None) -> dict[str, torch.Tensor]:
        with monkeypatch.context() as patch:
            if stop:
                patch.setattr(loop.Tiles, "batches", stopping(loop.Tiles.batches, stop))
            reading.train(loop.Tiles(WORDS * 40, [FONT], 1, 1), run, steps=4, seed=1, keep=1)
        state: dict[str, torch.Tensor] = torch.load(run / "reader.pt", weights_only=True)["model"]
        return state

    whole = train(tmp_path / "whole", None)
    half = train(tmp_path / "half", 2)
    assert any(not torch.equal(half[name], whole[name]) for name in whole)
    resumed = train(tmp_path / "half", None)
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, rtol=1e-5, atol=1e-6)


def test_tower_and_projector_learn_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a reader and the projector that follows from it, a few steps on one block make the error smaller."""
    monkeypatch.setattr(loop, "BLOCK", 4)
    monkeypatch.setattr(loop, "BATCH", 2)
    monkeypatch.setattr(loop, "WARMUP", 1)
    torch.manual_seed(0)
    space = fitting.space_of(SPELLED.count, [FONT])
    tiles = loop.Tiles(WORDS * 40, [FONT], 1, 1)
    reader = reading.Reader()
    torch.nn.init.normal_(reader.letters.weight, std=0.05)
    projector, explained = fitting.make_projector(reader, space, tiles.block(0))
    assert 0 <= explained < 1
    joining.train(joining.Joined(reader, projector), space, tiles, tmp_path, steps=12, keep=100)
    errors = [json.loads(line)["token"] for line in (tmp_path / "joined.jsonl").read_text().splitlines()]
    assert errors[-1] < 1.1
    assert joining.load(tmp_path).projector.outer.bias.any()


def test_pieces_add_up_to_their_words() -> None:
    """What is printed of words goes to their pieces so that the sums are right; a token of no word has none."""
    torch.manual_seed(0)
    cut = tokens.Cut([[0, 2], [1, 2], [1], [0, 3, 3]], torch.tensor([1000.0, 100, 10, 1000]), 5)
    truth = torch.randn(5, 7)
    printed = cut.added(truth)
    torch.testing.assert_close(printed[3], truth[0] + 2 * truth[3])
    found = cut.shared_out(printed)
    torch.testing.assert_close(cut.added(found), printed, rtol=0.01, atol=0.02)
    assert not found[4].any()


def test_seams_are_where_pieces_of_a_word_meet() -> None:
    """Each piece but the last is before a seam, each but the first behind one, in the words that are asked for."""
    cut = tokens.Cut([[4], [0, 2, 1], [3, 2], [0, 0]], torch.ones(4), 5)
    before, after, which = cut.seams(torch.tensor([2, 0, 1, 2]))
    assert before.tolist() == [3, 0, 2, 3]
    assert after.tolist() == [2, 2, 1, 2]
    assert which.tolist() == [0, 2, 2, 3]


def test_features_are_those_of_the_characters_that_a_token_shows() -> None:
    """A tile's features add up to those of its characters, by their width, each on the token where its middle is."""
    space = fitting.space_of(SPELLED.count, [FONT])
    tiles = [drawing.draw_tile(random.Random(seed), WORDS, [FONT]) for seed in (3, 4)]
    features = fitting.features_of(tiles, space).reshape(2, 256, -1)
    for (_, labels), tile in zip(tiles, features, strict=True):
        whole = labels.shares @ space.centred(labels.shown)
        np.testing.assert_allclose(tile.sum(0), whole, rtol=1e-3, atol=1e-2)
        assert set(np.nonzero(tile.any(1))[0]) <= set(labels.squares)
        assert labels.shares.sum() == pytest.approx(labels.middles.sum(), rel=0.3)


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


def test_harder_pages_are_asked_for_what_they_show() -> None:
    """A title stands large above a page that lacks its words; labels are words of the page, on a coloured chart."""
    rng = random.Random(0)
    page = print_page(["bread", "butter", "cheese", "apple", "onion", "pepper", "salt"], FONT, 12)
    headed, title = titled(page, rng)
    assert set(title.split()) <= set(page.words)
    assert len(title.split()) == 4
    ink = np.asarray(headed.image.convert("L")) < 128
    assert ink[:100].sum() > 5 * ink[100:].sum() > 0
    drawn, labels = charted(page, rng)
    assert set(labels.split()) <= set(drawn.words) <= set(page.words)
    assert np.ptp(np.asarray(drawn.image, int), axis=2).max() > 20


def test_figures_count_what_is_nearer_than_the_right_page() -> None:
    """Ranks are those of the question's own page, and an interval holds its mean."""
    passages = np.eye(4, dtype=np.float32)
    queries = np.array([[1, 0, 0, 0], [0.9, 0.5, 0, 0], [0.9, 0.5, 0.8, 0.7]], np.float32)
    questions = [(0, "a"), (1, "b"), (1, "c")]
    assert ranks_of(passages, queries, questions).tolist() == [0, 1, 3]
    hits = np.array([True, False, True, True])
    assert interval(hits, np.array([0, 0, 1, 2])).startswith(" 75.0 (")


@pytest.fixture(scope="module")
def space() -> fitting.Space:
    return fitting.space_of(SPELLED.count, [FONT])


@pytest.fixture(scope="module")
def codes(space: fitting.Space) -> tokens.Codes:
    return tokens.codes_of(*tokens.learn(space, SPELLED, steps=150), SPELLED)


@pytest.fixture(scope="module")
def exported(codes: tokens.Codes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with an untrained tower, and a vocabulary of a few words."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("exported")
    joined = joining.Joined(reading.Reader(), fitting.Projector())
    export(folder, joined, SPELLED.stems, SPELLED.tokenizer, codes)
    return folder


def test_the_exported_checkpoint_is_of_the_published_architecture(exported: Path) -> None:
    """The package's own loader takes it, for text and pictures, and bfloat16 gives the same vectors."""
    items = ["pack my box", "liquor jugs", Image.new("RGB", (300, 200), "white"), scanned_words()]
    with Embedder(exported) as exact, Embedder(exported, dtype="bfloat16") as rounded:
        assert exact.modalities == ("text", "image", "text_image")
        vectors = exact.embed(items)
        assert vectors.shape == (4, 2048)
        assert (vectors * rounded.embed(items)).sum(1).min() > 0.99
        assert not exact.embed_query("pack")[:256].any()  # ballast is not heard


def test_the_language_model_says_what_pieces_say_together(
    space: fitting.Space, codes: tokens.Codes, exported: Path
) -> None:
    """The vector of a word in pieces is the sum of their codes and of their seams, in running text as well, and nearer
    to what a reader would see in print than the pieces alone are."""
    words = sorted(word for word in SPELLED.count if len(SPELLED.tokenizer.encode(word, add_special_tokens=False)) > 2)
    assert len(words) > 200
    cut = [SPELLED.tokenizer.encode(word, add_special_tokens=False).ids for word in words]
    seams = codes.seams
    pieces = np.stack([codes.letters[ids].sum(0) for ids in cut])
    said = np.stack(
        [
            (F.silu(seams.first[ids[1:]] @ seams.gate.T) * (seams.last[ids[:-1]] @ seams.up.T)).sum(0) @ seams.down.T
            for ids in cut
        ]
    )
    heard = slice(llama.RESERVED, llama.RESERVED + codes.letters.shape[1])
    with Embedder(exported) as embedder:
        vectors = embedder.embed_queries(words)[:, heard]
        pair = embedder.embed_query(f"{words[0]} {words[-1]}")[heard]
    assert cosines(vectors, pieces + said).min() > 0.94  # some pieces stand twice in a word, which counts less
    assert cosines(vectors, pieces + said).mean() > 0.97
    assert cosines(vectors, pieces + said).mean() > cosines(vectors, pieces).mean() + 0.02
    assert cosines(pair, (pieces + said)[[0, -1]].sum(0)) > 0.94
    printed = space.printed(words)
    assert cosines(vectors, printed).mean() > cosines(pieces, printed).mean() + 0.02


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return (one * other).sum(-1) / lengths  # type: ignore[no-any-return]


def scanned_words() -> Image.Image:
    page = make_pages([Document("a", "a", " ".join(f"w{n}ord" for n in range(400)))], [FONT], 1, seed=1)[0]
    turned = scanned(page, random.Random(1))
    assert turned.words == page.words
    assert np.abs(np.asarray(turned.image, float) - np.asarray(page.image, float)).mean() > 5
    return turned.image


def test_repeated_words_count_less_each_time(exported: Path) -> None:
    """Of n copies the weight is about n / (1 + n / k1), beside that of another word: the saturation of BM25."""
    with Embedder(exported) as embedder:
        box, fox = embedder.embed_queries(["box", "fox"])
        both = [embedder.embed_query("box " * n + "fox") for n in (1, 2, 4, 8)]
    basis = np.stack([box, fox], axis=1)
    weights = np.array([np.linalg.lstsq(basis, vector, rcond=None)[0] for vector in both])
    ratio = weights[:, 0] / weights[:, 1]
    n = np.array([1, 2, 4, 8])
    counted = n / (1 + n / llama.ANCHOR_ODDS)
    lengths = np.hypot(llama.BRAKE_LEVEL * (1 + counted / llama.K1), np.sqrt(llama.HIDDEN - llama.BRAKE_LEVEL**2))
    np.testing.assert_allclose(ratio / ratio[0], n * lengths[0] / lengths, rtol=0.06)
    assert (np.diff(ratio) > 0).all()


def test_patches_that_show_the_same_weigh_less(exported: Path) -> None:
    """A patch's share of its code falls with its copies, the same for loud and quiet ones, wherever they stand."""
    model = load_model(exported, device="cpu", dtype=torch.float32)
    language = model.language_model
    torch.manual_seed(0)
    weight, bias = llama.patch_states(torch.eye(FEATURES), torch.zeros(FEATURES))
    begin = language.embed(torch.tensor([0]))

    @torch.no_grad()
    def heard(codes: torch.Tensor) -> torch.Tensor:
        states = torch.cat([begin, codes @ weight.T + bias])
        told = language(states, Packing.even(1, len(states), "cpu"))[1:, llama.RESERVED :]
        return told[:, :FEATURES].norm(dim=1) / codes.norm(dim=1)

    codes = F.normalize(torch.randn(40, FEATURES), dim=1) * torch.linspace(0.4, 2.0, 40)[:, None]
    alone, copied = heard(codes), heard(torch.cat([codes, codes[20:21], codes[39:].expand(7, -1)]))
    assert float(alone[:13].mean() / alone[-13:].mean()) == pytest.approx(1, abs=0.15)
    left = copied[:40] / alone
    assert torch.cat([left[:20], left[21:39]]).min() > 0.85  # strangers hardly count
    assert left[20] < 0.9  # two of it
    assert left[39] < 0.8  # eight of it
    assert left[39] < left[20]
    assert float(copied[39]) == pytest.approx(float(copied[46]), rel=1e-3)
