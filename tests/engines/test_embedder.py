"""The door itself: what goes in, what comes out, threads, loops, forks, pickles, streams."""

import asyncio
import pickle
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nemovlm import Embedder, Passage, runtime
from nemovlm.errors import (
    AuthenticationError,
    EngineError,
    EngineUnavailableError,
    ImageError,
    InputError,
    MissingExtraError,
    NemoVLMError,
    PdfError,
    ServerError,
)
from nemovlm.images import encode_png
from nemovlm.models.base import ModelInput
from nemovlm.models.llama_nemotron import local
from tests.support.checkpoints import case_image
from tests.support.clock import JumpingClock

Call = Callable[..., Awaitable[Any]]
Stream = Callable[..., AsyncGenerator[Any]]


async def test_what_can_be_embedded(call: Call, vl: Embedder, tmp_path: Path) -> None:
    """Texts, Pillow images, bytes, files and passages mix, in order; a str is a text even if it names a file."""
    image = case_image("square")
    file = tmp_path / "page.png"
    file.write_bytes(encode_png(image))
    got = await call(vl, "embed", [str(file), image, file.read_bytes(), file, Passage(image=file), Passage(text="x")])
    assert got.shape == (6, 128)
    for same in (2, 3, 4):
        assert np.abs(got[same] - got[1]).max() <= 1e-6
    assert np.abs(got[0] - vl.embed([Passage(text=str(file))])[0]).max() <= 1e-6


async def test_no_items_no_vectors(call: Call, vl: Embedder) -> None:
    """An empty list gives shape (0, d)."""
    for method in ("embed", "embed_queries"):
        assert (await call(vl, method, [])).shape == (0, 128)
    assert await call(vl, "stream", []) == []


async def test_sync_and_async_agree(call: Call, vl: Embedder) -> None:
    """Every door gives the same query vector."""
    one = await call(vl, "embed_query", "what is it?")
    assert one.shape == (128,)
    assert np.array_equal(one, (await call(vl, "embed_queries", ["what is it?"]))[0])
    assert np.array_equal(one, vl.embed_query("what is it?"))


@pytest.mark.parametrize("wrong", ["one text", b"bytes", Path("x.png"), Passage(text="x"), BytesIO(b"bytes")])
async def test_a_single_item_is_no_list(call: Call, vl: Embedder, wrong: Any) -> None:
    """A lone str would be taken for a list of letters; it is refused."""
    with pytest.raises(InputError, match="pass a list"):
        await call(vl, "embed", wrong)


async def test_a_query_is_a_text(call: Call, vl: Embedder) -> None:
    """Images are no queries for this family of models."""
    with pytest.raises(InputError, match="item 1: a query is a text"):
        await call(vl, "embed_queries", ["fine", case_image("icon")])


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (3.5, InputError),
        (b"no image", ImageError),
        (Path("/nowhere.png"), ImageError),
        (Passage(image="x"), ImageError),
    ],
    ids=["float", "bytes", "missing file", "no data URL"],
)
async def test_a_bad_item_is_named_and_costs_no_other(call: Call, vl: Embedder, bad: Any, kind: type) -> None:
    """embed() raises for it, naming its place; stream() can go on without it and keeps every place."""
    items = ["a", bad, "b"]
    with pytest.raises(kind, match="item 1"):
        await call(vl, "embed", items)
    errors: list[NemoVLMError] = []
    got = await call(vl, "stream", items, on_error=errors.append)
    assert [type(error) for error in errors] == [kind]
    assert got[1] is None
    expected = vl.embed(["a", "b"])
    assert np.abs(np.stack([got[0], got[2]]) - expected).max() <= 1e-6


async def test_skipping_says_so_in_the_log(call: Call, vl: Embedder, caplog: pytest.LogCaptureFixture) -> None:
    """`on_error="skip"` is no silence."""
    assert (await call(vl, "stream", [Passage(image=b"?", label="page 7")], on_error="skip")) == [None]
    assert "left out: page 7: " in caplog.text


async def test_a_label_names_the_item(call: Call, vl: Embedder) -> None:
    """Errors use a passage's own name where it has one."""
    with pytest.raises(ImageError, match=r"^report\.pdf page 3: "):
        await call(vl, "embed", ["x", Passage(image=b"?", label="report.pdf page 3")])


async def test_an_item_that_failed_before_keeps_its_place(call: Call, vl: Embedder) -> None:
    """An error among the items is dealt with in its turn, with its own name or its place, and costs no other."""
    failed, named = PdfError("torn"), PdfError("torn").at("a.pdf page 2")
    seen: list[NemoVLMError] = []
    vectors = await call(vl, "stream", ["a", failed, "b", named], on_error=seen.append)
    assert [vector is None for vector in vectors] == [False, True, False, True]
    assert np.abs(np.stack([vectors[0], vectors[2]]) - vl.embed(["a", "b"])).max() <= 1e-6
    assert seen == [failed, named]
    assert [(error.item, error.index) for error in seen] == [("item 1", 1), ("a.pdf page 2", 3)]
    with pytest.raises(PdfError, match=r"^item 1: torn"):
        await call(vl, "embed", ["a", PdfError("torn")])


def test_results_come_with_their_keys(vl: Embedder) -> None:
    """Each key gets the vector or the error of its own passage, in order, over several chunks."""
    items = [(number, PdfError("torn") if number % 7 == 0 else f"text {number}") for number in range(600)]
    results = list(vl.stream_results(items))
    assert [key for key, _ in results] == list(range(600))
    errors = {key: result for key, result in results if isinstance(result, NemoVLMError)}
    assert errors == {key: item for key, item in items if isinstance(item, PdfError)}
    good = {key: result for key, result in results if key not in errors}
    expected = vl.embed([item for _, item in items if isinstance(item, str)])
    assert np.abs(np.stack(list(good.values())) - expected).max() <= 1e-6


async def test_progress_counts_up_to_the_total(call: Call, vl: Embedder) -> None:
    """The hook hears of every window, and at last of all items."""
    heard: list[tuple[int, int | None]] = []
    await call(vl, "embed", ["x"] * 700, progress=lambda done, total: heard.append((done, total)))
    assert heard[-1] == (700, 700)
    assert [done for done, _ in heard] == sorted({done for done, _ in heard})
    assert len(heard) > 1


async def test_a_stream_reads_only_a_little_ahead(stream: Stream, vl: Embedder) -> None:
    """Back-pressure: of an endless source only a few windows are read before the first vector is taken."""
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "x" * 100

    async with aclosing(stream(vl, endless())) as vectors:
        assert await anext(vectors) is not None
        assert read < 1000


async def test_an_async_source_is_read(vl: Embedder) -> None:
    """astream() takes async iterables as well as sync ones."""

    async def source() -> AsyncIterator[str]:
        for text in ("a", "b", "c"):
            await asyncio.sleep(0)
            yield text

    got = [vector async for vector in vl.astream(source())]
    assert np.abs(np.stack(got) - vl.embed(["a", "b", "c"])).max() <= 1e-6


def blocking(inside: threading.Event, go: threading.Event, closed: threading.Event) -> Iterator[str]:
    """A text, and another when `go` is set."""
    try:
        yield "first"
        inside.set()
        go.wait(60)
        yield "second"
    finally:
        closed.set()


async def silent(inside: threading.Event, _: threading.Event, closed: threading.Event) -> AsyncIterator[str]:
    """A text, and then nothing."""
    try:
        yield "first"
        inside.set()
        await asyncio.Event().wait()
    finally:
        closed.set()


@pytest.mark.parametrize("source", [blocking, silent])
@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_a_stream_over_a_silent_source_can_be_left(source: Any, how: str, vl: Embedder) -> None:
    """With the error that asyncio has for it; the source is closed as soon as no thread is inside it."""
    inside, go, closed = (threading.Event() for _ in range(3))

    async def read() -> None:
        async for _ in vl.astream(source(inside, go, closed)):
            pass

    reading = asyncio.create_task(read())
    assert await runtime.in_thread(inside.wait, 60)
    if how == "timeout":
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reading, 0)
    else:
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    go.set()
    assert await runtime.in_thread(closed.wait, 60)


async def test_no_thread_of_the_callers_pool_is_needed(vl: Embedder) -> None:
    """A loop whose pool is full, of sync tools that wait for this very answer, gets it."""
    loop, go = asyncio.get_running_loop(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        loop.set_default_executor(pool)
        tool = loop.run_in_executor(None, go.wait, 60)
        async with asyncio.timeout(60):
            await vl.aembed_query("a question")
            await vl.aembed(["a text", case_image("square")])
            assert len([vector async for vector in vl.astream(iter(["a", "b"]))]) == 2
        go.set()
        await tool


async def test_a_failing_source_loses_nothing_that_it_gave(stream: Stream, vl: Embedder) -> None:
    """What was read before the source raised is embedded and delivered; then its own error comes out."""
    delivered = []

    def source() -> Iterator[str]:
        yield from ("a", "b", "c")
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):  # noqa: PT012 - the loop is what raises
        async for vector in stream(vl, source()):
            delivered.append(vector)
    assert np.abs(np.stack(delivered) - vl.embed(["a", "b", "c"])).max() <= 1e-6


def test_many_loops_one_embedder(vl: Embedder) -> None:
    """Any number of asyncio.run calls may use one embedder: nothing belongs to a loop that has ended."""
    expected = vl.embed_query("x")
    for _ in range(3):
        assert np.array_equal(asyncio.run(vl.aembed_query("x")), expected)


def test_many_threads_load_once(vl_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is loaded on first use, once, whatever the number of threads that ask for it."""
    loads = []
    load = local.load_model
    monkeypatch.setattr(local, "load_model", lambda *a, **k: (loads.append(1), load(*a, **k))[1])
    embedder = Embedder(vl_folder)
    assert not loads
    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(embedder.embed_query, ["same"] * 16))
    assert len(loads) == 1
    assert all(np.array_equal(vector, vectors[0]) for vector in vectors)
    embedder.close()


def test_a_pass_that_needs_too_much_memory_is_halved(vl_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the memory of a GPU runs out, smaller passes give every vector, and later ones are small at once."""
    passes: list[int] = []
    held: list[weakref.ref[Any]] = []
    embed = local.LocalLlamaNemotron.embed

    def short_of_memory(model: local.LocalLlamaNemotron, batch: Sequence[ModelInput]) -> Any:
        assert all(states() is None for states in held), "what a failed pass had in memory is still there"
        passes.append(len(batch))
        if len(batch) > 3 or any(len(item.ids) > 300 for item in batch):
            states = torch.empty(1)
            held.append(weakref.ref(states))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return embed(model, batch)

    texts = [f"text {number:02}" for number in range(16)]
    with Embedder(vl_folder) as embedder:
        expected = embedder.embed(texts)
    monkeypatch.setattr(local.LocalLlamaNemotron, "embed", short_of_memory)
    with Embedder(vl_folder) as embedder:
        assert np.abs(embedder.embed(texts) - expected).max() <= 1e-6
        passes.clear()
        assert np.abs(embedder.embed(texts) - expected).max() <= 1e-6
        assert max(passes) <= 3
        with pytest.raises(EngineError, match=r"too little memory for this item \(CUDA out of memory"):
            embedder.embed(["long " * 100])
        assert np.abs(embedder.embed(texts[:1]) - expected[:1]).max() <= 1e-6


def test_closing_twice_and_using_again(vl_folder: Path) -> None:
    """close() is harmless twice, and a later use starts again."""
    embedder = Embedder(vl_folder)
    embedder.close()
    first = embedder.embed_query("x")
    embedder.close()
    embedder.close()
    assert np.array_equal(embedder.embed_query("x"), first)
    embedder.close()


async def test_async_context(vl_folder: Path) -> None:
    """`async with` works as `with` does."""
    async with Embedder(vl_folder) as embedder:
        assert (await embedder.aembed(["x"])).shape == (1, 128)


def test_pickling_keeps_the_settings(vl: Embedder) -> None:
    """A pickled embedder gives the same vectors in the same space, with nothing of the engine in the pickle."""
    data = pickle.dumps(vl)
    assert len(data) < 2000
    with pickle.loads(data) as copy:
        assert copy.space == vl.space
        assert np.array_equal(copy.embed_query("x"), vl.embed_query("x"))


def test_describe_says_what_and_why(vl: Embedder) -> None:
    """Engine, device, dtype and the reason, for people and logs."""
    facts = vl.describe()
    assert (facts.engine, facts.device, facts.dtype) == ("transformers", "cpu", "float32")
    assert "torch and transformers are installed" in facts.reason
    assert facts.max_tokens["text"] == 1024


def test_describing_makes_no_engine(vl_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an embedder is can be said without an engine."""
    monkeypatch.setattr("nemovlm.engines.local.transformers.TransformersEngine.__init__", None)
    assert Embedder(vl_folder, engine="transformers", dtype="bfloat16").describe().dtype == "bfloat16"


def test_a_device_that_is_not_there(vl_folder: Path) -> None:
    """Asking for a GPU where there is none names what there is."""
    with pytest.raises(EngineUnavailableError, match="there is no device 'cuda:7' here; torch offers: cpu"):
        Embedder(vl_folder, device="cuda:7").embed_query("x")


@pytest.mark.parametrize(
    ("knobs", "kind", "message"),
    [
        ({"engine": "nim"}, AuthenticationError, "integrate.api.nvidia.com wants a key: set NVIDIA_API_KEY"),
        ({"base_url": "http://127.0.0.1:9/v1"}, ServerError, "127.0.0.1:9 could not be reached"),
        ({"engine": "vllm"}, MissingExtraError, r"vllm.*pip install 'nemovlm\[vllm\]'"),
    ],
    ids=str,
)
def test_no_other_engine_stands_in(vl_folder: Path, knobs: dict[str, Any], kind: type[Exception], message: str) -> None:
    """A choice of engine that cannot be honoured is an error, never a silent other engine."""
    with pytest.raises(kind, match=message):
        Embedder(vl_folder, clock=JumpingClock(), **knobs).embed_query("x")


def test_an_api_key_alone_chooses_nothing(vl_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key in the environment never sends documents off the machine, and is never shown."""
    monkeypatch.setenv("NVIDIA_API_KEY", "nvapi-secret")
    embedder = Embedder(vl_folder)
    assert embedder.describe().engine == "transformers"
    assert "nvapi-secret" not in repr(embedder) + repr(embedder.settings) + str(embedder.describe())


def test_a_failed_start_is_tried_again(tmp_path: Path, vl_folder: Path) -> None:
    """A checkpoint that was incomplete can be completed without making a new embedder."""
    import shutil

    folder = Path(shutil.copytree(vl_folder, tmp_path / "c"))
    (folder / "tokenizer.json").rename(folder / "gone.json")
    embedder = Embedder(folder)
    for _ in range(2):
        with pytest.raises(NemoVLMError, match=r"tokenizer\.json"):
            embedder.embed_query("x")
    embedder.close()  # of what never started
    (folder / "gone.json").rename(folder / "tokenizer.json")
    assert embedder.embed_query("x").shape == (128,)
    embedder.close()


def test_images_are_not_read_for_a_text_model(text_folder: Path) -> None:
    """A model without eyes refuses an image with advice, and still embeds the text beside it in the list."""
    buffer = BytesIO(encode_png(case_image("icon"))).getvalue()
    with Embedder(text_folder) as embedder:
        errors: list[NemoVLMError] = []
        got = list(embedder.stream(["text", buffer], on_error=errors.append))
        assert got[0] is not None
        assert got[1] is None
        assert "reads text only" in str(errors[0])
