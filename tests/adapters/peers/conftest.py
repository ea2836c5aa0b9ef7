"""Every test of this folder is run through the doors that its rows name; see stage.py."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.adapters.peers.stage import Door, Stage, doors_of
from tests.support.faults import failing


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "door" in metafunc.fixturenames:
        metafunc.parametrize("door", doors_of(metafunc.function), ids=str)


@pytest.fixture
def stage(
    door: Door, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Stage]:
    with failing() as wire, ExitStack() as closing:
        yield Stage(door, wire, monkeypatch, tmp_path, closing, request.getfixturevalue)
