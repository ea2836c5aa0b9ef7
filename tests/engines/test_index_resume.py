"""Adding again: what is known of documents decides what is done, and nothing else is read, rendered or embedded."""

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from nemovlm import Embedder, PageIndex
from nemovlm.errors import IndexStorageError, InputError
from nemovlm.index import run, upkeep
from nemovlm.index.store import PageStore
from tests.support.books import book, numbered
from tests.support.old_index import ids, without_key


def age(*paths: Path) -> None:
    """Make files as old as files are that nobody is writing just now."""
    for path in paths:
        for file in [path] if path.is_file() else path.rglob("*.pdf"):
            os.utime(file, (time.time() - 100, time.time() - 100))


def rows(folder: Path, *columns: str) -> list[dict[str, Any]]:
    store = PageStore.open(folder)
    assert store is not None
    return store.rows(columns)


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts how often files are opened, and read."""
    counter: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        function = getattr(run, name)

        def count(path: Path, **options: Any) -> Any:
            counter[name] += 1
            return function(path, **options)

        return count

    for name in ("count_pages", "read_pages"):
        monkeypatch.setattr(run, name, counted(name))
    return counter


def test_files_that_are_as_they_were_are_not_opened(
    vl: Embedder, pdfs: Path, tmp_path: Path, looked_at: Counter[str]
) -> None:
    """By size and date, in this process or another; `verify` opens them, and a new date has them read once."""
    age(pdfs)
    PageIndex(tmp_path / "db", vl).add(pdfs)
    looked_at.clear()
    report = PageIndex(tmp_path / "db", vl).add(pdfs)
    assert (report.documents, report.unchanged, looked_at) == (2, 9, {})
    report = PageIndex(tmp_path / "db", vl).add(pdfs, verify=True)
    assert (report.unchanged, looked_at) == (9, {"count_pages": 2})
    looked_at.clear()
    os.utime(pdfs / "staff-handbook.pdf", (1e9, 1e9))
    for _ in range(2):
        report = PageIndex(tmp_path / "db", vl).add(pdfs)
        assert (report.unchanged, report.embedded, looked_at) == (9, 0, {"count_pages": 1})


def test_a_file_that_was_written_just_now_is_read_again(vl: Embedder, tmp_path: Path) -> None:
    """Its date may be that of two contents; so a change within the same tick of the clock is not overlooked."""
    pdf = tmp_path / "a.pdf"
    pdf.write_bytes(book([("red", "one")]))
    now = os.stat(pdf).st_mtime_ns
    index = PageIndex(tmp_path / "db", vl)
    index.add(pdf, modality="text")
    pdf.write_bytes(book([("red", "two")]))
    os.utime(pdf, ns=(now, now))
    index.add(pdf, modality="text")
    assert [row["text"] for row in rows(tmp_path / "db", "text")] == ["two"]


def test_a_change_that_neither_size_nor_date_shows(vl: Embedder, tmp_path: Path) -> None:
    """It is taken for none, until `verify` reads the file."""
    pdf = tmp_path / "a.pdf"
    index = PageIndex(tmp_path / "db", vl)
    reports = []
    for text, verify in (("one", False), ("two", False), ("two", True)):
        pdf.write_bytes(book([("red", text)]).ljust(4000))
        os.utime(pdf, (1e9, 1e9))
        report = index.add(pdf, modality="text", verify=verify)
        reports.append((report.embedded, report.unchanged))
    assert reports == [(1, 0), (0, 1), (1, 0)]
    assert [row["text"] for row in rows(tmp_path / "db", "text")] == ["two"]


def test_moved_documents_are_not_rendered(
    vl: Embedder, pdfs: Path, tmp_path: Path, looked_at: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of a file with the same content are copied as they are, but for what is said of the document."""
    monkeypatch.setattr("nemovlm.index.store._COPIED", 2)
    index = PageIndex(tmp_path / "db", vl)
    index.add(pdfs, metadata={"team": "old"})
    before = pages_of(tmp_path / "db", "staff-handbook")
    shutil.move(pdfs / "staff-handbook.pdf", pdfs / "moved.pdf")
    looked_at.clear()
    report = index.add(pdfs, prune=True)
    assert (report.reused, report.embedded, report.pruned, looked_at["read_pages"]) == (5, 0, 5, 0)
    assert "5 of documents that are gone taken out" in str(report)
    assert pages_of(tmp_path / "db", "moved") == before
    assert {row["metadata_team"] for row in rows(tmp_path / "db", "metadata_team")} == {"old", None}
    assert [hit.metadata for hit in index.search("leave", 9, where={"path": str(pdfs / "moved.pdf")})] == [{}] * 5
    assert len(index) == 9


def pages_of(folder: Path, name: str) -> list[tuple[Any, ...]]:
    columns = ("page", "text", "vector", "thumbnail", "label", "content")
    found = [row for row in rows(folder, "document", *columns) if row["document"].endswith(f"/{name}.pdf")]
    return sorted(tuple(row[column] for column in columns) for row in found)


def test_what_is_gone_is_taken_out_if_that_is_wanted(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """Of the folders that were named alone; never by default, nor where a folder is not there at all."""
    other = tmp_path / "other"
    other.mkdir()
    for name in ("a.pdf", "b.pdf"):
        (other / name).write_bytes(numbered(1))
    (pdfs / "deep").mkdir()
    (pdfs / "deep" / "c.pdf").write_bytes(numbered(2))
    index = PageIndex(tmp_path / "db", vl)
    index.add([pdfs, other], modality="text")
    (other / "a.pdf").unlink()
    shutil.rmtree(pdfs / "deep")
    (pdfs / "archive-bulletin.pdf").unlink()
    pages = len(index)
    assert (index.add(pdfs).pruned, len(index)) == (0, pages)
    assert index.add(pdfs / "staff-handbook.pdf", prune=True).pruned == 0
    assert index.add(pdfs, prune=True).pruned == pages - len(index) > 0
    assert {Path(name).name for name in index.documents()} == {"staff-handbook.pdf", "a.pdf", "b.pdf"}
    shutil.rmtree(other)
    report = index.add([other, pdfs], prune=True)
    assert (report.pruned, len(report.failed)) == (0, 1)
    assert {Path(name).name for name in index.documents()} == {"staff-handbook.pdf", "a.pdf", "b.pdf"}


def said(folder: Path) -> dict[str, Any]:
    index = PageIndex(folder)
    return {Path(hit.document).name: dict(hit.metadata) for hit in index.search("number", 100, mode="text")}


def test_what_is_said_of_documents(vl: Embedder, tmp_path: Path, looked_at: Counter[str]) -> None:
    """It is kept until something else is said; then no page is read or embedded again, and values that go are gone."""
    for name in ("a.pdf", "b.pdf"):
        (tmp_path / name).write_bytes(numbered(2))
    age(tmp_path)
    index = PageIndex(tmp_path / "db", vl)
    index.add(tmp_path / "a.pdf", modality="text", metadata={"year": 2024, "draft": True})
    index.add(tmp_path / "b.pdf", modality="text")
    assert said(tmp_path / "db") == {"a.pdf": {"year": 2024, "draft": True}, "b.pdf": {}}
    looked_at.clear()
    report = index.add(tmp_path / "a.pdf", modality="text")
    assert (said(tmp_path / "db")["a.pdf"], report.described, looked_at) == ({"year": 2024, "draft": True}, 0, {})
    report = index.add(
        tmp_path, modality="text", metadata=lambda path: {"name": path.stem, "weight": len(path.stem) / 2}
    )
    assert said(tmp_path / "db") == {name: {"name": name[0], "weight": 0.5} for name in ("a.pdf", "b.pdf")}
    assert (report.described, report.embedded, looked_at["read_pages"]) == (4, 0, 0)
    assert index.add(tmp_path, modality="text", metadata=lambda path: None).described == 0
    (tmp_path / "a.pdf").write_bytes(numbered(3))
    index.add(tmp_path / "a.pdf", modality="text")
    assert said(tmp_path / "db")["a.pdf"] == {"name": "a", "weight": 0.5}  # a new version of the same document
    index.add(tmp_path / "a.pdf", modality="text", metadata={})
    assert said(tmp_path / "db")["a.pdf"] == {}


def test_what_cannot_be_said(vl: Embedder, tmp_path: Path) -> None:
    """Of all documents, it is an error and nothing is done; of one, that one is reported and the others are indexed."""
    for name in ("a.pdf", "b.pdf"):
        (tmp_path / name).write_bytes(numbered(1))
    index = PageIndex(tmp_path / "db", vl)
    for bad in ({"a b": 1}, {"page": 1}, {"year": [2024]}):
        with pytest.raises(InputError):
            index.add(tmp_path, modality="text", metadata=bad)
    assert len(index) == 0
    years: dict[str, Any] = {"a.pdf": 2024, "b.pdf": "2025"}
    report = index.add(tmp_path, modality="text", metadata=lambda path: {"year": years[path.name]})
    assert [Path(str(error.item)).name for error in report.failed] == ["b.pdf"]
    assert "metadata 'year' is int in this index, and str here" in str(report.failed[0])
    assert said(tmp_path / "db") == {"a.pdf": {"year": 2024}}
    with pytest.raises(InputError, match="is int in this index"):
        index.add(tmp_path / "b.pdf", modality="text", metadata={"year": "2025"})
    report = index.add(
        tmp_path, modality="text", metadata=lambda path: {"year": 1, "1": 2} if path.stem == "b" else None
    )
    assert [type(error) for error in report.failed] == [InputError]
    assert index.add(tmp_path / "b.pdf", modality="text", metadata={"weight": 1.5}).reused == 1
    assert index.add(tmp_path / "b.pdf", modality="text", metadata={"weight": 2}).described == 1  # a whole float
    assert said(tmp_path / "db")["b.pdf"] == {"weight": 2.0}


def test_rows_that_are_there_twice_are_mended_by_adding(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """Whoever doubled them, and in a table of this format as well."""
    age(pdfs)
    PageIndex(tmp_path / "db", vl).add(pdfs)
    once = ids(tmp_path / "db")
    without_key(tmp_path / "db", times=2)
    store = PageStore.open(tmp_path / "db")
    assert store is not None
    store._table.commit(lambda table: table.update_config({"nemovlm.format": "2"}))
    assert PageIndex(tmp_path / "db", vl).add(pdfs).unchanged == 9
    assert ids(tmp_path / "db") == once


def test_a_full_disk_while_an_index_is_made(
    vl: Embedder, pdfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optimizing says that the disk is full; every page is still there and found, and later it is done."""
    monkeypatch.setattr(upkeep, "_LOOKUP_ROWS", 1)
    index = PageIndex(tmp_path / "db", vl)
    index.add(pdfs)
    index.add(pdfs / "staff-handbook.pdf", modality="text")
    build = upkeep._extend
    monkeypatch.setattr(upkeep, "_extend", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(IndexStorageError, match=r"No space left on device.*what was indexed before is still there"):
        index.optimize()
    assert len(index.search("leave", 100)) == len(index) == 9
    monkeypatch.setattr(upkeep, "_extend", build)
    assert {state.behind for state in index.optimize().indexes} == {0}


class Documents(RuleBasedStateMachine):
    """A folder of PDFs and an index of it, beside what it should hold: {name: (texts, metadata)}."""

    embedder: Embedder
    factory: pytest.TempPathFactory

    @initialize()
    def begin(self) -> None:
        self.base = self.factory.mktemp("model")
        self.folder = self.base / "pdfs"
        self.folder.mkdir()
        (self.folder / "always.pdf").write_bytes(book([("red", "always")]))
        self.files = {"always": ["always"]}
        self.indexed: dict[str, tuple[list[str], dict[str, Any]]] = {}
        self.index = PageIndex(self.base / "db", self.embedder)

    @rule(name=st.sampled_from("abc"), texts=st.lists(st.sampled_from(["one", "two", "three"]), min_size=1, max_size=3))
    def write(self, name: str, texts: list[str]) -> None:
        path = self.folder / f"{name}.pdf"
        path.write_bytes(book([("red", f"{text} {n}") for n, text in enumerate(texts)]))
        if len(texts) > 1:
            age(path)
        self.files[name] = [f"{text} {n}" for n, text in enumerate(texts)]

    @rule(name=st.sampled_from("abc"), other=st.sampled_from("abc"))
    def move(self, name: str, other: str) -> None:
        if name in self.files and name != other:
            (self.folder / f"{name}.pdf").replace(self.folder / f"{other}.pdf")
            self.files[other] = self.files.pop(name)

    @rule(name=st.sampled_from("abc"))
    def remove(self, name: str) -> None:
        if self.files.pop(name, None):
            (self.folder / f"{name}.pdf").unlink()

    @rule(
        metadata=st.none() | st.dictionaries(st.sampled_from(["x", "y"]), st.integers(0, 1)),
        prune=st.booleans(),
        verify=st.booleans(),
    )
    def add(self, metadata: dict[str, Any] | None, prune: bool, verify: bool) -> None:
        report = self.index.add(self.folder, modality="text", metadata=metadata, prune=prune, verify=verify)
        assert report.failed == []
        self._expect(metadata, prune)

    @rule(prune=st.booleans())
    def add_at_once(self, prune: bool) -> None:
        together = threading.Barrier(2)

        def add(_: int) -> int:
            index = PageIndex(self.base / "db", self.embedder)
            together.wait(20)
            return len(index.add(self.folder, modality="text", prune=prune).failed)

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(add, range(2))) == [0, 0]
        self._expect(None, prune)

    def _expect(self, metadata: dict[str, Any] | None, prune: bool) -> None:
        if prune:
            self.indexed = {name: its for name, its in self.indexed.items() if name in self.files}
        for name, texts in self.files.items():
            before = self.indexed.get(name, ([], {}))[1]
            self.indexed[name] = (texts, before if metadata is None else metadata)

    @rule(name=st.sampled_from("abc"))
    def delete(self, name: str) -> None:
        pages = len(self.indexed.pop(name, ([], {}))[0])
        assert self.index.delete(self.folder / f"{name}.pdf") == pages

    @rule()
    def optimize(self) -> None:
        if PageStore.exists(self.base / "db"):
            self.index.optimize()

    @rule()
    def reopen(self) -> None:
        self.index = PageIndex(self.base / "db", self.embedder)

    @invariant()
    def holds_what_it_should(self) -> None:
        if not hasattr(self, "index"):
            return
        pages = sum(len(texts) for texts, _ in self.indexed.values())
        assert len(self.index) == pages
        for mode in ("vector", "hybrid"):
            hits = self.index.search("one", 100, mode=mode)  # type: ignore[arg-type]
            assert len(hits) == pages
            found: dict[str, dict[int, str]] = {}
            for hit in hits:
                found.setdefault(Path(hit.document).stem, {})[hit.page] = hit.text
                assert dict(hit.metadata) == self.indexed[Path(hit.document).stem][1]
            assert {name: [texts[page] for page in sorted(texts)] for name, texts in found.items()} == {
                name: texts for name, (texts, _) in self.indexed.items()
            }


def test_an_index_holds_what_a_model_of_it_holds(
    vl: Embedder, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any sequence of changing, moving and removing files, adding alone or at once, pruning, optimizing."""
    monkeypatch.setattr(upkeep, "_LOOKUP_ROWS", 3)
    monkeypatch.setattr(upkeep, "_BEHIND_ELSE", 1)
    monkeypatch.setattr(upkeep, "_BEHIND", {"text": 1})
    monkeypatch.setattr(upkeep, "_FRAGMENTS", 4)
    Documents.embedder, Documents.factory = vl, tmp_path_factory
    run_state_machine_as_test(Documents, settings=settings(max_examples=15, stateful_step_count=15, deadline=None))
