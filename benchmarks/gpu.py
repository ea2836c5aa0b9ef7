"""The local engines on a GPU, at the size of NVIDIA's own models: how fast, how exact, and what the card could do.

The model has the shape of llama-nemotron-embed-vl-1b-v2 (1.7 billion weights, tiles of 512 pixels, 256 tokens each) and
random weights, made here; its tokenizer is that of the tests, which makes more tokens of a text. The floor of a page is
the time that its floating-point operations take at the card's measured rate of large matrix products. The module of
before is that of `engine.py`; vLLM is measured where it is installed. Each part is printed as it comes, and what fails
costs no other. Needs reportlab, and takes less than eight minutes on a large GPU.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --small --device cpu --pages 4 --texts 16 --rounds 1
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import in_turns, machine, ratios, sample_pdf, seconds, show, spread
from engine import PlainLoop, module_of_before, write_checkpoint

from nemovlm import Embedder, PageIndex, Passage, iter_pages
from nemovlm.errors import EngineError
from nemovlm.inputs import Item
from nemovlm.models.checkpoint import find_checkpoint
from nemovlm.models.llama_nemotron.local import LocalLlamaNemotron
from nemovlm.models.llama_nemotron.preprocessing import Preprocessor
from nemovlm.models.llama_nemotron.sizes import LlamaSizes, SiglipSizes

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
PARTS = ("card", "load", "compute", "engines", "index", "latency", "sweep", "rounding", "memory")
SWEEP = (2048, 4096, 8192, 16384, 32768)
LENGTHS = (128, 512)  # tokens of a text
WORKERS = (1, 4, 8)


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


def operations(config: dict[str, Any], tiles: int, tokens: int) -> float:
    """Return the floating-point operations of an item: tiles x vision + tokens x text, attention included.

    A product of matrices (m, k) and (k, n) has 2 m k n of them; norms, activations and softmax are left out.
    """
    llm, vit = LlamaSizes.of(config["llm_config"]), SiglipSizes.of(config["vision_config"])
    patches, heads = vit.side**2, llm.heads * llm.head_width
    per_patch = vit.layers * (4 * vit.width**2 + 2 * vit.width * vit.hidden + 2 * patches * vit.width)
    per_patch += 3 * vit.patch**2 * vit.width
    merged = 4 * vit.width
    per_feature = merged * llm.width + llm.width**2
    per_token = llm.layers * (
        llm.width * (2 * heads + 2 * llm.kv_heads * llm.head_width) + 3 * llm.width * llm.hidden + 2 * tokens * heads
    )
    return 2.0 * (tiles * patches * (per_patch + per_feature / 4) + tokens * per_token)


class Bench:
    """What the parts have in common."""

    def __init__(self, folder: Path, pdf: Path, given: argparse.Namespace) -> None:
        self.folder, self.pdf, self.given = folder, pdf, given
        self.model = find_checkpoint(str(folder)).card
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.dtype = "bfloat16" if given.device.startswith("cuda") else "float32"
        drawn = list(iter_pages(pdf, tiling=self.model.tiling))
        self.pages = [Passage(image=page.image) for page in islice(cycle(drawn), given.pages)]
        lines = [line for page in drawn for line in page.text.splitlines() if len(line) >= 20]
        self.lines = [Passage(text=line) for line in islice(cycle(lines), given.texts)]
        long = " ".join(lines) * 3
        self.texts = {}
        for length in LENGTHS:  # the tests' tokenizer has about a token a character
            starts = islice(cycle(range(0, len(long) - 2 * length, 97)), given.texts)
            self.texts[length] = [Passage(text=long[start : start + length - 12]) for start in starts]
        page = Preprocessor(folder, self.model, None)(Item("passage", "", self.pages[0].image, "END"))
        assert page.tiles is not None
        self.tiles = len(page.tiles)
        self.tokens = len(page.before) + page.image_tokens + len(page.after)
        self.pass_tokens = 8192 if given.device.startswith("cuda") else 1024
        self.flops = operations(self.config, self.tiles, self.tokens)
        self.rate = 0.0  # operations a second, as measured by `card`

    @contextmanager
    def embedder(self, engine: str = "transformers", **settings: Any) -> Iterator[Embedder]:
        """Open an embedder that is loaded and warm."""
        with Embedder(self.folder, engine=engine, device=self.given.device, **settings) as embedder:
            embedder.embed_query("warm")
            yield embedder

    def of_floor(self, pages_per_second: Sequence[float]) -> str:
        """Say which share of the card's rate this is."""
        return f"{median(pages_per_second) * self.flops / self.rate:.2f}" if self.rate else ""

    def card(self) -> None:
        """Measure the card: large matrix products, and copies within its memory."""
        side = 8192 if self.given.device.startswith("cuda") else 1024
        dtype = getattr(torch, self.dtype)
        a, b = (torch.randn(side, side, device=self.given.device, dtype=dtype) for _ in range(2))

        def products(times: int = 10) -> None:
            for _ in range(times):
                torch.mm(a, b)
            synchronize()

        products(3)
        rates = [10 * 2 * side**3 / seconds(products) for _ in range(5)]
        self.rate = median(rates)
        source = torch.empty(2**28 if side > 1024 else 2**24, dtype=torch.uint8, device=self.given.device)
        target = torch.empty_like(source)

        def copies() -> None:
            for _ in range(10):
                target.copy_(source)
            synchronize()

        copies()
        bandwidths = [20 * len(source) / seconds(copies) / 1e9 for _ in range(5)]
        rows = [
            [f"{self.dtype} products of {side} x {side}, TFLOP/s", spread([rate / 1e12 for rate in rates], 1)],
            ["memory, GB/s (read and written)", spread(bandwidths, 0)],
            [f"a page ({self.tiles} tiles, {self.tokens} tokens), TFLOP", f"{self.flops / 1e12:.3f}"],
            ["its floor, ms", f"{1000 * self.flops / self.rate:.2f}"],
            ["pages/s at the floor", f"{self.rate / self.flops:.1f}"],
        ]
        show("The card", [["", ""], *rows])

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

    def compute(self) -> None:
        """Time preparing and computing by themselves, in full passes."""
        works = {"pages": self.pages, **{f"texts of {n} tokens": items for n, items in self.texts.items()}}
        rows = []
        where = {"device": self.given.device, "dtype": self.dtype}
        model = LocalLlamaNemotron(self.folder, self.model, max_tokens=None, **where)
        for kind, items in works.items():
            made = [Item("passage", item.text or "", item.image, "END") for item in items[:64]]
            with ThreadPoolExecutor(8) as pool:
                prepared = list(pool.map(model.prepare, made))
                threads = [len(made) / seconds(lambda m=made: list(pool.map(model.prepare, m))) for _ in range(3)]
            some = made[:16]
            one = [len(some) / seconds(lambda m=some: [model.prepare(item) for item in m]) for _ in range(3)]
            longest = max(len(item.ids) for item in prepared)
            batch = list(islice(cycle(prepared), max(1, self.pass_tokens // longest)))

            def computed(batch: list[Any] = batch) -> None:
                model.embed(batch)
                synchronize()

            computed()
            rates = [len(batch) / seconds(computed) for _ in range(5)]
            share = self.of_floor(rates) if kind == "pages" else ""
            rows.append([kind, str(longest), spread(one, 0), spread(threads, 0), spread(rates, 1), share])
        head = ["", "tokens", "one thread prepares, items/s", "8 threads", "computed, items/s", "of the card's rate"]
        show("Preparing and computing apart", [head, *rows])

    def engines(self) -> None:
        """Compare the engine with a plain loop, the module of before, and vLLM."""
        works = {"short texts": self.lines, **{f"texts of {n} tokens": items for n, items in self.texts.items()}}
        works["pages"] = self.pages
        mixed = [*self.lines[: len(self.lines) // 2], *self.texts[LENGTHS[-1]][: len(self.lines) // 4]]
        works["mixed texts"] = mixed
        loop = PlainLoop(self.folder, self.given.device, getattr(torch, self.dtype))
        rows = []
        settings = {"engine": "transformers", "device": self.given.device}
        with self.embedder() as ours, module_of_before(self.folder, **settings) as before:
            for kind, items in works.items():
                few = items[: max(4, len(items) // 8)]  # the loop is slow
                cosine = float((ours.embed(few) * loop.embed(few)).sum(axis=1).min())
                before.embed(items)
                ours.embed(items)
                ways = {
                    "loop": lambda few=few: len(few) / seconds(partial(loop.embed, few)),
                    "before": lambda items=items: len(items) / seconds(partial(before.embed, items)),
                    "ours": lambda items=items: len(items) / seconds(partial(ours.embed, items)),
                }
                of_loop, of_before, of_ours = in_turns(ways, self.given.rounds).values()
                rows.append(
                    [
                        kind,
                        spread(of_loop, 1),
                        spread(of_before, 1),
                        spread(of_ours, 1),
                        spread(ratios(of_ours, of_before)),
                        f"{peak_gb(partial(before.embed, items)):.1f}",
                        f"{peak_gb(partial(ours.embed, items)):.1f}",
                        self.of_floor(of_ours) if kind == "pages" else "",
                        f"{cosine:.5f}",
                    ]
                )
        head = ["", "plain loop, items/s", "module of before, items/s", "`Embedder.embed`, items/s", "/ before"]
        more = ["peak GB before", "peak GB", "of the card's rate", "least cosine to the loop"]
        show(f"Engines, {self.dtype}, {self.given.rounds} rounds", [[*head, *more], *rows])
        if find_spec("vllm"):
            self.vllm(works)

    def vllm(self, works: dict[str, list[Passage]]) -> None:
        """Measure vLLM's engine, after ours is closed: it wants memory of its own."""
        rows = []
        with self.embedder("vllm") as embedder:
            for kind, items in works.items():
                embedder.embed(items)
                rates = [len(items) / seconds(partial(embedder.embed, items)) for _ in range(self.given.rounds)]
                rows.append([kind, spread(rates, 1), self.of_floor(rates) if kind == "pages" else ""])
        show("vLLM", [["", "items/s", "of the card's rate"], *rows])

    def index(self) -> None:
        """Time from PDF to row, with as many processes that render."""
        rows = []
        count = len(list(iter_pages(self.pdf, tiling=self.model.tiling)))
        with self.embedder() as embedder, TemporaryDirectory() as name:
            for workers in WORKERS:
                rates = []
                for round_ in range(self.given.rounds):
                    index = PageIndex(Path(name) / f"{workers}-{round_}", embedder)
                    rates.append(count / seconds(lambda index=index, n=workers: index.add(self.pdf, workers=n)))
                rows.append([str(workers), spread(rates, 1), self.of_floor(rates)])
        show(f"From PDF to row, {count} pages", [["workers", "pages/s", "of the card's rate"], *rows])

    def sweep(self) -> None:
        """Try other sizes of passes."""
        rows = []
        for tokens in SWEEP:
            with self.embedder(batch_tokens=tokens) as embedder:
                row = [str(tokens)]
                for items in (self.lines, self.texts[LENGTHS[-1]], self.pages):
                    embedder.embed(items)
                    rates = [len(items) / seconds(partial(embedder.embed, items)) for _ in range(self.given.rounds)]
                    row += [spread(rates, 1), f"{peak_gb(partial(embedder.embed, items)):.1f}"]
            rows.append(row)
        head = ["batch_tokens", "short texts/s", "GB", f"texts of {LENGTHS[-1]} tokens/s", "GB", "pages/s", "GB"]
        show("Tokens in one pass", [head, *rows])

    def rounding(self) -> None:
        """Compare the dtypes."""
        works = {"short texts": self.lines, "pages": self.pages}
        with self.embedder(dtype="float32") as exact, self.embedder(dtype="bfloat16") as rounded:
            rows = []
            for kind, items in works.items():
                a, b = exact.embed(items[:64]), rounded.embed(items[:64])
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
        """Run short of memory on purpose, and go on."""
        if not torch.cuda.is_available():
            return
        with self.embedder(batch_tokens=1_000_000) as embedder:
            torch.cuda.empty_cache()
            free, _ = torch.cuda.mem_get_info()
            held = torch.empty(max(0, free - 2 * 10**9), dtype=torch.uint8, device=self.given.device)
            try:
                said = f"{len(embedder.embed(list(islice(cycle(self.pages), 128))))} vectors, of smaller passes"
            except EngineError as error:
                said = str(error)
            del held
            torch.cuda.empty_cache()
            after = embedder.embed_query("and now?").shape
        show("128 pages in one pass, with 2 GB free", [["what comes", "afterwards"], [said, f"a vector {after}"]])


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="the tests' tiny model, to try the program")
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--pages", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default=",".join(PARTS))
    given = parser.parse_args()
    dtype = torch.float32 if given.small else torch.bfloat16
    llm, vit = ({}, {"image_size": 64}) if given.small else (REAL_LLM, REAL_VIT)
    failed = False
    with TemporaryDirectory() as name:
        folder = write_checkpoint(Path(name) / "random-vl", llm, vit, device=given.device, dtype=dtype)
        bench = Bench(folder, sample_pdf(Path(name) / "samples.pdf", min(given.pages, 64), numbered=True), given)
        gpu = torch.cuda.get_device_name() if given.device.startswith("cuda") else given.device
        print(f"{gpu}, CUDA {torch.version.cuda}, {machine('torch')}", flush=True)
        for part in given.parts.split(","):
            start = time.perf_counter()
            try:
                getattr(bench, part)()
            except Exception:
                traceback.print_exc()
                failed = True
            print(f"({part}: {time.perf_counter() - start:.0f} s)\n", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
