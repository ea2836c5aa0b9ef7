"""Published layouts load, and a checkpoint that is not whole says what is wrong with it."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nemovlm import Embedder, Passage
from nemovlm.engines.local.transformers import TransformersEngine
from nemovlm.errors import CheckpointError
from nemovlm.inputs import Vector
from nemovlm.models.checkpoint import find_checkpoint
from nemovlm.models.llama_nemotron.module import LlamaNemotronVLModel
from nemovlm.models.tiling import Tiling
from nemovlm.settings import Settings
from tests.support.checkpoints import case_image, write_text_checkpoint, write_vl_checkpoint

PASSAGES = [Passage(text="a short text"), Passage(text="with a picture", image=case_image("portrait"))]


def embed(folder: Path) -> Vector:
    with Embedder(folder) as embedder:
        return embedder.embed(PASSAGES[: len(embedder.modalities)])


@pytest.mark.parametrize(
    "layout",
    [
        {"spelling": "flat"},
        {"shards": 3},
        {"head": True},
        {"head": True, "spelling": "flat"},
        {"lm_head": True},
        {"ps_version": None},
    ],
    ids=str,
)
def test_published_layouts_are_the_same_model(layout: dict[str, Any], vl_folder: Path, tmp_path: Path) -> None:
    """Both spellings, shards, a pooling head, an lm_head and a missing ps_version change no vector."""
    assert np.array_equal(embed(write_vl_checkpoint(tmp_path / "c", **layout)), embed(vl_folder))


def test_ps_version_v1_is_another_model(vl_folder: Path, tmp_path: Path) -> None:
    """The order of the pixel shuffle matters, so the field is not ignored: pages change, texts do not."""
    other, usual = embed(write_vl_checkpoint(tmp_path / "c", ps_version="v1")), embed(vl_folder)
    assert np.array_equal(other[0], usual[0])
    assert not np.allclose(other[1], usual[1], atol=1e-4)


def test_text_tower_alone_is_the_same_for_texts(vl_folder: Path, text_folder: Path) -> None:
    """The text-only layout holds the same weights under shorter names, and gives the same vectors."""
    assert np.allclose(embed(text_folder)[0], embed(vl_folder)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ({"drop": ["language_model.layers.1.mlp.up_proj.weight"]}, "weights are missing: language_model.layers.1"),
        ({"extra": ["language_model.layers.7.surprise.weight"]}, "the model does not have: language_model.layers.7"),
        ({"misshape": ["mlp1.1.weight"]}, r"mlp1.1.weight is \[129, 128\] instead of \[128, 128\]"),
    ],
    ids=["missing", "extra", "misshapen"],
)
def test_wrong_weights_are_named(bad: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    """A missing, extra or misshapen weight is an error that names it."""
    with pytest.raises(CheckpointError, match=complaint):
        embed(write_vl_checkpoint(tmp_path / "c", **bad))


def test_a_text_checkpoint_names_weights_as_its_file_does(tmp_path: Path) -> None:
    """The names in errors are those of the file, without the module's own prefix."""
    folder = write_text_checkpoint(tmp_path / "c", drop=["layers.0.input_layernorm.weight"])
    with pytest.raises(CheckpointError, match=r"missing: layers\.0\.input_layernorm\.weight"):
        embed(folder)


def test_a_damaged_file_of_weights_is_named(tmp_path: Path) -> None:
    """Weights that were cut off, as by a broken download, are a `CheckpointError` and no crash."""
    folder = write_text_checkpoint(tmp_path / "c")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        embed(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    """All shards of the index have to be there."""
    folder = write_vl_checkpoint(tmp_path / "c", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00003"):
        Embedder(folder)


@pytest.mark.parametrize("token", ["<img>", "<IMG_CONTEXT>"])
def test_a_tokenizer_without_image_tokens_is_refused(token: str, tmp_path: Path) -> None:
    """A model with eyes needs the tokens that stand for images."""
    folder = write_vl_checkpoint(tmp_path / "c")
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace(token, "<other>"))
    with pytest.raises(CheckpointError, match="lacks one of the tokens"):
        embed(folder)


def test_a_broken_tokenizer_is_named(tmp_path: Path) -> None:
    """A tokenizer file that the library cannot use is a `CheckpointError`."""
    folder = write_text_checkpoint(tmp_path / "c")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be used"):
        embed(folder)


def test_no_code_of_a_checkpoint_runs(tmp_path: Path) -> None:
    """Python files and `auto_map` in a checkpoint are never looked at."""
    folder = write_vl_checkpoint(tmp_path / "c")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    witness = tmp_path / "it-ran"
    (folder / "evil.py").write_text(f"open({str(witness)!r}, 'w')")
    embed(folder)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("claim", "complaint"),
    [
        ({"dimension": 256}, "makes vectors of dimension 128; tiny-vl has 256"),
        ({"vision": Tiling(tile=64, tokens_per_tile=4)}, "tiles of 64 pixels worth 16 tokens; tiny-vl has 64 and 4"),
        ({"vision": Tiling(tile=32, tokens_per_tile=16)}, "tiles of 64 pixels worth 16 tokens; tiny-vl has 32 and 16"),
    ],
    ids=["dimension", "tokens", "tile"],
)
def test_a_checkpoint_that_is_not_its_card_is_refused(claim: dict[str, Any], complaint: str, vl_folder: Path) -> None:
    """What the catalogue says of a model is checked against the files, before the first vector."""
    found = find_checkpoint(str(vl_folder))
    engine = TransformersEngine(replace(found, card=replace(found.card, **claim)), Settings())
    with pytest.raises(CheckpointError, match=complaint):
        asyncio.run(engine.start())


def test_the_published_model_has_its_published_size() -> None:
    """Built from the sizes of the published model, the module has as many parameters as that has: 1,678,252,480
    with the pooling head of the tower (15,238,352), which is not loaded."""
    config = {
        "vision_config": {
            "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
            "image_size": 512, "patch_size": 16,
        },
        "llm_config": {
            "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128266, "max_position_embeddings": 131072,
        },
    }  # fmt: skip
    with torch.device("meta"):
        model = LlamaNemotronVLModel(config)
    assert sum(weight.numel() for weight in model.parameters()) == 1_678_252_480 - 15_238_352
