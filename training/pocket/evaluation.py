"""How well pages are found: printed pages of documents that training has not seen, by words that stand on them.

The model runs as its users run it, through `Embedder`. What is reported is the share of questions whose page is the
first one (R@1), or among the first five (R@5), with 95 % intervals from resampling pages, and the mean reciprocal
rank."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nemovlm import Embedder, iter_pages

from . import corpus
from .pages import Page, charted, make_pages, scanned, snippet_of, titled

PAGES = 200
HARDER = 100  # pages of each harder kind
SNIPPETS = 3  # of each page
RARE = 3  # words of a question of words that training has not seen
RESAMPLED = 2000
SEEDS = {"dev": 21, "test": 22}

#: Fonts that training knows, beside those that it does not.
KNOWN = ("DejaVuSans.ttf", "LiberationSerif-Regular.ttf", "texgyrepagella-regular.otf", "Carlito-Regular.ttf")


def evaluate(model: Path, data: Path, part: corpus.Part) -> None:
    """Print the figures of the checkpoint in the folder `model` on printed pages."""
    trained = corpus.documents(data, "train")
    documents = corpus.distinct(corpus.documents(data, part), trained)
    known = [font for font in corpus.fonts(data, corpus.TRAINED_FONTS) if Path(font).name in KNOWN]
    unknown = corpus.fonts(data, corpus.DEV_FONTS if part == "dev" else corpus.TEST_FONTS)
    seen = {word.strip(".,;:()[]\"'").lower() for word in corpus.words_to_draw(trained)}
    seed = SEEDS[part]
    pages = make_pages(documents, known + unknown, PAGES, seed)
    rng = random.Random(seed)
    snippets = [(number, page.snippet(rng)) for number, page in enumerate(pages) for _ in range(SNIPPETS)]
    strange = [(number, words) for number, page in enumerate(pages) if (words := _unseen(page, seen, rng))]
    control = [((number + PAGES // 2) % PAGES, words) for number, words in snippets]

    asked = Asked(Embedder(str(model)))
    started = time.perf_counter()
    pictures = asked.embedder.embed([page.image for page in pages])
    pace = PAGES / (time.perf_counter() - started)
    texts = asked.embedder.embed([page.text for page in pages])
    print(f"{len(documents)} documents, {PAGES} pages of {np.mean([len(p.words) for p in pages]):.0f} words on average")
    asked.head()
    asked.report("5-8 words in a row, page as text", texts, snippets)
    asked.report("5-8 words in a row, page as picture", pictures, snippets)
    asked.report("words training has not seen, picture", pictures, strange)
    asked.report("another page's words, picture (control)", pictures, control)
    groups: list[tuple[str, Callable[[Page], bool]]] = [
        ("fonts in training", lambda page: page.font in known),
        ("fonts not in training", lambda page: page.font in unknown),
        *((f"{a}-{b} px", lambda page, a=a, b=b: a <= page.size <= b) for a, b in ((10, 12), (13, 15), (16, 20))),
    ]
    for name, belongs in groups:
        asked.report(f"  of them {name}", pictures, [item for item in snippets if belongs(pages[item[0]])])
    print(f"{pace:.2f} pages a second")
    columns = make_pages(documents, known + unknown, HARDER, seed + 100, columns=2)
    scans = [scanned(page, rng) for page in pages[:HARDER]]
    for name, harder in (("two columns", columns), ("scans", scans)):
        snippets = [(number, page.snippet(rng)) for number, page in enumerate(harder) for _ in range(SNIPPETS)]
        asked.report(f"{HARDER} pages: {name}", asked.embedder.embed([page.image for page in harder]), snippets)
    for name, made in (("large titles, by four words", titled), ("charts and tables, by three labels", charted)):
        harder, questions = zip(*(made(page, rng) for page in pages[:HARDER]), strict=True)
        found = asked.embedder.embed([page.image for page in harder])
        asked.report(f"{HARDER} pages: {name}", found, list(enumerate(questions)))


def evaluate_pdfs(model: Path, folder: Path) -> None:
    """Print how well the pages of the PDFs in a folder are found, by six to eight words in a row of their text layer:
    as that text and as pictures."""
    asked = Asked(Embedder(str(model), truncate="END"))
    pages = [page for path in sorted(folder.rglob("*.pdf")) for page in iter_pages(path, tiling=asked.embedder.tiling)]
    rng = random.Random(SEEDS["test"])
    snippets: list[tuple[int, str]] = []
    for number, page in enumerate(pages):
        words = page.text.split()
        for _ in range(SNIPPETS if len(words) >= 20 else 0):
            snippets.append((number, snippet_of(words, rng, 6)))
    print(f"{len(pages)} pages, {len({number for number, _ in snippets})} of them with 20 words or more")
    asked.head()
    for modality in ("text", "image"):
        found = asked.embedder.embed(
            [page.passage(modality) if modality != "text" or page.text else "" for page in pages]
        )
        asked.report(f"6-8 words in a row, page as {modality}", found, snippets)


@dataclass(frozen=True)
class Asked:
    """An embedder that is asked questions."""

    embedder: Embedder

    def head(self) -> None:
        print(f"{'questions':44s}    n   R@1                R@5                MRR")

    def report(self, name: str, passages: NDArray[np.float32], questions: Sequence[tuple[int, str]]) -> None:
        ranks = ranks_of(passages, self.embedder.embed_queries([words for _, words in questions]), questions)
        owners = np.array([number for number, _ in questions])
        first, five = (interval(ranks < top, owners) for top in (1, 5))
        print(f"{name:44s} {len(ranks):4d}   {first}   {five}   {np.mean(1 / (ranks + 1)):.3f}", flush=True)


def ranks_of(
    passages: NDArray[np.float32], queries: NDArray[np.float32], questions: Sequence[tuple[int, str]]
) -> NDArray[np.int64]:
    """How many passages are nearer to each question than its own."""
    scores = queries @ passages.T
    own = scores[np.arange(len(questions)), [number for number, _ in questions]]
    return np.asarray((scores > own[:, None]).sum(1))


def interval(hits: NDArray[np.bool_], owners: NDArray[np.int64]) -> str:
    """The mean in percent with its 95 % interval, resampling the pages that own the questions."""
    by_page = [hits[owners == owner] for owner in np.unique(owners)]
    generator = np.random.default_rng(0)
    draws = generator.integers(0, len(by_page), (RESAMPLED, len(by_page)))
    sums, sizes = (np.array([measure(part) for part in by_page]) for measure in (np.sum, len))
    low, high = np.percentile(sums[draws].sum(1) / sizes[draws].sum(1), (2.5, 97.5))
    return f"{100 * hits.mean():5.1f} ({100 * low:4.1f}-{100 * high:5.1f})"


def _unseen(page: Page, seen: set[str], rng: random.Random) -> str:
    words = {word.strip(".,;:()[]\"'").lower() for word in page.words}
    strange = sorted(word for word in words if word.isalpha() and len(word) > 3 and word not in seen)
    return " ".join(rng.sample(strange, min(RARE, len(strange))))
