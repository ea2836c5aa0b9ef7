"""Searching an index by meaning, by words and by both, among the pages that are meant, quick or not."""

import random
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from nemovlm import Embedder, Field, Hit, PageIndex
from nemovlm.choices import SearchMode
from nemovlm.errors import ConfigurationError, IndexStorageError, InputError, PageIndexError
from nemovlm.index import TextOptions, table, upkeep
from nemovlm.index.ranking import Scored, fuse
from nemovlm.index.store import PageStore
from nemovlm.inputs import Vectors
from tests.support.checkpoints import write_vl_checkpoint
from tests.support.old_index import with_old_texts

ModeOrNone = Any


def where_of(hits: list[Hit]) -> list[tuple[str, int]]:
    return [(Path(hit.document).name, hit.page) for hit in hits]


@pytest.fixture(scope="module")
def library(vl: Embedder, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of three PDFs, of two years and two teams. Read only."""
    folder = tmp_path_factory.mktemp("library") / "db"
    index = PageIndex(folder, vl)
    index.add(samples / "staff-handbook.pdf", metadata={"year": 2024, "team": "people"})
    index.add(samples / "heron-handbook.pdf", metadata={"year": 2023, "team": "product"})
    index.add(samples / "archive-bulletin.pdf")  # of which two pages have no text
    return folder


def test_words_are_found_without_a_model(samples: Path, tmp_path: Path) -> None:
    """`mode="text"` needs no model, not even the folder of the one that made the index; the others say it is gone."""
    folder = write_vl_checkpoint(tmp_path / "model")
    with Embedder(folder) as embedder:
        PageIndex(tmp_path / "db", embedder).add(samples / "staff-handbook.pdf")
    shutil.rmtree(folder)
    index = PageIndex(tmp_path / "db")
    hits = index.search("annual leave", mode="text")
    assert where_of(hits)[0] == ("staff-handbook.pdf", 3)
    assert all("leave" in hit.text.lower() or "annual" in hit.text.lower() for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert [hit.by_text and (hit.by_text.rank, hit.by_text.score) for hit in hits] == [
        (rank, hit.score) for rank, hit in enumerate(hits, 1)
    ]
    assert all(hit.by_vector is None for hit in hits)
    assert index.describe().pages == len(index) == 5
    for mode in ("vector", "hybrid", None):
        with pytest.raises(ConfigurationError):
            index.search("annual leave", mode=mode)


def test_both_rankings_are_fused(vl: Embedder, library: Path) -> None:
    """The score is that of reciprocal rank fusion, and each hit has its places in both rankings."""
    index = PageIndex(library, vl)
    question = "How many days of annual leave do I get?"
    by_vector = where_of(index.search(question, 100, mode="vector"))
    by_text = where_of(index.search(question, 100, mode="text"))
    hits = index.search(question, 100, mode="hybrid")
    assert set(where_of(hits)) == set(by_vector)
    assert len(hits) == len(index) == 15
    for place, hit in zip(where_of(hits), hits, strict=True):
        assert hit.by_vector is not None
        assert hit.by_vector.rank == by_vector.index(place) + 1
        assert (hit.by_text.rank if hit.by_text else None) == (by_text.index(place) + 1 if place in by_text else None)
        ranks = [rank.rank for rank in (hit.by_vector, hit.by_text) if rank]
        assert hit.score == pytest.approx(sum(1 / (60 + rank) for rank in ranks))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert where_of(index.search(question, 4)) == where_of(hits)[:4]
    assert any(not hit.text for hit in hits)  # a page without text comes by its vector


def test_fusing_by_hand() -> None:
    """Of two rankings, what both have comes first; of equals, the nearest; of one ranking, its order and its scores."""
    one = [Scored("a", 1, 0.9), Scored("b", 2, 0.8), Scored("c", 3, 0.7)]
    other = [Scored("d", 4, 12.0), Scored("b", 2, 9.0)]
    assert [place.address for place in fuse(one, other, 10)] == [2, 1, 4, 3]
    assert [(place.address, place.score) for place in fuse(one, None, 2)] == [(1, 0.9), (2, 0.8)]
    assert [(place.address, place.score) for place in fuse(None, other, 2)] == [(4, 12.0), (2, 9.0)]
    assert fuse([], [], 3) == fuse(None, [], 3) == []


def test_questions_without_words(vl: Embedder, library: Path) -> None:
    """A question of stop words and signs finds nothing by its words, and by both what it finds by meaning."""
    index = PageIndex(library, vl)
    for question in ("of the", "?!", '" OR text:*', "(((", "日本", "a'; DROP TABLE pages"):
        assert len(index.search(question, 20)) == 15
        index.search(question, mode="text")
    assert index.search("of the", mode="text") == []


@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
def test_only_pages_that_are_meant(mode: ModeOrNone, vl: Embedder, library: Path) -> None:
    """In every mode, and metadata come with the hits."""
    index = PageIndex(library, vl)
    assert index.fields == {"path": str, "page": int, "label": str, "total": int, "year": int, "team": str}
    hits = index.search("annual leave days", 100, mode=mode, where=Field("year") >= 2024)
    assert {name for name, _ in where_of(hits)} == {"staff-handbook.pdf"}
    assert {(hit.metadata["year"], hit.metadata["team"]) for hit in hits} == {(2024, "people")}
    hits = index.search("days", 100, mode=mode, where=~Field("team").exists())
    assert {name for name, _ in where_of(hits)} == {"archive-bulletin.pdf"}
    assert [hit.metadata for hit in hits] == [{}] * len(hits)
    assert index.search("days", 100, mode=mode, where={"year": 2024, "team": "product"}) == []
    assert index.search("days", 100, mode=mode, where={"team": []}) == []
    (hit,) = index.search("days leave", 1, mode=mode, where={"path": str(index.documents().keys()).split("'")[1]})
    assert hit.document in index.documents()
    for bad, says in [({"yaer": 2024}, "did you mean 'year'"), ({}, "empty"), ({"year": "x"}, "holds int")]:
        with pytest.raises(InputError, match=says):
            index.search("days", mode=mode, where=bad)


def test_pictures_are_searched_for_among_pages_that_are_meant(vl: Embedder, library: Path) -> None:
    """By their vectors alone; to ask for words is refused."""
    index = PageIndex(library, vl)
    hit = index.search("leave", 1, where={"team": "people"})[0]
    page = hit.load(tiling=vl.tiling)
    found = index.search(page.passage(), 3, where={"team": "people"})
    assert where_of(found)[0] == where_of([hit])[0]
    assert found[0].score == pytest.approx(1, abs=1e-5)
    assert found[0].by_vector is not None
    assert found[0].by_text is None
    assert {name for name, _ in where_of(index.search(page.image, 9, where={"year": 2023}))} == {"heron-handbook.pdf"}
    with pytest.raises(InputError, match="takes a question"):
        index.search(page.image, mode="hybrid")
    with pytest.raises(InputError, match="there are vector, text, hybrid"):
        index.search("leave", mode="words")  # type: ignore[arg-type]


TOPICS = 40


def clustered(count: int, dimension: int, seed: int) -> Vectors:
    random_ = np.random.default_rng(seed)
    topics = np.random.default_rng(0).standard_normal((TOPICS, dimension))
    vectors = topics[random_.integers(TOPICS, size=count)] + 0.5 * random_.standard_normal((count, dimension))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def made_up(vectors: Vectors, start: int, tenant: str) -> list[dict[str, Any]]:
    """Rows of pages of one tenant, whose texts have words of their own and some in common."""
    return [
        {
            "id": f"{tenant}/{number}",
            "document": f"/{tenant}/{number // 10}.pdf",
            "page": number % 10,
            "content": f"{tenant}{number}",
            "text": f"secret of {tenant} number{number} common words",
            "metadata_tenant": tenant,
            "vector": vector,
        }
        for number, vector in enumerate(vectors, start)
    ]


@pytest.fixture
def tenants(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[PageStore, dict[str, Vectors]]:
    """A table of three tenants, of which the last is in no index yet. Indexes pay for tables as small as it is."""
    monkeypatch.setattr(upkeep, "_COMPONENTS", 64 * 500)
    monkeypatch.setattr(upkeep, "_LOOKUP_ROWS", 500)
    monkeypatch.setattr(upkeep, "_BEHIND", {"vector": 64 * 200})
    monkeypatch.setattr(upkeep, "_BEHIND_ELSE", 200)
    monkeypatch.setattr("nemovlm.index.store._FEW", 50)
    store = PageStore.create(tmp_path, 64, {"space": "x"})
    store.add_fields({"tenant": str})
    vectors = {"ant": clustered(900, 64, 1), "bee": clustered(600, 64, 2), "cat": clustered(90, 64, 3)}
    for tenant, its in vectors.items():
        store.write(made_up(its, 0, tenant))
        if tenant == "bee":
            store.keep_up()
    return store, vectors


def test_indexes_come_when_they_pay_and_keep_up(tenants: tuple[PageStore, dict[str, Vectors]]) -> None:
    """They are there once the table is large, say what is not in them yet, and take it in when that is much."""
    store, _ = tenants
    states = {state.column: state for state in store.examine().indexes}
    assert {column: state.kind for column, state in states.items()} == {
        "text": "INVERTED",
        "vector": "IVF_RQ",
        **dict.fromkeys(["document", "document_sha256", "content", "metadata_tenant"], "BTREE"),
    }
    assert {(state.rows, state.behind) for state in states.values()} == {(1500, 90)}
    store.keep_up()
    assert {(state.rows, state.behind) for state in store.examine().indexes} == {(1500, 90)}  # not yet
    store.write(made_up(clustered(200, 64, 4), 1000, "cat"))
    store.keep_up()
    assert {(state.rows, state.behind) for state in store.examine().indexes} == {(1790, 0)}
    store.delete(metadata_tenant="ant")
    store.optimize()
    assert {state.behind for state in store.examine().indexes} == {0}
    assert len(store) == 890


def test_what_is_found_with_indexes(tenants: tuple[PageStore, dict[str, Vectors]]) -> None:
    """Nearly all of the nearest, with their true cosines, whether they are in the index or not; words as without."""
    store, vectors = tenants
    everything = np.concatenate(list(vectors.values()))
    ids = [f"{tenant}/{number}" for tenant, its in vectors.items() for number in range(len(its))]
    recalls = []
    for query in clustered(40, 64, 9):
        scores = everything @ query
        best = {ids[place] for place in np.argsort(-scores)[:10]}
        found = store.search(10, ["id"], vector=query)
        recalls.append(len(best.intersection(row["id"] for _, row in found)) / 10)
        for place, row in found:
            assert place.score == pytest.approx(float(scores[ids.index(row["id"])]), abs=1e-5)
    assert np.mean(recalls) >= 0.98
    for tenant, number in [("ant", 5), ("bee", 599), ("cat", 89)]:
        (best_,) = store.search(1, ["id"], text=f"{tenant} number{number}")
        assert best_[1]["id"] == f"{tenant}/{number}"


def test_a_filter_never_leaks(tenants: tuple[PageStore, dict[str, Vectors]]) -> None:
    """By vectors and words of other tenants, with indexes and beside them: one's own pages alone are found."""
    store, vectors = tenants
    random_ = random.Random(0)
    for _ in range(150):
        mine, other = random_.sample(sorted(vectors), 2)
        query = random_.choice(list(vectors[other]))
        text = f"secret {other} number{random_.randrange(90)} common"
        k = random_.choice([1, 10, 200])
        for asked in ({"vector": query}, {"text": text}, {"vector": query, "text": text}):
            found = store.search(k, ["id"], where={"tenant": mine}, **asked)
            assert {row["metadata"]["tenant"] for _, row in found} == {mine}
            assert len(found) == min(k, len(vectors[mine]))


def test_a_filter_that_few_pages_meet_finds_them_all(tenants: tuple[PageStore, dict[str, Vectors]]) -> None:
    """Also those that the nearest partitions do not have: a page far from the question."""
    store, vectors = tenants
    far = -vectors["ant"][0]
    where = Field("path").startswith("/ant/3") & (Field("page") < 2)
    found = store.search(100, ["id"], vector=far, where=where)
    assert len(found) == len({f"/ant/{n}.pdf" for n in [3, *range(30, 40)]}) * 2


@pytest.mark.parametrize(("kind", "error"), [("float32", 1e-5), ("float16", 1e-3), ("int8", 5e-3)])
def test_how_vectors_are_kept(kind: Any, error: float, vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """Smaller, they find the same, with cosines that differ by little, and are copied as they are."""
    index = PageIndex(tmp_path / "db", vl, vectors=kind)
    index.add(pdfs)
    assert (index.describe().vectors, index.describe().dimension) == (kind, 128)
    plain = PageIndex(tmp_path / "plain", vl)
    plain.add(pdfs)
    for question in ("leave", "a scanned bulletin"):
        expected = {where_of([hit])[0]: hit.score for hit in plain.search(question, 9, mode="vector")}
        for hit in index.search(question, 9, mode="vector"):
            assert hit.score == pytest.approx(expected[where_of([hit])[0]], abs=error)
        first = Field("page") == 0
        found = (made.search(question, 9, mode="vector", where=first) for made in (index, plain))
        assert len(set(map(frozenset, map(where_of, found)))) == 1
    assert len(index.search("leave", 4, mode="vector")) == 4
    assert index.search("leave", where=Field("page") > 99) == []
    (pdfs / "staff-handbook.pdf").rename(pdfs / "moved.pdf")
    assert PageIndex(tmp_path / "db").add(pdfs).reused == 5
    store = PageStore.open(tmp_path / "db")
    assert store is not None
    rows = store.rows(["content", "vector"])
    assert len({row["content"] for row in rows}) == len({(row["content"], tuple(row["vector"])) for row in rows}) == 9


def test_an_index_of_another_kind_is_not_taken(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """What was set when an index was made stays: to ask for something else is an error, to ask for the same none."""
    texts = TextOptions(language="German", stem=True)
    PageIndex(tmp_path / "db", vl, vectors="float16", texts=texts).add(pdfs)
    assert len(PageIndex(tmp_path / "db", vl, vectors="float16", texts=texts)) == 9
    for options in ({"vectors": "float32"}, {"texts": TextOptions()}):
        with pytest.raises(ConfigurationError, match="which cannot be changed"):
            PageIndex(tmp_path / "db", vl, **options)  # type: ignore[arg-type]
    late = PageIndex(tmp_path / "late", vl, vectors="float16")
    PageIndex(tmp_path / "late", vl).add(pdfs)
    with pytest.raises(ConfigurationError, match="vectors=float32"):
        late.add(pdfs)


@pytest.mark.parametrize(
    ("texts", "question", "found"),
    [
        (TextOptions(), "résumé", ["a", "b"]),
        (TextOptions(fold=False), "résumé", ["b"]),
        (TextOptions(), "reports", []),
        (TextOptions(stem=True), "reports", ["a"]),
        (TextOptions(), "文書", ["c"]),
        (TextOptions(), "of", []),
        (TextOptions(stop_words=False), "of", ["a"]),
        (TextOptions(language="German"), "und", []),
        (TextOptions(tokenizer="ngram"), "epor", ["a"]),
        (TextOptions(tokenizer="whitespace"), "reporting", ["a"]),
    ],
    ids=str,
)
def test_how_texts_are_taken_apart(texts: TextOptions, question: str, found: list[str], tmp_path: Path) -> None:
    """As the options say: accents, endings, frequent words, scripts without spaces, parts of words."""
    store = PageStore.create(tmp_path, 2, {}, texts=texts)
    pages = {"a": "reporting of a resume und", "b": "Résumé", "c": "日本語の文書検索"}
    vector = np.array([1, 0], np.float32)
    store.write([{"id": name, "document": name, "text": text, "vector": vector} for name, text in pages.items()])
    for _ in range(2):
        assert sorted(row["id"] for _, row in store.search(9, ["id"], text=question)) == found
        store.optimize()


def test_a_format_that_is_newer_is_refused(vl: Embedder, pdfs: Path, tmp_path: Path) -> None:
    """With a sentence that says which it is, when it is opened, and nothing is written."""
    index = PageIndex(tmp_path / "db", vl)
    index.add(pdfs)
    store = PageStore.open(tmp_path / "db")
    assert store is not None
    store._table.commit(lambda now: now.update_config({table._FORMAT: str(table.FORMAT + 1)}))
    for use in (lambda: PageIndex(tmp_path / "db", vl), lambda: index.add(pdfs), lambda: index.search("leave")):
        with pytest.raises(IndexStorageError, match=f"of format {table.FORMAT + 1}.*upgrade nemovlm"):
            use()


def test_an_index_of_an_earlier_format_is_searched(vl: Embedder, library: Path, tmp_path: Path) -> None:
    """In each mode, before anything is written to it. Until it is migrated, Lance takes texts apart in its own way."""
    shutil.copytree(library, tmp_path / "db")
    with_old_texts(tmp_path / "db", str)
    old, new = PageIndex(tmp_path / "db", vl), PageIndex(library, vl)
    assert old.describe().format == 1

    def found(index: PageIndex, mode: SearchMode) -> list[tuple[str, int]]:
        return where_of(index.search("annual leave of the staff", 5, mode=mode))

    assert found(old, "vector") == found(new, "vector")
    assert found(old, "text")[0] == found(new, "text")[0] == ("staff-handbook.pdf", 3)
    assert len(found(old, "hybrid")) == 5
    old.optimize()
    assert old.describe().format == 2
    for mode in get_args(SearchMode):
        assert found(old, mode) == found(new, mode)


@pytest.mark.parametrize("lost", ["data", "_deletions", "_indices"])
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_an_index_that_lacks_files_says_so(
    lost: str, how: str, tenants: tuple[PageStore, dict[str, Vectors]], tmp_path: Path
) -> None:
    """As a copy does that was made while somebody wrote: what is found is never less than there was."""
    store, vectors = tenants
    store.delete(document="/ant/3.pdf")
    for victim in sorted((tmp_path / "pages.lance" / lost).iterdir()):
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "pages.lance", copy / "pages.lance")
        place = copy / "pages.lance" / lost / victim.name
        for file in place.iterdir() if place.is_dir() else [place]:
            if how == "gone":
                file.unlink()
            else:
                file.write_bytes(file.read_bytes()[:-16])
        try:
            opened = PageStore.open(copy)
            assert opened is not None
            assert len(opened.search(1000, ["id"], vector=vectors["bee"][0])) == 1000
            assert len(opened.search(1000, ["id"], text="common words")) == 1000
            assert lost == "_indices"
        except IndexStorageError as error:
            # How long files of deletions have to be is written nowhere.
            says = "cannot be read" if (lost, how) == ("_deletions", "cut") else "was it copied while somebody wrote"
            assert says in str(error)  # noqa: PT017 - without some files of indexes all is found
        shutil.rmtree(copy)


def test_an_index_that_is_not_there_yet(vl: Embedder, tmp_path: Path) -> None:
    """It has the fields of every index; it cannot be described or optimized, which is said."""
    index = PageIndex(tmp_path / "db", vl)
    assert list(index.fields) == ["path", "page", "label", "total"]
    for use in (index.describe, index.optimize):
        with pytest.raises(PageIndexError, match="there is no page index in"):
            use()
    assert index.search("leave", where={"anything": 1}) == []


def test_what_is_up_to_date_is_left_alone(tenants: tuple[PageStore, dict[str, Vectors]]) -> None:
    """Neither keeping up nor optimizing writes anything where nothing is to do."""
    store, _ = tenants
    store.optimize()
    before = store.examine().versions
    store.keep_up()
    store.optimize()
    assert store.examine().versions == before


def test_one_process_at_a_time_keeps_up(tenants: tuple[PageStore, dict[str, Vectors]], tmp_path: Path) -> None:
    """While another is at it, keeping up is left to that one, and optimizing waits for it."""
    from filelock import FileLock

    store, _ = tenants
    store.write(made_up(clustered(300, 64, 4), 1000, "cat"))
    with FileLock(tmp_path / "upkeep.lock"):
        store.keep_up()
        assert {state.behind for state in store.examine().indexes} == {390}
    store.optimize()
    assert {state.behind for state in store.examine().indexes} == {0}
