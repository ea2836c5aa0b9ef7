"""The page index: nothing is done twice, nothing is lost, nothing is mixed up."""

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
from tenacity import wait_none

from nemovlm import Embedder, Hit, Page, PageIndex, iter_pages
from nemovlm.errors import (
    ConfigurationError,
    IndexBusyError,
    IndexStorageError,
    InputError,
    PageIndexError,
    PdfError,
    PdfPageError,
    SpaceMismatchError,
)
from nemovlm.index import is_index, migration, run, store, table, upkeep
from nemovlm.paths import local_path
from nemovlm.pdf import TEXT_VERSION
from tests.support.old_index import ids, without_key


def places(hits: list[Hit]) -> set[tuple[str, int]]:
    return {(Path(hit.document).name, hit.page) for hit in hits}


def test_every_page_is_found_by_itself(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """Each page, embedded as an image and searched for by its own picture, comes first with similarity 1."""
    index = PageIndex(tmp_path / "db", vl)
    report = index.add(pdfs, modality="image")
    assert (report.documents, report.embedded, report.failed, len(index)) == (2, 9, [], 9)
    for pdf in sorted(pdfs.iterdir()):
        for page in iter_pages(pdf, tiling=vl.tiling):  # type: ignore[arg-type] # it has eyes
            best = index.search(page.image, k=1)[0]
            assert (Path(best.document), best.page, best.total) == (pdf.resolve(), page.index, page.total)
            assert best.score == pytest.approx(1, abs=1e-5)
            assert best.text == page.text


def test_by_default_text_and_image_are_embedded(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """A page's vector is that of image and text together, and of the image alone where there is no text layer."""
    index = PageIndex(tmp_path / "db", vl)
    index.add(pdfs / "archive-bulletin.pdf")
    for page in iter_pages(pdfs / "archive-bulletin.pdf", tiling=vl.tiling):  # type: ignore[arg-type]
        best = index.search(page.passage(), k=1)[0]  # pages 1 and 2 are scans without text
        assert best.page == page.index
        assert best.score == pytest.approx(1, abs=1e-5)


def test_scores_are_sorted_cosine_similarities(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """Scores fall, lie in [-1, 1] and are the dot products of the unit vectors."""
    index = PageIndex(tmp_path / "db", vl)
    index.add(pdfs)
    hits = index.search("how many days of leave?", k=100, mode="vector")
    assert len(hits) == len(places(hits)) == 9
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert -1 <= min(scores) <= max(scores) <= 1
    page = hits[0].load(tiling=vl.tiling)
    expected = float(vl.embed_query("how many days of leave?") @ vl.embed([page.passage()], truncate="END")[0])
    assert hits[0].score == pytest.approx(expected, abs=1e-5)


def test_several_questions_are_embedded_together(
    vl: Embedder, pdfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They find what each of them finds alone, with one call of the embedder; an empty one fails all."""
    index = PageIndex(tmp_path / "db", vl)
    assert index.search_many(["leave", "pay"]) == [[], []]
    index.add(pdfs)
    alone = [places(index.search(question, k=3)) for question in ("leave", "pay")]
    calls: list[list[str]] = []
    embed = vl.embed_queries
    monkeypatch.setattr(vl, "embed_queries", lambda texts: (calls.append(texts), embed(texts))[1])
    assert [places(hits) for hits in index.search_many(["leave", "pay"], k=3)] == alone
    assert calls == [["leave", "pay"]]
    assert index.search_many([]) == []
    for questions, k in [(["leave", " "], 3), (["leave"], 0)]:
        with pytest.raises(InputError):
            index.search_many(questions, k)


def test_a_second_run_embeds_nothing(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """What is there is not done again, in this process or another."""
    PageIndex(tmp_path / "db", vl).add(pdfs)
    report = PageIndex(tmp_path / "db", vl).add([pdfs, pdfs / "staff-handbook.pdf"])
    assert (report.embedded, report.unchanged, report.failed) == (0, 9, [])


def test_a_changed_pdf_replaces_its_pages(vl: Embedder, samples: Path, pdfs: Path, tmp_path: Path) -> None:
    """New pages come in, pages that are no more go, pages that stayed the same are not embedded again."""
    index = PageIndex(tmp_path / "db", vl)
    index.add(pdfs)
    import pypdfium2

    with (
        pypdfium2.PdfDocument(pdfs / "staff-handbook.pdf") as old,
        pypdfium2.PdfDocument(samples / "heron-handbook.pdf") as other,
    ):
        new = pypdfium2.PdfDocument.new()
        new.import_pages(old, [0, 1])
        new.import_pages(other, [2])
        new.save(tmp_path / "new.pdf")
    shutil.move(tmp_path / "new.pdf", pdfs / "staff-handbook.pdf")
    report = index.add(pdfs)
    assert (report.embedded, report.reused, report.unchanged) == (1, 2, 4)
    assert index.documents() == {
        str((pdfs / "archive-bulletin.pdf").resolve()): 4,
        str((pdfs / "staff-handbook.pdf").resolve()): 3,
    }
    assert {hit.text for hit in index.search("x", k=100)} == {
        page.text for pdf in pdfs.iterdir() for page in iter_pages(pdf)
    }
    assert (index.add(pdfs).embedded, len(index)) == (0, 7)


def test_a_moved_pdf_is_not_embedded_again(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """Vectors go with the content of a page, whatever the name of its file."""
    index = PageIndex(tmp_path / "db", vl)
    index.add(pdfs)
    (pdfs / "staff-handbook.pdf").rename(pdfs / "moved.pdf")
    report = index.add(pdfs)
    assert (report.embedded, report.reused) == (0, 5)
    assert index.delete(pdfs / "staff-handbook.pdf") == 5
    assert places(index.search("x", k=100)) == {("archive-bulletin.pdf", i) for i in range(4)} | {
        ("moved.pdf", i) for i in range(5)
    }


def test_another_modality_is_embedded_anew(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """Asking for pictures where texts are indexed embeds the pages again, and keeps one row a page."""
    index = PageIndex(tmp_path / "db", vl)
    index.add(pdfs / "staff-handbook.pdf", modality="text")
    report = index.add(pdfs / "staff-handbook.pdf", modality="image")
    assert (report.embedded, report.reused, len(index)) == (5, 0, 5)


def test_deleting_a_document(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """Its pages are gone, the others stay, and names with quotes in them are no trap."""
    odd = pdfs / 'it\'s "odd".pdf'
    shutil.copy(pdfs / "staff-handbook.pdf", odd)
    index = PageIndex(tmp_path / "db", vl)
    index.add(pdfs)
    assert index.delete(odd) == 5
    assert index.delete(odd) == 0
    assert len(index) == 9


def test_a_text_model_reports_pages_without_text(text_folder: Path, pdfs: Path, tmp_path: Path) -> None:
    """Two scanned pages are left out by name; the rest is indexed."""
    with Embedder(text_folder) as embedder:
        index = PageIndex(tmp_path / "db", embedder)
        report = index.add(pdfs)
        assert report.embedded == len(index) == 7
        assert sorted(error.item or "" for error in report.failed) == [
            "archive-bulletin.pdf page 2",
            "archive-bulletin.pdf page 3",
        ]
        assert all(isinstance(error, InputError) and "no text layer" in str(error) for error in report.failed)
        with pytest.raises(ConfigurationError, match="does not take 'image'"):
            index.add(pdfs, modality="image")


def test_what_cannot_be_read_is_reported_and_the_rest_indexed(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """A text file named .pdf, an empty file, an encrypted PDF and a missing one cost nobody else a page."""
    from reportlab.lib.pdfencrypt import StandardEncryption
    from reportlab.pdfgen.canvas import Canvas

    (pdfs / "a-text.pdf").write_text("I am no PDF.")
    (pdfs / "b-empty.PDF").touch()
    canvas = Canvas(str(pdfs / "c-locked.pdf"), encrypt=StandardEncryption("secret"))
    canvas.drawString(72, 72, "hidden")
    canvas.save()
    index = PageIndex(tmp_path / "db", vl)
    report = index.add([pdfs, tmp_path / "missing.pdf"])
    assert len(index) == 9
    kinds = {Path(error.item or "").name: type(error).__name__ for error in report.failed}
    assert kinds == {
        "a-text.pdf": "PdfFormatError",
        "b-empty.PDF": "PdfFormatError",
        "c-locked.pdf": "PdfPasswordError",
        "missing.pdf": "PdfError",
    }
    assert index.add(pdfs / "c-locked.pdf", password="secret").embedded == 1


def test_what_lies_in_folders(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """What is hidden is left out, links are followed, each file is there once, and what leads nowhere is reported."""
    one, two = sorted(pdfs.iterdir())
    lib = tmp_path / "lib"
    (lib / "..2026_01").mkdir(parents=True)
    shutil.copy(one, lib / "..2026_01" / "report.pdf")
    for name, target in {"..data": "..2026_01", "report.pdf": "..data/report.pdf", "z": pdfs, "gone.pdf": "no"}.items():
        (lib / name).symlink_to(target)
    (lib / "~$report.pdf").write_bytes(b"Owner")
    index = PageIndex(tmp_path / "db", vl)
    report = index.add([lib, two, lib / "report.pdf"])
    assert list(map(type, report.failed)) == [PdfError]
    assert report.failed[0].item == str(lib / "gone.pdf")
    assert set(index.documents()) == {str(lib / "report.pdf"), str(one), str(two)}
    (lib / "..2026_01").rename(lib / "..2026_02")  # an update
    shutil.copy(two, lib / "..2026_02" / "report.pdf")
    (lib / "..data").unlink()
    (lib / "..data").symlink_to("..2026_02")
    index.add(lib)
    pages = index.documents()
    assert set(pages) == {str(lib / "report.pdf"), str(one), str(two)}
    assert pages[str(lib / "report.pdf")] == pages[str(two)]
    assert index.delete(lib / "z" / two.name) == pages[str(two)]
    assert index.delete(lib / "report.pdf") == pages[str(two)]


def test_a_folder_without_pdfs(vl: Embedder, tmp_path: Path) -> None:
    """An empty folder is an error that names it, and makes no index."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(PageIndexError, match=r"there is no PDF in .*empty"):
        PageIndex(tmp_path / "db", vl).add(tmp_path / "empty")
    assert not (tmp_path / "db").exists()


def test_two_spaces_do_not_mix(vl: Embedder, vl_folder: Path, pdfs: Path, tmp_path: Path) -> None:
    """An index refuses an embedder of another space, for adding and for searching alike."""
    PageIndex(tmp_path / "db", vl).add(pdfs / "staff-handbook.pdf")
    with pytest.raises(SpaceMismatchError, match="dimensions=64"):
        PageIndex(tmp_path / "db", Embedder(vl_folder, dimensions=64))


def test_an_index_knows_its_embedder(
    vl_folder: Path, pdfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened without one, an index makes an embedder of the space that it was made with, from any folder."""
    monkeypatch.chdir(vl_folder.parent)
    with Embedder(vl_folder.name, dimensions=32, max_tiles=2) as embedder:
        PageIndex(tmp_path / "db", embedder).add(pdfs / "staff-handbook.pdf")
    monkeypatch.chdir(tmp_path)
    index = PageIndex(tmp_path / "db")
    assert index.embedder.space == embedder.space
    assert len(index.search("leave", k=3)) == 3
    index.embedder.close()


def test_an_index_is_opened_once_on_another_engine(
    vl: Embedder, pdfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings that change no vector go to the embedder that an index makes, and its folder is opened once."""
    PageIndex(tmp_path / "db", vl).add(pdfs / "staff-handbook.pdf")
    opened: list[object] = []
    session = table.lance.Session
    monkeypatch.setattr(table.lance, "Session", lambda **sizes: (opened.append(sizes), session(**sizes))[1])
    index = PageIndex(tmp_path / "db", device="cpu", batch_tokens=512, base_url=None)
    assert len(opened) == 1
    assert (index.embedder.settings.device, index.embedder.settings.batch_tokens) == ("cpu", 512)
    with pytest.raises(SpaceMismatchError):
        PageIndex(tmp_path / "db", dimensions=32)
    with pytest.raises(ConfigurationError, match="device cannot be added"):
        PageIndex(tmp_path / "db", vl, device="cpu")


def test_a_pdf_that_breaks_off_keeps_what_was_there(
    vl: Embedder, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a changed PDF cannot be read to its end, that is reported, its old pages stay, and other PDFs are indexed."""
    first, second = tmp_path / "a.pdf", tmp_path / "b.pdf"
    shutil.copy(samples / "staff-handbook.pdf", first)
    shutil.copy(samples / "archive-bulletin.pdf", second)
    index = PageIndex(tmp_path / "db", vl)
    index.add(first)
    shutil.copy(samples / "annual-report.pdf", first)
    whole = run.read_pages

    def broken(path: Path, **options: Any) -> Iterator[Page | PdfError]:
        pages = whole(path, **options)
        yield next(pages)
        if path.name == "a.pdf":
            yield PdfError("a rendering process died").at("a.pdf")
            return
        yield from pages

    monkeypatch.setattr(run, "read_pages", broken)
    report = index.add([first, second])
    assert [str(error) for error in report.failed] == ["a.pdf: a rendering process died"]
    assert report.embedded == 1 + index.documents()[str(second.resolve())]
    found = index.search("days of leave", k=100)
    assert len({hit.page for hit in found if Path(hit.document).name == "a.pdf"}) == 5


def test_no_index_there(tmp_path: Path) -> None:
    """Opening what is not there is an error that says so."""
    assert not is_index(tmp_path)
    for settings in ({}, {"device": "cpu"}):
        with pytest.raises(ConfigurationError, match="there is no page index in"):
            PageIndex(tmp_path, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("query", "k"), [("", 5), ("   ", 5), ("x", 0)])
def test_senseless_searches_are_refused(vl: Embedder, tmp_path: Path, query: str, k: int) -> None:
    """An empty question and k=0 are errors, not empty answers."""
    with pytest.raises(InputError):
        PageIndex(tmp_path / "db", vl).search(query, k)


def test_an_empty_index_finds_nothing(vl: Embedder, tmp_path: Path) -> None:
    """Before the first page there is nothing, and that is no error."""
    index = PageIndex(tmp_path / "db", vl)
    assert (index.search("x"), len(index), index.documents(), index.delete("x.pdf")) == ([], 0, {}, 0)


def test_thumbnails_are_small_pictures_of_the_page(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """A JPEG of at most 400 pixels, in the shape of the page."""
    from nemovlm.images import load_image

    index = PageIndex(tmp_path / "db", vl)
    index.add(pdfs / "staff-handbook.pdf", modality="text")
    for hit in index.search("x", k=5):
        picture = load_image(hit.thumbnail)
        assert max(picture.size) <= 400
        page = hit.load()
        assert picture.width / picture.height == pytest.approx(page.width / page.height, abs=0.01)
        small = np.asarray(page.image.resize(picture.size).convert("L"), float)
        assert np.abs(np.asarray(picture.convert("L"), float) - small).mean() < 20


def test_progress_reaches_the_total(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """Pages done never fall, and end at the pages in all, whether embedded, known or left out."""
    (pdfs / "bad.pdf").write_text("no")
    index = PageIndex(tmp_path / "db", vl)
    for _ in range(2):
        heard: list[tuple[int, int | None]] = []
        index.add(pdfs, progress=lambda done, total, heard=heard: heard.append((done, total)))  # type: ignore[misc]
        assert heard[-1] == (9, 9)
        assert [done for done, _ in heard] == sorted(done for done, _ in heard)


def test_a_folder_that_cannot_be_written(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """A file in the way is one sentence about the folder, before any page is embedded."""
    (tmp_path / "db").write_text("in the way")
    index = PageIndex(tmp_path / "db", vl)
    with pytest.raises(IndexStorageError, match=r"db cannot be read or written"):
        index.add(pdfs)


def test_writes_that_overlap_leave_every_row_once(tmp_path: Path) -> None:
    """Two writers of the same rows, at the same time: a row is not doubled, and none is lost."""
    from nemovlm.index.store import PageStore

    PageStore.create(tmp_path, 2, {})
    together = threading.Barrier(2)

    def write() -> None:
        store = PageStore.open(tmp_path)
        assert store is not None
        together.wait(20)
        for start in range(0, 50, 10):
            vector = np.ones(2, np.float32)
            pages = range(start, start + 10)
            store.write(
                [{"id": str(n), "document": "d", "page": n, "content": str(n), "vector": vector} for n in pages]
            )

    with ThreadPoolExecutor(2) as pool:
        for writer in [pool.submit(write) for _ in range(2)]:
            writer.result(60)
    store = PageStore.open(tmp_path)
    assert store is not None
    assert sorted(row["page"] for row in store.rows(["page"])) == list(range(50))


def test_an_index_made_without_a_key_is_mended(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """With every page there three times, each is found and counted once; a run without work leaves each once."""
    PageIndex(tmp_path / "db", vl).add(pdfs)
    once = ids(tmp_path / "db")
    without_key(tmp_path / "db", times=3)
    index = PageIndex(tmp_path / "db", vl)
    for k in (1, 4, 9, 100):
        hits = index.search("leave", k)
        assert len(hits) == len(places(hits)) == min(k, 9)
    assert sum(index.documents().values()) == 9
    assert (index.add(pdfs).unchanged, len(index)) == (9, 9)
    assert ids(tmp_path / "db") == once
    opened = store.PageStore.open(tmp_path / "db")
    assert opened is not None
    assert (opened.examine(TEXT_VERSION).key, opened.examine(TEXT_VERSION).doubled) == (True, 0)
    assert places(index.search("x", k=100)) == places(hits)


def test_mending_that_is_stopped_loses_nothing(
    vl: Embedder, pdfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after any of its steps, mending has left every page there, and the next run does the rest."""
    PageIndex(tmp_path / "db", vl).add(pdfs)
    once = ids(tmp_path / "db")
    monkeypatch.setattr(migration, "_DOUBLED", 4)
    commit = table.Table.commit
    for steps in range(4):
        without_key(tmp_path / "db", times=2)
        left = iter(range(steps))

        def stopped(self: Any, change: Callable[[Any], Any], left: Iterator[int] = left) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return commit(self, change)

        monkeypatch.setattr(table.Table, "commit", stopped)
        with pytest.raises(KeyboardInterrupt):
            PageIndex(tmp_path / "db", vl).add(pdfs)
        monkeypatch.setattr(table.Table, "commit", commit)
        kept = ids(tmp_path / "db")
        assert len(kept) == 18 - 4 * max(0, steps - 1)
        assert sorted(set(kept)) == once
        assert PageIndex(tmp_path / "db", vl).add(pdfs).unchanged == 9
        assert ids(tmp_path / "db") == once


def row(number: int) -> dict[str, Any]:
    vector = np.array([1, 0], np.float32)
    return {"id": str(number), "document": "d", "page": number, "content": str(number), "vector": vector}


def test_lancedb_and_an_index_share_a_table(tmp_path: Path) -> None:
    """LanceDB finds and changes what an index has written, and an index that is open sees it at once."""
    mine = store.PageStore.create(tmp_path, 2, {"space": "x"})
    mine.write([row(1), row(2)])
    table = lancedb.connect(tmp_path).open_table("pages")
    assert sorted(found["page"] for found in table.search([1.0, 0.0]).to_list()) == [1, 2]
    data = table.search().where("id = '2'").to_arrow()
    data = data.set_column(data.schema.get_field_index("page"), "page", [[7]])
    table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(data)
    assert sorted(found["page"] for _, found in mine.search(5, ["page"], vector=np.ones(2, np.float32))) == [1, 7]
    table.delete("id = '1'")
    assert (len(mine), ids(tmp_path)) == (1, ["2"])


@pytest.mark.parametrize(("quicker", "fails"), [(3, False), (99, True)], ids=["a while", "always"])
def test_a_write_that_others_forestall_is_repeated(
    quicker: int, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done as soon as nobody is quicker; if others always are, the error says so and nothing is lost."""
    monkeypatch.setattr(table, "_WAIT", wait_none())
    mine, other = store.PageStore.create(tmp_path, 2, {}), store.PageStore.open(tmp_path)
    assert other is not None
    numbers = iter(range(quicker))

    def forestalled(_: Any) -> str:
        if (number := next(numbers, None)) is not None:
            other.write([row(number)])
            raise RuntimeError("in words that nobody promised")
        return "done"

    if fails:
        with pytest.raises(IndexBusyError, match="others kept writing to the index") as caught:
            mine._table.commit(forestalled)
        assert "words that nobody promised" in str(caught.value)
        assert len(mine) == table._ATTEMPTS
    else:
        assert mine._table.commit(forestalled) == "done"
        assert len(mine) == quicker


def test_what_fails_by_itself_is_not_repeated(tmp_path: Path) -> None:
    """Where nobody else wrote, a failure is none of others: it is told at once."""
    mine = store.PageStore.create(tmp_path, 2, {})
    tries = []

    def full(_: Any) -> None:
        tries.append("try")
        raise OSError("the disk is full")

    with pytest.raises(IndexStorageError, match="the disk is full"):
        mine._table.commit(full)
    assert tries == ["try"]


def test_an_index_that_another_made_meanwhile(vl: Embedder, vl_folder: Path, pdfs: Path, tmp_path: Path) -> None:
    """Opened before there was one, an index takes part in the one that another has made, if the space is the same."""
    first, second = PageIndex(tmp_path / "db", vl), PageIndex(tmp_path / "db", vl)
    stranger = PageIndex(tmp_path / "db", Embedder(vl_folder, dimensions=64))
    deleting = PageIndex(tmp_path / "db", vl)
    assert second.search("leave") == []
    first.add(pdfs / "staff-handbook.pdf")
    assert len(second.search("leave", k=100)) == len(second) == 5
    assert second.add(pdfs).unchanged == 5
    for use in (lambda: stranger.add(pdfs), lambda: stranger.search("leave")):
        with pytest.raises(SpaceMismatchError, match="dimensions=64"):
            use()
    assert deleting.delete(pdfs / "staff-handbook.pdf") == 5
    assert len(first) == 4


def test_of_two_that_make_an_index_one_is_first(
    vl: Embedder, vl_folder: Path, pdfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that finds no index, and then finds it made by another, takes it, or says that the space is another."""
    stranger = Embedder(vl_folder, dimensions=64)
    create = store.PageStore.create

    def late(*arguments: Any) -> Any:
        create(arguments[0], 128, {"space": vl.space, "embedder": {}})
        return create(*arguments)

    monkeypatch.setattr(store.PageStore, "create", late)
    assert PageIndex(tmp_path / "db", vl).add(pdfs).embedded == 9
    assert [path.name for path in (tmp_path / "db").iterdir()] == ["pages.lance"]
    with pytest.raises(SpaceMismatchError):
        PageIndex(tmp_path / "other", stranger).add(pdfs)
    assert len(PageIndex(tmp_path / "other", vl)) == 0


def test_an_index_that_goes_while_it_is_open(vl: Embedder, vl_folder: Path, pdfs: Path, tmp_path: Path) -> None:
    """Deleted, or replaced by one of another space: an error that says so, and nothing is written in its place."""
    index = PageIndex(tmp_path / "db", vl)
    index.add(pdfs)
    shutil.rmtree(tmp_path / "db")

    def refused() -> None:
        for use in (
            lambda: index.search("leave"),
            lambda: index.add(pdfs),
            lambda: index.delete("x.pdf"),
            index.documents,
        ):
            with pytest.raises(IndexStorageError, match="was deleted or replaced while it was open"):
                use()

    refused()
    assert not (tmp_path / "db").exists()
    other = PageIndex(tmp_path / "db", Embedder(vl_folder, max_tiles=2))
    other.add(pdfs / "staff-handbook.pdf", modality="text")
    refused()
    assert len(other) == 5


def test_a_table_of_somebody_else(vl: Embedder, tmp_path: Path) -> None:
    """A LanceDB folder with a table `pages` that is no index is told from one, and left alone."""
    lancedb.connect(tmp_path).create_table("pages", [{"id": "1"}])
    with pytest.raises(IndexStorageError, match="holds a table that is no page index"):
        PageIndex(tmp_path, vl)


def during(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen once, when the next run has read the first page of a document."""
    whole = run.read_pages

    def interrupted(path: Path, **options: Any) -> Iterator[Page | PdfError]:
        pages = whole(path, **options)
        yield next(pages)
        monkeypatch.setattr(run, "read_pages", whole)
        rest = list(pages)
        happens()
        yield from rest

    monkeypatch.setattr(run, "read_pages", interrupted)


def after_a_write(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen once, when the next run has written its first page."""
    write, due = store.PageStore.write, [happens]

    def interrupted(self: store.PageStore, rows: Any) -> None:
        write(self, rows)
        if due:
            due.pop()()

    monkeypatch.setattr(store.PageStore, "write", interrupted)
    monkeypatch.setattr(run, "_FLUSH_PAGES", 1)


def test_two_runs_that_read_two_versions_of_a_pdf(
    vl: Embedder, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run with the older version says that the file changed and takes no page away; the next one mends all."""
    book = tmp_path / "book.pdf"
    shutil.copy(samples / "staff-handbook.pdf", book)
    older, newer = PageIndex(tmp_path / "db", vl), PageIndex(tmp_path / "db", vl)

    def replaced() -> None:
        shutil.copy(samples / "archive-bulletin.pdf", book)
        assert (newer.add(book).embedded, newer.documents()) == (4, {str(book.resolve()): 4})

    during(monkeypatch, replaced)
    report = older.add(book)
    assert [str(error) for error in report.failed] == [
        f"{book.resolve()}: the file changed while it was indexed; index it again"
    ]
    assert len(places(older.search("x", 100))) == 5
    assert newer.add(book).failed == []
    assert sorted(hit.text for hit in newer.search("x", 100)) == sorted(page.text for page in iter_pages(book))
    assert newer.add(book).unchanged == len(newer) == 4


def test_a_pdf_that_goes_while_it_is_read(
    vl: Embedder, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported, and the other PDFs are indexed."""
    for name in ("a.pdf", "b.pdf"):
        shutil.copy(samples / "staff-handbook.pdf", tmp_path / name)
    during(monkeypatch, (tmp_path / "a.pdf").unlink)
    index = PageIndex(tmp_path / "db", vl)
    report = index.add([tmp_path / "a.pdf", tmp_path / "b.pdf"])
    assert [Path(error.item or "").name for error in report.failed] == ["a.pdf"]
    assert index.documents()[str((tmp_path / "b.pdf").resolve())] == 5


def test_two_runs_with_two_modalities_lose_no_page(
    vl: Embedder, pdfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither takes out what the other wrote: each page is there once, by its picture or by its text."""
    book = pdfs / "staff-handbook.pdf"
    pictures, texts = PageIndex(tmp_path / "db", vl), PageIndex(tmp_path / "db", vl)
    after_a_write(monkeypatch, lambda: texts.add(book, modality="text"))
    pictures.add(book, modality="image")
    assert len(ids(tmp_path / "db")) == len(set(ids(tmp_path / "db"))) == 5


def test_deleting_while_another_adds(vl: Embedder, pdfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is deleted while it is added comes back by the next run, each page once; other documents are whole."""
    index, other = PageIndex(tmp_path / "db", vl), PageIndex(tmp_path / "db", vl)
    index.add(pdfs / "archive-bulletin.pdf")
    after_a_write(monkeypatch, lambda: other.delete(pdfs / "staff-handbook.pdf"))
    index.add(pdfs)
    assert set(Counter(ids(tmp_path / "db")).values()) == {1}
    assert len(index) == 8
    assert index.add(pdfs).failed == []
    assert len(ids(tmp_path / "db")) == len(set(ids(tmp_path / "db"))) == 9


def test_paths_from_home(vl: Embedder, pdfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home, wherever a path is given; no folder is called `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    index = PageIndex("~/db", vl)
    assert pdfs.parent == tmp_path
    assert index.add(["~/pdfs/staff-handbook.pdf"]).embedded == 5
    assert index.add(Path("~/pdfs")).embedded == 4
    assert is_index("~/db")
    assert len(PageIndex(Path("~/db"), vl)) == 9
    assert index.delete("~/pdfs/staff-handbook.pdf") == 5
    assert local_path("~nobody-of-this-name/x.pdf") == Path("~nobody-of-this-name/x.pdf")
    assert list((tmp_path / "here").iterdir()) == []


def test_an_index_stays_where_it_was_opened(
    vl: Embedder, pdfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative folder is that of the working directory at the beginning, for an index that is not there yet too."""
    monkeypatch.chdir(tmp_path)
    index = PageIndex("db", vl)
    monkeypatch.chdir(pdfs)
    index.add("staff-handbook.pdf")
    assert is_index(tmp_path / "db")
    assert not is_index("db")


def test_names_that_are_no_utf8(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """Such a PDF is indexed under an escaped name, and opened and deleted by the path that it has."""
    odd = Path(os.fsdecode(os.fsencode(pdfs) + b"/caf\xe9.pdf"))
    try:
        shutil.copy(pdfs / "staff-handbook.pdf", odd)
    except OSError:
        pytest.skip("this file system has no such names")
    index = PageIndex(tmp_path / "db", vl)
    assert (index.add(pdfs).failed, len(index)) == ([], 14)
    assert index.add(odd).unchanged == 5
    name = str(pdfs.resolve() / r"caf\xe9.pdf")
    assert index.documents()[name] == 5
    (hit,) = [hit for hit in index.search("x", 100) if (hit.document, hit.page) == (name, 2)]
    assert hit.load().text == hit.text
    assert index.delete(odd) == 5
    assert len(index) == 9


def test_many_small_writes_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fragments are joined once they are many, not at every write, and no row is lost or changed by it."""
    monkeypatch.setattr(upkeep, "_FRAGMENTS", 4)
    joined = store.PageStore.create(tmp_path, 2, {"space": "x"})

    seen = []
    for page in range(20):
        vector = np.array([np.cos(page), np.sin(page)], np.float32)
        joined.write([{"id": str(page), "document": "d", "page": page, "content": str(page), "vector": vector}])
        joined.keep_up()
        seen.append(joined.examine().fragments)
    assert seen[:5] == [1, 2, 3, 4, 1]
    assert max(seen) < 10
    assert sorted(row["page"] for row in joined.rows(["page"])) == list(range(20))
    (place, row), *_ = joined.search(1, ["page"], vector=np.array([np.cos(7), np.sin(7)], np.float32))
    assert (row["page"], round(place.score, 5)) == (7, 1)


def test_a_pdf_of_which_no_page_can_be_read(
    vl: Embedder, pdfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page is reported, and the other PDFs are indexed."""
    whole = run.read_pages

    def broken(path: Path, **options: Any) -> Iterator[Page | PdfError]:
        for page in whole(path, **options):
            yield PdfPageError("it cannot be read", page=0) if path.name == "archive-bulletin.pdf" else page

    monkeypatch.setattr(run, "read_pages", broken)
    report = PageIndex(tmp_path / "db", vl).add(pdfs)
    assert (report.embedded, len(report.failed)) == (5, 4)
