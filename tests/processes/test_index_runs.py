"""Runs of indexing that are killed, stopped, out of disk, or in several processes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nemovlm import Embedder, PageIndex

INDEXING = """
import sys
from nemovlm import Embedder, PageIndex
import nemovlm.index
nemovlm.index.run._FLUSH_PAGES = 2
index = PageIndex(sys.argv[2], Embedder(sys.argv[1]))
index.add(sys.argv[3], progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT], ids=["killed", "stopped"])
def test_a_run_that_ends_early_is_continued(
    end: signal.Signals, vl: Embedder, vl_folder: Path, pdfs: Path, tmp_path: Path
) -> None:
    """Killed or stopped in the middle, the index is whole, keeps what was written, and the next run does the rest."""
    command = [sys.executable, "-c", INDEXING, str(vl_folder), str(tmp_path / "db"), str(pdfs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 5:
                process.send_signal(end)
                break
    index = PageIndex(tmp_path / "db", vl)
    kept = len(index)
    assert 4 <= kept < 9
    report = index.add(pdfs)
    assert (report.unchanged, report.embedded, report.failed) == (kept, 9 - kept, [])
    assert len({(hit.document, hit.page) for hit in index.search("x", k=100)}) == len(index) == 9


FULL_DISK = """
import resource, signal, sys
from nemovlm import Embedder, PageIndex
from nemovlm.errors import IndexStorageError
index = PageIndex(sys.argv[2], Embedder(sys.argv[1]))
print(index.add(sys.argv[3] + "/archive-bulletin.pdf").embedded)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # from here on no file may grow over 4 kB
try:
    index.add(sys.argv[3])
except IndexStorageError as error:
    print(error)
"""


def test_a_full_disk_loses_nothing(vl: Embedder, vl_folder: Path, pdfs: Path, tmp_path: Path) -> None:
    """When the disk is full the error says so, what was indexed stays, and later the rest goes in."""
    command = [sys.executable, "-c", FULL_DISK, str(vl_folder), str(tmp_path / "db"), str(pdfs)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert told[0] == "4"
    assert "cannot be read or written" in told[1]
    assert "the space on the disk" in told[1]
    assert ".rs:" not in told[1]
    index = PageIndex(tmp_path / "db", vl)
    assert len(index) == 4
    assert (index.add(pdfs).embedded, len(index)) == (5, 9)


def test_processes_render_the_same_pages(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """`workers=2` makes the same index as one process."""
    one, two = PageIndex(tmp_path / "one", vl), PageIndex(tmp_path / "two", vl)
    one.add(pdfs)
    two.add(pdfs, workers=2)
    assert [(hit.page, round(hit.score, 5)) for hit in one.search("x", 9)] == [
        (hit.page, round(hit.score, 5)) for hit in two.search("x", 9)
    ]
