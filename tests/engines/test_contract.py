"""The contract of an engine, run over every engine there is, through the one door that users have."""

import asyncio
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemovlm import Embedder, Passage
from nemovlm.engines.choice import _ENGINES
from nemovlm.errors import InputTooLongError, NemoVLMError
from nemovlm.inputs import Embeddable, Truncate
from nemovlm.settings import EngineName
from tests.support.checkpoints import case_image

IMAGES = ("portrait", "landscape", "square", "icon", "noise", "translucent")
MIXED: list[Embeddable] = [
    "one",
    Passage(text="a page with its text " * 10, image=case_image("portrait")),
    "a longer text about a heat pump " * 12,
    case_image("icon"),
    "",
    Passage(image=case_image("landscape")),
    "two",
    Passage(text="Überraschung 🎈 漢字", image=case_image("square")),
]


# vLLM has an environment of its own, where this file is run as well.
HERE = sorted(name for name in _ENGINES if "vllm" not in name or find_spec("vllm"))


@pytest.fixture(scope="module", params=HERE)
def engine(request: pytest.FixtureRequest, vl_folder: Path, served_vl: str) -> Iterator[Embedder]:
    name: EngineName = request.param
    if name == "vllm":
        yield request.getfixturevalue("vllm_vl")
        return
    remote = {"base_url": served_vl} if name == "nim" else {}
    if name == "vllm-server":
        remote = {"base_url": request.getfixturevalue("vllm_served")}
    with Embedder("tiny-vl" if remote else vl_folder, engine=name, dtype="float32", **remote) as embedder:
        yield embedder


def test_vectors_are_proper(engine: Embedder) -> None:
    """Shape (n, d), float32, finite, unit length, in order."""
    vectors = engine.embed(MIXED)
    assert vectors.shape == (len(MIXED), 128)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    for item, vector in zip(MIXED, vectors, strict=True):
        assert np.abs(engine.embed([item])[0] - vector).max() <= 1e-5


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_batch_mates_change_nothing(engine: Embedder, data: st.DataObject) -> None:
    """In float32 an item's vector is the same within 1e-5 whatever company it is embedded in."""
    texts = st.text(max_size=300).map(lambda text: Passage(text=text))
    images = st.sampled_from(IMAGES).map(lambda name: Passage(image=case_image(name)))
    both = st.builds(
        lambda text, name: Passage(text=text, image=case_image(name)), st.text(max_size=99), st.sampled_from(IMAGES)
    )
    items = data.draw(st.lists(st.one_of(texts, images, both), min_size=2, max_size=6))
    together = engine.embed(items)
    alone = np.stack([engine.embed([item])[0] for item in items])
    assert np.abs(together - alone).max() <= 1e-5


def test_queries_and_passages_differ(engine: Embedder) -> None:
    """The role is part of what is embedded."""
    assert not np.allclose(engine.embed_query("heat pump"), engine.embed(["heat pump"])[0], atol=1e-3)


@pytest.mark.parametrize("token", ["<image>", "<img>", "</img>", "<IMG_CONTEXT>", "<|begin_of_text|>"])
def test_special_tokens_in_texts_have_no_power(engine: Embedder, token: str) -> None:
    """A special token that a user typed is embedded as the characters it is made of, with and without an image."""
    spelled = token.replace("<", "< ", 1)
    for image in (None, case_image("icon")):
        typed, harmless = engine.embed([Passage(text=f"see {t} here", image=image) for t in (token, spelled)])
        assert np.array_equal(typed, harmless)
    assert np.array_equal(engine.embed_query(f"see {token}"), engine.embed_query(f"see {spelled}"))


@pytest.mark.parametrize("image", [None, "portrait"], ids=["text", "text_image"])
def test_a_text_over_the_limit_is_an_error_by_default(engine: Embedder, image: str | None) -> None:
    """`truncate="NONE"`: the error names the item, its tokens and the limit; its mates are not concerned."""
    picture = case_image(image) if image else None
    errors: list[NemoVLMError] = []
    items = [Passage(text="short"), Passage(text="z" * 3000, image=picture), Passage(text="short too")]
    got = list(engine.stream(items, on_error=errors.append))
    assert [vector is not None for vector in got] == [True, False, True]
    (error,) = errors
    assert isinstance(error, InputTooLongError)
    assert error.limit == 1024
    assert error.tokens > 3000
    assert str(error).startswith("item 1: ")
    assert str(error.tokens) in str(error)


@pytest.mark.parametrize(("truncate", "kept"), [("END", slice(None, 700)), ("START", slice(-700, None))])
def test_truncation_cuts_the_text_alone(engine: Embedder, truncate: Truncate, kept: slice) -> None:
    """END keeps the beginning, START the end; prefix and image stay whole."""
    text = "".join(chr(ord("b") + i % 25) for i in range(3000))  # no letter that the tokenizer merges
    for picture, fixed in ((None, 10), (case_image("portrait"), 10 + 7 * 16 + 2)):
        cut = engine.embed([Passage(text=text, image=picture)], truncate=truncate)[0]
        # Every character here is one token: the longest text that just fits has the same vector.
        fits = [text[:n] if truncate == "END" else text[-n:] for n in range(1024 - fixed - 3, 1024 - fixed + 4)]
        candidates = engine.embed([Passage(text=t, image=picture) for t in fits], truncate=truncate)
        assert np.abs(candidates - cut).max(axis=1).min() <= 1e-5
        assert not np.allclose(engine.embed([Passage(text=text[kept], image=picture)])[0], cut, atol=1e-4)


def test_an_image_over_the_limit_is_never_cut(vl_folder: Path) -> None:
    """Image tokens are not truncated: too many of them are an error even with `truncate="END"`."""
    with Embedder(vl_folder, max_tokens=64) as engine, pytest.raises(InputTooLongError, match="fewer tiles"):
        engine.embed([case_image("portrait")], truncate="END")


def test_fewer_tiles_are_another_space(vl_folder: Path) -> None:
    """`max_tiles` changes vectors, so it changes the name of the space."""
    with Embedder(vl_folder, max_tiles=2) as coarse, Embedder(vl_folder) as fine:
        assert coarse.space != fine.space
        assert not np.allclose(coarse.embed([case_image("portrait")]), fine.embed([case_image("portrait")]), atol=1e-4)


def test_dimensions_are_a_slice_then_unit_length(engine: Embedder, vl_folder: Path) -> None:
    """Matryoshka: the first components, scaled to length one again."""
    with Embedder(vl_folder, dimensions=48) as short:
        full, cut = engine.embed(MIXED)[:, :48], short.embed(MIXED)
        assert cut.shape == (len(MIXED), 48)
        assert np.abs(cut - full / np.linalg.norm(full, axis=1, keepdims=True)).max() <= 1e-5
        assert short.embed_query("x").shape == (48,)


def test_low_precision_is_close(engine: Embedder, vl_folder: Path) -> None:
    """bfloat16 computes nearly the same vectors: cosine above 0.999."""
    with Embedder(vl_folder, dtype="bfloat16") as low:
        assert (low.embed(MIXED) * engine.embed(MIXED)).sum(axis=1).min() > 0.999


def test_many_callers_at_once(engine: Embedder) -> None:
    """Concurrent calls get their own vectors, not one another's."""
    texts = [f"text number {i}" for i in range(24)]
    expected = engine.embed(texts)

    async def all_at_once() -> list[np.ndarray]:
        return await asyncio.gather(*(engine.aembed([text]) for text in texts))

    assert np.abs(np.concatenate(asyncio.run(all_at_once())) - expected).max() <= 1e-5
