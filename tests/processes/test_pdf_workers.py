"""Pages of a PDF rendered in other processes: the same pages in the same order, whatever becomes of the processes."""

import itertools
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
from reportlab.lib.pdfencrypt import StandardEncryption

from nemovlm.errors import PdfPageError
from nemovlm.models.tiling import Tiling
from nemovlm.pdf import Page, iter_pages, processes, read_pages, workers
from nemovlm.threads import wait
from tests.support.books import box, numbered, write
from tests.support.reading import DAMAGE, QUICK, noted, read_all


@pytest.fixture(scope="module")
def document() -> bytes:
    """Twelve pages."""
    return numbered(12)


def in_processes(source: Any, **options: Any) -> Iterator[Page]:
    return iter_pages(source, workers=2, **options)


def test_processes_give_the_same_pages() -> None:
    """Two workers give the pixels and facts of one, in the order asked for: errors and repeated pages too."""
    small = [(box(0, 0, 200 + 40 * n, 300), f"0 0 {20 * n} 90 re f") for n in range(6)]
    wanted = [5, 0, 0, 99, 3, -1, 1, 4, 2, 5]
    outcomes: list[list[Any]] = []
    for count in (1, 2):
        seen: list[Any] = []
        report = lambda error, seen=seen: seen.append((type(error), str(error), error.page))  # noqa: E731
        for page in iter_pages(write(*small), pages=wanted, workers=count, on_error=report):
            seen.append((page.sha256, page.image.size, page.index, page.label, page.total, page.width, page.dpi))
        outcomes.append(seen)
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0]) == len(wanted)


def test_processes_raise_in_turn(document: bytes) -> None:
    """The pages before a failed one come first, and then its error."""
    stream = in_processes(document, pages=[0, 1, 99, 2], tiling=QUICK)
    assert [next(stream).index, next(stream).index] == [0, 1]
    with pytest.raises(PdfPageError, match="page 100"):
        next(stream)


def test_processes_open_encrypted_files(tmp_path: Path) -> None:
    """The password goes along, for a file as for bytes."""
    data = numbered(3, encrypt=StandardEncryption("user", ownerPassword="owner", strength=128))
    (tmp_path / "a.pdf").write_bytes(data)
    for source in (data, tmp_path / "a.pdf"):
        pages = in_processes(source, password="user", tiling=QUICK)
        assert [page.text for page in pages] == ["number 0", "number 1", "number 2"]


def test_processes_do_not_run_away(document: bytes) -> None:
    """Nothing is asked for before it is wanted, and then a few pages ahead of the reader, however many there are."""
    asked: list[int] = []
    stream = in_processes(document, pages=noted(itertools.cycle(range(12)), asked), tiling=QUICK)
    assert asked == []
    assert [page.index for page in itertools.islice(stream, 20)] == [n % 12 for n in range(20)]
    assert len(asked) < 40
    stream.close()  # type: ignore[attr-defined]


# The processes


@pytest.fixture(autouse=True)
def no_processes() -> Iterator[None]:
    """Every test begins without a process, and ends all of its own."""
    processes._end_all()  # those of other files, which would be taken first
    yield
    processes._end_all()
    assert psutil.wait_procs(running(), 10)[1] == []
    processes._idle.clear()


def running() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has ended
            found += [child] if "nemovlm.pdf" in " ".join(child.cmdline()) else []
    return found


def start_one() -> psutil.Process:
    """Start a process, and wait until it can render: the next stream takes it."""
    process = processes.take_process()
    wait(process._ready)
    processes.give_back([process])
    return psutil.Process(process._process.pid)


def let_run(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have processes run `code`, with the worker as `worker`, before they begin."""
    program = f"from nemovlm.pdf import worker; {code}; worker.main()"
    monkeypatch.setattr(processes, "_command", lambda: [sys.executable, "-c", program])


def answering(expression: str) -> str:
    """Return code that has workers render what an expression of `self`, `page` and the real `render` gives."""
    return f"render = worker.Worker._render; worker.Worker._render = lambda self, pdf, page: {expression}"


def numbers(pages: Iterable[Page]) -> list[str]:
    return [page.text for page in pages]


ALL = [f"number {number}" for number in range(12)]


def test_a_process_is_kept_for_the_next_document(document: bytes, tmp_path: Path) -> None:
    """It is started once, however many documents there are, and reads each of them."""
    process = start_one()
    other = tmp_path / "other.pdf"
    other.write_bytes(numbered(20))
    for _ in range(3):
        assert numbers(iter_pages(document, tiling=QUICK)) == ALL
        assert numbers(iter_pages(other, tiling=QUICK)) == [f"number {number}" for number in range(20)]
    assert running() == [process]


@pytest.mark.parametrize("ending", ["close", "del"])
def test_a_process_at_work_for_nobody_is_killed(ending: str, monkeypatch: pytest.MonkeyPatch, document: bytes) -> None:
    """A page that takes for ever holds up neither the one who reads no more, nor the next document."""
    with monkeypatch.context() as patch:
        let_run(patch, answering("render(self, pdf, page) if page == 20 else worker.time.sleep(3600)"))
        process = start_one()
    stream = read_pages(document, pages=[20, *range(12)], tiling=QUICK)
    assert isinstance(next(stream), PdfPageError)
    if ending == "close":
        stream.close()
    del stream
    process.wait(10)
    assert numbers(in_processes(document, tiling=QUICK)) == ALL


def test_pixels_do_not_lie_in_dev_shm(document: bytes) -> None:
    """A container has 64 MB there, and a page that does not fit would end the process."""

    def mapped() -> set[str]:
        return {place.path for place in psutil.Process().memory_maps() if place.path.startswith("/dev/shm/")}

    before = mapped()
    start_one()
    pages = in_processes(document)
    next(pages)
    after = mapped()
    list(pages)
    assert after <= before


def test_without_files_of_memory_there_are_files_on_disk(
    document: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where a sandbox has no memfd, pixels come over in a temporary file, which is gone from its folder at once."""
    monkeypatch.setattr(os, "memfd_create", Mock(side_effect=OSError))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    start_one()
    assert numbers(in_processes(document, tiling=QUICK)) == ALL
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_pixels_is_no_end(document: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no more memory is to be had that both see, pixels come through the pipe."""
    expected = [page.sha256 for page in in_processes(document, tiling=QUICK)]
    processes._end_all()
    let_run(monkeypatch, "worker.SharedFile.take = lambda *_: worker.os.stat('/no/such/file')")
    assert [page.sha256 for page in in_processes(document, tiling=QUICK)] == expected


# Processes that die


@pytest.mark.parametrize("idle", [False, True])
def test_a_process_that_dies_is_replaced(idle: bool) -> None:
    """All pages come, whether a process was at work when it was killed, or had nothing to do."""
    process = start_one()
    stream = in_processes(numbered(40), tiling=QUICK)
    first = [next(stream) for _ in range(2 if idle else 1)]
    if not idle:
        process.suspend()
    process.kill()
    process.wait(10)
    assert numbers([*first, *stream]) == [f"number {number}" for number in range(40)]


KILL = "worker.os.kill(worker.os.getpid(), 11)"


def test_a_page_that_kills_is_an_error_of_its_own(document: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page at which two processes died is a PdfPageError with what killed them; all others come."""
    let_run(monkeypatch, answering(f"{KILL} if page in (2, 4) else render(self, pdf, page)"))
    start_one()
    errors: list[Any] = []
    pages = in_processes(document, pages=range(6), on_error=errors.append, name="x.pdf", tiling=QUICK)
    assert [page.index for page in pages] == [0, 1, 3, 5]
    assert [error.page for error in errors] == [2, 4]
    assert str(errors[0]) == (
        "x.pdf page 3: the page cannot be read (the process that was at it died: killed by SIGSEGV)"
    )


def test_a_document_that_kills_is_an_error_of_its_own(document: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What PDFium cannot even open without dying is a PdfError, and the next document comes."""
    let_run(monkeypatch, f"worker._open = lambda *_: {KILL}")
    (error,) = read_pages(document, name="x.pdf")
    assert str(error) == "x.pdf: the PDF cannot be opened (the process that was at it died: killed by SIGSEGV)"


def test_a_page_at_which_one_process_died_comes(
    document: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """That may have been for want of memory: the page is tried again, in another process."""
    died = tmp_path / "died"
    first = f"not worker.os.path.exists({str(died)!r}) and not worker.os.mkdir({str(died)!r})"
    let_run(monkeypatch, answering(f"{KILL} if {first} else render(self, pdf, page)"))
    start_one()
    assert numbers(in_processes(document, tiling=QUICK)) == ALL
    assert died.exists()


OWN_TILING = """
from tests.support.books import numbered
from nemovlm import iter_pages
print(sum(1 for _ in iter_pages(numbered(2), tiling=Own(tile=64))))
"""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["/no/such/python"], "no other process can be started to render it (No such file or directory)"),
        ([sys.executable, "-c", "import no_such_module"], "to render it (it ended before it began)"),
        ([sys.executable, "-c", "print('no pickle')"], "to render it (it ended before it began)"),
    ],
    ids=["missing", "fails", "another program"],
)
def test_where_no_process_can_be_had_pages_are_rendered_here(
    command: list[str], said: str, document: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A sandbox, or a program that has no Python to start, gets its pages all the same."""
    monkeypatch.setattr(processes, "_command", lambda: command)
    workers.warn_once.cache_clear()
    for _ in range(2):
        assert numbers(in_processes(document, tiling=QUICK)) == ALL
    (message,) = caplog.messages
    assert said in message


def test_a_tiling_that_cannot_be_sent_is_used_here(document: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A class of somebody else's may be known in no other process: of a function, or of the main module."""

    class Own(Tiling):
        pass

    workers.warn_once.cache_clear()
    assert numbers(iter_pages(document, tiling=Own(tile=64))) == ALL
    assert "a page that takes for ever cannot be given up" in caplog.text
    program = "from nemovlm.models.tiling import Tiling\nclass Own(Tiling): pass\n" + OWN_TILING
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "2\n"
    assert "it can have neither the file nor the tiling" in done.stderr


def test_a_process_ends_when_it_has_nothing_to_do(document: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some time it gives its memory back, and the next document has another."""
    let_run(monkeypatch, "worker._IDLE_SECONDS = 0.1; worker._POLL_SECONDS = 0.05")
    start_one().wait(10)
    assert numbers(in_processes(document, tiling=QUICK)) == ALL


PARENT = """
import os, sys
from nemovlm.pdf import processes
from nemovlm.threads import wait

if "busy" in sys.argv:
    hang = "from nemovlm.pdf import worker; worker.pickle.load = lambda _: worker.time.sleep(3600); worker.main()"
    processes._command = lambda: [sys.executable, "-c", hang]
process = processes.take_process()
wait(process._ready)
print(process._process.pid, flush=True)
if "killed" in sys.argv:
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("end", ["ends", "killed"])
@pytest.mark.parametrize("work", ["idle", "busy"])
def test_a_process_ends_with_the_one_that_it_works_for(end: str, work: str) -> None:
    """Also when that is killed, and when it is at a page that never ends."""
    command = [sys.executable, "-c", PARENT, end, work]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(said)).wait(10)


# Other people's programs


SCRIPT = """
print("begun", flush=True)
from nemovlm import iter_pages
print("pages", sum(1 for _ in iter_pages("x.pdf", workers=2)), flush=True)
"""


@pytest.mark.parametrize("way", ["script", "pipe", "module", "interactive"])
def test_a_program_without_a_guard_is_run_once(way: str, tmp_path: Path) -> None:
    """No process runs the main module again, so it needs no `if __name__ == "__main__"`."""
    (tmp_path / "x.pdf").write_bytes(numbered(80))
    (tmp_path / "program.py").write_text(SCRIPT)
    arguments = {"script": ["program.py"], "pipe": ["-"], "module": ["-m", "program"], "interactive": ["-i", "-q"]}[way]
    done = subprocess.run(
        [sys.executable, *arguments],
        input=SCRIPT,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert done.stdout.split("\n")[:2] == ["begun", "pages 80"]
    assert "Error" not in done.stderr


def test_a_process_does_not_import_from_where_it_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may hold files that are called like modules."""
    (tmp_path / "pickle.py").write_text("raise SystemExit('this is no pickle')")
    monkeypatch.chdir(tmp_path)
    assert start_one().is_running()


def count_in_daemon(path: str) -> int:
    return sum(1 for _ in iter_pages(path, workers=2))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_daemonic_processes_have_workers(method: str, tmp_path: Path) -> None:
    """A worker of a multiprocessing pool may have no children of multiprocessing, but pages come there as well."""
    (tmp_path / "x.pdf").write_bytes(numbered(12))
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(count_in_daemon, [str(tmp_path / "x.pdf")] * 3) == [12] * 3


def test_threads_have_processes_of_their_own(document: bytes) -> None:
    """Several documents that are read at once do not wait for each other."""
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: numbers(in_processes(document, tiling=QUICK)), range(8))) == [ALL] * 8


def test_a_file_that_takes_the_place_of_another_is_not_read(tmp_path: Path) -> None:
    """All pages are of the document that was opened, though a process opens its file later."""
    path = tmp_path / "x.pdf"
    path.write_bytes(numbered(12))
    start_one()

    def wanted() -> Iterator[int]:  # asked for after the document was opened here, and before it is opened there
        (tmp_path / "new.pdf").write_bytes(numbered(9))
        (tmp_path / "new.pdf").replace(path)
        yield from range(12)

    assert numbers(in_processes(path, pages=wanted(), tiling=QUICK)) == ALL


@pytest.mark.parametrize("damage", list(DAMAGE)[::16])
def test_damage_is_the_same_in_processes(damage: str) -> None:
    """Workers find in a broken file what one process finds."""
    found = [
        [item.sha256 if isinstance(item, Page) else str(item) for item in result]
        if isinstance(result, list)
        else str(result)
        for result in (read_all(DAMAGE[damage]()), read_all(DAMAGE[damage](), workers=2))
    ]
    assert found[0] == found[1]
