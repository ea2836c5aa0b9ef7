"""A page that never ends, takes all memory or kills what renders it: it fails, and nothing else does."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import SimpleDirectoryReader

from langchain_nemovlm import NemoVLMPDFLoader
from llamaindex_nemovlm import NemoVLMPDFReader
from nemovlm import Embedder, PageIndex
from nemovlm.errors import ConfigurationError, NemoVLMError, PdfError
from nemovlm.pdf import count_pages, iter_pages, processes, read_pages, renderer
from tests.support.books import numbered
from tests.support.command import nemovlm_here
from tests.support.hostile import bomb, endless
from tests.support.reading import QUICK


def outcomes(source: Any, **options: Any) -> list[str]:
    """The text of each page, or its error."""
    return [str(page) if isinstance(page, PdfError) else page.text for page in read_pages(source, **options)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_page_that_takes_too_long_fails(workers: int) -> None:
    """After `page_timeout` the page is an error that says so, and the others come, wherever they stand."""
    began = time.monotonic()
    found = outcomes(endless(), pages=[1, 0, 1, 0, 1], name="x.pdf", page_timeout=1, workers=workers, tiling=QUICK)
    failed = "x.pdf page 1: the page cannot be read: that takes more than 1 s (page_timeout)"
    assert found == ["sound", failed, "sound", failed, "sound"]
    assert time.monotonic() - began < 20


def test_a_page_that_takes_too_much_memory_fails() -> None:
    """Beyond `page_memory` the page is an error that says so, and the others come."""
    found = outcomes(bomb(400), name="x.pdf", page_memory=150 * 2**20, tiling=QUICK)
    failed = "x.pdf page 1: the page cannot be read: that takes more than 150 MB of memory (page_memory)"
    assert found == [failed, "sound"]


def test_an_opening_that_takes_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of a page hold for the opening as well; then the PDF is an error."""
    hang = "from nemovlm.pdf import worker; worker._open = lambda *_: worker.time.sleep(3600); worker.main()"
    with monkeypatch.context() as patch:
        patch.setattr(processes, "_command", lambda: [sys.executable, "-c", hang])
        processes._end_all()
        with pytest.raises(PdfError, match=r"^x.pdf: the PDF cannot be opened: that takes more than 0.5 s"):
            next(iter_pages(numbered(1), name="x.pdf", page_timeout=0.5))
        with pytest.raises(PdfError, match="cannot be opened"):
            count_pages(numbered(1), page_timeout=0.5)
    assert count_pages(numbered(3), page_timeout=0.5) == 3


@pytest.mark.parametrize("option", ["page_timeout", "page_memory"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_bound_that_is_none_is_refused(option: str, value: float) -> None:
    """No bound at all is None, and nothing else."""
    with pytest.raises(ConfigurationError, match=option):
        next(read_pages(numbered(1), **{option: value}))  # type: ignore[arg-type]
    assert outcomes(numbered(1), **{option: None}) == ["number 0"]


def test_an_endless_page_holds_up_nobody_else() -> None:
    """Other documents are counted and read meanwhile, in other threads and in this one."""
    thread = threading.Thread(target=outcomes, args=[endless()], kwargs={"page_timeout": 6})
    thread.start()
    time.sleep(0.5)
    assert count_pages(numbered(7)) == 7
    assert outcomes(numbered(3), tiling=QUICK) == ["number 0", "number 1", "number 2"]
    assert thread.is_alive()
    thread.join()


CTRL_C = """
import sys, time
from nemovlm import iter_pages
print("begun", flush=True)
next(iter_pages(sys.argv[1], page_memory=None))
"""


def test_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    """Whoever does not want to wait for a page need not."""
    (tmp_path / "x.pdf").write_bytes(endless())
    command = [sys.executable, "-c", CTRL_C, str(tmp_path / "x.pdf")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        said = process.communicate(timeout=30)[1]
    assert time.monotonic() - began < 3
    assert said.rstrip().endswith("KeyboardInterrupt")


class Cycle:
    """Something that refers to itself, and has read the first page of a document."""

    def __init__(self, document: bytes, **options: Any) -> None:
        self.itself = self
        self.pages = iter_pages(document, tiling=QUICK, **options)
        next(self.pages)


@pytest.mark.parametrize("where", ["in processes", "here"])
def test_a_garbage_collection_may_close_a_document_at_any_time(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the thread that collects has another one in hand: it waits for no lock of its own."""
    if where == "here":
        monkeypatch.setattr(processes, "_command", lambda: ["/no/such/python"])
        processes._end_all()
    document = numbered(3)
    done = threading.Event()
    collected = []

    def collecting(function: Callable[..., Any]) -> Callable[..., Any]:
        def collect(*arguments: Any) -> Any:
            collected.append(gc.collect())
            return function(*arguments)

        return collect

    owner, name = (renderer, "_paint") if where == "here" else (processes.RenderingProcess, "_tell")
    monkeypatch.setattr(owner, name, collecting(getattr(owner, name)))  # type: ignore[arg-type]

    def work() -> None:
        for _ in range(3):
            Cycle(document)
            assert len(outcomes(document, pages=[0], tiling=QUICK)) == 1
        done.set()

    gc.collect()
    gc.disable()
    try:
        threading.Thread(target=work, daemon=True).start()
        assert done.wait(60)
    finally:
        gc.enable()
        gc.collect()
    assert sum(map(bool, collected)) >= 3


def test_a_signal_may_close_a_document_at_any_time() -> None:
    """A handler that closes what is open waits for nothing that the code it interrupts has."""
    document = numbered(3)
    open_streams: list[Any] = []

    def close(*_: object) -> None:
        while open_streams:
            open_streams.pop().close()

    before = signal.signal(signal.SIGALRM, close)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        for _ in range(20):
            stream = read_pages(document, tiling=QUICK)
            next(stream)
            open_streams.append(stream)
            assert len(outcomes(document, tiling=QUICK)) == 3
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_half_read_document_is_read_on_by_parent_and_forked_child() -> None:
    """Neither takes an answer from the other."""
    stream = read_pages(numbered(40), tiling=QUICK)
    first = next(stream)
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            os.write(writing, "\n".join(page.text for page in stream).encode())  # type: ignore[union-attr]
        finally:
            os._exit(0)
    os.close(writing)
    rest = [page.text for page in stream]  # type: ignore[union-attr]
    with os.fdopen(reading) as pipe:
        told = pipe.read().split("\n")
    os.waitpid(child, 0)
    assert first.text == "number 0"  # type: ignore[union-attr]
    assert rest == told == [f"number {number}" for number in range(1, 40)]


# Every door


BOUNDS = {"page_timeout": 3.0, "page_memory": 150 * 2**20}
CRASH = """
import os
from nemovlm.pdf import worker
really_open = worker._open

def open(document, fonts):
    if document.file.name.endswith("crash.pdf"):
        os.kill(os.getpid(), 11)
    return really_open(document, fonts)

worker._open = open
worker.main()
"""
BAD = ("bomb.pdf", "broken.pdf", "crash.pdf", "endless.pdf")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hundred good PDFs, of one page each, and among them one that hangs, a bomb, one that is broken and a crash."""
    folder = tmp_path / "library"
    folder.mkdir()
    for number in range(100):
        (folder / f"{'abcdefghij'[number % 10]}{number}.pdf").write_bytes(numbered(1))
    for name, content in zip(BAD, (bomb(400), b"%PDF-1.7 and no more", numbered(1), endless()), strict=True):
        (folder / name).write_bytes(content)
    monkeypatch.setattr(processes, "_command", lambda: [sys.executable, "-c", CRASH])
    processes._end_all()
    return folder


def through_iter_pages(library: Path, _: Path) -> tuple[list[str], list[str]]:
    pages, errors = [], []
    for path in sorted(library.iterdir()):
        for result in read_pages(path, tiling=QUICK, **BOUNDS):  # type: ignore[arg-type]
            (errors if isinstance(result, PdfError) else pages).append(result)
    return [page.source for page in pages], list(map(str, errors))


def through_langchain(library: Path, _: Path) -> tuple[list[str], list[str]]:
    errors: list[NemoVLMError] = []
    documents = NemoVLMPDFLoader(library, on_error=errors.append, dpi=20, **BOUNDS).load()
    return [document.metadata["source"] for document in documents], list(map(str, errors))


def through_llamaindex(library: Path, _: Path) -> tuple[list[str], list[str]]:
    reader = NemoVLMPDFReader(on_error="skip", images=False, dpi=20, **BOUNDS)
    documents = SimpleDirectoryReader(library, file_extractor={".pdf": reader}).load_data()
    return [document.metadata["file_path"] for document in documents], []


def through_the_index(library: Path, model: Path) -> tuple[list[str], list[str]]:
    index = PageIndex(library.parent / "db", Embedder(model))
    report = index.add(library, **BOUNDS)  # type: ignore[arg-type]
    return list(index.documents()), list(map(str, report.failed))


def through_the_command_line(library: Path, model: Path) -> tuple[list[str], list[str]]:
    db, megabytes = library.parent / "db", BOUNDS["page_memory"] / 2**20
    bounds = ("--page-timeout", BOUNDS["page_timeout"], "--page-memory", megabytes)
    _, said = nemovlm_here("index", library, "--db", db, "--model", model, *bounds, code=3)
    return list(PageIndex(db).documents()), [line for line in said.splitlines() if "left out: " in line]


@pytest.mark.parametrize(
    "door",
    [through_iter_pages, through_langchain, through_llamaindex, through_the_index, through_the_command_line],
    ids=["iter_pages", "LangChain", "LlamaIndex", "PageIndex", "command line"],
)
def test_bad_files_among_good_ones(
    door: Callable[[Path, Path], tuple[list[str], list[str]]],
    library: Path,
    text_folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Through every door all good documents come, and each bad page or document is reported once, in bounded time."""
    began = time.monotonic()
    there, reported = door(library, text_folder)
    seconds = time.monotonic() - began
    reported = reported or [message for message in caplog.messages if message.startswith("left out: ")]
    # The pages of `bomb.pdf` and `endless.pdf` that are sound are there as well.
    assert sorted(Path(name).name for name in there) == sorted(
        path.name for path in library.iterdir() if path.name not in {"broken.pdf", "crash.pdf"}
    )
    assert [next(name for name in BAD if name in error) for error in sorted(reported)] == list(BAD)
    assert seconds < 60
