"""Which models are known, how a name finds a checkpoint, and what is said when it does not."""

import json
import os
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemovlm.errors import CheckpointError, ConfigurationError, UnknownModelError
from nemovlm.models.card import ModelCard
from nemovlm.models.catalogue import CATALOGUE, DEFAULT_MODEL, POCKET, find_card, nearest
from nemovlm.models.checkpoint import find_checkpoint
from nemovlm.models.files import read_json
from nemovlm.models.llama_nemotron.layout import tiling_of
from nemovlm.models.tiling import NEMOTRON_TILING, Tiling

NAMES = [name for card in CATALOGUE for name in (card.id, *card.aliases)]
OLDER = "nvidia/llama-3.2-nemoretriever-1b-vlm-embed-v1"
TEXT_ONLY = "nvidia/llama-nemotron-embed-1b-v2"
VISION = {"vision_config": {"image_size": 512, "patch_size": 16}}


@pytest.fixture
def folder(vl_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return copytree(vl_folder, tmp_path / "my-model")


def change_config(folder: Path, **changes: Any) -> None:
    config = read_json(folder, "config.json") | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "gone"}), encoding="utf-8")


def test_names_are_unique() -> None:
    """No id or alias means two models, upper and lower case not told apart."""
    assert len({name.lower() for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize(("name", "card"), [(name, card) for card in CATALOGUE for name in (card.id, *card.aliases)])
def test_every_name_finds_its_row(name: str, card: ModelCard) -> None:
    """Ids and aliases lead to the row that lists them, and to no other."""
    assert find_card(name) is card
    assert find_card(f"{name}-x") is None


def test_the_named_models_are_in_the_catalogue() -> None:
    """The default and the pocket model have rows, pinned to a revision."""
    assert [find_card(name).revision is not None for name in (DEFAULT_MODEL, POCKET)] == [True, True]  # type: ignore[union-attr]


@pytest.mark.parametrize("card", CATALOGUE, ids=lambda card: card.id)
def test_the_facts_of_a_row_agree(card: ModelCard) -> None:
    """Vision has a tiling whose tokens fit the prompt; trained shorter dimensions ascend below the full one."""
    assert ("image" in card.modalities) == (card.tiling is not None) == (card.architecture == "LlamaNemotronVLModel")
    assert card.tiling is None or card.tiling.max_tokens < card.max_tokens("image")
    assert card.max_tokens("text") <= card.max_tokens("text_image")
    assert list(card.matryoshka) == sorted(set(card.matryoshka))
    assert all(shorter < card.dimension for shorter in card.matryoshka)


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("llama-nemotron-embed-vl-1b-v2", DEFAULT_MODEL),  # no owner
        ("NVIDIA/Llama-Nemotron-Embed-VL-1B-v2", DEFAULT_MODEL),
        ("nvidia/llama-nemotron-embed-vl-1b", DEFAULT_MODEL),
        ("nvidia/llama-nemotron-embed-vl-1b-v3", DEFAULT_MODEL),
        ("nvidia/llama_nemotron_embed_vl_1b_v2", DEFAULT_MODEL),
        ("nvidia/llama-nemtron-embed-vl-1b-v2", DEFAULT_MODEL),
        ("nvidia/llama-nemoretriever-1b-vlm-embed-v1", OLDER),
        ("nvidia/llama-nemotron-embed-1b", TEXT_ONLY),
        ("llama-3.2-nv-embedqa-1b", TEXT_ONLY),  # an old name
        ("pocket", POCKET),
        ("nemovlm/poket", POCKET),
    ],
)
def test_a_misspelt_id_is_understood(typo: str, meant: str) -> None:
    """Typical slips get the id that was meant as a suggestion."""
    assert nearest(typo) == meant
    with pytest.raises(UnknownModelError, match=f"did you mean '{meant}'"):
        find_checkpoint(typo)


@pytest.mark.parametrize("name", ["xyz", "/no/such/folder", "{}"])
def test_a_name_like_no_other_gets_the_list(name: str) -> None:
    """Where nothing is near, the known models are listed."""
    assert nearest(name) is None
    with pytest.raises(UnknownModelError, match=f"known models: .*{DEFAULT_MODEL}.*{POCKET}"):
        find_checkpoint(name)


@given(st.text(max_size=60))
def test_any_text_has_a_nearest_id_or_none(text: str) -> None:
    """A suggestion is always an id of the catalogue."""
    assert nearest(text) in {None, *(card.id for card in CATALOGUE)}


def test_the_pocket_model_lies_in_the_package() -> None:
    """The pocket model is found without a download, and its identity tells its version."""
    checkpoint = find_checkpoint(POCKET)
    assert checkpoint.folder is not None
    assert checkpoint.identity == f"{POCKET}@3"


def test_the_pocket_model_has_the_revision_that_it_has() -> None:
    """Naming another revision is an error, and no other identity for the same weights; a server may have another."""
    assert find_checkpoint(POCKET, "3").identity == f"{POCKET}@3"
    with pytest.raises(ConfigurationError, match=r"travels in this package, at revision '3'; there is no revision '1'"):
        find_checkpoint(POCKET, "1")
    assert find_checkpoint(POCKET, "1", served=True).card.revision == "1"


def test_the_pocket_model_is_what_its_row_says() -> None:
    """Read as a folder of anybody's, its files say what the catalogue says."""
    row = find_checkpoint(POCKET)
    read = find_checkpoint(str(row.folder))
    for name in ("architecture", "dimension", "tiling", "modalities", "max_text_tokens", "max_tokens_with_image"):
        assert getattr(read.card, name) == getattr(row.card, name), name
    assert row.card.modalities == ("text", "image", "text_image")


def test_a_hub_model_is_pinned() -> None:
    """The default model is named with the revision of the catalogue, and nothing is downloaded yet."""
    checkpoint = find_checkpoint(DEFAULT_MODEL)
    assert (checkpoint.folder, checkpoint.identity) == (None, f"{DEFAULT_MODEL}@859e1f2dac29")


def test_a_revision_can_be_chosen() -> None:
    """A revision of the caller's replaces that of the catalogue."""
    assert find_checkpoint(DEFAULT_MODEL, "0123456789abcdef").identity == f"{DEFAULT_MODEL}@0123456789ab"


@pytest.mark.parametrize("model", [OLDER, TEXT_ONLY])
def test_a_hub_model_without_revision_is_refused(model: str) -> None:
    """What may change under the index is not loaded: the error asks for a commit or a folder."""
    with pytest.raises(ConfigurationError, match=r"revision='<commit>', or the folder"):
        find_checkpoint(model)
    assert find_checkpoint(model, "abc").card.revision == "abc"


def test_a_folder_is_read_into_a_card(vl_folder: Path) -> None:
    """Everything the catalogue would say of a model comes out of the folder's own files."""
    card = find_checkpoint(str(vl_folder)).card
    assert (card.id, card.architecture, card.dimension) == ("tiny-vl", "LlamaNemotronVLModel", 128)
    assert card.tiling == Tiling(tile=64, tokens_per_tile=16)
    assert (card.max_text_tokens, card.max_tokens_with_image) == (1024, 1024)


def test_a_text_folder_has_no_tiling(text_folder: Path) -> None:
    """A checkpoint without vision takes text only."""
    card = find_checkpoint(str(text_folder)).card
    assert (card.architecture, card.tiling, card.modalities) == ("LlamaBidirectionalModel", None, ("text",))


def test_a_folder_without_config_is_no_checkpoint(tmp_path: Path) -> None:
    """The missing file is named."""
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        find_checkpoint(str(tmp_path))


def test_an_empty_name_is_no_folder() -> None:
    """An empty setting does not mean the current folder."""
    with pytest.raises(UnknownModelError):
        find_checkpoint("")


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    """The missing weights file is named before anything is loaded."""
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        find_checkpoint(str(folder))


def test_a_missing_shard_is_named(folder: Path) -> None:
    """Of an index of shards, the one that is not there is named."""
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize(
    "index", [{"weight_map": ["model.safetensors"]}, {"weight_map": {"a": 1}}, {"weight_map": None}]
)
def test_a_damaged_shard_index_is_refused(folder: Path, index: dict[str, Any]) -> None:
    """An index that maps nothing to files is a fault of the checkpoint, and is said to be one."""
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError):
        find_checkpoint(str(folder))


def test_another_architecture_is_refused(folder: Path) -> None:
    """The error names the architecture found and those that run here."""
    change_config(folder, architectures=["BertModel"])
    with pytest.raises(CheckpointError, match=r"BertModel; .*LlamaNemotronVLModel and LlamaBidirectionalModel"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize("architectures", [[], None, "gone"])
def test_no_architecture_is_refused(folder: Path, architectures: Any) -> None:
    """A config that names no architecture is told apart from one that names another."""
    change_config(folder, architectures=architectures)
    with pytest.raises(CheckpointError, match="architecture is none"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b'"text"', b"\xff\xfe{}", b"null"])
def test_broken_json_is_named(folder: Path, content: bytes) -> None:
    """A config that is no JSON object is refused with the file's name."""
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json (cannot be read|must hold)"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"llm_config": "gone"},
        {"llm_config": {}},
        {"llm_config": {"hidden_size": None, "max_position_embeddings": 9}},
        {"llm_config": []},
        {"vision_config": "gone"},
        {"vision_config": {"image_size": 64}},
        {"vision_config": {"image_size": 64, "patch_size": 0}},
        {"downsample_ratio": "half"},
        {"matryoshka_dimensions": 5},
        {"architectures": 5},
    ],
    ids=repr,
)
def test_an_unusable_config_is_a_checkpoint_error(folder: Path, changes: dict[str, Any]) -> None:
    """Whatever is missing or of another kind in the config, the checkpoint is what is at fault."""
    change_config(folder, **changes)
    with pytest.raises(CheckpointError):
        find_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("config", "processor", "expected"),
    [
        ({}, {}, NEMOTRON_TILING),
        ({"max_dynamic_patch": 4, "min_dynamic_patch": 2}, {}, Tiling(min_tiles=2, max_tiles=4)),
        ({"max_dynamic_patch": 4}, {"max_input_tiles": 2}, Tiling(max_tiles=2)),
        ({"min_dynamic_patch": 3}, {"min_input_tiles": 2}, Tiling(min_tiles=2)),
        ({"dynamic_image_size": False}, {}, Tiling(max_tiles=1)),
        ({"dynamic_image_size": False}, {"dynamic_image_size": True}, NEMOTRON_TILING),
        ({}, {"dynamic_image_size": False, "max_input_tiles": 6}, Tiling(max_tiles=1)),
        ({"force_image_size": 448}, {}, Tiling(tile=448, tokens_per_tile=196)),
        ({"force_image_size": None}, {}, NEMOTRON_TILING),
        ({"downsample_ratio": 0.25}, {}, Tiling(tokens_per_tile=64)),
        ({"downsample_ratio": 1}, {}, Tiling(tokens_per_tile=1024)),
    ],
)
def test_tiling_falls_back_as_in_the_reference(
    config: dict[str, Any], processor: dict[str, Any], expected: Tiling
) -> None:
    """The processor's file wins, then the model's, then the defaults; without dynamic size it is one tile."""
    assert tiling_of(VISION | config, processor) == expected


def test_a_folder_needs_no_processor_config(folder: Path) -> None:
    """Without `processor_config.json` the numbers of `config.json` count."""
    (folder / "processor_config.json").unlink()
    change_config(folder, max_dynamic_patch=2)
    assert find_checkpoint(str(folder)).card.tiling == Tiling(tile=64, tokens_per_tile=16, max_tiles=2)


@pytest.mark.parametrize(("smallest", "largest"), [(4, 2), (0, 0), (1, -1)])
def test_a_tiling_without_any_grid_is_refused(folder: Path, smallest: int, largest: int) -> None:
    """Numbers of tiles that leave no grid are found when the checkpoint is, not at the first image."""
    (folder / "processor_config.json").write_text(
        json.dumps({"min_input_tiles": smallest, "max_input_tiles": largest}), encoding="utf-8"
    )
    with pytest.raises(CheckpointError):
        find_checkpoint(str(folder))


def test_a_copy_of_a_folder_is_the_same_space(vl_folder: Path, folder: Path) -> None:
    """The identity of a folder is that of its files, wherever they lie."""
    assert find_checkpoint(str(folder)).identity == find_checkpoint(str(vl_folder)).identity


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "processor_config.json"])
def test_a_changed_file_is_another_space(vl_folder: Path, folder: Path, name: str) -> None:
    """Vectors of other weights, configs or tokenizers are never taken for the same."""
    with (folder / name).open("ab") as file:
        file.write(b" ")
    assert find_checkpoint(str(folder)).identity != find_checkpoint(str(vl_folder)).identity


def test_a_relative_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may be named from where the caller stands, and stays found when he moves."""
    monkeypatch.chdir(folder.parent)
    checkpoint = find_checkpoint(f".{os.sep}my-model")
    assert checkpoint.folder == folder.resolve()
