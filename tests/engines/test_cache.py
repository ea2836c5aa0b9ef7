"""The cache of vectors: what was made is found again, and nothing else ever is."""

import shelve
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from nemovlm import Embedder, Passage
from nemovlm.engines.local.transformers import TransformersEngine
from nemovlm.errors import ConfigurationError, ImageError, NemoVLMError
from nemovlm.images import encode_png
from tests.support.checkpoints import case_image

Door = Callable[..., Awaitable[Any]]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many items each pass of a model had."""
    passes: list[int] = []
    run = TransformersEngine._run

    def counted(engine: TransformersEngine, items: Any) -> Any:
        passes.append(len(items))
        return run(engine, items)

    monkeypatch.setattr(TransformersEngine, "_run", counted)
    return passes


async def test_what_is_known_is_not_computed_again(vl_folder: Path, computed: list[int], call: Door) -> None:
    """The second time, the same items cost nothing, in any order and company; new ones are computed alone."""
    items = ["a", Passage(text="b", image=case_image("icon")), encode_png(case_image("square")), case_image("portrait")]
    cache: dict[str, bytes] = {}
    with Embedder(vl_folder, cache=cache) as embedder:
        first = await call(embedder, "embed", items)
    computed.clear()
    with Embedder(vl_folder, cache=cache) as embedder:
        again = await call(embedder, "embed", [*reversed(items), "new"])
        assert sum(computed) == 1
        assert np.array_equal(again[3::-1], first)
        assert np.array_equal(await call(embedder, "embed", ["new"]), again[4:])
    assert len(cache) == 5
    with Embedder(vl_folder) as plain:
        assert np.abs(plain.embed(items) - first).max() <= 1e-5


def test_whatever_decides_over_a_vector_is_in_its_key(vl_folder: Path, vl: Embedder) -> None:
    """Role, truncation, text, picture, dimensions and tiles: none of them is ever answered with another's vector."""
    cache: dict[str, bytes] = {}
    long = "word " * 900
    palettes = []
    for colour in (0, 200):  # the same indices into two palettes
        image = Image.new("P", (64, 64), 1)
        image.putpalette([255, 255, 255, colour, 0, 0])
        palettes.append(image)
    with (
        Embedder(vl_folder, cache=cache) as embedder,
        Embedder(vl_folder, cache=cache, dimensions=64) as short,
        Embedder(vl_folder, cache=cache, max_tiles=2) as coarse,
    ):
        for _ in range(2):  # once computed, once from the cache
            for mine, plain in (
                (embedder.embed_query("a"), vl.embed_query("a")),
                (embedder.embed(["a"]), vl.embed(["a"])),
                (embedder.embed([long], truncate="END"), vl.embed([long], truncate="END")),
                (embedder.embed([long], truncate="START"), vl.embed([long], truncate="START")),
                (embedder.embed(palettes), vl.embed(palettes)),
                (embedder.embed([Passage("a", palettes[0])]), vl.embed([Passage("a", palettes[0])])),
            ):
                assert np.abs(mine - plain).max() <= 1e-5
            assert short.embed(["a"]).shape == (1, 64)
            assert not np.allclose(
                coarse.embed([case_image("portrait")]), embedder.embed([case_image("portrait")]), atol=1e-4
            )
    assert len(cache) == 10


def test_errors_are_not_kept(vl_folder: Path, tmp_path: Path) -> None:
    """An item that failed is tried again, and its mates are kept."""
    file = tmp_path / "late.png"
    cache: dict[str, bytes] = {}
    with Embedder(vl_folder, cache=cache) as embedder:
        for broken in (None, b"no image"):
            if broken is not None:
                file.write_bytes(broken)
            errors: list[NemoVLMError] = []
            assert [v is None for v in embedder.stream(["a", file], on_error=errors.append)] == [False, True]
            assert isinstance(errors[0], ImageError)
            assert len(cache) == 1
        file.write_bytes(encode_png(case_image("icon")))
        assert embedder.embed([file]).shape == (1, 128)
        assert len(cache) == 2


class Failing(MutableMapping[str, bytes]):
    """A cache whose disk is full and whose server is down."""

    def __getitem__(self, key: str) -> bytes:
        raise OSError("down")

    def __setitem__(self, key: str, value: bytes) -> None:
        raise OSError("full")

    def __delitem__(self, key: str) -> None: ...

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_a_cache_that_fails_costs_no_vector(vl_folder: Path, vl: Embedder, caplog: pytest.LogCaptureFixture) -> None:
    """It is as if there were none, with a warning."""
    with Embedder(vl_folder, cache=Failing()) as embedder:
        assert np.abs(embedder.embed(["a", "b"]) - vl.embed(["a", "b"])).max() <= 1e-5
    assert {record.message for record in caplog.records} == {
        "the cache cannot be read: OSError",
        "the cache cannot be written: OSError",
    }


def test_damaged_entries_are_made_anew(vl_folder: Path, vl: Embedder) -> None:
    """An entry of another length is not taken for a vector."""
    cache: dict[str, bytes] = {}
    with Embedder(vl_folder, cache=cache) as embedder:
        embedder.embed(["a"])
        for damage in (b"", b"123", bytes(64 * 4)):
            cache[next(iter(cache))] = damage
            assert np.abs(embedder.embed(["a"]) - vl.embed(["a"])).max() <= 1e-5


def test_a_shelf_will_do(vl_folder: Path, computed: list[int], tmp_path: Path) -> None:
    """A file that outlives the process, from the standard library."""
    for expected in (2, 0):
        computed.clear()
        with shelve.open(str(tmp_path / "vectors")) as shelf, Embedder(vl_folder, cache=shelf) as embedder:
            embedder.embed(["a", "b"])
        assert sum(computed) == expected


def test_the_environment_brings_no_objects(vl_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache is an argument: what the environment says in its place is an error."""
    monkeypatch.setenv("NEMOVLM_CACHE", "folder")
    with pytest.raises(ConfigurationError, match="it must be a mapping of str to bytes, passed as an argument"):
        Embedder(vl_folder)


@pytest.mark.parametrize(
    "knob",
    [{"cache": 3}, {"http_client": 3}, {"http_client": httpx.Client()}],
    ids=["cache", "no client", "sync client"],
)
def test_objects_of_the_wrong_kind(vl_folder: Path, knob: dict[str, Any]) -> None:
    """A sync client, or anything else that cannot serve, is an error of the constructor."""
    with pytest.raises(ConfigurationError, match="it must be a"):
        Embedder(vl_folder, **knob)
