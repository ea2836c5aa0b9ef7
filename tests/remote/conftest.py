"""These tests need sockets, on loopback alone: servers that fail in every way, our own, and other people's clients."""

import os
from collections.abc import Iterator

import pytest

from tests.support.faults import FaultServer, failing


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxies the tester's environment has, no test uses them."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """A server that speaks the protocol of a NIM and fails as it is told to."""
    with failing() as running:
        yield running
