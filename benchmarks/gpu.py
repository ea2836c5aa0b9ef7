"""The transformers engine on a GPU, at the size of NVIDIA's own models: how long, how much, and how exact.

The model has the shape of llama-nemotron-embed-vl-1b-v2 (1.7 billion weights, tiles of 512 pixels, 256 tokens each) and
random weights; its tokenizer is that of the tests, which makes more tokens of a text. The baseline is the plain loop of
`engine.py`, over the same module in the same dtype. Needs reportlab. Each part is printed as it comes, and what fails
costs no other.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --small --device cpu --pages 4 --texts 16 --rounds 1
"""

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import in_turns, machine, ratios, sample_pdf, seconds, show, spread
from engine import LARGER_LLM, LARGER_VIT, PlainLoop, write_checkpoint

from nemovlm import Embedder, Passage, iter_pages
from nemovlm.errors import EngineError
from nemovlm.inputs import Item
from nemovlm.models.checkpoint import find_checkpoint
from nemovlm.models.llama_nemotron.local import LocalLlamaNemotron

# config.json of llama-nemotron-embed-vl-1b-v2: a Llama 3.2 1B and a SigLIP 2 so400m.
REAL_LLM = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128266,
    "max_position_embeddings": 131072,
}
REAL_VIT = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 512,
    "patch_size": 16,
}
SWEEP = (4096, 8192, 16384, 32768, 65536)
PASSAGE = 1000  # characters


def synchronize() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gb(work: Callable[[], object]) -> float:
    """Return the most memory of the GPU, in GB, that is taken while `work` runs."""
    if not torch.cuda.is_available():
        work()
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() / 1e9


def works(pdf: Path, vision: Any, texts: int, pages: int) -> dict[str, list[Passage]]:
    """Return the items of each kind of work."""
    drawn = list(iter_pages(pdf, tiling=vision))
    lines = [line for page in drawn for line in page.text.splitlines() if len(line) >= 20]
    long = " ".join(lines) * 3
    images = list(islice(cycle(drawn), pages))
    starts = islice(cycle(range(0, len(long) - PASSAGE, 97)), texts)
    return {
        "short texts": [Passage(text=line) for line in islice(cycle(lines), texts)],
        "passages": [Passage(text=long[start : start + PASSAGE]) for start in starts],
        "pages": [Passage(image=page.image) for page in images],
        "pages with text": [Passage(text=page.text[:PASSAGE], image=page.image) for page in images],
    }


class Bench:
    """What the parts have in common."""

    def __init__(self, folder: Path, pdf: Path, given: argparse.Namespace) -> None:
        self.folder, self.given = folder, given
        self.card = find_checkpoint(str(folder)).card
        self.dtype = "bfloat16" if given.device.startswith("cuda") else "float32"
        self.works = works(pdf, self.card.vision, given.texts, given.pages)

    @contextmanager
    def embedder(self, **settings: Any) -> Iterator[Embedder]:
        """Open an embedder that is loaded and warm."""
        with Embedder(self.folder, engine="transformers", device=self.given.device, **settings) as embedder:
            embedder.embed_query("warm")
            yield embedder

    def load(self) -> None:
        """Time from nothing to the first vector, the first time and again."""
        rows = []
        for name in ("first", "again"):
            start = time.perf_counter()
            with self.embedder():
                took = time.perf_counter() - start
                held = torch.cuda.memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
                rows.append([name, f"{took:.1f}", f"{held:.2f}"])
        show("Loading", [["", "seconds to the first vector", "GB on the GPU"], *rows])

    def throughput(self) -> None:
        """Compare with the plain loop."""
        loop = PlainLoop(self.folder, self.given.device, getattr(torch, self.dtype))
        rows = []
        with self.embedder() as embedder:
            for kind, items in self.works.items():
                few = items[: max(4, len(items) // 8)]  # the loop is slow
                ours, theirs = embedder.embed(few), loop.embed(few)
                cosine = float((ours * theirs).sum(axis=1).min())
                embedder.embed(items)
                before = embedder.usage.tokens
                ways = {
                    "loop": lambda few=few: len(few) / seconds(partial(loop.embed, few)),
                    "ours": lambda items=items: len(items) / seconds(partial(embedder.embed, items)),
                }
                slow, fast = in_turns(ways, self.given.rounds).values()
                tokens = (embedder.usage.tokens - before) / self.given.rounds / len(items)
                peak = peak_gb(partial(embedder.embed, items))
                rows.append(
                    [
                        kind,
                        f"{tokens:.0f}",
                        spread(slow, 1),
                        spread(fast, 1),
                        spread(ratios(fast, slow)),
                        f"{peak:.1f}",
                        f"{cosine:.5f}",
                    ]
                )
        head = [
            "",
            "tokens an item",
            "plain loop, items/s",
            "`Embedder.embed`, items/s",
            "ratio",
            "peak GB",
            "least cosine",
        ]
        show(f"Against a plain loop, {self.dtype}, {self.given.rounds} rounds", [head, *rows])

    def apart(self) -> None:
        """Time preparing and computing by themselves."""
        model = LocalLlamaNemotron(self.folder, self.card, max_tokens=None, device=self.given.device, dtype=self.dtype)
        rows = []
        for kind, items in self.works.items():
            made = [Item("passage", item.text or "", item.image, "END") for item in items[:64]]
            with ThreadPoolExecutor(8) as pool:
                prepared = list(pool.map(model.prepare, made))
                threads = [len(made) / seconds(lambda made=made: list(pool.map(model.prepare, made))) for _ in range(3)]
            one = [16 / seconds(lambda made=made: [model.prepare(item) for item in made[:16]]) for _ in range(3)]
            longest = max(len(item.ids) for item in prepared)
            size = max(1, 32768 // longest)
            batch = list(islice(cycle(prepared), size))

            def compute(batch: list[Any] = batch) -> None:
                model.embed(batch)
                synchronize()

            compute()
            computed = [len(batch) / seconds(compute) for _ in range(5)]
            rows.append([kind, spread(one, 0), spread(threads, 0), spread(computed, 0)])
        head = ["", "prepared by one thread, items/s", "by 8 threads", "computed in full batches, items/s"]
        show("Preparing and computing apart", [head, *rows])

    def sweep(self) -> None:
        """Try other sizes of batches."""
        rows = []
        for tokens in SWEEP:
            with self.embedder(batch_tokens=tokens) as embedder:
                row = [str(tokens)]
                for kind in ("short texts", "passages", "pages"):
                    items = self.works[kind]
                    embedder.embed(items)
                    rates = [len(items) / seconds(partial(embedder.embed, items)) for _ in range(self.given.rounds)]
                    row += [spread(rates, 1), f"{peak_gb(partial(embedder.embed, items)):.1f}"]
            rows.append(row)
        head = ["batch_tokens", "short texts/s", "GB", "passages/s", "GB", "pages/s", "GB"]
        show("Tokens in one pass", [head, *rows])

    def rounding(self) -> None:
        """Compare the dtypes."""
        with self.embedder(dtype="float32") as exact, self.embedder(dtype="bfloat16") as rounded:
            rows = []
            for kind, items in self.works.items():
                some = items[:64]
                a, b = exact.embed(some), rounded.embed(some)
                cosines = (a * b).sum(axis=1)
                rows.append([kind, f"{cosines.min():.5f}", f"{np.median(cosines):.5f}", f"{np.abs(a - b).max():.1e}"])
        show("bfloat16 against float32", [["", "least cosine", "median", "largest difference"], *rows])

    def latency(self) -> None:
        """Time single queries, and many at once."""
        with self.embedder() as embedder:
            queries = [f"what is said about number {number}?" for number in range(200)]
            alone = sorted(1000 * seconds(partial(embedder.embed_query, query)) for query in queries)
            with ThreadPoolExecutor(32) as pool:
                rate = len(queries) / seconds(lambda: list(pool.map(embedder.embed_query, queries)))
        row = [f"{alone[100]:.1f}", f"{alone[197]:.1f}", f"{rate:.0f}"]
        show("Queries", [["one at a time, median ms", "99th percentile, ms", "by 32 threads, queries/s"], row])

    def memory(self) -> None:
        """Run out of memory on purpose, and go on."""
        with self.embedder(batch_tokens=1_000_000) as embedder:
            torch.cuda.empty_cache()
            free, _ = torch.cuda.mem_get_info()
            held = torch.empty(max(0, free - 10**9), dtype=torch.uint8, device=self.given.device)
            try:
                embedder.embed(list(islice(cycle(self.works["pages"]), 256)))
                said = "nothing: it fitted"
            except EngineError as error:
                said = str(error)
            del held
            torch.cuda.empty_cache()
            after = embedder.embed_query("and now?").shape
        show("Out of memory", [["what is said", "afterwards"], [said, f"a vector {after}"]])


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="the random model of engine.py")
    parser.add_argument("--texts", type=int, default=2048)
    parser.add_argument("--pages", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default="load,throughput,apart,latency,sweep,rounding,memory")
    given = parser.parse_args()
    dtype = torch.float32 if given.small else torch.bfloat16
    llm, vit = (LARGER_LLM, LARGER_VIT) if given.small else (REAL_LLM, REAL_VIT)
    with TemporaryDirectory() as name:
        folder = write_checkpoint(Path(name) / "random-vl", llm, vit, device=given.device, dtype=dtype)
        bench = Bench(folder, sample_pdf(Path(name) / "samples.pdf", min(given.pages, 64)), given)
        gpu = torch.cuda.get_device_name() if given.device.startswith("cuda") else given.device
        print(f"{gpu}, CUDA {torch.version.cuda}, {machine('torch', 'transformers')}", flush=True)
        for part in given.parts.split(","):
            start = time.perf_counter()
            try:
                getattr(bench, part)()
            except Exception:
                traceback.print_exc()
            print(f"({part}: {time.perf_counter() - start:.0f} s)\n", flush=True)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
