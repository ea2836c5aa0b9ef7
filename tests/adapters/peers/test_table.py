"""The table of what is promised is complete: nothing that is known of the clients is without a test."""

import importlib
from pathlib import Path

import pytest

from tests.adapters.peers.stage import BOTH, PARAMETERS, TABLE, Row
from tests.adapters.peers.weaknesses import FILES, WEAKNESSES, client_of


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """The rows of all files of this folder, also of those that pytest was not asked for."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(f"tests.adapters.peers.{path.stem}")
    return [entry for entries in TABLE.values() for entry in entries]


@pytest.mark.parametrize("weakness", WEAKNESSES)
def test_a_weakness_is_answered_by_a_test(weakness: str, rows: list[Row]) -> None:
    """Of everything that a client gets wrong, a test says that ours does not."""
    assert (client_of(weakness), weakness) in {(entry.client, entry.source) for entry in rows}


@pytest.mark.parametrize("client", BOTH)
def test_every_file_of_a_clients_tests_is_answered(client: str, rows: list[Row]) -> None:
    """Each file of the client's own tests that is about embeddings has a row, and so have its arguments."""
    assert {*FILES[client], PARAMETERS} <= {entry.source for entry in rows if entry.client == client}


def test_no_row_names_what_is_not_known(rows: list[Row]) -> None:
    """What a row answers is a file of that client's tests, its arguments, or a weakness of that client's."""
    unknown = {
        (entry.client, entry.source)
        for entry in rows
        if entry.source not in {*FILES[entry.client], PARAMETERS}
        and (entry.source not in WEAKNESSES or client_of(entry.source) != entry.client)
    }
    assert not unknown


def test_every_row_of_a_file_says_what_is_promised(rows: list[Row]) -> None:
    """Only a weakness goes without words of its own: `WEAKNESSES` has them."""
    assert not [entry for entry in rows if not entry.promise and entry.source not in WEAKNESSES]
