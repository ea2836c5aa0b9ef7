"""The tests of this folder are held to what they may need: see conftest.py."""

import asyncio
import multiprocessing
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest


def _listen() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))


def _start_a_process() -> None:
    multiprocessing.get_context("spawn").Process(target=print).start()


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda: __import__("torch"),
        lambda: socket.create_connection(("127.0.0.1", 9)),
        _listen,
        lambda: subprocess.run([sys.executable, "-c", ""], check=False),
        _start_a_process,
    ],
    ids=["import of torch", "connection", "server", "subprocess", "multiprocessing"],
)
def test_what_a_unit_test_must_not_do_fails(forbidden: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused where it is tried, and so the test that does it fails."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)  # which other folders of tests have loaded
    with pytest.raises(RuntimeError, match="a unit test must not do this"):
        forbidden()


async def test_an_event_loop_is_none_of_it() -> None:
    """The sockets by which a loop wakes itself are allowed."""
    await asyncio.sleep(0)
