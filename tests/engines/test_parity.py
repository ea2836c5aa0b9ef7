"""Parity: the set asks what it promises, engines that are the same pass, and any that is not is named."""

import json
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nemovlm import Embedder
from nemovlm.engines.local.transformers import TransformersEngine
from nemovlm.errors import ConfigurationError, InputError, InputTooLongError, NemoVLMError, ServerError
from nemovlm.images import load_image
from nemovlm.inputs import Vector
from nemovlm.models.tiling import NEMOTRON_TILING, Tiling
from nemovlm.parity import Case, Difference, Parity, compare, open_engines, parity_set
from nemovlm.parity.cases import image_size
from nemovlm.parity.comparison import _tiling_and_limits, rank_correlation, same_first
from nemovlm.server import ServerOptions, make_app
from tests.support.checkpoints import LLAMA3_SCALING, write_vl_checkpoint
from tests.support.command import nemovlm_here
from tests.support.servers import ready, running

LIMITS: Mapping[Any, int] = {"text": 1024, "image": 1280, "text_image": 1280}
SMALL = Tiling(tile=64, tokens_per_tile=16)
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def served_other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that calls its model `tiny-vl` as well, but turns positions in another way."""
    folder = write_vl_checkpoint(tmp_path_factory.mktemp("other") / "tiny-vl", rope_scaling=LLAMA3_SCALING)
    with running(make_app(Embedder(folder))) as address:
        yield ready(address)


@pytest.fixture(scope="module")
def found(vl_folder: Path, served_vl: str, served_other: str) -> Parity:
    """The local engine, compared with itself, a server with the same checkpoint and one with another."""
    engines = f"transformers,transformers,nim={served_vl},nim={served_other}"
    return compare(open_engines(engines, model=str(vl_folder), served_model_name="tiny-vl"))


def named(differences: Sequence[Difference]) -> dict[str, Difference]:
    return {difference.case: difference for difference in differences}


def pictures(cases: Sequence[Case]) -> dict[str, Image.Image]:
    """The images of cases, as engines see them."""
    return {case.name: load_image(case.image) for case in cases if case.image is not None}


# What is asked


@pytest.mark.parametrize("tiling", [NEMOTRON_TILING, SMALL, Tiling(tile=32, min_tiles=2, max_tiles=12)], ids=str)
def test_every_grid_is_asked(tiling: Tiling) -> None:
    """There is an image for each grid of the model, and it is cut into that grid."""
    images = pictures(parity_set(tiling, {}))
    for columns, rows in tiling.grids:
        assert tiling.grid(*images[f"image {columns} x {rows}"].size) == (columns, rows)


@settings(deadline=None)
@given(st.integers(1, 36), st.integers(1, 36), st.sampled_from([8, 14, 64, 448, 512, 1000]), st.data())
def test_no_grid_is_out_of_reach(one: int, other: int, tile: int, data: st.DataObject) -> None:
    """Whatever the tiles, each grid has a size of image that is cut into it."""
    tiling = Tiling(tile=tile, min_tiles=min(one, other), max_tiles=max(one, other))
    grid = data.draw(st.sampled_from(tiling.grids))
    assert tiling.grid(*image_size(tiling, grid)) == grid


@pytest.mark.parametrize("grid", NEMOTRON_TILING.grids, ids=str)
def test_grids_are_asked_by_images_that_have_to_be_resized(grid: tuple[int, int]) -> None:
    """Wider than the tiles of the published models and less high; and no engine makes them smaller to send them."""
    width, height = image_size(NEMOTRON_TILING, grid)
    assert width > 512 * grid[0]
    assert height < 512 * grid[1]
    assert NEMOTRON_TILING.usable_size(width, height) == (width, height)


def test_the_set_covers_roles_scripts_and_files() -> None:
    """Queries, texts of all kinds, images of all kinds, and both together; each with a name of its own."""
    cases = {case.name: case for case in parity_set(SMALL, LIMITS)}
    assert len(cases) == len(parity_set(SMALL, LIMITS))
    assert sum(case.role == "query" for case in cases.values()) >= 5
    assert not any(case.image for case in cases.values() if case.role == "query")
    texts = "".join(case.text or "" for case in cases.values())
    for piece in ("🚲", "\u0301", "自転車", "ה", "\r\n", "\u00a0", "<image>", "<IMG_CONTEXT>", "<|begin_of_text|>"):
        assert piece in texts
    assert cases["empty text"].text == ""
    assert cases["nothing but whitespace"].text.isspace()  # type: ignore[union-attr] # it has one
    assert isinstance(cases["grey image"].image, Image.Image)
    assert cases["grey image"].image.mode == "L"
    assert Image.open(BytesIO(cases["image with alpha"].image)).mode == "RGBA"  # type: ignore[arg-type] # bytes
    assert sum(case.image is not None and bool(case.text) for case in cases.values()) >= 5


def test_images_differ_and_are_the_same_every_time() -> None:
    """No two cases show the same picture, unless with another text, and a second set has the very same pixels."""
    once, again = (pictures(parity_set(SMALL, {})) for _ in range(2))
    assert {name: image.tobytes() for name, image in once.items()} == {n: i.tobytes() for n, i in again.items()}
    alone = [image for name, image in once.items() if not name.startswith("image and")]
    assert len({(image.size, image.tobytes()) for image in alone}) == len(alone)


def test_the_turned_image_stands_upright_only_if_exif_is_read() -> None:
    """The file lies on its side, and its tag says so."""
    images = {case.name: case.image for case in parity_set(SMALL, {})}
    lying, upright = Image.open(BytesIO(images["image turned by EXIF"])), load_image(images["image turned by EXIF"])  # type: ignore[arg-type]
    assert lying.size == upright.size[::-1]
    page = np.asarray(load_image(images["grey image"]).convert("L"), dtype=float)  # type: ignore[arg-type] # the same page
    assert np.abs(np.asarray(upright.convert("L"), dtype=float) - page).mean() < 3


def test_a_model_without_vision_is_shown_nothing() -> None:
    """Texts only, and those over the limit of texts."""
    cases = parity_set(None, {"text": 100})
    assert not any(case.image for case in cases)
    assert [case.truncate for case in cases if case.name.startswith("long text")] == ["NONE", "END", "START"]


def test_without_a_limit_nothing_is_over_it() -> None:
    """Where nobody knows the limits, none is tried."""
    assert not [case.name for case in parity_set(SMALL, {}) if "long text" in case.name]
    assert all(case.truncate == "NONE" for case in parity_set(SMALL, {}))


def test_long_texts_are_over_the_limit(found: Parity) -> None:
    """Alone and with an image: refused with NONE, and cut at either end to different vectors."""
    same = named(found.comparisons[0].differences)
    for kind in ("long text", "image and long text"):
        assert isinstance(same[f"{kind}, refused"].error, InputTooLongError)
        assert same[f"{kind}, cut at its end"].cosine == pytest.approx(1)
    cases = {case.name: case for case in parity_set(SMALL, LIMITS)}
    for kind, limit in (("long text", 1024), ("image and long text", 1280)):
        assert cases[f"{kind}, cut at its end"].truncate == "END"
        assert cases[f"{kind}, cut at its start"].truncate == "START"
        words = cases[f"{kind}, cut at its end"].text.split()  # type: ignore[union-attr] # it has one
        assert len(words) > limit
        assert words[: limit // 2] != words[-limit // 2 :]


def test_what_is_asked_follows_the_model(vl_folder: Path, served_vl: str) -> None:
    """Tiles and limits are those of a local engine, wherever it stands, or of the catalogue."""
    local, server = Embedder(vl_folder), Embedder(base_url=served_vl)
    for embedders in ([local, server], [server, local]):
        tiling, limits = _tiling_and_limits(embedders)
        assert (tiling, limits["text"]) == (local.tiling, 1024)
    assert _tiling_and_limits([Embedder("nvidia/llama-nemotron-embed-vl-1b-v2", base_url=NOWHERE)]) == (
        NEMOTRON_TILING,
        {"text": 8192, "image": 10240, "text_image": 10240},
    )
    assert _tiling_and_limits([Embedder("nvidia/llama-3.2-nv-embedqa-1b-v2", base_url=NOWHERE)]) == (
        None,
        {"text": 8192},
    )
    with server:
        assert _tiling_and_limits([server, server]) == (NEMOTRON_TILING, {})


# How it is compared


def test_an_engine_agrees_with_itself(found: Parity) -> None:
    """Every cosine is 1, and every order the same."""
    itself = found.comparisons[0]
    assert itself.fine
    assert not itself.amiss
    assert [d.case for d in itself.differences if abs(d.agreement - 1) > 1e-9] == []
    assert (itself.same_first, itself.rank_correlation) == (1, pytest.approx(1))


def test_our_server_agrees_with_the_engine_behind_it(found: Parity) -> None:
    """Nothing that is sent over the wire changes a component by more than 1e-5, whatever the grid or the file."""
    served = found.comparisons[1]
    assert served.engine.engine == "nim"
    assert served.engine.space == "tiny-vl@served;dimensions=128;prompts=1"
    assert found.reference.space.startswith("checkpoint@")
    assert served.fine
    assert served.largest <= 1e-5
    assert sum(difference.cosine is not None for difference in served.differences) > 40


def test_another_checkpoint_is_found_out(found: Parity) -> None:
    """The same name with other weights is below the floor, and what is said names the worst case."""
    other = found.comparisons[2]
    assert not other.fine
    assert not found.fine
    assert other.worst == other.amiss[0]
    assert other.worst.agreement == min(difference.agreement for difference in other.differences) < 0.99
    assert [d.agreement for d in other.amiss] == sorted(d.agreement for d in other.differences if d.agreement < 0.999)
    assert other.rank_correlation is not None
    assert other.rank_correlation < 0.9
    said = str(found)
    assert said.count("\n") == 0
    assert said.startswith("not the same as transformers (cpu, float32) (floor 0.999): nim (127.0.0.1:")
    assert f"the worst {other.worst.case}: cosine 0." in said
    assert said.count("the worst") == 1  # nothing is said of those that agree


def test_the_floor_decides(vl_folder: Path) -> None:
    """bfloat16 is the same for the default floor, and not for one of 1 - 1e-6."""
    coarse = [Embedder(vl_folder, dtype="float32"), Embedder(vl_folder, dtype="bfloat16")]
    assert compare(coarse).fine
    strict = compare(coarse, floor=1 - 1e-6)
    assert not strict.fine
    assert 0.999 < strict.comparisons[0].worst.agreement < 1 - 1e-6


def test_errors_of_a_case_are_part_of_the_result(vl_folder: Path) -> None:
    """What one engine alone refuses is the worst difference, whichever side it is on; the others are compared."""
    with running(make_app(Embedder(vl_folder), ServerOptions(max_pixels=64 * 500))) as address:
        ready(address)
        there = compare(open_engines(f"transformers,nim={address}", model=str(vl_folder))).comparisons[0]
        here = compare(open_engines(f"nim={address},transformers", model=str(vl_folder))).comparisons[0]
    for comparison, side, other in ((there, "error", "reference_error"), (here, "reference_error", "error")):
        worst = comparison.worst
        assert not comparison.fine
        assert {difference.case for difference in comparison.amiss} == {"image with more pixels than its tiles"}
        assert (worst.cosine, worst.largest, worst.agreement) == (None, None, -1)
        assert isinstance(getattr(worst, side), NemoVLMError)
        assert getattr(worst, other) is None
        assert comparison.largest <= 1e-5
        assert comparison.same_first == 1
    assert str(there.worst).startswith("image with more pixels than its tiles: ")
    assert str(there.worst).endswith(", where the reference has a vector")
    assert ": a vector, where the reference has " in str(here.worst)


def test_the_same_error_on_both_sides_is_agreement(text_folder: Path) -> None:
    """Of servers whose model nobody knows, and which has no vision, every image is refused twice."""
    with running(make_app(Embedder(text_folder))) as address:
        both = compare(open_engines(f"nim={ready(address)},nim={address}"))
    refused = [difference for difference in both.comparisons[0].differences if difference.error]
    assert both.fine
    assert {difference.case for difference in refused} >= {"image 2 x 3", "image and text"}
    assert all(difference.agreement == 1 for difference in refused)
    for difference in refused:
        assert (difference.error and difference.error.item) == difference.case
        assert (difference.reference_error and difference.reference_error.item) == difference.case


@pytest.mark.parametrize(
    ("reference_error", "error", "agreement"),
    [
        (InputError("a"), InputError("b"), 1),
        (InputError("a"), InputTooLongError("a"), -1),
        (None, ServerError("a"), -1),
        (ServerError("a"), None, -1),
    ],
)
def test_agreement_in_errors(
    reference_error: NemoVLMError | None, error: NemoVLMError | None, agreement: float
) -> None:
    """It is the kind that counts, not the words."""
    assert Difference("x", None, None, reference_error, error).agreement == agreement


class Picky(Embedder):
    """One that does not take every query."""

    def embed_queries(self, texts: Sequence[str]) -> Vector:
        if "bicycle" in texts:
            raise InputError("no bicycles").at("item 0")
        return super().embed_queries(texts)


def test_one_bad_query_costs_no_other_its_vector(text_folder: Path) -> None:
    """Queries are asked together, and by themselves if that fails."""
    found = compare([Embedder(text_folder), Picky(text_folder)]).comparisons[0]
    assert [str(difference) for difference in found.amiss] == [
        "one word: InputError: no bicycles, where the reference has a vector"
    ]
    assert found.same_first == 1


def test_no_two_models_are_loaded_at_once(text_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each engine is closed before the next is opened, and the last is closed too."""
    events: list[str] = []
    start, close = TransformersEngine.start, TransformersEngine.close

    async def started(self: TransformersEngine) -> None:
        events.append("start")
        await start(self)

    async def closed(self: TransformersEngine) -> None:
        events.append("close")
        await close(self)

    monkeypatch.setattr(TransformersEngine, "start", started)
    monkeypatch.setattr(TransformersEngine, "close", closed)
    opened: list[str] = []
    embedders = [Embedder(text_folder) for _ in range(3)]
    compare(embedders, opened=lambda facts: opened.append(facts.model))
    assert events == ["start", "close"] * 3
    assert opened == ["tiny-text"] * 3


# Ranks


def test_rank_correlation_is_kendalls() -> None:
    """Known values: without ties, with ties on one side (5 of 6 pairs: 5 / sqrt(5 * 6)), and with nothing but ties."""
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    assert rank_correlation(scores, scores) == 1
    assert rank_correlation(scores, -scores) == pytest.approx(-1)
    assert rank_correlation(scores, np.array([0.1, 0.2, 0.4, 0.3])) == pytest.approx(4 / 6)
    assert rank_correlation(np.array([0.1, 0.1, 0.2, 0.3]), scores) == pytest.approx(5 / 30**0.5)
    assert rank_correlation(np.zeros(4), np.zeros(4)) == 1
    assert rank_correlation(scores, np.zeros(4)) == 0


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_noise_breaks_no_tie(steps: list[int], chance: Any) -> None:
    """What differs by less than float32 can tell changes neither the order nor who is first."""
    scores = np.array(steps) / 10
    noisy = scores + np.array([chance.uniform(-1e-6, 1e-6) for _ in steps])
    assert rank_correlation(scores, noisy) == pytest.approx(1)
    assert same_first(scores, noisy)
    assert same_first(noisy, scores)


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=12), st.data())
def test_rank_correlation_knows_no_names(steps: list[int], data: st.DataObject) -> None:
    """It is symmetric, within [-1, 1], and the same for passages in any order."""
    one, other = np.array(steps) / 10, np.array(data.draw(st.permutations(steps))) / 10
    order = data.draw(st.permutations(range(len(steps))))
    tau = rank_correlation(one, other)
    assert -1 - 1e-9 <= tau <= 1 + 1e-9
    assert rank_correlation(other, one) == pytest.approx(tau)
    assert rank_correlation(one[order], other[order]) == pytest.approx(tau)


def test_another_first_passage_is_noticed() -> None:
    """A lower score in the reference is not its first."""
    assert not same_first(np.array([0.5, 0.6]), np.array([0.7, 0.6]))


# Which engines


def test_engines_by_name(vl_folder: Path, served_vl: str) -> None:
    """Local engines get the model; servers its id, the name given, or for a folder nothing, so that they are asked."""
    by_id = open_engines("transformers, nim=http://a:1,nim", model="nemovlm/pocket", base_url="http://b:2")
    assert [e.settings.engine for e in by_id] == ["transformers", "nim", "nim"]
    assert [address.host for e in by_id[1:] for address in e.settings.addresses] == ["a:1", "b:2"]
    assert [e.settings.model for e in by_id] == ["nemovlm/pocket"] * 3
    by_folder = open_engines(f"nim={served_vl},transformers", model=str(vl_folder))
    assert [e.settings.model for e in by_folder] == [None, str(vl_folder)]
    by_name = open_engines("transformers,nim=http://a:1", model=str(vl_folder), served_model_name="x")
    assert [e.settings.model for e in by_name] == [str(vl_folder), "x"]


def test_without_a_model_it_is_that_of_the_first_engine() -> None:
    """The local default for all, or what the servers have."""
    assert [e.settings.model for e in open_engines("transformers,nim=http://a:1", device="cpu")] == [
        "nemovlm/pocket",
        "nemovlm/pocket",
    ]
    assert [e.settings.model for e in open_engines("nim=http://a:1,nim=http://b:1")] == [None, None]
    with pytest.raises(ConfigurationError, match="no model was chosen"):
        open_engines("nim=http://a:1,transformers")


@pytest.mark.parametrize(
    ("engines", "message"),
    [
        ("transformers", "a comparison wants two engines or more"),
        ("transformers,", "engine='' is no valid setting"),
        ("transformers,torch", "engine='torch' is no valid setting: input should be 'auto', 'vllm', 'transformers'"),
        ("transformers,nim=localhost:8000", "did you mean 'http://localhost:8000'"),
    ],
)
def test_engines_that_make_no_comparison(engines: str, message: str) -> None:
    """Each mistake is one sentence, before anything is loaded."""
    with pytest.raises(ConfigurationError, match=message) as error:
        compare(open_engines(engines, model="nemovlm/pocket"))
    assert "\n" not in str(error.value)


def test_vectors_of_different_lengths_are_an_error(served_vl: str) -> None:
    """It says who has how many, before anything is computed."""
    embedders = [Embedder("nemovlm/pocket"), Embedder("tiny-vl", base_url=served_vl)]
    with pytest.raises(
        ConfigurationError, match=r"^tiny-vl on nim \(127.* dimension 128, and nemovlm/pocket .* dimension 2048"
    ):
        compare(embedders)
    assert embedders[0].usage.items == 0


# The command


def test_the_command_on_a_text_model(text_folder: Path) -> None:
    """A table, a line that says that all agree, and code 0."""
    out, said = nemovlm_here("parity", "--engines", "transformers,transformers", "--model", text_folder)
    assert out.splitlines()[-1] == "2 engines agree: none of 21 cases is below 0.999"
    rows = [line.split("  ")[0] for line in out.splitlines()[:-1]]
    names = "worst", "largest difference", "same first passage", "rank correlation"
    assert rows == ["reference", "space", "", "engine", "space", *names]
    assert out.count(Embedder(text_folder).space) == 2
    assert said.count("tiny-text on transformers (cpu, float32)\n") == 2


def test_the_command_on_a_server(vl_folder: Path, served_vl: str) -> None:
    """The same checkpoint behind a server: JSON that parses, and code 0."""
    engines = f"transformers,nim={served_vl}"
    out, _ = nemovlm_here("parity", "--engines", engines, "--model", vl_folder, "--dtype", "float32", "--json")
    answer = json.loads(out)
    (served,) = answer["comparisons"]
    assert answer["fine"]
    assert served["fine"]
    assert answer["floor"] == 0.999
    assert served["largest"] <= 1e-5
    assert served["worst"]["case"] in {difference["case"] for difference in served["differences"]}
    assert (answer["reference"]["engine"], served["engine"]["engine"]) == ("transformers", "nim")
    (refused,) = [difference for difference in served["differences"] if difference["case"] == "long text, refused"]
    assert refused["cosine"] is None
    assert refused["error"].startswith("InputTooLongError: 127.0.0.1:")
    assert refused["reference_error"].startswith("InputTooLongError: the text has ")


def test_the_command_on_another_checkpoint(vl_folder: Path, served_other: str) -> None:
    """Code 1; ten cases are named, the worst first, and again in the last line."""
    arguments = ("--engines", "transformers,nim", "--base-url", served_other, "--served-model-name", "tiny-vl")
    out, _ = nemovlm_here("parity", *arguments, "--model", vl_folder, code=1)
    lines = out.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("not the same"))
    shown = [line.strip() for line in lines[first : first + 10]]
    worst = shown[0].removeprefix("not the same").strip()
    assert all(": cosine 0." in line for line in shown)
    assert lines[first + 10].strip().startswith("… and ")
    assert lines[first + 11] == lines[-1]
    assert lines[-1].endswith(f"the worst {worst}")
    assert f"worst{' ' * 15}{worst}" in out


def test_a_floor_that_is_met(vl_folder: Path, served_other: str) -> None:
    """With a floor low enough, the other checkpoint passes."""
    engines = f"transformers,nim={served_other}"
    assert (
        nemovlm_here("parity", "--engines", engines, "--model", vl_folder, "--floor", 0.5)[0].count("engines agree")
        == 1
    )


@pytest.mark.parametrize("order", ["transformers,nim={}", "nim={},transformers"])
def test_an_engine_that_is_down(order: str) -> None:
    """One line and code 1, without a traceback, before anything is computed."""
    arguments = ("parity", "--engines", order.format(NOWHERE), "--model", "nemovlm/pocket")
    out, said = nemovlm_here(*arguments, code=1, NEMOVLM_MAX_RETRIES="0")
    assert out == ""
    (line,) = said.splitlines()
    assert line.startswith("error: nim (127.0.0.1:9, the server's dtype): 127.0.0.1:9 could not be reached")
