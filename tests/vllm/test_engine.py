"""The engine on a real vLLM in this process: the vectors of torch, a bad item costs one, and nothing is left behind."""

import asyncio
import io
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemovlm import Embedder, Passage
from nemovlm.errors import (
    CheckpointError,
    ConfigurationError,
    EngineError,
    EngineUnavailableError,
    ImageError,
    InputError,
    InputTooLongError,
    NemoVLMError,
)
from nemovlm.inputs import Embeddable
from nemovlm.models.catalogue import POCKET
from nemovlm.parity import compare
from tests.support.checkpoints import case_image, write_vl_checkpoint
from tests.support.real_vllm import OPTIONS, children, nothing_left
from tests.support.servers import address_of, ready, started

LIFE = Path(__file__).with_name("life.py")


def test_vectors_are_those_of_torch(vllm_folder: Path) -> None:
    """In float32, no component of any case of the parity set is off by more than 1e-5."""
    parity = compare(
        [
            Embedder(vllm_folder, engine=engine, dtype="float32", **options)  # type: ignore[arg-type]
            for engine, options in (("transformers", {}), ("vllm", {"engine_options": OPTIONS}))
        ]
    )
    assert parity.fine, str(parity)
    assert parity.comparisons[0].largest <= 1e-5
    assert parity.comparisons[0].same_first == 1.0


@pytest.mark.parametrize(
    ("model", "dtype", "floor"),
    [(POCKET, "float32", 1 - 1e-6), (POCKET, "bfloat16", 0.99), ("tiny", "bfloat16", 0.999)],
    ids=str,
)
def test_other_models_and_dtypes_agree(model: str, dtype: str, floor: float, vllm_folder: Path) -> None:
    """The pocket model in float32 to 1e-5; bfloat16 against float32 with a cosine of 0.99, or 0.999."""
    small: dict[str, Any] = {"max_tiles": 2, "max_tokens": 2048}  # every grid and length is asked of the tiny one
    folder, limits = (vllm_folder, {}) if model == "tiny" else (model, small)
    reference = Embedder(folder, engine="transformers", dtype="float32", **limits)
    ours = Embedder(folder, engine="vllm", dtype=dtype, engine_options=OPTIONS, **limits)  # type: ignore[arg-type]
    parity = compare([reference, ours], floor=floor)
    assert parity.fine, str(parity)
    if dtype == "float32":
        assert parity.comparisons[0].largest <= 1e-5


def test_no_code_of_the_repository_runs(vllm_vl: Embedder, vllm_folder: Path) -> None:
    """`config.json` names classes in files of the repository; in none of vLLM's processes are they looked at."""
    assert vllm_vl.embed_query("x").shape == (128,)
    assert not (vllm_folder / "code-was-run").exists()


def passages() -> tuple[list[Embeddable], dict[int, type[NemoVLMError]]]:
    """Return 500 passages, and the kind of error for each of the 20 that are bad."""
    png = io.BytesIO()
    case_image("icon").save(png, "PNG")
    good: list[Embeddable] = [
        Passage(text=f"page {i}", image=case_image("icon")) if i % 10 == 0 else f"passage number {i}"
        for i in range(500)
    ]
    bad: list[tuple[Embeddable, type[NemoVLMError]]] = [
        (b"no image at all", ImageError),
        (Passage(text="cut off", image=png.getvalue()[:100]), ImageError),
        ("z" * 3000, InputTooLongError),
        (Passage(text="z" * 3000, image=case_image("icon")), InputTooLongError),
        (Path("there-is-no-such-file.png"), ImageError),
        (17, InputError),  # type: ignore[list-item] # it is no passage
    ]
    places = {7 + 25 * i: bad[i % len(bad)] for i in range(20)}
    for place, (item, _) in places.items():
        good[place] = item
    return good, {place: kind for place, (_, kind) in places.items()}


def check(items: list[Embeddable], kinds: dict[int, type[NemoVLMError]], got: list, errors: list, right: np.ndarray):
    assert {error.index: type(error) for error in errors} == kinds
    assert [i for i, vector in enumerate(got) if vector is None] == sorted(kinds)
    vectors = np.stack([vector for vector in got if vector is not None])
    assert len(vectors) == len(items) - len(kinds)
    assert np.abs(vectors - right).max() <= 1e-5


def test_twenty_bad_items_among_five_hundred(vllm_vl: Embedder, vllm_folder: Path) -> None:
    """480 right vectors and 20 typed errors that name their item: alone, from 8 threads, and from 50 tasks at once."""
    items, kinds = passages()
    with Embedder(vllm_folder, engine="transformers", dtype="float32") as reference:
        right = np.stack([vector for vector in reference.stream(items, on_error="skip") if vector is not None])

    def alone() -> tuple[list, list]:
        errors: list[NemoVLMError] = []
        return list(vllm_vl.stream(items, on_error=errors.append)), errors

    check(items, kinds, *alone(), right)

    results: list[tuple[list, list]] = []
    threads = [threading.Thread(target=lambda: results.append(alone())) for _ in range(8)]
    for thread in threads:
        thread.start()

    async def part(start: int) -> tuple[list, list]:
        errors: list[NemoVLMError] = []
        stream = vllm_vl.astream(items[start : start + 10], on_error=errors.append)
        return [vector async for vector in stream], errors

    async def tasks() -> list[tuple[list, list]]:
        return await asyncio.gather(*(part(start) for start in range(0, 500, 10)))

    parts = asyncio.run(tasks())
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for got, errors in results:
        check(items, kinds, got, errors, right)
    for start, (_, errors) in zip(range(0, 500, 10), parts, strict=True):
        for error in errors:
            error.index += start
    check(items, kinds, [v for got, _ in parts for v in got], [e for _, errors in parts for e in errors], right)
    assert vllm_vl.embed_query("still there").shape == (128,)


def test_a_caller_who_gives_up_leaves_no_trace(vllm_vl: Embedder) -> None:
    """A call that is cancelled disturbs nobody, and the next gets its own vectors."""
    texts = [f"text {i}" for i in range(200)]
    expected = vllm_vl.embed(texts[:3])

    async def give_up() -> None:
        call = asyncio.create_task(vllm_vl.aembed(texts))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(give_up())
    assert np.abs(vllm_vl.embed(texts[:3]) - expected).max() <= 1e-5


# Options


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"enforce_eagre": True}, "no engine option 'enforce_eagre'; did you mean 'enforce_eager'"),
        ({"trust_remote_code": True}, "'trust_remote_code'.*what code runs"),
        ({"dtype": "float16"}, "'dtype': it is the setting dtype"),
        ({"max_model_len": 99}, "the setting max_tokens"),
    ],
)
def test_options_that_cannot_be_given(options: dict, complaint: str, vllm_folder: Path) -> None:
    """An option that vLLM does not know, or that has a setting of its own, is refused before anything is loaded."""
    with pytest.raises(ConfigurationError, match=complaint):
        Embedder(vllm_folder, engine="vllm", engine_options=options).describe()


def test_a_device_that_it_does_not_run_on(vllm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where vLLM has no GPU, or another device than the one wanted, the error says what to do."""
    from nemovlm.engines.local import vllm

    with pytest.raises(EngineUnavailableError, match="CUDA_VISIBLE_DEVICES"):
        Embedder(vllm_folder, engine="vllm", device="cuda:7").describe()

    class Nothing:
        device_type = ""

    monkeypatch.setattr(vllm, "current_platform", Nothing())
    with pytest.raises(EngineUnavailableError, match=r"no CUDA GPU.*engine='transformers'.*CPU build"):
        Embedder(vllm_folder, engine="vllm").describe()


# Its end


@pytest.mark.parametrize(
    ("way", "number", "status"),
    [
        ("exception", None, 1),
        ("close", signal.SIGKILL, -signal.SIGKILL),
        ("wait", signal.SIGINT, -signal.SIGINT),
        ("wait", signal.SIGTERM, -signal.SIGTERM),
    ],
    ids=["exception", "close", "SIGINT", "SIGTERM"],
)
def test_nothing_outlives_a_script(way: str, number: signal.Signals | None, status: int, vllm_folder: Path) -> None:
    """However a script ends, with or without closing: its processes, ports and shared memory are gone."""
    command = [sys.executable, str(LIFE), str(vllm_folder), way, json.dumps(OPTIONS)]
    with (
        nothing_left() as started,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as script,
    ):
        assert script.stdout  # for the type checker
        try:
            assert script.stdout.readline() == "(1, 128)\n"
            if way == "wait":
                started.update(children(script.pid))
                assert started
            if number:
                assert script.stdout.readline() == "ready\n"
                if way == "close":
                    assert not children(script.pid)
                script.send_signal(number)
            _, errors = script.communicate(timeout=60)
        finally:
            script.kill()
    assert script.returncode == status
    assert "EngineDeadError" not in errors
    assert ("something else went wrong" in errors) == (way == "exception")


def test_too_little_memory(vllm_folder: Path) -> None:
    """If vLLM's process cannot start, the error says where to look and what to lower, and no process is left."""
    options = {**OPTIONS, "gpu_memory_utilization": 0.999}
    embedder = Embedder(vllm_folder, engine="vllm", dtype="float32", engine_options=options)
    with (
        nothing_left(),
        pytest.raises(EngineError, match=r"could not start.*lower batch_tokens.*gpu_memory_utilization"),
    ):
        embedder.embed(["x"])


def test_a_missing_weight_is_an_error(tmp_path: Path) -> None:
    """vLLM would compute with random numbers in its place."""
    folder = write_vl_checkpoint(tmp_path / "broken", drop=["language_model.layers.1.mlp.up_proj.weight"])
    with pytest.raises(CheckpointError, match=r"weights are missing: language_model\.layers\.1\.mlp\.up_proj\.weight"):
        Embedder(folder, engine="vllm", engine_options=OPTIONS).embed(["x"])


def test_the_server_over_it(vllm_folder: Path) -> None:
    """`nemovlm serve --engine vllm` answers with the vectors of torch, and leaves nothing behind when it is stopped."""
    given = {"NEMOVLM_ENGINE_OPTIONS": json.dumps(OPTIONS), "NEMOVLM_DTYPE": "float32"}
    with (
        nothing_left() as ours,
        started("--engine", "vllm", "--model", vllm_folder, "--port", 0, **given) as server,
    ):
        reference = Embedder(vllm_folder, engine="transformers", dtype="float32")
        address = ready(address_of(server))
        parity = compare([reference, Embedder("tiny-vl", base_url=address)])
        assert parity.fine, str(parity)
        assert parity.comparisons[0].largest <= 1e-5
        ours.update(children(server.pid))
        server.terminate()
        assert server.wait(90) == -signal.SIGTERM  # as any program that was told to stop
