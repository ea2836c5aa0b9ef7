"""A `PageIndex` of a million pages: how long it takes to fill, to search and to add to, and what is found.

Pages are made up, twenty to a document, and go through the same writes as those of `PageIndex.add`, with their vectors
given. A vector is that of one of 2,000 topics, of its document and of the page itself, in proportions 1 : .8 : .6, so
that pages of one document lie closer than those of one topic; a question is a page, moved by .7. A text has 40 words
out of 50,000, which are as frequent as those of a language (Zipf); a question by words has five of them. A filter
leaves one page in a hundred. Recall is that of the ten nearest, against comparing all of them in float32.

What is compared: LanceDB over the same table without an index, and FAISS, which holds all vectors in memory.

    python benchmarks/index_scale.py --pages 10000
    python benchmarks/index_scale.py --pages 1000000 --dimensions 512 --vectors float16
"""

import argparse
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, get_args
from unittest import mock

import faiss  # type: ignore[import-untyped]
import lance  # type: ignore[import-untyped]
import lancedb
import numpy as np
import psutil
from common import machine, sample_pdf, seconds, show, spread

from nemovlm import Embedder, Field, PageIndex
from nemovlm.choices import SearchMode, VectorType
from nemovlm.index import Where
from nemovlm.inputs import Vector, Vectors

TOPICS, WORDS, PAGES_OF_A_DOCUMENT = 2000, 50_000, 20
WRITTEN = 4096  # pages a write
QUESTIONS, K = 100, 10
THUMBNAIL = b"a thumbnail would be a hundred times as much"
ADDED = 20


class MadeUp:
    """Pages that are made up, the same whenever they are asked for."""

    def __init__(self, pages: int, dimension: int) -> None:
        self.pages = pages
        self.dimension = dimension
        self._topics = np.random.default_rng(0).standard_normal((TOPICS, dimension), np.float32)
        self._vocabulary = np.array([f"word{number}" for number in range(WORDS)])
        frequency = 1 / np.arange(1, WORDS + 1)
        self._cumulated = np.cumsum(frequency / frequency.sum())

    def vectors(self, start: int, count: int) -> Vectors:
        """Vectors (count, dimension) of pages."""
        documents = np.arange(start, start + count) // PAGES_OF_A_DOCUMENT
        own = {number: self._noise(1, number) for number in np.unique(documents)}
        of_documents = np.concatenate([own[number] for number in documents])
        return _unit(self._topics[documents % TOPICS] + 0.8 * of_documents + 0.6 * self._noise(count, 2**40 + start))

    def texts(self, count: int, words: int, seed: int) -> list[str]:
        """Texts of so many words."""
        drawn = np.searchsorted(self._cumulated, np.random.default_rng(seed).random((count, words)))
        return [" ".join(row) for row in self._vocabulary[np.minimum(drawn, WORDS - 1)]]

    def rows(self) -> Iterator[list[dict[str, Any]]]:
        """All pages, as rows of a table, some at a time."""
        for start in range(0, self.pages, WRITTEN):
            count = min(WRITTEN, self.pages - start)
            numbers, vectors = range(start, start + count), self.vectors(start, count)
            texts = self.texts(count, 40, start)
            yield [_row(*page) for page in zip(numbers, texts, vectors, strict=True)]

    def questions(self) -> Vectors:
        """Vectors (QUESTIONS, dimension) near to pages."""
        chosen = np.random.default_rng(1).choice(self.pages, QUESTIONS)
        near = np.concatenate([self.vectors(int(number), 1) for number in chosen])
        return _unit(near * np.sqrt(self.dimension) + 0.7 * self._noise(QUESTIONS, 2))

    def _noise(self, count: int, seed: int) -> Vectors:
        return np.random.default_rng(seed).standard_normal((count, self.dimension), np.float32)


def _row(number: int, text: str, vector: Vector) -> dict[str, Any]:
    page = number % PAGES_OF_A_DOCUMENT
    return {
        "id": f"{_document(number)}#page={page + 1}",
        "document": _document(number),
        "page": page,
        "label": str(page + 1),
        "total": PAGES_OF_A_DOCUMENT,
        "content": f"{number:064}",
        "document_sha256": f"{number // PAGES_OF_A_DOCUMENT:064}",
        "modality": "text_image",
        "text": text,
        "thumbnail": THUMBNAIL,
        "metadata_hundredth": number // PAGES_OF_A_DOCUMENT % 100,
        "vector": vector,
    }


def _document(number: int) -> str:
    document = number // PAGES_OF_A_DOCUMENT
    return f"/data/reports/{document // 100:05}/document-{document:07}.pdf"


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def gibibytes(folder: Path) -> float:
    """What a folder takes on the disk."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**30


def timed(search: Callable[[int], object]) -> list[float]:
    """Milliseconds of each question, after some that are not counted."""
    for number in range(5):
        search(number)
    return [1000 * seconds(lambda number=number: search(number)) for number in range(QUESTIONS)]  # type: ignore[misc]


def line(name: str, times: list[float], recall: float | None = None) -> list[str]:
    """A row of the table of searches."""
    found = "" if recall is None else f"{recall:.3f}"
    return [name, f"{median(times):.1f}", f"{np.quantile(times, 0.95):.1f}", found]


def fill(folder: Path, pages: MadeUp, vectors: VectorType, embedder: Embedder) -> tuple[float, float]:
    """Make the index; return how many seconds that took, and those of bringing it up to date at the end."""
    made = PageIndex(folder, embedder, vectors=vectors)
    store = made._writable()
    store.add_fields({"hundredth": int})
    writing = 0.0
    for rows in pages.rows():
        writing += seconds(lambda rows=rows: store.write(rows))  # type: ignore[misc]
        writing += seconds(store.keep_up)
    return writing, seconds(store.optimize)


def flat(folder: Path, dimension: int) -> tuple[list[str], faiss.Index]:
    """The ids of all pages, and all vectors in memory."""
    ids: list[str] = []
    index = faiss.IndexFlatIP(dimension)
    table = lancedb.connect(folder).open_table("pages").to_lance()
    for batch in table.to_batches(columns=["id", "vector"], batch_size=WRITTEN):
        ids += batch["id"].to_pylist()
        numbers = batch["vector"].flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        index.add(_unit(numbers.reshape(-1, dimension)))
    return ids, index


def given_vectors(vectors: Vectors) -> Any:
    """Let questions have these vectors."""
    return mock.patch.object(Embedder, "embed_queries", return_value=vectors)


def searches(folder: Path, pages: MadeUp, embedder: Embedder, bare: bool) -> list[list[str]]:
    """The table of searches."""
    questions, words = pages.questions(), pages.texts(QUESTIONS, 5, 3)
    ids, in_memory = flat(folder, pages.dimension)
    nearest = [{ids[place] for place in places} for places in in_memory.search(questions, K)[1]]
    index = PageIndex(folder, embedder)
    found: dict[int, set[str]] = {}

    def search(number: int, mode: SearchMode, where: Where | None) -> None:
        with given_vectors(questions[number : number + 1]):
            hits = index.search(words[number], K, mode=mode, where=where)
        found[number] = {f"{hit.document}#page={hit.page + 1}" for hit in hits}

    rows = [["search", "ms, p50", "ms, p95", "recall@10"]]
    for of, where in (("", None), (", one page in a hundred", Field("hundredth") == 7)):
        for mode in get_args(SearchMode):
            times = timed(partial(search, mode=mode, where=where))
            recall = float(np.mean([len(nearest[number] & found[number]) / K for number in range(QUESTIONS)]))
            rows.append(line(f"{mode}{of}", times, recall if mode == "vector" and where is None else None))
    if bare:
        table = lancedb.connect(folder).open_table("pages")

        def look(number: int) -> None:
            table.search(questions[number]).distance_type("cosine").bypass_vector_index().limit(K).to_list()

        rows.append(line("LanceDB, every row", timed(look), 1.0))
    times = timed(lambda number: in_memory.search(questions[number : number + 1], K))
    rows.append(line("FAISS, flat, in memory", times, 1.0))
    return rows


def adding(folders: list[Path], embedder: Embedder, dimension: int, rounds: int) -> list[list[float]]:
    """Milliseconds for adding a document of 20 pages, rendered, with vectors given, to each of several in turn."""
    random_ = np.random.default_rng(4)

    def given(_: Embedder, passages: Any, **__: Any) -> Iterator[tuple[Any, Any]]:
        for key, _passage in passages:
            yield key, _unit(random_.standard_normal((1, dimension), np.float32))[0]

    times: list[list[float]] = [[] for _ in folders]
    with TemporaryDirectory() as place, mock.patch.object(Embedder, "stream_results", given):
        for round_ in range(rounds + 1):
            pdf = sample_pdf(Path(place) / f"{round_}.pdf", ADDED, numbered=True)
            for folder, of_folder in zip(folders, times, strict=True):
                index = PageIndex(folder, embedder)
                of_folder.append(1000 * seconds(lambda index=index, pdf=pdf: index.add(pdf)))  # type: ignore[misc]
    return [of_folder[1:] for of_folder in times]  # the first of all starts what renders


def main() -> None:
    """Read the command line, fill, search and add."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=10_000)
    parser.add_argument("--dimensions", type=int, default=2048, help="of the vectors")
    parser.add_argument("--vectors", choices=get_args(VectorType), default="float32")
    parser.add_argument("--rounds", type=int, default=5, help="documents that are added")
    parser.add_argument("--beside", type=int, default=10_000, help="pages of an index to which they are added in turn")
    parser.add_argument("--no-bare", action="store_true", help="leave LanceDB's own search out, which takes long")
    parser.add_argument("--folder", type=Path, help="where the index is made; default: a temporary folder")
    given = parser.parse_args()
    pages = MadeUp(given.pages, given.dimensions)
    embedder = Embedder("nemovlm/pocket", dimensions=given.dimensions)
    with TemporaryDirectory(dir=given.folder) as place, embedder:
        folder = Path(place) / "db"
        writing, optimizing = fill(folder, pages, given.vectors, embedder)
        size = gibibytes(folder)
        lance.dataset(folder / "pages.lance").cleanup_old_versions(timedelta(0))
        kept = gibibytes(folder)
        index, process = PageIndex(folder, embedder), psutil.Process()
        before = process.memory_info().rss
        for question, words in zip(pages.questions(), pages.texts(QUESTIONS, 5, 3), strict=True):
            with given_vectors(question[None]):
                index.search(words, K)
        memory = (process.memory_info().rss - before) / 2**20
        table = searches(folder, pages, embedder, not given.no_bare)
        small = Path(place) / "small"
        fill(small, MadeUp(given.beside, given.dimensions), given.vectors, embedder)
        less, added = adding([small, folder], embedder, given.dimensions, given.rounds)
    ratios = [longer / shorter for longer, shorter in zip(added, less, strict=True)]
    notes = [
        f"filled in {writing / 60:.1f} minutes ({1000 * writing / given.pages:.2f} ms a page), brought up to date at "
        f"the end in {optimizing:.1f} s; {kept:.2f} GiB on the disk, and until earlier versions go, after ten minutes, "
        f"{size:.2f}",
        f"memory that {QUESTIONS} searches took: {memory:.0f} MiB",
        f"adding a document of {ADDED} pages, rendered, with vectors given: {spread(added, 0)} ms, and in turn to "
        f"{given.beside:,} pages {spread(less, 0)} ms; ratio {spread(ratios)}",
        machine("pylance", "lancedb", "faiss-cpu"),
    ]
    show(f"{given.pages:,} pages, {given.dimensions} numbers each, {given.vectors}", table, notes)


if __name__ == "__main__":
    main()
