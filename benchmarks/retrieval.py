"""How often the right page is among the first 1, 5 and 10, and how far up: a `PageIndex` against BM25 over page texts.

The index is searched by meaning (`vector`), by words (`text`, which is the same whatever was embedded) and by both.
MRR is the mean of 1 / rank of the first right page, 0 if none is among the first ten. BM25 is `BM25Okapi` of rank-bm25
with its defaults, over lowercase words of letters and digits, a page being a document. The truth is JSONL, one object a
line with `question` and `truth`; `truth` names the pages, counted from 1, as `[file.pdf#page=7]`, and any of them is a
hit. This is the layout of the PDFs and ground truth in strudel0209/azure-rag-2025 on GitHub (MIT).

A second table says what is lost with vectors that are kept smaller, or shortened: the same questions, by vectors alone,
and how many of the first ten pages are those of whole vectors in float32.

A model with eyes sees the pictures of pages as well as their texts; as `text` it sees what BM25 sees.

    python benchmarks/retrieval.py --pdfs FOLDER --truth text.jsonl charts.jsonl --modality text text_image
"""

import argparse
import json
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
from common import machine, show
from rank_bm25 import BM25Okapi  # type: ignore[import-untyped]

from nemovlm import Embedder, PageIndex, iter_pages
from nemovlm.choices import SearchMode, VectorType
from nemovlm.index.store import PageStore
from nemovlm.inputs import Modality, Vector

PageKey = tuple[str, int]  # name of the file; number of the page, from 1
Asked = list[tuple[str, set[PageKey]]]  # questions, with their pages
Search = Callable[[str], list[PageKey]]

DEPTHS = (1, 5, 10)
FIGURES = (*(f"R@{depth}" for depth in DEPTHS), "MRR")
PARTS = (1, 0.5, 0.25)  # of a vector's numbers
PAGE = ("document", "page")
LABEL = re.compile(r"\[([^\[\]#]+)#page=(\d+)[^\[\]]*\]")
WORD = re.compile(r"[^\W_]+")


def read_truth(path: Path, known: set[PageKey]) -> Asked:
    """Return questions with their pages."""
    asked = []
    for line in filter(str.strip, path.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        pages = {(file, int(number)) for file, number in LABEL.findall(row["truth"])}
        if not pages or pages - known:
            raise SystemExit(f"{path}: {row['question']!r} names {pages - known or 'no page'}; not among the PDFs")
        asked.append((row["question"], pages))
    return asked


def page_texts(pdfs: Path) -> dict[PageKey, str]:
    """Return the text layer of every page."""
    found = sorted(pdfs.rglob("*.pdf"))
    return {(pdf.name, page.index + 1): page.text for pdf in found for page in iter_pages(pdf, dpi=10)}


def bm25(texts: dict[PageKey, str]) -> Search:
    """Return the baseline."""
    keys = list(texts)
    ranker = BM25Okapi([words(text) for text in texts.values()])

    def search(question: str) -> list[PageKey]:
        order = np.argsort(-ranker.get_scores(words(question)), kind="stable")
        return [keys[place] for place in order[: DEPTHS[-1]]]

    return search


def words(text: str) -> list[str]:
    """Return the words of a text, in lowercase."""
    return WORD.findall(text.lower())


def page_index(index: PageIndex, mode: SearchMode) -> Search:
    """Return what is measured."""

    def search(question: str) -> list[PageKey]:
        return [(Path(hit.document).name, hit.page + 1) for hit in index.search(question, DEPTHS[-1], mode=mode)]

    return search


def smaller(folder: Path, store: PageStore, embedder: Embedder, asked: Asked) -> list[list[str]]:
    """Return the table of vectors that are kept smaller."""
    rows = [["numbers", "kept as", *FIGURES, "the same ten"]]
    pages, questions = store.rows(), embedder.embed_queries([question for question, _ in asked])
    whole: list[list[PageKey]] = []
    for part, vectors in product(PARTS, get_args(VectorType)):
        dimension = int(part * embedder.dimension)
        made = PageStore.create(folder / f"{dimension} {vectors}", dimension, {}, vectors)
        made.write([{**page, "vector": shortened(page["vector"], dimension)} for page in pages])
        found = [
            [(Path(row["document"]).name, row["page"] + 1) for _, row in made.search(DEPTHS[-1], PAGE, vector=vector)]
            for vector in (shortened(question, dimension) for question in questions)
        ]
        whole = whole or found
        same = np.mean([len(set(one) & set(other)) / len(one) for one, other in zip(whole, found, strict=True)])
        rows.append([str(dimension), vectors, *figures(found, asked), f"{same:.3f}"])
    return rows


def shortened(vector: Vector, dimension: int) -> Vector:
    """Return the first numbers of a vector, of unit length."""
    numbers = np.asarray(vector[:dimension], np.float32)
    return np.asarray(numbers / np.linalg.norm(numbers))


def figures(found: list[list[PageKey]], asked: Asked) -> list[str]:
    """Return the part of the questions that have a right page within each depth, and MRR."""
    ranks = np.array([rank(keys, pages) for keys, (_, pages) in zip(found, asked, strict=True)])
    return [f"{number:.3f}" for number in (*(np.mean(ranks <= depth) for depth in DEPTHS), np.mean(1 / ranks))]


def rank(found: list[PageKey], right: set[PageKey]) -> float:
    """Return the rank of the first right page, from 1; infinity if there is none."""
    return next((place for place, key in enumerate(found, 1) if key in right), np.inf)


def main() -> None:
    """Read the command line, index and ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pdfs", type=Path, required=True, help="a folder of PDFs")
    parser.add_argument("--truth", type=Path, required=True, nargs="+", help="JSONL files of questions")
    parser.add_argument("--model", default="nemovlm/pocket", help="model id or checkpoint folder")
    parser.add_argument("--modality", choices=get_args(Modality), nargs="+", help="what of a page is embedded")
    given = parser.parse_args()
    texts = page_texts(given.pdfs)
    sets = {path.name: read_truth(path, set(texts)) for path in given.truth}
    if len(sets) > 1:
        sets["all"] = [row for asked in sets.values() for row in asked]
    rows = [["questions", "pages as", "search", *FIGURES]]
    searches: dict[tuple[str, str], Search] = {("text", "BM25, rank-bm25"): bm25(texts)}
    reports = []
    with TemporaryDirectory() as folder, Embedder(given.model) as embedder:
        for modality in given.modality or [embedder.modalities[-1]]:
            index = PageIndex(Path(folder) / modality, embedder)
            reports.append(f"indexing as {modality}: {index.add(given.pdfs, modality=modality)}")
            searches.setdefault(("text", "words"), page_index(index, "text"))
            searches[modality, f"vectors of {embedder.model}"] = page_index(index, "vector")
            searches[modality, "both (hybrid)"] = page_index(index, "hybrid")
        for (title, asked), (name, search) in product(sets.items(), searches.items()):
            found = [search(question) for question, _ in asked]
            rows.append([f"{len(asked)}, {title}", *name, *figures(found, asked)])
        lost = smaller(Path(folder), index._opened, embedder, asked)
    notes = [*reports, machine("rank-bm25", "torch", "pylance", "pypdfium2")]
    show(f"Pages found among {len(texts)}", rows, notes)
    print()
    show(f"Smaller vectors, of pages as {modality}: {len(asked)} questions", lost)


if __name__ == "__main__":
    main()
