"""These tests need processes: the command line, what README and docs show, the package as it is built, forks, kills."""

from pathlib import Path

import pytest

from tests.support.command import nemovlm
from tests.support.once import once


@pytest.fixture(scope="session")
def library_index(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `db`, the sample library indexed by the command with nothing chosen, and `said`, what it said.

    So pictures and texts are in it, embedded by the pocket model. Read only.
    """

    def make(folder: Path) -> None:
        _, said = nemovlm("index", samples, "--db", folder / "db")
        (folder / "said").write_text(said)

    return once(tmp_path_factory, "library-index", make)


@pytest.fixture(scope="session")
def tiny_db(vl_folder: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of four pages, made with the tiny checkpoint. Read only."""
    from nemovlm import Embedder, PageIndex

    folder = tmp_path_factory.mktemp("tiny") / "db"
    with Embedder(vl_folder) as embedder:
        PageIndex(folder, embedder).add(samples / "archive-bulletin.pdf", modality="image")
    return folder
