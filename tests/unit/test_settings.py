"""What an embedder knows before its first use: its settings, its dimension and its vector space."""

import threading
from pathlib import Path
from typing import Any

import pytest

from nemovlm import Embedder
from nemovlm.errors import (
    ConfigurationError,
    UnknownModelError,
)


def test_the_constructor_does_nothing_yet(vl_folder: Path) -> None:
    """No thread, no weights, no network before the first use."""
    before = threading.active_count()
    embedder = Embedder(vl_folder)
    assert (embedder.dimension, embedder.modalities) == (128, ("text", "image", "text_image"))
    assert embedder.space.startswith("checkpoint@")
    assert threading.active_count() == before


def test_space_depends_on_content_not_on_place(vl_folder: Path, text_folder: Path, tmp_path: Path) -> None:
    """A copy of a folder is the same space; other weights, dimensions or tiles are another."""
    import shutil

    copy = Path(shutil.copytree(vl_folder, tmp_path / "elsewhere"))
    spaces = [
        Embedder(folder, **knobs).space
        for folder, knobs in [
            (vl_folder, {}),
            (text_folder, {}),
            (vl_folder, {"dimensions": 64}),
            (vl_folder, {"max_tiles": 2}),
        ]
    ]
    assert Embedder(copy).space == spaces[0]
    assert Embedder(copy, dtype="bfloat16", truncate="END", batch_tokens=99).space == spaces[0]
    assert len(set(spaces)) == 4
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert Embedder(copy).space not in spaces


def test_catalogue_spaces_need_no_files() -> None:
    """The space of a published model is its id and pinned revision, known without a download."""
    space = Embedder("nvidia/llama-nemotron-embed-vl-1b-v2").space
    assert space == "nvidia/llama-nemotron-embed-vl-1b-v2@859e1f2dac29;dimensions=2048;tiles=6;prompts=1"


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({}, ConfigurationError, "no model was chosen"),
        ({"model": "nemovlm/poket"}, UnknownModelError, "did you mean 'nemovlm/pocket'"),
        ({"model": "nemovlm/pocket", "engine": "magic"}, ConfigurationError, "engine='magic' is no valid setting"),
        ({"model": "nemovlm/pocket", "truncate": "MIDDLE"}, ConfigurationError, "truncate='MIDDLE'"),
        ({"model": "nemovlm/pocket", "dimensions": 0}, ConfigurationError, "dimensions=0"),
        ({"model": "nemovlm/pocket", "dimensions": 99999}, ConfigurationError, "dimensions=99999 is more than"),
    ],
)
def test_wrong_settings_are_refused_at_once(arguments: dict[str, Any], kind: type, message: str) -> None:
    """A wrong setting is an error of the constructor, which says what would be right."""
    with pytest.raises(kind, match=message):
        Embedder(**arguments)


def test_the_environment_is_read(vl_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NEMOVLM_* stands in for arguments, an argument beats it, and a wrong value names its variable."""
    monkeypatch.setenv("NEMOVLM_MODEL", str(vl_folder))
    monkeypatch.setenv("NEMOVLM_DIMENSIONS", "32")
    assert Embedder().dimension == 32
    assert Embedder(dimensions=16).dimension == 16
    monkeypatch.setenv("NEMOVLM_DIMENSIONS", "many")
    with pytest.raises(ConfigurationError, match="from NEMOVLM_DIMENSIONS"):
        Embedder()
