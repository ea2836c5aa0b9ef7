"""How fast pages move where the model costs nothing: what is done on the host, and where its time goes.

The forward pass is replaced by one that answers at once; all else is real: rendering, digests, thumbnails, the tiles of
512 pixels that NVIDIA's published models see, tokens, rows of an index. `PageIndex.add` is compared with rendering
alone, and `Embedder.embed` of pages in memory with cutting their tiles alone in two threads. Then each step by itself,
in milliseconds of CPU time a page. Needs reportlab.

    python benchmarks/host.py
    python benchmarks/host.py --pdfs FOLDER
"""

import argparse
import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
from common import in_turns, machine, ratios, sample_pdf, seconds, show, spread
from engine import write_checkpoint

from nemovlm import Embedder, PageIndex, Passage, iter_pages
from nemovlm.images import encode_jpeg, view_image
from nemovlm.inputs import Item, Vector
from nemovlm.models.base import ModelInput
from nemovlm.models.checkpoint import find_checkpoint
from nemovlm.models.llama_nemotron.local import LocalLlamaNemotron
from nemovlm.models.llama_nemotron.preprocessing import Preprocessor
from nemovlm.pdf import Page
from nemovlm.pdf.folders import find_pdfs

WIDTH = 2048  # of the vectors
LLM = {"hidden_size": WIDTH, "num_hidden_layers": 1, "intermediate_size": 64, "max_position_embeddings": 16384}
VIT = {"image_size": 512, "patch_size": 16, "num_hidden_layers": 1}
HELD = 60  # pages in memory


def at_once(_: LocalLlamaNemotron, batch: Sequence[ModelInput]) -> Vector:
    """Answer with unit vectors that nothing was computed for."""
    vectors = np.zeros((len(batch), WIDTH), np.float32)
    vectors[np.arange(len(batch)), [len(item.ids) % WIDTH for item in batch]] = 1
    return vectors


def render(pdfs: Sequence[Path], embedder: Embedder) -> None:
    """Render all pages as the model wants them, and do nothing with them."""
    for pdf in pdfs:
        for _ in iter_pages(pdf, tiling=embedder.tiling):
            pass


def index(pdfs: Sequence[Path], embedder: Embedder, workers: int) -> None:
    """Put all pages into an index of their own."""
    with TemporaryDirectory() as folder:
        PageIndex(Path(folder) / "db", embedder).add(pdfs, workers=workers)


def milliseconds(work: Callable[[Page], object], pages: Sequence[Page]) -> str:
    """Return the CPU time of `work` a page, the median of five."""
    taken = []
    for _ in range(5):
        start = time.process_time()
        for page in pages:
            work(page)
        taken.append(1000 * (time.process_time() - start) / len(pages))
    return f"{median(taken):.1f}"


def steps(folder: Path, pages: Sequence[Page]) -> list[list[str]]:
    """Return a row for each step that a page takes here, rendering left out: that is done in other processes."""
    card = find_checkpoint(str(folder)).card
    preprocess, tiling = Preprocessor(folder, card, None), card.tiling
    assert tiling is not None

    def resized(page: Page) -> None:
        columns, rows = tiling.grid(*page.image.size)
        page.image.resize((columns * tiling.tile, rows * tiling.tile))

    work: dict[str, Callable[[Page], object]] = {
        "digest of the pixels": lambda page: hashlib.sha256(page.image.tobytes()).hexdigest(),
        "thumbnail, as a JPEG": lambda page: encode_jpeg(page.image, longest_edge=400),
        "tiles": lambda page: tiling.cut(view_image(page.image)),
        "of these: resized to the grid": resized,
        "of these: resized to one tile": lambda page: page.image.resize((tiling.tile, tiling.tile)),
        "tiles and tokens": lambda page: preprocess(Item("passage", page.text, page.image, "END")),
    }
    return [[name, milliseconds(step, pages)] for name, step in work.items()]


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pdfs", type=Path, help="a folder of PDFs; default: 200 pages of the sample library")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with TemporaryDirectory() as name, mock.patch.object(LocalLlamaNemotron, "embed", at_once):
        folder = write_checkpoint(Path(name) / "tiles-of-512", LLM, VIT)
        samples = sample_pdf(Path(name) / "samples.pdf", 200, numbered=True)
        pdfs = [path for path in find_pdfs(given.pdfs) if isinstance(path, Path)] if given.pdfs else [samples]
        with Embedder(folder, engine="transformers") as embedder, ThreadPoolExecutor(2) as pool:
            embedder.embed_query("load it")
            tiling = embedder.tiling
            assert tiling is not None
            drawn = (page for pdf in pdfs for page in iter_pages(pdf, tiling=tiling))
            held = list(islice(drawn, HELD))
            count = sum(1 for pdf in pdfs for _ in iter_pages(pdf, tiling=tiling))
            passages = [Passage(image=page.image) for page in held]
            cut = partial(pool.map, lambda page: tiling.cut(page.image), held)
            ways = {
                "rendering alone": (count, partial(render, pdfs, embedder)),
                "`PageIndex.add`": (count, partial(index, pdfs, embedder, 1)),
                "`PageIndex.add`, `workers=2`": (count, partial(index, pdfs, embedder, 2)),
                "cutting tiles alone, one thread": (len(held), lambda: [tiling.cut(page.image) for page in held]),
                "cutting tiles alone, two threads": (len(held), lambda: list(cut())),
                "`Embedder.embed` of pages in memory": (len(held), partial(embedder.embed, passages)),
            }
            timed = {way: lambda n=n, work=work: 1000 * seconds(work) / n for way, (n, work) in ways.items()}
            measured = in_turns(timed, given.rounds)
            rows = []
            for way, times in measured.items():
                base = "rendering alone" if ways[way][0] == count else "cutting tiles alone, two threads"
                rates = [1000 / ms for ms in times]
                rows.append([way, spread(rates, 1), spread(times, 1), spread(ratios(times, measured[base]))])
            show(
                f"Pages where the model costs nothing, {given.rounds} rounds",
                [["", "pages/s", "ms a page", "of rendering alone, or of cutting in two threads"], *rows],
            )
            parts = [["", "ms a page"], *steps(folder, held)]
            show("CPU time of the steps here", parts, [machine("pillow", "pylance")])


if __name__ == "__main__":
    main()
