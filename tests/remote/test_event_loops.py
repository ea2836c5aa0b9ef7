"""No event loop waits for a file, neither a caller's nor the private one: `langgraph dev` ends a run for that."""

import asyncio
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nemovlm import Embedder
from nemovlm.models import llama_nemotron
from tests.support.fake_vllm import FakeVllm
from tests.support.faults import MODEL, FaultServer, failing, reset, says
from tests.support.remote import png, remote
from tests.support.servers import running

pytestmark = pytest.mark.timeout(60)

OURS = llama_nemotron.chat_template.read_text()
_EVENTS = {"open", "os.listdir", "os.scandir", "time.sleep", "subprocess.Popen", "socket.getaddrinfo"}
_IMPORTED = (".py", ".pyc", ".so", ".pyd", ".zip")
_seen: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None or event not in _EVENTS or asyncio._get_running_loop() is None:
        return
    here = threading.current_thread()
    if (here is threading.main_thread() or here.name == "nemovlm") and not _imports(event, arguments):
        _seen.append(f"{event} {arguments}")


def _imports(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether this is a part of an import, which may happen anywhere."""
    frame = sys._getframe(2)
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return event == "open" and str(arguments[0]).endswith(_IMPORTED)


sys.addaudithook(_watch)  # nothing takes it out again


@contextmanager
def watched() -> Iterator[list[str]]:
    """Yield what is done on event loops that should not be."""
    global _seen  # noqa: PLW0603 - what an audit hook knows is global
    _seen = []
    try:
        yield _seen
    finally:
        _seen = None


async def first_use(embedder: Embedder) -> None:
    await embedder.aembed_query("a")
    await embedder.aembed(["b", png()])
    await embedder.aclose()


def test_the_watch_sees() -> None:
    """A file that is opened on a loop is noticed, and one that a thread opens is not."""

    async def work() -> None:
        await asyncio.to_thread(Path(__file__).with_suffix(".txt").exists)
        with open("/dev/null" if sys.platform != "win32" else "nul"):
            pass

    with watched() as seen:
        asyncio.run(work())
    assert len(seen) == 1


@pytest.mark.parametrize("model", [MODEL, "acme/embedder", None])
def test_a_server(server: FaultServer, model: str | None) -> None:
    """Nothing blocks with a model that is known, with one that is not, with none; nor do repetitions and refusals."""
    server.models = [model or "acme/other"]
    server.script += [says(400, {"error": "no encoding_format"}), says(503), reset()]
    embedder = remote(server, model=model, cache={})
    with watched() as seen:
        asyncio.run(first_use(embedder))
    assert not seen


def test_certificates(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the environment and those of a client are read elsewhere."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    monkeypatch.setenv("NETRC", str(certificates / "netrc"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.pem")
    with failing(tls=context) as server:
        embedder = remote(server, verify=True, cert=certificates / "client.pem")
        with watched() as seen:
            asyncio.run(first_use(embedder))
    assert not seen


@pytest.mark.parametrize("engine", ["auto", "vllm-server"])
def test_vllms_server_and_a_cache(vl_folder: Path, engine: str) -> None:
    """The space of a folder, of which the keys of a cache are made, is read elsewhere."""
    fake = FakeVllm(vl_folder, OURS)
    with running(fake) as url:
        embedder = Embedder(vl_folder, engine=engine, base_url=url, cache={})
        with watched() as seen:
            asyncio.run(first_use(embedder))
    assert not seen
