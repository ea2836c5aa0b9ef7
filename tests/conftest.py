"""What tests share: small checkpoints written once, and the sample library."""

import json
import os
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Before torch is loaded: models this small run faster on one thread, and a busy machine slows several down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from checkpoints import write_text_checkpoint, write_vl_checkpoint
from launched import launched
from make_samples import make_samples
from real_vllm import OPTIONS
from servers import ready, running

from nemovlm import Embedder
from nemovlm.server import make_app

# These have an environment of their own (`scripts/test` runs both).
collect_ignore = [] if find_spec("vllm") else ["with_vllm"]


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
    """A tiny random checkpoint with eyes: 128 components, tiles of 64 pixels worth 16 tokens, 1024 tokens."""
    return write_vl_checkpoint(tmp_path_factory.mktemp("vl") / "tiny-vl")


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint that reads text only."""
    return write_text_checkpoint(tmp_path_factory.mktemp("text") / "tiny-text")


@pytest.fixture(scope="session")
def pocket() -> Iterator[Embedder]:
    """An embedder on the pocket model. A picture of a page takes it a second; a text, next to nothing."""
    with Embedder("nemovlm/pocket") as embedder:
        yield embedder


@pytest.fixture(scope="session")
def vl(vl_folder: Path) -> Iterator[Embedder]:
    """An embedder on the tiny checkpoint with eyes."""
    with Embedder(vl_folder) as embedder:
        yield embedder


@pytest.fixture(scope="session")
def served_vl(vl_folder: Path) -> Iterator[str]:
    """The address of a real server over the tiny checkpoint with eyes; it calls it `tiny-vl`."""
    with running(make_app(Embedder(vl_folder))) as address:
        yield ready(address)


@pytest.fixture(scope="session")
def vllm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with eyes as the hub would have it: with code in it, which leaves a trace if it is run."""
    folder = write_vl_checkpoint(tmp_path_factory.mktemp("vllm") / "tiny-vl")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration_trap.TrapConfig", "AutoModel": "configuration_trap.TrapModel"}
    (folder / "config.json").write_text(json.dumps(config))
    trace = folder / "code-was-run"
    (folder / "configuration_trap.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    return folder


@pytest.fixture(scope="session")
def vllm_vl(vllm_folder: Path) -> Iterator[Embedder]:
    """An embedder on vLLM in this process, over the tiny checkpoint, in float32. Started anew it costs 20 seconds."""
    with Embedder(vllm_folder, engine="vllm", dtype="float32", engine_options=OPTIONS) as embedder:
        yield embedder


@pytest.fixture(scope="session")
def vllm_served(vllm_folder: Path) -> Iterator[str]:
    """The address of vLLM's own server over the tiny checkpoint, as `nemovlm serve --vllm-server` starts it."""
    prefixes = {"prompts": {"query": "query: ", "document": "passage: "}}
    (vllm_folder / "config_sentence_transformers.json").write_text(json.dumps(prefixes))  # for its route /v2/embed
    with launched(vllm_folder) as server:
        yield server.ready()


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sample library. Read only: a test that changes PDFs copies them."""
    folder = tmp_path_factory.mktemp("samples")
    make_samples(folder)
    return folder


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
