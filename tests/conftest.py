"""What tests of several folders share. Nothing heavy is imported before a test asks for the fixture that needs it.

What one folder alone needs is in that folder's own conftest.py; helpers that are no fixtures are in `tests/support`.
"""

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch is loaded: models this small run faster on one thread, and a busy machine slows several down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["COLUMNS"] = "120"  # of the command line's output: what prints it asks once, when it is imported

import pytest

if TYPE_CHECKING:
    from nemovlm import Embedder
    from nemovlm.inputs import Vector


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever NEMOVLM_* the tester's own environment has, no test sees it; nor does one fill the tester's caches."""
    for name in list(os.environ):
        if name.startswith("NEMOVLM_") and name != "NEMOVLM_BROKEN_PDFS":
            monkeypatch.delenv(name)
    for name in ("NVIDIA_API_KEY", "NVIDIA_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LLAMA_INDEX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "llama-index"))


@pytest.fixture(scope="session")
def vl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint with vision: 128 components, tiles of 64 pixels worth 16 tokens, 1024 tokens."""
    from tests.support.checkpoints import write_vl_checkpoint

    return write_vl_checkpoint(tmp_path_factory.mktemp("vl") / "tiny-vl")


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint that reads text only."""
    from tests.support.checkpoints import write_text_checkpoint

    return write_text_checkpoint(tmp_path_factory.mktemp("text") / "tiny-text")


@pytest.fixture(scope="session")
def vl(vl_folder: Path) -> Iterator["Embedder"]:
    """An embedder on the tiny checkpoint with vision."""
    from nemovlm import Embedder

    with Embedder(vl_folder) as embedder:
        yield embedder


@pytest.fixture(scope="session")
def served_vl(vl_folder: Path) -> Iterator[str]:
    """The address of a real server over the tiny checkpoint with vision; it calls it `tiny-vl`."""
    from nemovlm import Embedder
    from nemovlm.server import make_app
    from tests.support.servers import ready, running

    with running(make_app(Embedder(vl_folder))) as address:
        yield ready(address)


@pytest.fixture(scope="session")
def vllm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with vision as the hub would have it: with code in it, which leaves a trace if it is run."""
    from tests.support.real_vllm import write_untrusted_checkpoint

    return write_untrusted_checkpoint(tmp_path_factory.mktemp("vllm") / "tiny-vl")


@pytest.fixture(scope="session")
def vllm_vl(vllm_folder: Path) -> Iterator["Embedder"]:
    """An embedder on vLLM in this process, over the tiny checkpoint, in float32. Started anew it costs 20 seconds."""
    from nemovlm import Embedder
    from tests.support.real_vllm import OPTIONS

    with Embedder(vllm_folder, engine="vllm", dtype="float32", engine_options=OPTIONS) as embedder:
        yield embedder


@pytest.fixture(scope="session")
def vllm_served(vllm_folder: Path) -> Iterator[str]:
    """The address of vLLM's own server over the tiny checkpoint, as `nemovlm serve --vllm-server` starts it."""
    from tests.support.launched import launched

    with launched(vllm_folder) as server:
        yield server.ready()


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sample library. Read only: a test that changes PDFs copies them."""
    from tests.support.once import once
    from tests.support.samples import make_samples

    return once(tmp_path_factory, "samples", make_samples)


@pytest.fixture
def pdfs(samples: Path, tmp_path: Path) -> Path:
    """A folder with two small PDFs of the sample library, 4 and 5 pages."""
    folder = tmp_path / "pdfs"
    folder.mkdir()
    for name in ("archive-bulletin.pdf", "staff-handbook.pdf"):
        shutil.copy(samples / name, folder)
    return folder


Vectors = AsyncIterator["Vector | None"]


@pytest.fixture(params=["sync", "async"])
def stream(request: pytest.FixtureRequest) -> Callable[..., Vectors]:
    """Return what gives the vectors of an embedder's stream one by one, through its sync or its async door."""

    async def one_by_one(embedder: "Embedder", *args: Any, **kwargs: Any) -> Vectors:
        if request.param == "sync":
            with closing(embedder.stream(*args, **kwargs)) as vectors:  # type: ignore[type-var] # it is a generator
                for vector in vectors:
                    yield vector
        else:
            async with aclosing(embedder.astream(*args, **kwargs)) as vectors:  # type: ignore[type-var]
                async for vector in vectors:
                    yield vector

    return one_by_one


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Callable[..., Awaitable[Any]]:
    """Call a method of an object by name, through its sync or its async door (`embed` or `aembed`).

    One test, both colours. Streams come back as lists.
    """

    async def door(target: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        result = getattr(target, method if request.param == "sync" else f"a{method}")(*args, **kwargs)
        if hasattr(result, "__anext__"):
            return [item async for item in result]
        if hasattr(result, "__await__"):
            return await result
        return list(result) if hasattr(result, "__next__") else result

    return door
