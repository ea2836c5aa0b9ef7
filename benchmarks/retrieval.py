"""How often the right page is among the first 1, 5 and 10, and how far up: a `PageIndex` against BM25 over page texts.

The index is searched by meaning (`vector`), by words (`text`, which is the same whatever was embedded) and by both.
MRR is the mean of 1 / rank of the first right page, 0 if none is among the first ten. BM25 is `BM25Okapi` of rank-bm25
with its defaults, over lowercase words of letters and digits, a page being a document. The truth is JSONL, one object a
line with `question` and `truth`; `truth` names the pages, counted from 1, as `[file.pdf#page=7]`, and any of them is a
hit. This is the layout of the PDFs and ground truth in strudel0209/azure-rag-2025 on GitHub (MIT).

A model with eyes sees the pictures of pages as well as their texts; as `text` it sees what BM25 sees.

    python benchmarks/retrieval.py --pdfs FOLDER --truth text.jsonl charts.jsonl --modality text text_image
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
from common import machine, show
from rank_bm25 import BM25Okapi  # type: ignore[import-untyped]

from nemovlm import Embedder, PageIndex, iter_pages
from nemovlm.choices import SearchMode
from nemovlm.inputs import Modality

PageKey = tuple[str, int]  # name of the file; number of the page, from 1
Search = Callable[[str], list[PageKey]]

DEPTHS = (1, 5, 10)
LABEL = re.compile(r"\[([^\[\]#]+)#page=(\d+)[^\[\]]*\]")
WORD = re.compile(r"[^\W_]+")


def read_truth(path: Path, known: set[PageKey]) -> list[tuple[str, set[PageKey]]]:
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


def figures(search: Search, asked: list[tuple[str, set[PageKey]]]) -> list[str]:
    """Return the part of the questions that have a right page within each depth, and MRR."""
    ranks = np.array([rank(search(question), pages) for question, pages in asked])
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
    rows = [["questions", "pages as", "search", *(f"R@{depth}" for depth in DEPTHS), "MRR"]]
    searches: dict[tuple[str, str], Search] = {("text", "BM25, rank-bm25"): bm25(texts)}
    reports = []
    with TemporaryDirectory() as folder, Embedder(given.model) as embedder:
        for modality in given.modality or [embedder.modalities[-1]]:
            index = PageIndex(Path(folder) / modality, embedder)
            reports.append(f"indexing as {modality}: {index.add(given.pdfs, modality=modality)}")
            searches.setdefault(("text", "words"), page_index(index, "text"))
            searches[modality, f"vectors of {embedder.model}"] = page_index(index, "vector")
            searches[modality, "both (hybrid)"] = page_index(index, "hybrid")
        for title, asked in sets.items():
            rows += [[f"{len(asked)}, {title}", *name, *figures(search, asked)] for name, search in searches.items()]
    notes = [*reports, machine("rank-bm25", "torch", "pylance", "pypdfium2")]
    show(f"Pages found among {len(texts)}", rows, notes)


if __name__ == "__main__":
    main()
