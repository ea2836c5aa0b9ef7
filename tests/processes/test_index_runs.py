"""Runs of indexing that are killed, stopped, out of disk, in several processes, or several at the same time."""

import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import get_args

import pytest

from nemovlm import Embedder, PageIndex
from nemovlm.choices import SearchMode
from nemovlm.errors import IndexStorageError
from nemovlm.index.store import PageStore
from tests.support.command import COMMAND, nemovlm_here
from tests.support.old_index import ids, with_old_texts, without_key

INDEXING = """
import sys, time
from nemovlm import Embedder, PageIndex
import nemovlm.index.run
nemovlm.index.run._FLUSH_PAGES = 2
index = PageIndex(sys.argv[2], Embedder(sys.argv[1]))

def progress(done, total):
    print(done, flush=True)
    if done >= 5:
        time.sleep(60)  # here it is ended

index.add(sys.argv[3], progress=progress)
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


ROUNDS = 4
AT_ONCE = """
import sys
import numpy as np
from nemovlm.index import migration, upkeep
from nemovlm.index.store import PageStore

def rows(document, pages):
    vector = np.ones(2, np.float32)
    return [{"id": f"{document}{page}", "document": document, "page": page, "vector": vector} for page in pages]

def write(folder):
    table = PageStore.open(folder) or PageStore.create(folder, 2, {"by": sys.argv[1]})
    for start in range(0, 50, 10):
        table.write(rows("d", range(start, start + 10)))

def create(folder):
    table = PageStore.create(folder, 2, {"by": sys.argv[1]})
    table.write(rows("d", [0]))
    print(table.meta["by"], flush=True)

def delete(folder):
    table = PageStore.open(folder)
    for page in range(10):
        table.write(rows("gone", range(page, page + 5)))
        table.delete(document="gone")

def compact(folder):
    upkeep._FRAGMENTS, upkeep._SHARE = 0, -1
    table = PageStore.open(folder)
    for _ in range(10):
        table.keep_up()

def mend(folder):
    migration._DOUBLED = 4
    PageStore.open(folder).mend()

from pathlib import Path
for folder in sys.argv[3:]:
    print("ready", flush=True)
    sys.stdin.readline()
    globals()[sys.argv[2]](Path(folder))
"""


def at_once(kinds: list[str], folders: list[Path], prepare: Callable[[Path], object]) -> list[list[str]]:
    """Let a process of each kind work on each folder, all beginning together; return what each of them printed."""
    said: list[list[str]] = [[] for _ in kinds]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", AT_ONCE, str(number), kind, *map(str, folders)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number, kind in enumerate(kinds)
        ]
        for folder in folders:
            prepare(folder)
            for process, lines in zip(processes, said, strict=True):
                assert process.stdout is not None
                while (line := process.stdout.readline().strip()) != "ready":
                    assert line, "a process failed"
                    lines.append(line)
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
        for process, lines in zip(processes, said, strict=True):
            lines.extend(process.communicate(timeout=60)[0].split())
            assert process.returncode == 0
    return said


WRITING = """
upkeep._FRAGMENTS, upkeep._SHARE = 8, 0
upkeep._LOOKUP_ROWS, upkeep._BEHIND_ELSE, upkeep._BEHIND = 1, 1, {}
folder = Path(sys.argv[1])
print("ready", flush=True)
for _ in range(3):
    write(folder)
    PageStore.open(folder).keep_up()
"""


def make(folder: Path) -> None:
    """Make an index with one document, which stays as it is."""
    vector = [1.0, 0.0]
    rows = [{"id": f"old{page}", "document": "old", "page": page, "vector": vector} for page in range(5)]
    PageStore.create(folder, 2, {"by": "make"}).write(rows)


OLD = [f"old{page}" for page in range(5)]
NEW = [f"d{page}" for page in range(50)]


@pytest.mark.parametrize(
    "kinds",
    [["write"] * 2, ["write"] * 3 + ["delete", "compact"], ["delete", "compact", "compact"]],
    ids=["two", "with others", "others"],
)
def test_writers_at_the_same_time(kinds: list[str], tmp_path: Path) -> None:
    """Processes that write the same rows, one that deletes, one that joins: none fails, each row is there once."""
    folders = [tmp_path / str(number) for number in range(ROUNDS)]
    at_once(kinds, folders, make)
    for folder in folders:
        assert ids(folder) == sorted(OLD + (NEW if "write" in kinds else []))


@pytest.mark.parametrize("kind", ["create", "write"])
def test_makers_at_the_same_time(kind: str, tmp_path: Path) -> None:
    """Of processes that make an index, one does, and all write into it."""
    folders = [tmp_path / str(number) for number in range(5 * ROUNDS)]
    said = at_once([kind] * 3, folders, lambda folder: None)
    for number, folder in enumerate(folders):
        store = PageStore.open(folder)
        assert store is not None
        if kind == "create":
            assert {lines[number] for lines in said} == {store.meta["by"]}
        assert ids(folder) == sorted(NEW if kind == "write" else NEW[:1])


def test_menders_at_the_same_time(tmp_path: Path) -> None:
    """Processes that mend an index at once, while others write, leave each row once."""

    def old(folder: Path) -> None:
        make(folder)
        without_key(folder, times=3)

    folders = [tmp_path / str(number) for number in range(ROUNDS)]
    at_once(["mend", "mend", "mend"], folders, old)
    for folder in folders:
        assert ids(folder) == OLD
    again = [tmp_path / f"again {number}" for number in range(ROUNDS)]
    at_once(["mend", "mend", "write"], again, old)
    for folder in again:
        assert set(ids(folder)) == {*OLD, *NEW}
        at = PageStore.open(folder)
        assert at is not None
        at.mend()
        assert ids(folder) == sorted(OLD + NEW)


def test_a_write_that_another_mends_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that were prepared for a table as it was before it was mended are written into the mended one."""
    make(tmp_path)
    with_old_texts(tmp_path, str)
    without_key(tmp_path, times=2)
    store = PageStore.open(tmp_path)
    assert store is not None
    commit = store._table.commit

    def late(change: Callable[[object], object]) -> None:
        other = PageStore.open(tmp_path)
        assert other is not None
        other.mend()
        commit(change)

    monkeypatch.setattr(store._table, "commit", late)
    store.write([{"id": "new", "document": "new", "page": 0, "vector": [1.0, 0.0], "text_version": 2}])
    assert ids(tmp_path) == ["new", *OLD]


def test_a_mender_that_is_killed(tmp_path: Path) -> None:
    """Every row is there at least once whenever it is killed, and the next one mends the rest."""
    make(tmp_path)
    without_key(tmp_path, times=400)
    code = f"{AT_ONCE.partition('from pathlib')[0]}\nfrom pathlib import Path\nmend(Path(sys.argv[1]))"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as process:
        store = PageStore.open(tmp_path)
        assert store is not None
        while len(store) == 400 * len(OLD):
            assert process.poll() is None
        process.kill()
    kept = Counter(ids(tmp_path))
    assert set(kept) == set(OLD)
    assert max(kept.values()) > 1
    store.mend()
    assert ids(tmp_path) == OLD


def test_an_index_that_is_copied_while_it_is_written(tmp_path: Path) -> None:
    """A copy has each row once, as some write left it, or it says what it lacks; and the index itself is whole."""
    make(tmp_path / "db")
    code = f"{AT_ONCE.partition('from pathlib')[0]}\nfrom pathlib import Path\n{WRITING}"
    whole = 0
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "db")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while process.poll() is None:
            with suppress(shutil.Error):  # a file went while it was copied, which the copier is told
                shutil.copytree(tmp_path / "db", tmp_path / "copy")
            with suppress(IndexStorageError):
                found = ids(tmp_path / "copy")
                assert set(OLD) <= set(found) <= {*OLD, *NEW}
                assert len(found) == len(set(found))
                assert len(found) % 10 == len(OLD)  # of whole writes
                whole += 1
            shutil.rmtree(tmp_path / "copy")
    assert whole
    assert ids(tmp_path / "db") == sorted(OLD + NEW)


ADDING = """
import sys
from nemovlm import Embedder, PageIndex
from nemovlm.index import run, upkeep
run._FLUSH_PAGES = 1
upkeep._LOOKUP_ROWS = upkeep._COMPONENTS = upkeep._BEHIND_ELSE = 1  # every index pays from the first page on
upkeep._BEHIND = {}
index = PageIndex(sys.argv[2], Embedder(base_url=sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(len(index.add(sys.argv[3]).failed))
"""


def test_two_processes_add_the_same_folder(served_vl: str, pdfs: Path, tmp_path: Path) -> None:
    """Each page is there once, in an index that they have to make, and a third one finds no page twice meanwhile."""
    for round_ in range(3):
        db = tmp_path / str(round_)
        command = [sys.executable, "-c", ADDING, served_vl, str(db), str(pdfs)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        reader = PageIndex(db, Embedder(base_url=served_vl))
        with subprocess.Popen(command, **pipes) as one, subprocess.Popen(command, **pipes) as other:  # type: ignore[call-overload]
            for process in (one, other):
                assert process.stdout.readline() == "ready\n"
            for process in (one, other):
                process.stdin.write("\n")
                process.stdin.flush()
            while one.poll() is None or other.poll() is None:
                found = [(hit.document, hit.page) for hit in reader.search("leave", 100)]
                assert len(found) == len(set(found)) <= 9
            assert (one.stdout.read(), other.stdout.read()) == ("0\n", "0\n")
        assert len(ids(db)) == len(set(ids(db))) == 9


def test_of_eight_processes_one_is_killed(served_vl: str, pdfs: Path, tmp_path: Path) -> None:
    """Eight add one folder to an index with all its indexes; the command finds each page there once, and adds none."""
    db = tmp_path / "db"
    command = [sys.executable, "-c", ADDING, served_vl, str(db), str(pdfs)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(8)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        while not PageStore.exists(db) or not ids(db):
            assert processes[0].poll() is None
        processes[0].kill()
        assert [process.communicate(timeout=120)[0] for process in processes[1:]] == ["0\n"] * 7
        assert processes[0].wait() == -signal.SIGKILL
    index = PageIndex(db, Embedder(base_url=served_vl))
    assert {made.kind for made in index.describe().indexes} == {"BTREE", "INVERTED", "IVF_RQ"}
    assert len(ids(db)) == len(set(ids(db))) == 9
    said = nemovlm_here("index", str(pdfs), "--db", str(db), "--base-url", served_vl)[1]
    assert "0 pages embedded, 9 already there" in said
    for mode in get_args(SearchMode):
        found = [(hit.document, hit.page) for hit in index.search("the staff takes leave", 100, mode=mode)]
        assert len(found) == len(set(found))
        assert mode == "text" or len(found) == 9


def test_two_commands_at_the_same_time(served_vl: str, pdfs: Path, tmp_path: Path) -> None:
    """Two `nemovlm index` of one folder into one new index both succeed, and each page is there once."""
    command = [*COMMAND, "index", str(pdfs), "--db", str(tmp_path / "db"), "--base-url", served_vl]
    with subprocess.Popen(command) as one, subprocess.Popen(command) as other:
        pass
    assert (one.returncode, other.returncode) == (0, 0)
    assert len(ids(tmp_path / "db")) == len(set(ids(tmp_path / "db"))) == 9
