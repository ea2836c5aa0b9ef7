"""These tests need neither torch, nor a socket, nor another process, and are held to it: `scripts/check` runs them."""

import sys
from collections.abc import Iterator
from unittest.mock import Mock

import pytest

_IMPORTS = {"torch", "transformers", "vllm", "lance", "fastapi", "langchain_core", "llama_index"}
_EVENTS = {  # https://docs.python.org/3/library/audit_events.html
    *("socket.bind", "socket.connect", "socket.sendto", "socket.getaddrinfo"),
    *("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system", "_winapi.CreateProcess"),
}
_held = False


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if _held and (event in _EVENTS or (event == "import" and arguments[0] in _IMPORTS)):
        raise RuntimeError(f"a unit test must not do this: {event} {arguments[0]}")


sys.addaudithook(_refuse)  # nothing takes it out again


def _hold(held: bool) -> None:
    global _held  # noqa: PLW0603 - see above
    _held = held


@pytest.fixture(autouse=True)
def _unit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hold a test to what unit tests may do."""
    # Of how multiprocessing starts processes on POSIX no event tells.
    monkeypatch.setattr("multiprocessing.util.spawnv_passfds", lambda path, *_: _refuse("subprocess.Popen", (path,)))
    # Pages are rendered here, as where no process can be had. `tests/processes/test_pdf.py` is the same with processes.
    monkeypatch.setattr("nemovlm.pdf.processes._command", Mock(side_effect=OSError("this is a unit test")))
    _hold(True)
    yield
    _hold(False)


def pytest_collectstart() -> None:
    """Hold the import of a file of tests to it, too."""
    _hold(True)


def pytest_collectreport() -> None:
    """Let go again."""
    _hold(False)
