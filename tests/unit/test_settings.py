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
from nemovlm.settings import Settings


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


@pytest.mark.parametrize(
    "key", ["sk-1234", "sk-1234\r\n", " sk-1234 ", "Bearer sk-1234", "bearer  sk-1234\n", "'sk-1234'"]
)
def test_a_key_as_files_and_people_have_it(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """What stands around it is no part of it, wherever it comes from, and what a server echoes is hidden."""
    monkeypatch.setenv("NVIDIA_API_KEY", key)
    for settings in (
        Settings.from_kwargs(base_url="http://host", api_key=key),
        Settings.from_kwargs(engine="nim"),
    ):
        (address,) = settings.addresses
        assert settings.key_for(address) == "sk-1234"
        assert settings.secrets_for(address) == ["sk-1234"]
    with pytest.raises(ConfigurationError, match="was it pasted whole"):
        Settings.from_kwargs(base_url="http://host", api_key="sk-1\n234")


def test_headers_as_people_have_them() -> None:
    """Blanks and line ends around them are not sent; a key in one is hidden, with the word before it or without."""
    settings = Settings.from_kwargs(base_url="http://host", headers={" X-Key ": "Token s3cret-123\r\n"})
    assert settings.headers == {"X-Key": "Token s3cret-123"}
    assert settings.secrets_for(settings.addresses[0]) == ["Token s3cret-123", "s3cret-123"]


@pytest.mark.parametrize(
    ("given", "verify"),
    [("true", True), (" False ", False), ("1", True), ("0", False), ("ca.pem", Path("ca.pem")), (None, True)],
)
def test_verify_from_the_environment(monkeypatch: pytest.MonkeyPatch, given: str | None, verify: object) -> None:
    """Words for yes and no are no paths."""
    if given is not None:
        monkeypatch.setenv("NEMOVLM_VERIFY", given)
    assert Settings.from_kwargs(base_url="http://host").verify == verify


def test_an_address_that_is_given_twice_is_one_server() -> None:
    """Whatever its spelling."""
    settings = Settings.from_kwargs(base_url='"http://host:8000, HTTP://Host:8000/v1/"')
    assert [address.base for address in settings.addresses] == ["http://host:8000/v1"]
