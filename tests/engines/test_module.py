"""The modules compute what transformers' own parts compute, whatever their shape, and whatever is in a batch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemovlm.errors import CheckpointError
from nemovlm.models.base import ModelInput
from nemovlm.models.checkpoint import find_checkpoint
from nemovlm.models.llama_nemotron import layers, load
from nemovlm.models.llama_nemotron.layers import trim
from nemovlm.models.llama_nemotron.local import LocalLlamaNemotron
from nemovlm.models.llama_nemotron.packing import Packing
from nemovlm.models.llama_nemotron.rotary import Rotary
from nemovlm.models.llama_nemotron.weights import load_model
from tests.support.checkpoints import (
    IMG_CONTEXT,
    IMG_END,
    IMG_START,
    LLAMA3_SCALING,
    TILE,
    TOKENS_PER_TILE,
    write_vl_checkpoint,
)
from tests.support.reference import load_reference


def page(tiles: int, words: int, seed: int) -> ModelInput:
    """Make an item with a picture of so many tiles, and so many words after it; without tiles, a text."""
    random = np.random.default_rng(seed)
    text = [256, *random.integers(0, 256, words).tolist()]
    if not tiles:
        return ModelInput(text)
    pixels = random.integers(0, 256, (tiles, TILE, TILE, 3), dtype=np.uint8)
    return ModelInput([256, IMG_START, *[IMG_CONTEXT] * (tiles * TOKENS_PER_TILE), IMG_END, *text], pixels)


def local(folder: Path, dtype: str = "float32") -> LocalLlamaNemotron:
    model = load(folder, find_checkpoint(str(folder)).card, max_tokens=None, device="cpu", dtype=dtype)
    assert isinstance(model, LocalLlamaNemotron)
    return model


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


ITEMS = st.lists(
    st.builds(page, tiles=st.sampled_from([0, 0, 0, 1, 3]), words=st.integers(0, 40), seed=st.integers(0, 99)),
    min_size=1,
    max_size=9,
)


@pytest.fixture(scope="module", params=["v2", "v1", "llama3", "rope_parameters"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each kind that the formulas tell apart."""
    path = tmp_path_factory.mktemp("module") / "c"
    if request.param in {"v1", "v2"}:
        return write_vl_checkpoint(path, ps_version=request.param)
    write_vl_checkpoint(path, rope_scaling=LLAMA3_SCALING)
    if request.param == "rope_parameters":  # as transformers 5 writes it
        file = path / "config.json"
        config = json.loads(file.read_text())
        llm = config["llm_config"]
        llm["rope_parameters"] = {**llm.pop("rope_scaling"), "rope_theta": llm.pop("rope_theta")}
        file.write_text(json.dumps(config))
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=ITEMS)
def test_the_module_is_the_reference(folder: Path, items: list[ModelInput]) -> None:
    """Any batch has the vectors that transformers' parts compute for each item by itself."""
    ours = unit(local(folder).embed(items))
    reference = load_reference(folder)
    alone = unit(np.concatenate([reference.embed([item], IMG_CONTEXT) for item in items]))
    assert np.abs(ours - alone).max() <= 1e-6
    padded = unit(reference.embed(items, IMG_CONTEXT))
    assert np.abs(ours - padded).max() <= 1e-6


def test_a_text_model_is_the_reference(text_folder: Path) -> None:
    """So has the model without vision."""
    items = [page(0, words, words) for words in (3, 30, 3, 0)]
    assert (
        np.abs(unit(local(text_folder).embed(items)) - unit(load_reference(text_folder).embed(items, None))).max()
        <= 1e-6
    )


def test_blocks_do_not_matter(vl_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many rows a CPU computes at once changes no vector."""
    items = [page(3, 20, 1), page(0, 30, 2), page(1, 5, 3)]
    model = local(vl_folder)
    whole = unit(model.embed(items))
    for rows in (1, 7, 64, 100):
        monkeypatch.setattr(layers, "_ROWS", rows)
        assert np.abs(unit(model.embed(items)) - whole).max() <= 1e-6


def test_half_precision_is_near(vl_folder: Path) -> None:
    """In bfloat16 and float16 the vectors are those of float32, but for rounding."""
    items = [page(2, 20, 1), page(0, 30, 2)]
    exact = unit(local(vl_folder).embed(items))
    for dtype, least in (("bfloat16", 0.999), ("float16", 0.99999)):
        assert (unit(local(vl_folder, dtype).embed(items)) * exact).sum(axis=1).min() > least


def test_rotary_frequencies_are_those_of_transformers() -> None:
    """The frequencies of llama3's scaling, at the published sizes, bit for bit or nearly so."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    given = {"hidden_size": 2048, "num_attention_heads": 32, "rope_theta": 500_000.0, "rope_scaling": scaling}
    theirs = LlamaRotaryEmbedding(LlamaConfig(**given, max_position_embeddings=131_072)).inv_freq
    assert torch.allclose(Rotary.of(given, 64).frequencies(), theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c["llm_config"].update(hidden_act="gelu"), "hidden_act is 'gelu'"),
        (lambda c: c["llm_config"].update(attention_bias=True), "attention_bias is True"),
        (lambda c: c["llm_config"].update(rope_scaling={"rope_type": "yarn", "factor": 4.0}), "rope_type is 'yarn'"),
        (lambda c: c["llm_config"].update(rope_scaling={"rope_type": "llama3"}), "'factor'"),
        (lambda c: c["llm_config"].update(num_key_value_heads=3), "4 heads cannot share 3"),
        (lambda c: c["llm_config"].pop("hidden_size"), "hidden_size"),
        (lambda c: c["llm_config"].update(intermediate_size=None), "intermediate_size|NoneType"),
        (lambda c: c["vision_config"].update(hidden_act="gelu"), "hidden_act is 'gelu'"),
        (lambda c: c["vision_config"].update(num_attention_heads=3), "3 heads in 32"),
        (
            lambda c: c["vision_config"].update(attention_shifts=[[[1, 0]]]),
            "attention_shifts are not those of 2 layers",
        ),
    ],
)
def test_a_model_that_cannot_be_computed_is_refused(
    change: Callable[[Any], object], complaint: str, tmp_path: Path
) -> None:
    """A field of `config.json` that changes the formulas is named, and never ignored."""
    file = write_vl_checkpoint(tmp_path / "c") / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=complaint):
        load_model(tmp_path / "c", device="cpu", dtype=torch.float32)


@given(
    rows=st.sets(st.integers(0, 15), max_size=9),
    columns=st.sets(st.integers(0, 11), max_size=7),
    bias=st.booleans(),
    seed=st.integers(0, 9),
)
def test_trimming_changes_nothing(rows: set[int], columns: set[int], bias: bool, seed: int) -> None:
    """A linear layer without its zeros computes the same."""
    torch.manual_seed(seed)
    layer = torch.nn.Linear(12, 16, bias=bias).requires_grad_(False)
    layer.weight[[row not in rows for row in range(16)]] = 0
    layer.weight[:, [column not in columns for column in range(12)]] = 0
    states = torch.randn(2, 5, 12)
    model = torch.nn.Sequential(layer)
    trim(model)
    assert (model[0] is not layer) == (len(rows) * len(columns) < 0.7 * 12 * 16)
    assert torch.allclose(model(states), layer(states), atol=1e-6)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12).map(sorted))
def test_packed_attention_is_each_by_itself(lengths: list[int]) -> None:
    """No token sees another sequence, and positions begin anew with each."""
    torch.manual_seed(0)
    query, key, value = torch.randn(sum(lengths), 4, 8), *torch.randn(2, sum(lengths), 2, 8)
    packing = Packing(tuple(lengths), "cpu")
    packed = packing.attend(query, key, value)
    start = 0
    for length in lengths:
        stop = start + length
        alone = Packing((length,), "cpu")
        assert torch.allclose(
            packed[start:stop], alone.attend(*(t[start:stop] for t in (query, key, value))), atol=1e-6
        )
        assert packing.positions[start:stop].tolist() == list(range(length))
        start = stop
    means = packing.mean(value.flatten(1))
    assert torch.allclose(means, torch.stack([v.flatten(1).mean(0) for v in value.split(lengths)]), atol=1e-6)
