"""Texts of pages that an earlier version of the program has read: they are known as such, and read anew."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest

from nemovlm import Embedder, Page, PageIndex
from nemovlm.errors import NemoVLMError, PdfPageError
from nemovlm.index import AddReport, run
from nemovlm.index.store import PageStore
from nemovlm.inputs import Modality
from nemovlm.pdf import TEXT_VERSION, iter_pages
from tests.support.books import numbered
from tests.support.old_index import with_old_texts

PAGES = 5


@pytest.fixture
def pdf(tmp_path: Path) -> Path:
    """Five pages."""
    (tmp_path / "a.pdf").write_bytes(numbered(PAGES))
    return tmp_path / "a.pdf"


def stuck(text: str) -> str:
    """What an earlier version made of the text of two of the pages."""
    return text.replace(" ", "") if text[-1] in "13" else text


def rows(folder: Path) -> list[dict[str, Any]]:
    store = PageStore.open(folder)
    assert store is not None
    names = {"page", "text", "text_version", "modality", "vector", "content", "thumbnail"}
    return sorted(store.rows([*names & columns(folder)]), key=lambda row: row["page"])


def columns(folder: Path) -> set[str]:
    return set(lance.dataset(folder / "pages.lance").schema.names)


def vectors(folder: Path) -> np.ndarray[Any, Any]:
    return np.array([row["vector"] for row in rows(folder)])


@pytest.fixture
def index(vl: Embedder, pdf: Path, tmp_path: Path) -> Callable[[Modality], PageIndex]:
    """Make an index as an earlier version left it: with its texts, and the vectors that they gave."""

    def make(modality: Modality) -> PageIndex:
        PageIndex(tmp_path / "db", vl).add(pdf, modality=modality)
        with_old_texts(tmp_path / "db", stuck)
        return PageIndex(tmp_path / "db", vl)

    return make


def test_texts_of_earlier_versions_stay_until_they_are_read_anew(
    index: Callable[[Modality], PageIndex], pdf: Path, tmp_path: Path
) -> None:
    """The program does not embed a library again of itself. It says what is there, and new pages are read its way."""
    pages = index("text_image")
    (tmp_path / "b.pdf").write_bytes(numbered(7))
    report = pages.add([pdf, tmp_path / "b.pdf"])
    assert (report.unchanged, report.outdated, report.embedded + report.reused, report.refreshed) == (5, 5, 7, 0)
    assert [row["text_version"] for row in rows(tmp_path / "db")].count(None) == PAGES


def test_pictures_keep_their_vectors(
    index: Callable[[Modality], PageIndex], pdf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the text took no part nothing is embedded: the text is the new one, and all else is what it was."""
    pages, db = index("image"), tmp_path / "db"
    before = rows(db)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be embedded")

    monkeypatch.setattr(pages.embedder, "stream_results", refuse)
    report = pages.add(pdf, refresh_text=True)
    assert report == AddReport(documents=1, refreshed=PAGES)
    assert "5 with texts read anew" in str(report)
    after = rows(db)
    assert [row["text"] for row in after] == [page.text for page in iter_pages(pdf)]
    assert {row["text_version"] for row in after} == {TEXT_VERSION}
    for old, new in zip(before, after, strict=True):
        assert {**old, "text": "", "text_version": 0} == {**new, "text": "", "text_version": 0}
    assert pages.add(pdf, refresh_text=True) == AddReport(documents=1, unchanged=PAGES)


@pytest.mark.parametrize("modality", ["text", "text_image"])
def test_pages_with_another_text_are_embedded_again(
    modality: Modality, index: Callable[[Modality], PageIndex], vl: Embedder, pdf: Path, tmp_path: Path
) -> None:
    """Those whose text took part, and is another one now; the others are read and stay. Then all is as if new."""
    pages, db = index(modality), tmp_path / "db"
    old = vectors(db)
    assert pages.add(pdf, refresh_text=True) == AddReport(documents=1, refreshed=3, embedded=2)
    PageIndex(tmp_path / "new", vl).add(pdf, modality=modality)
    without_thumbnails = [
        [{name: value for name, value in row.items() if name not in {"thumbnail", "vector"}} for row in rows(folder)]
        for folder in (db, tmp_path / "new")
    ]
    assert without_thumbnails[0] == without_thumbnails[1]
    assert np.abs(vectors(db) - vectors(tmp_path / "new")).max() < 1e-6
    assert np.array_equal(vectors(db)[[0, 2, 4]], old[[0, 2, 4]])
    assert np.abs(vectors(db)[[1, 3]] - old[[1, 3]]).max() > 0.01


def test_a_page_without_a_text_that_can_be_read_leaves_the_index(vl: Embedder, tmp_path: Path) -> None:
    """What was embedded as text, and is none, is reported and found no more."""
    from tests.support.books import draw

    pdf = tmp_path / "a.pdf"
    pdf.write_bytes(draw(lambda canvas: canvas.drawString(72, 700, "words"), lambda canvas: canvas.rect(9, 9, 99, 99)))
    pages = PageIndex(tmp_path / "db", vl)
    pages.add(pdf, modality="text")
    store = PageStore.open(tmp_path / "db")
    assert store is not None
    (row,) = store.rows(["id", "document", "document_sha256", "modality", "total", "vector", "thumbnail", "label"])
    noise = {"page": 1, "text": "\x06\x0b", "id": row["id"].replace("page=1", "page=2"), "content": "old"}
    store.write([row | noise | {"text_version": 1, "width": 1.0, "height": 1.0}])
    assert len(pages) == 2
    report = pages.add(pdf, refresh_text=True)
    assert "no text layer" in str(report.failed[0])
    assert (report.unchanged, len(pages)) == (1, 1)


def test_reading_anew_goes_on_where_it_was_stopped(
    index: Callable[[Modality], PageIndex], pdf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written stays, and is not read again."""
    monkeypatch.setattr(run, "_FLUSH_PAGES", 2)
    pages = index("image")

    def stop(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pages.add(pdf, refresh_text=True, progress=stop)
    report = pages.add(pdf, refresh_text=True)
    assert report.unchanged == 3
    assert report.refreshed == PAGES - 3


def test_a_text_of_another_version_of_the_document_stays(
    index: Callable[[Modality], PageIndex], pdf: Path, tmp_path: Path
) -> None:
    """Who reads texts anew does not overwrite what somebody else has made of a newer file."""
    pages = index("image")
    pages.add(pdf, refresh_text=True)
    store = PageStore.open(tmp_path / "db")
    assert store is not None
    (row,) = store.rows(["id", "document_sha256", "modality"], id=f"{pdf}#page=1")
    for other in ({"document_sha256": hashlib.sha256(b"other").hexdigest()}, {"modality": "text"}):
        store.update([row | other | {"text": "stale", "text_version": TEXT_VERSION}])
        assert rows(tmp_path / "db")[0]["text"] == "number 0"
    store.update([row | {"text": "new", "text_version": TEXT_VERSION}])
    assert rows(tmp_path / "db")[0]["text"] == "new"
    assert len(pages) == PAGES


def test_an_older_program_may_write_between(index: Callable[[Modality], PageIndex], pdf: Path, tmp_path: Path) -> None:
    """It knows nothing of the version of texts: what it writes is known to be old."""
    pages = index("image")
    pages.add(pdf, refresh_text=True)
    store = PageStore.open(tmp_path / "db")
    assert store is not None
    known = columns(tmp_path / "db") - {"text_version"}
    store.write([row for row in store.rows([*known]) if row["page"] == 2])
    assert [row["text_version"] for row in rows(tmp_path / "db")] == [2, 2, None, 2, 2]
    assert pages.add(pdf, modality="image").outdated == 1
    assert pages.add(pdf, refresh_text=True).refreshed == 1


@pytest.mark.parametrize("modality", ["image", "text_image"])
def test_several_at_once(
    modality: Modality,
    index: Callable[[Modality], PageIndex],
    vl: Embedder,
    pdf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two that read texts anew while a third adds: none fails, and each page is there once, with its text."""
    monkeypatch.setattr(run, "_FLUSH_PAGES", 1)
    index(modality)
    together = threading.Barrier(3)

    def add(**options: Any) -> list[NemoVLMError]:
        pages = PageIndex(tmp_path / "db", vl)
        together.wait(20)
        return pages.add(pdf, **options).failed

    with ThreadPoolExecutor(3) as pool:
        adding = [pool.submit(add, refresh_text=True) for _ in range(2)] + [pool.submit(add, modality=modality)]
        assert [task.result(60) for task in adding] == [[], [], []]
    assert [row["text"] for row in rows(tmp_path / "db")] == [page.text for page in iter_pages(pdf)]
    assert {row["text_version"] for row in rows(tmp_path / "db")} == {TEXT_VERSION}


def read_otherwise(patch: pytest.MonkeyPatch, change: Callable[[Page], Any]) -> None:
    """Have runs read what a function makes of each page."""
    read = run.read_pages

    def changed(*arguments: Any, **options: Any) -> Iterator[Any]:
        yield from map(change, read(*arguments, **options))  # type: ignore[arg-type]

    patch.setattr(run, "read_pages", changed)


def test_a_file_that_changes_meanwhile_is_reported(
    index: Callable[[Modality], PageIndex], pdf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although nothing had to be embedded; the next run has its pages."""

    def replaced(page: Page) -> Page:
        (tmp_path / "other").write_bytes(numbered(3))
        (tmp_path / "other").replace(pdf)
        return page

    pages = index("image")
    with monkeypatch.context() as patch:
        read_otherwise(patch, replaced)
        report = pages.add(pdf, refresh_text=True)
    assert ["the file changed while it was indexed" in str(error) for error in report.failed] == [True]
    assert pages.add(pdf, refresh_text=True).failed == []
    assert [row["text"] for row in rows(tmp_path / "db")] == ["number 0", "number 1", "number 2"]


def test_a_page_that_cannot_be_read_keeps_what_it_has(
    index: Callable[[Modality], PageIndex], pdf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported, stays outdated, and is read by a later run."""

    def broken(page: Page) -> Page | PdfPageError:
        return PdfPageError("the page cannot be read", page=2) if page.index == 2 else page

    pages = index("image")
    with monkeypatch.context() as patch:
        read_otherwise(patch, broken)
        report = pages.add(pdf, refresh_text=True)
    assert (report.refreshed, len(report.failed)) == (PAGES - 1, 1)
    assert [row["text_version"] for row in rows(tmp_path / "db")] == [2, 2, None, 2, 2]
    assert pages.add(pdf, refresh_text=True).refreshed == 1
