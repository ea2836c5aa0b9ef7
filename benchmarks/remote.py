"""The remote engine against NVIDIA's own clients, against a bare httpx loop, and in bytes. Three measurements:

throughput: Short texts to a server that answers 200 ms after a request came in, however many there are, and refuses
    more than 8 items in one. `Embedder.embed` and `aembed`, with 8 and with 32 requests at once, against a bare httpx
    loop, through our classes for LangChain and LlamaIndex, and against langchain-nvidia-ai-endpoints and
    llama-index-embeddings-nvidia (its async side with 8 workers), each with batches of 8 and whatever else by default.
    The ideal is rounds x 200 ms: no work between replies. Clients that send one request after the other get a quarter
    of the texts, unless `--full`: their rate does not depend on how many.
cpu: CPU time of this process for one page, against a bare httpx loop that sends the same pages in requests of the
    same sizes, as many at once. The server answers at once. Pages are PNG files, or Pillow images, which both sides
    have to encode.
bytes: The file that is sent for a page, as `iter_pages` draws it, against a PNG of the page at 200 dpi as Pillow
    writes it. Without `--pdfs` the pages are those of the sample library (needs reportlab), as in `cpu`.

Servers are processes of their own on loopback, and all vectors are checked.

    python benchmarks/remote.py
    python benchmarks/remote.py bytes --pdfs folder
"""

import argparse
import asyncio
import base64
import inspect
import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from io import BytesIO
from itertools import cycle, islice, repeat, takewhile
from math import ceil
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx
import numpy as np
from common import in_turns, machine, ratios, show, spread
from PIL import Image
from slow_server import MODEL, serving, vectors_of

from nemovlm import Embedder, iter_pages
from nemovlm.images import Encoded, compact, data_url
from nemovlm.models.tiling import NEMOTRON_TILING
from nemovlm.settings import Settings

DIMENSION = 2048
TOLERANCE = 1e-6
DELAY = 0.2
BATCH = 8
WORKERS = 8
MANY = 32
REFERENCE_DPI = 200


def check(vectors: Any, contents: Sequence[str]) -> None:
    """End the program unless `vectors` are those of the strings that were sent."""
    wanted = vectors_of(contents, DIMENSION)
    got = np.asarray(vectors, dtype=np.float32)
    if got.shape != wanted.shape:
        raise SystemExit(f"{got.shape} is not the shape {wanted.shape}")
    got = got / np.linalg.norm(got, axis=1, keepdims=True)
    if (difference := float(np.abs(got - wanted).max())) > TOLERANCE:
        raise SystemExit(f"not comparable: the vectors differ by {difference:.1e}")


class HttpxLoop:
    """The baseline: nothing but one `httpx.AsyncClient`, so many requests at once, and plain JSON and base64."""

    def __init__(self, url: str, concurrency: int) -> None:
        self._url, self._room = f"{url}/v1/embeddings", asyncio.Semaphore(concurrency)
        self._client = httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=concurrency))

    async def embed(self, items: Sequence[str | bytes], sizes: Iterable[int] = repeat(BATCH)) -> list[Any]:
        """Return the vectors of texts or of PNG files, sent in requests of these sizes."""
        queue = iter(items)
        requests = takewhile(bool, (list(islice(queue, size)) for size in sizes))
        answers = await asyncio.gather(*(self._post(request) for request in requests))
        return [vector for vectors in answers for vector in vectors]

    async def _post(self, request: Sequence[str | bytes]) -> list[Any]:
        async with self._room:
            body = {
                "model": MODEL,
                "input": [item if isinstance(item, str) else _url_of(item) for item in request],
                "input_type": "passage",
                "modality": "text" if isinstance(request[0], str) else "image",
                "encoding_format": "base64",
                "truncate": "NONE",
            }
            headers = {"Content-Type": "application/json"}
            reply = await self._client.post(self._url, content=json.dumps(body).encode(), headers=headers)
            rows = json.loads(reply.raise_for_status().content)["data"]
            return [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows]

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def pillow_png(image: Image.Image) -> bytes:
    """Return a PNG as Pillow writes it if nobody says more: not as this package does."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _url_of(file: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(file).decode()}"


# Throughput


class Client(NamedTuple):
    """A way to embed texts: `embed` of what `make` returns, with so many requests at once."""

    make: Callable[[], Any]
    embed: str
    concurrency: int
    is_async: bool = True

    def take(self, texts: Sequence[str]) -> float:
        """Return the seconds that a new client takes, when it has had one batch to warm up."""
        return asyncio.run(self._take(list(texts)))

    async def _take(self, texts: list[str]) -> float:
        client = self.make()
        embed = getattr(client, self.embed)
        for some in (texts[:BATCH], texts):
            start = time.perf_counter()
            vectors = embed(some)
            if inspect.isawaitable(vectors):
                vectors = await vectors
            took = time.perf_counter() - start
            check(vectors, some)
        if isinstance(client, Embedder | HttpxLoop):
            await client.aclose()
        elif hasattr(client, "_aclient"):  # LlamaIndex has no way to close it, and this loop ends
            await client._aclient.close()
        return took


def clients(url: str) -> dict[str, Client]:
    """Return everything that is compared, by name; peers after ours, and sync before async."""
    from langchain_nvidia_ai_endpoints import NVIDIAEmbeddings
    from llama_index.embeddings.nvidia import NVIDIAEmbedding

    from langchain_nemovlm import NemoVLMEmbeddings
    from llamaindex_nemovlm import NemoVLMEmbedding

    peer = {"model": MODEL, "base_url": f"{url}/v1", "api_key": "none"}
    ours = partial(Embedder, MODEL, base_url=url, max_batch_size=BATCH)
    adapters = {NemoVLMEmbeddings: "embed_documents", NemoVLMEmbedding: "get_text_embedding_batch"}
    langchain = partial(NVIDIAEmbeddings, **peer, max_batch_size=BATCH, usage_telemetry_enabled=False)
    llamaindex = partial(NVIDIAEmbedding, **peer, embed_batch_size=BATCH, num_workers=WORKERS)
    return {
        f"nemovlm `embed`, {WORKERS} at once": Client(partial(ours, max_concurrency=WORKERS), "embed", WORKERS, False),
        f"nemovlm `aembed`, {WORKERS} at once": Client(partial(ours, max_concurrency=WORKERS), "aembed", WORKERS),
        f"nemovlm `embed`, {MANY} at once": Client(partial(ours, max_concurrency=MANY), "embed", MANY, False),
        f"nemovlm `aembed`, {MANY} at once": Client(partial(ours, max_concurrency=MANY), "aembed", MANY),
        **{
            f"{kind.__name__} `{colour}{door}`": Client(
                partial(kind, model=MODEL, base_url=url, max_batch_size=BATCH), colour + door, WORKERS, bool(colour)
            )
            for kind, door in adapters.items()
            for colour in ("", "a")
        },
        f"httpx loop, {WORKERS} at once": Client(partial(HttpxLoop, url, WORKERS), "embed", WORKERS),
        f"httpx loop, {MANY} at once": Client(partial(HttpxLoop, url, MANY), "embed", MANY),
        "LangChain `embed_documents`": Client(langchain, "embed_documents", 1, False),
        "LangChain `aembed_documents`": Client(langchain, "aembed_documents", 1),
        "LlamaIndex `get_text_embedding_batch`": Client(llamaindex, "get_text_embedding_batch", 1, False),
        f"LlamaIndex `aget_text_embedding_batch`, {WORKERS} workers": Client(
            llamaindex, "aget_text_embedding_batch", WORKERS
        ),
    }


def throughput(count: int, rounds: int, *, full: bool) -> None:
    """Print the table of items per second."""
    os.environ["NVIDIA_USAGE_TELEMETRY_ENABLED"] = "0"
    warnings.simplefilter("ignore")  # peers warn that they do not know the model
    texts = [f"Passage {number}: the pump of station {number % 101} was serviced." for number in range(count)]
    with serving(delay=DELAY, max_items=BATCH, dimension=DIMENSION) as server:
        compared = clients(server.url)
        shares = {name: texts[: count if full or way.concurrency > 1 else count // 4] for name, way in compared.items()}
        times = in_turns({name: partial(way.take, shares[name]) for name, way in compared.items()}, rounds)
    rates = {name: [len(shares[name]) / each for each in taken] for name, taken in times.items()}
    rows = []
    for name, way in compared.items():
        ideal = ceil(ceil(len(shares[name]) / BATCH) / way.concurrency) * DELAY
        ours = [other for other in compared if other.startswith("nemovlm") and way.is_async == compared[other].is_async]
        rows.append(
            [
                name,
                f"{len(shares[name])}",
                spread(rates[name], 0),
                spread(ideal / each for each in times[name]),
                *(spread(ratios(rates[other], rates[name])) for other in ours),
            ]
        )
    head = ["", "texts", "items/s", "of the ideal", f"nemovlm, {WORKERS} at once / it", f"nemovlm, {MANY} at once / it"]
    show(
        f"Throughput, batches of {BATCH}, replies after {DELAY * 1000:.0f} ms, {rounds} rounds",
        [head, *rows],
        [
            "median (min..max); ratios within a round, sync to sync and async to async",
            "goal: nemovlm reaches 0.9 of the ideal",
            machine("httpx", "langchain-nvidia-ai-endpoints", "llama-index-embeddings-nvidia", "openai"),
        ],
    )


# CPU


def sent_for(source: Image.Image | bytes) -> Encoded:
    """Return the file that `Embedder` sends for a page."""
    return compact(source, NEMOTRON_TILING.usable_size, Settings.model_fields["max_image_bytes"].default)


def cpu_of(work: Callable[[], Any], contents: Sequence[str]) -> float:
    """Return the CPU milliseconds of all threads of this process for one page."""
    start = time.process_time()
    vectors = work()
    taken = time.process_time() - start
    check(vectors, contents)
    return 1000 * taken / len(contents)


def cpu(pdfs: Sequence[Path], count: int, rounds: int) -> None:
    """Print the table of CPU time."""
    drawn = ((page.image, pillow_png(page.image)) for pdf in pdfs for page in iter_pages(pdf))
    pages = list(islice((page for page in drawn if sent_for(page[1]).data == page[1]), count))
    images, files = zip(*islice(cycle(pages), count), strict=True)
    as_files = [data_url(file, "image/png") for file in files]
    as_sent = [data_url(*sent_for(image)) for image in images]
    with (
        serving(dimension=DIMENSION) as server,
        Embedder(MODEL, base_url=server.url, max_concurrency=WORKERS) as embedder,
        asyncio.Runner() as runner,
    ):
        client = HttpxLoop(server.url, WORKERS)
        embedder.embed(files[:1])
        server.stats()
        embedder.embed(files)
        sizes = server.stats()["sizes"]

        def loop(files: Sequence[bytes]) -> list[Any]:
            return runner.run(client.embed(files, sizes))

        loop(files)  # warms up, as `embedder` is
        ways = {
            "files, httpx loop": partial(cpu_of, partial(loop, files), as_files),
            "files, `Embedder.embed`": partial(cpu_of, partial(embedder.embed, files), as_files),
            "images, httpx loop": partial(cpu_of, lambda: loop([pillow_png(image) for image in images]), as_files),
            "images, `Embedder.embed`": partial(cpu_of, partial(embedder.embed, images), as_sent),
        }
        taken = in_turns(ways, rounds)
        runner.run(client.aclose())
    loop_files, our_files, loop_images, our_images = taken.values()
    rows = [["", "ms of CPU a page, median (min..max)"], *([name, spread(each)] for name, each in taken.items())]
    requests = ", ".join(f"{often} of {size}" for size, often in sorted(Counter(sizes).items()))
    show(
        f"CPU time of the client, {count} pages, {rounds} rounds",
        rows,
        [
            f"`Embedder.embed` / httpx loop, files: {spread(ratios(our_files, loop_files))}; goal: at most 1.3",
            f"`Embedder.embed` / httpx loop, images: {spread(ratios(our_images, loop_images))}",
            f"mean file: {mean(map(len, files)) / 1000:.0f} kB (pages over `max_image_bytes` as a PNG are left out)",
            f"requests, by pages in them: {requests}",
            machine("httpx", "pillow", "numpy"),
        ],
    )


# Bytes


def bytes_of_pages(pdfs: Sequence[Path], most: int) -> None:
    """Print the table of bytes."""
    ours: list[int] = []
    theirs: list[int] = []
    pixels: list[list[float]] = []
    kinds: Counter[str] = Counter()
    times: list[float] = []
    for pdf in pdfs:
        for page, large in islice(zip(iter_pages(pdf), iter_pages(pdf, dpi=REFERENCE_DPI), strict=True), most):
            start = time.process_time()
            sent = sent_for(page.image)
            times.append(time.process_time() - start)
            ours.append(len(sent.data))
            theirs.append(len(pillow_png(large.image)))
            pixels.append([*page.image.size, *large.image.size])
            kinds[sent.mime_type] += 1
    width, height, large_width, large_height = (mean(column) for column in zip(*pixels, strict=True))
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    show(
        f"Bytes of {len(ours)} pages from {len(pdfs)} PDFs",
        [
            ["", "mean kB", "mean pixels"],
            [f"PNG at {REFERENCE_DPI} dpi", f"{mean(theirs) / 1000:.0f}", f"{large_width:.0f} x {large_height:.0f}"],
            ["as it is sent", f"{mean(ours) / 1000:.0f}", f"{width:.0f} x {height:.0f}"],
            ["ratio", f"{sum(ours) / sum(theirs):.2f}", f"{width * height / large_width / large_height:.2f}"],
        ],
        [
            f"ratio page by page: {spread(each)}",
            ", ".join(f"{often} {kind.removeprefix('image/').upper()}" for kind, often in kinds.items()),
            f"`compact`: {1000 * mean(times):.1f} ms of CPU a page",
            machine("pillow", "pypdfium2"),
        ],
    )


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["throughput", "cpu", "bytes"], help="default: all three")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--pages", type=int, default=96, help="for cpu")
    parser.add_argument("--pdfs", type=Path, help="a folder with PDFs, instead of the sample library")
    parser.add_argument("--most", type=int, default=1000, help="for bytes: so many pages of one PDF at the most")
    parser.add_argument("--rounds", type=int, default=3, help="for throughput; cpu takes twice as many")
    parser.add_argument("--full", action="store_true", help="all texts for the clients that take minutes")
    given = parser.parse_args()
    what = given.what or ["throughput", "cpu", "bytes"]
    if "throughput" in what:
        throughput(given.texts, given.rounds, full=given.full)
    if {"cpu", "bytes"} & set(what):
        from tests.support.samples import make_samples  # `common` says where it is

        with TemporaryDirectory() as folder:
            pdfs = sorted(given.pdfs.glob("*.pdf")) if given.pdfs else make_samples(Path(folder))
            if "cpu" in what:
                cpu(pdfs, given.pages, 2 * given.rounds)
            if "bytes" in what:
                bytes_of_pages(pdfs, given.most)


if __name__ == "__main__":
    main()
