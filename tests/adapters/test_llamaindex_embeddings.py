"""`NemoVLMEmbedding`: every door, events, limits and caches of LlamaIndex, on this machine and over sockets."""

import asyncio
import base64
import copy
import gc
import pickle
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.indices import MultiModalVectorStoreIndex
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.rate_limiter import BaseRateLimiter
from llama_index.core.schema import BaseNode, Document, ImageDocument, ImageNode, MediaResource, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from PIL import Image
from pydantic import Field, ValidationError

from llamaindex_nemovlm import NemoVLMEmbedding
from nemovlm import Embedder, ImageUrl, Passage
from nemovlm.errors import ConfigurationError, ImageError, InputError
from nemovlm.images import encode_jpeg, encode_png
from tests.support.checkpoints import case_image
from tests.support.faults import MODEL, FaultServer, failing, vectors_of
from tests.support.servers import running

Call = Callable[..., Awaitable[Any]]
Make = Callable[..., NemoVLMEmbedding]
Web = tuple[str, list[str]]
Trace = list[tuple[str, Any]]
Seen = tuple[list[Any], SimpleSpanHandler]
ICON = encode_png(case_image("icon"))
PHOTO = encode_jpeg(case_image("square"), longest_edge=64)


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def data_url(content: bytes = ICON) -> str:
    return f"data:image/png;base64,{b64(content)}"


def same(got: Sequence[Any], expected: Any, atol: float = 1e-5) -> bool:
    """Whether these are lists of floats, and the expected ones."""
    rows = [got] if isinstance(got[0], float) else got
    return all(type(row) is list and type(row[0]) is float for row in rows) and bool(
        np.array(got).shape == np.shape(expected) and np.abs(np.array(got) - expected).max() < atol
    )


def transformation(embedding: NemoVLMEmbedding) -> SimpleNamespace:
    """Return `__call__` and `acall` under the names that `call` wants."""
    return SimpleNamespace(call=embedding, acall=embedding.acall)


@pytest.fixture(scope="module", params=["local", "remote"])
def place(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Arguments for the tiny checkpoint: on this machine, or behind a server."""
    if request.param == "local":
        return {"model": str(request.getfixturevalue("vl_folder"))}
    return {"model": "tiny-vl", "base_url": request.getfixturevalue("served_vl")}


@pytest.fixture(scope="module")
def embedding(place: dict[str, Any]) -> Iterator[NemoVLMEmbedding]:
    made = NemoVLMEmbedding(**place)
    with made.embedder:  # connections that are not closed are warned about
        yield made


@pytest.fixture
def make(place: dict[str, Any]) -> Iterator[Make]:
    """Make embeddings with other arguments."""
    made: list[NemoVLMEmbedding] = []

    def one(**fields: Any) -> NemoVLMEmbedding:
        made.append(NemoVLMEmbedding(**place | fields))
        return made[-1]

    yield one
    for each in made:
        each.embedder.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "icon.png").write_bytes(ICON)
    return tmp_path / "icon.png"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """The address of a picture on a server of loopback, and the paths that were asked of that."""
    asked: list[str] = []

    async def app(scope: Any, _: Any, send: Any) -> None:
        asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"image/png")]})
        await send({"type": "http.response.body", "body": ICON})

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running(app, lifespan="off") as address:
        yield f"{address}/icon.png", asked


# What is embedded as what


async def test_every_door_gives_the_embedder_s_vectors(embedding: NemoVLMEmbedding, vl: Embedder, call: Call) -> None:
    """Query, text and image, single and batch: lists of floats, and a query is never embedded as a passage."""
    query, texts, pictures = vl.embed_query("q"), vl.embed(["q", "r"]), vl.embed([ICON, PHOTO])
    assert np.abs(query - texts[0]).max() > 1e-2
    for method, argument, expected in (
        ("get_query_embedding", "q", query),
        ("get_agg_embedding_from_queries", ["q"], query),
        ("get_text_embedding", "q", texts[0]),
        ("get_text_embedding_batch", ["q", "r"], texts),
        ("get_image_embedding", ICON, pictures[0]),
        ("get_image_embedding_batch", [ICON, PHOTO], pictures),
    ):
        assert same(await call(embedding, method, argument), expected), method
    assert same(await call(embedding, "get_image_embedding", img_file_path=ICON), pictures[0])
    assert same(await call(embedding, "get_image_embedding_batch", img_file_paths=[ICON]), pictures[:1])
    for name, argument, expected in (
        ("query_embedding", "q", query),
        ("text_embedding", "q", texts[0]),
        ("text_embeddings", ["q", "r"], texts),
        ("image_embedding", ICON, pictures[0]),
        ("image_embeddings", [ICON, PHOTO], pictures),
    ):
        assert same(getattr(embedding, f"_get_{name}")(argument), expected), name
        assert same(await getattr(embedding, f"_aget_{name}")(argument), expected), name
        assert f"_aget_{name}" in vars(NemoVLMEmbedding), "the framework's own blocks the loop"


async def test_nothing_is_asked_for_nothing(call: Call) -> None:
    """Empty lists of texts, images and nodes come back empty, though no server is there."""
    absent = NemoVLMEmbedding(model="tiny-vl", base_url="http://127.0.0.1:1/v1", max_retries=0)
    assert await call(absent, "get_text_embedding_batch", []) == []
    assert await call(absent, "get_image_embedding_batch", []) == []
    assert list(await call(transformation(absent), "call", [])) == []


async def test_every_form_of_an_image(
    embedding: NemoVLMEmbedding, vl: Embedder, call: Call, file: Path, web: Web
) -> None:
    """Paths, URLs that hold or name a file, base64, bytes, open files wherever they stand, pictures, an ImageUrl."""
    read = BytesIO(ICON)
    read.seek(7)
    picture = Image.open(BytesIO(ICON))
    forms = [str(file), file, file.as_uri(), data_url(), b64(ICON), ICON, read, picture, ImageUrl(web[0])]
    expected = vl.embed([ICON])[0]
    assert same(await call(embedding, "get_image_embedding_batch", forms), np.stack([expected] * len(forms)))
    for form in forms:
        assert same(await call(embedding, "get_image_embedding", form), expected), form
    assert web[1] == ["/icon.png"] * 2


async def test_addresses_are_fetched_if_that_is_asked_for(
    embedding: NemoVLMEmbedding, make: Make, vl: Embedder, call: Call, web: Web
) -> None:
    """A string with an address is an error, and nothing is asked; `fetch_urls` fetches it, of a node as well."""
    address, asked = web
    with pytest.raises(ImageError, match="are not fetched unless fetch_urls=True"):
        await call(embedding, "get_image_embedding", address)
    with pytest.raises(ImageError, match="are not fetched"):
        await call(transformation(embedding), "call", [ImageNode(image_url=address)])
    assert asked == []
    fetching, expected = make(fetch_urls=True), vl.embed([ICON])
    assert same(await call(fetching, "get_image_embedding_batch", [address]), expected)
    nodes = [ImageNode(image_url=address), Document(image_resource=MediaResource(url=address))]
    found = await call(transformation(fetching), "call", nodes)
    assert same([node.embedding for node in found], np.concatenate([expected] * 2))
    assert len(asked) == 3


async def test_any_other_string_is_a_path(embedding: NemoVLMEmbedding, call: Call, file: Path) -> None:
    """A file that is not there, or is no image, is an ImageError."""
    file.write_text("hello")
    for path, words in ((f"{file}.none", "No such file"), (str(file), "no image")):
        with pytest.raises(ImageError, match=words):
            await call(embedding, "get_image_embedding", path)


# As a transformation


@pytest.mark.parametrize("modality", ["image", "text_image", "text"])
async def test_nodes_are_embedded_by_what_they_have(
    make: Make, vl: Embedder, call: Call, file: Path, modality: str
) -> None:
    """A node with an image by the image, by both, or by its text with metadata, as `page_modality` says; in order."""
    facts: dict[str, Any] = {"metadata": {"page": "7"}}
    cases: list[tuple[BaseNode, str, bytes | None]] = [
        (ImageNode(text="one", image=b64(PHOTO), **facts), "one", PHOTO),
        (ImageNode(text="two", image_path=str(file), **facts), "two", ICON),
        (TextNode(text="three", **facts), "three", None),
        (ImageDocument(text="four", image_resource=MediaResource(path=file), **facts), "four", ICON),
        (ImageDocument(text="five", image_resource=MediaResource(data=PHOTO), **facts), "five", PHOTO),
        (Document(text="six", image_resource=MediaResource(data=PHOTO), **facts), "six", PHOTO),
        (ImageNode(text="seven", **facts), "seven", None),
        (Document(text="eight", **facts), "eight", None),
    ]
    expected = [
        Passage(f"page: 7\n\n{text}")
        if modality == "text" or image is None
        else Passage(text if modality == "text_image" else None, image)
        for _, text, image in cases
    ]
    nodes = [node for node, _, _ in cases]
    made = await call(transformation(make(page_modality=modality, embed_batch_size=3)), "call", nodes)
    assert [node.node_id for node in made] == [node.node_id for node in nodes]
    assert same([node.embedding for node in made], vl.embed(expected))


async def test_base64_in_lines(embedding: NemoVLMEmbedding, vl: Embedder, call: Call) -> None:
    """As LlamaIndex itself does, line ends in the base64 of a node are passed over."""
    (node,) = await call(transformation(embedding), "call", [ImageNode(image=base64.encodebytes(PHOTO).decode())])
    assert same(node.embedding, vl.embed([PHOTO])[0])


@pytest.mark.parametrize(
    "poison",
    [
        {"image_path": "/none.png"},
        {"image": b64(b"garbage")},
        {"image": "abc"},
        {"image_url": "http://127.0.0.1:1/x.png"},
    ],
    ids=["missing", "no image", "no base64", "address"],
)
async def test_a_node_that_cannot_be_embedded(
    make: Make, vl: Embedder, call: Call, poison: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is named by the error, or left out with a warning that names it; the others get their own vectors."""

    def nodes() -> list[BaseNode]:
        good = [TextNode(text=f"text {number}", id_=f"n{number}") for number in range(5)]
        return [*good[:3], ImageNode(id_="the-bad-one", text="bad", **poison), *good[3:]]

    with pytest.raises(ImageError, match=r"^node the-bad-one: "):
        await call(transformation(make(embed_batch_size=2)), "call", nodes())
    given = nodes()
    made = await call(transformation(make(embed_batch_size=2, on_error="skip")), "call", given)
    assert [node.node_id for node in made] == [f"n{number}" for number in range(5)]
    assert same([node.embedding for node in made], vl.embed([f"text {number}" for number in range(5)]))
    assert [record.message.partition(": ")[2][:17] for record in caplog.records] == ["node the-bad-one:"]
    assert given[3].embedding is None


# Limits


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with failing() as running_server:
        running_server.jitter = 0.01
        yield running_server


def png(number: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256 * 40, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(folder: Path, count: int, bad: int = -1) -> list[BaseNode]:
    """Return nodes, every third of which has its picture in a file; the bad one has none."""
    nodes: list[BaseNode] = []
    for number in range(count):
        content = b"garbage" if number == bad else png(number)
        if number % 3:
            nodes.append(ImageNode(image=b64(content), id_=f"n{number}"))
        else:
            (folder / f"{number}.png").write_bytes(content)
            nodes.append(ImageNode(image_path=str(folder / f"{number}.png"), id_=f"n{number}"))
    return nodes


def at(server: FaultServer, **fields: Any) -> NemoVLMEmbedding:
    """Return an embedding on a server. Certificates are not read, which takes a while."""
    fields = {"max_concurrency": 4, "max_batch_size": 3, "embed_batch_size": 10, "on_error": "skip"} | fields
    return NemoVLMEmbedding(model=MODEL, base_url=server.url, verify=False, **fields)


def right(nodes: Sequence[BaseNode], numbers: Sequence[int]) -> bool:
    """Whether these are the nodes of these numbers, each with its own vector."""
    contents = [data_url(png(number)) for number in numbers]
    return [node.node_id for node in nodes] == [f"n{number}" for number in numbers] and same(
        [list(node.embedding or ()) for node in nodes], vectors_of(contents), 1e-6
    )


@pytest.mark.parametrize(
    ("fields", "most"),
    [({}, 4), ({"num_workers": 2, "embed_batch_size": 3}, 2), ({"num_workers": 50, "embed_batch_size": 3}, 4)],
    ids=["max_concurrency", "num_workers", "more workers than requests"],
)
async def test_many_nodes(
    server: FaultServer, tmp_path: Path, fields: dict[str, Any], most: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 300 pictures one is bad: it is named, the others have their vectors, and the server is not overrun."""
    embedding = at(server, **fields)
    with embedding.embedder:
        made = await embedding.acall(pictures(tmp_path, 300, bad=151))
    assert right(made, [number for number in range(300) if number != 151])
    assert 2 <= server.most_busy <= most
    assert len(server.posts) >= 100
    assert [record.message.split()[3] for record in caplog.records] == ["n151:"]


async def test_many_calls_at_once(server: FaultServer, tmp_path: Path) -> None:
    """Calls at the same time share one limit, whatever they embed."""
    nodes = pictures(tmp_path, 60)
    embedding = at(server)
    with embedding.embedder:
        *made, images, texts = await asyncio.gather(
            *(embedding.acall([node.model_copy() for node in nodes]) for _ in range(5)),
            embedding.aget_image_embedding_batch([png(number) for number in range(60)]),
            embedding.aget_text_embedding_batch([f"text {number}" for number in range(60)]),
        )
    assert all(right(each, range(60)) for each in made)
    assert same(images, vectors_of([data_url(png(number)) for number in range(60)]), 1e-6)
    assert same(texts, vectors_of([f"text {number}" for number in range(60)]), 1e-6)
    assert 2 <= server.most_busy <= 4


class Limiter(BaseRateLimiter):
    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def acquire(self, num_tokens: int = 0) -> None:
        self.calls["sync"] += 1

    async def async_acquire(self, num_tokens: int = 0) -> None:
        self.calls["async"] += 1


async def test_a_rate_limiter_is_asked_once_a_batch(make: Make, call: Call, request: pytest.FixtureRequest) -> None:
    """For texts, images, nodes and queries alike, through its sync or its async door."""
    limiter = Limiter()
    embedding = make(rate_limiter=limiter, embed_batch_size=2)
    colour = request.node.callspec.params["call"]
    for object_, method, argument, count in (
        (embedding, "get_text_embedding_batch", ["a", "b", "c"], 2),
        (embedding, "get_image_embedding_batch", [ICON] * 5, 3),
        (embedding, "get_image_embedding", ICON, 1),
        (embedding, "get_text_embedding", "a", 1),
        (embedding, "get_query_embedding", "a", 1),
        (transformation(embedding), "call", [TextNode(text="a"), ImageNode(image=b64(ICON)), TextNode(text="b")], 2),
    ):
        limiter.calls.clear()
        await call(object_, method, argument)
        assert limiter.calls == {colour: count}, method


@pytest.mark.parametrize("position", [3, 70])
@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("text", "text", "long " * 2000),
        ("image", ICON, b"garbage"),
        ("image", ICON, "http://127.0.0.1:1/x.png"),
        ("image", ICON, 3),
    ],
    ids=["text", "image", "address", "number"],
)
async def test_items_are_counted_from_the_start(
    make: Make, call: Call, kind: str, good: Any, bad: Any, position: int
) -> None:
    """An error says which text or image of all it was, not which of its batch."""
    items = [good] * 100
    items[position] = bad
    with pytest.raises(InputError, match=rf"^item {position}: ") as raised:
        await call(make(embed_batch_size=64), f"get_{kind}_embedding_batch", items)
    assert raised.value.index == position


def test_a_failure_ends_the_whole_call(vl_folder: Path) -> None:
    """Batches that wait for their turn are neither embedded afterwards nor left behind with a warning."""
    callbacks = Callbacks()
    manager = CallbackManager([callbacks])
    embedding = NemoVLMEmbedding(model=str(vl_folder), embed_batch_size=1, callback_manager=manager)

    async def fail() -> int:
        with pytest.raises(InputError, match="item 0"):
            await embedding.aget_text_embedding_batch(["long " * 2000, *["text"] * 100])
        return len(asyncio.all_tasks())

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tasks = asyncio.run(fail())
        gc.collect()
    assert (tasks, [str(each.message) for each in caught if each.category is RuntimeWarning]) == (1, [])
    assert not callbacks.open
    assert 1 <= len(callbacks.done) < 100


# What observers see


class Events(BaseEventHandler):
    seen: list[Any] = Field(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "Events"

    def handle(self, event: Any, **_: Any) -> None:
        self.seen.append(event)


class Callbacks(BaseCallbackHandler):
    def __init__(self) -> None:
        super().__init__([], [])
        self.open: dict[str, Any] = {}
        self.done: list[tuple[dict[Any, Any], dict[Any, Any]]] = []

    def on_event_start(self, event_type: CBEventType, payload: Any = None, event_id: str = "", **_: Any) -> str:
        assert event_type is CBEventType.EMBEDDING
        self.open[event_id] = payload
        return event_id

    def on_event_end(self, event_type: CBEventType, payload: Any = None, event_id: str = "", **_: Any) -> None:
        self.done.append((self.open.pop(event_id), payload or {}))

    def start_trace(self, trace_id: str | None = None) -> None: ...

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None: ...


@pytest.fixture
def seen() -> Iterator[Seen]:
    """Events and spans of everything in the framework."""
    root, events, spans = get_dispatcher(), Events(seen=[]), SimpleSpanHandler()
    root.add_event_handler(events)
    root.add_span_handler(spans)
    yield events.seen, spans
    root.event_handlers.remove(events)
    root.span_handlers.remove(spans)


@pytest.mark.parametrize("kind", ["text", "image", "node"])
async def test_every_batch_is_told_of(make: Make, call: Call, kind: str, file: Path, seen: Seen) -> None:
    """A pair of events and one of callbacks a batch, with names of the items and their vectors; and a span a call."""
    events, spans = seen
    callbacks = Callbacks()
    embedding = make(embed_batch_size=2, callback_manager=CallbackManager([callbacks]), api_key="key-secret")
    given: list[Any]
    if kind == "node":
        given = [ImageNode(image=b64(ICON), id_="n0"), TextNode(text="one"), ImageNode(image_path=str(file), id_="n2")]
        made = [node.embedding for node in await call(transformation(embedding), "call", given)]
        names = ["node n0", "one", "node n2"]
    else:
        given = ["a", "b", "c"] if kind == "text" else [str(file), BytesIO(ICON), data_url(PHOTO * 2)]
        names = ["a", "b", "c"] if kind == "text" else [str(file), "<image>", "<image>"]
        made = await call(embedding, f"get_{kind}_embedding_batch", given)
        assert sum(f"get_{kind}_embedding_batch-" in span.id_ for span in spans.completed_spans) == 1
    batches = sorted([(names[:2], made[:2]), (names[2:], made[2:])])
    ends = [event for event in events if isinstance(event, EmbeddingEndEvent)]
    assert sorted((end.chunks, end.embeddings) for end in ends) == batches
    told = [(end[EventPayload.CHUNKS], end[EventPayload.EMBEDDINGS]) for _, end in callbacks.done]
    assert (sorted(told), callbacks.open) == (batches, {})
    starts = [event.model_dict for event in events if isinstance(event, EmbeddingStartEvent)]
    assert starts == [start[EventPayload.SERIALIZED] for start, _ in callbacks.done] == [embedding.to_payload()] * 2
    assert "key-secret" not in f"{events}{callbacks.done}{spans.completed_spans}"


async def test_images_are_not_sent_to_observers(make: Make, call: Call, seen: Seen) -> None:
    """However small it is, an image that was passed as a text is not among the chunks."""
    await call(make(), "get_image_embedding_batch", [b64(png(1)), data_url(png(1))])
    assert seen[0][-1].chunks == ["<image>", "<image>"]


async def test_single_calls_are_told_of(make: Make, call: Call, file: Path, seen: Seen) -> None:
    """A query, a text and an image by itself: one pair of events and one of callbacks each."""
    callbacks = Callbacks()
    embedding = make(callback_manager=CallbackManager([callbacks]))
    for method, argument in (("query", "q"), ("text", "t"), ("image", str(file))):
        seen[0].clear()
        vector = await call(embedding, f"get_{method}_embedding", argument)
        assert [type(event) for event in seen[0]] == [EmbeddingStartEvent, EmbeddingEndEvent]
        assert (seen[0][1].chunks, seen[0][1].embeddings) == ([argument], [vector])
        assert callbacks.done.pop()[1] == {EventPayload.CHUNKS: [argument], EventPayload.EMBEDDINGS: [vector]}
        assert not callbacks.done
        assert not callbacks.open


@pytest.mark.parametrize("kind", ["text", "image", "node"])
async def test_a_batch_that_failed_ends(make: Make, call: Call, kind: str, seen: Seen) -> None:
    """Its callback event ends with the error, and no vectors are claimed, nor are those of what is skipped."""
    callbacks = Callbacks()
    manager = CallbackManager([callbacks])
    embedding = make(callback_manager=manager, embed_batch_size=2)
    nodes = [ImageNode(image=b64(ICON), id_="n0"), ImageNode(image=b64(b"garbage"), id_="n1")]
    target, method, items = {
        "text": (embedding, "get_text_embedding_batch", ["a", "b " * 2000]),
        "image": (embedding, "get_image_embedding_batch", [ICON, b"garbage"]),
        "node": (transformation(embedding), "call", nodes),
    }[kind]
    with pytest.raises(InputError) as raised:
        await call(target, method, items)
    assert not callbacks.open
    assert [end for _, end in callbacks.done] == [{EventPayload.EXCEPTION: raised.value}]
    assert not any(isinstance(event, EmbeddingEndEvent) for event in seen[0])
    if kind == "node":
        await call(transformation(make(callback_manager=manager, on_error="skip")), "call", nodes)
        assert callbacks.done[1][1][EventPayload.CHUNKS] == seen[0][-1].chunks == ["node n0"]


# Caches


async def test_a_store_of_the_framework_as_cache(make: Make, vl: Embedder, call: Call, tmp_path: Path) -> None:
    """What was embedded once costs nothing again, images included, saved and loaded as well; a query is no passage."""
    store = SimpleKVStore()
    first = make(embeddings_cache=store)
    passage = await call(first, "get_text_embedding", "x")
    query = await call(first, "get_query_embedding", "x")
    image = await call(first, "get_image_embedding", ICON)
    assert first.embedder.usage.tokens > 0
    store.persist(str(tmp_path / "kv" / "store.json"))
    for other in (store, SimpleKVStore.from_persist_path(str(tmp_path / "kv" / "store.json"))):
        second = make(embeddings_cache=other)
        assert await call(second, "get_query_embedding", "x") == query
        assert await call(second, "get_text_embedding_batch", ["x"]) == [passage]
        assert await call(second, "get_image_embedding_batch", [BytesIO(ICON)]) == [image]
        (node,) = await call(transformation(second), "call", [ImageNode(image=b64(ICON))])
        assert node.embedding == image
        assert (second.embedder.usage.items, second.embedder.usage.tokens) == (4, 0)
    assert same([query, passage, image], np.stack([vl.embed_query("x"), *vl.embed(["x", ICON])]))
    turned = make(embeddings_cache=SimpleKVStore())
    assert same(await call(turned, "get_query_embedding", "x"), np.array(query))
    assert same(await call(turned, "get_text_embedding", "x"), np.array(passage))


async def test_models_and_dimensions_share_no_vectors(
    vl_folder: Path, text_folder: Path, vl: Embedder, call: Call
) -> None:
    """One store for two models and two lengths: each gets its own vectors."""
    store = SimpleKVStore()
    small = vl.embed(["x"])[0][:32]
    for knobs, expected in (
        ({"model": str(vl_folder)}, vl.embed(["x"])[0]),
        ({"model": str(vl_folder), "dimensions": 32}, small / np.linalg.norm(small)),
        ({"model": str(text_folder)}, Embedder(text_folder).embed(["x"])[0]),
        ({"model": str(vl_folder), "max_tiles": 1}, vl.embed(["x"])[0]),
    ):
        embedding = NemoVLMEmbedding(embeddings_cache=store, **knobs)
        assert same(await call(embedding, "get_text_embedding", "x"), expected)
        assert embedding.embedder.usage.tokens > 0


def test_a_cache_is_given_to_the_constructor(embedding: NemoVLMEmbedding, place: dict[str, Any]) -> None:
    """Set later it would not be one, so that is an error; so is what is no store."""
    with pytest.raises(ConfigurationError, match="is made; use model_copy"):
        embedding.embeddings_cache = SimpleKVStore()
    embedding.embeddings_cache = None
    for wrong in ({}, "redis://127.0.0.1"):
        with pytest.raises((TypeError, ValidationError), match="BaseKVStore"):
            NemoVLMEmbedding(embeddings_cache=wrong, **place)


# What it is to the framework

KNOBS: dict[str, Any] = {
    "dimensions": 32,
    "truncate": "END",
    "max_tokens": 64,
    "max_tiles": 2,
    "dtype": "float32",
    "page_modality": "text_image",
    "fetch_urls": True,
    "on_error": "skip",
    "embed_batch_size": 7,
    "num_workers": 3,
}


def test_its_fields_say_what_its_vectors_are(vl_folder: Path) -> None:
    """`to_dict`, of which LlamaIndex makes its cache keys, has all that changes vectors, and makes a like object."""
    embedding = NemoVLMEmbedding(model=str(vl_folder), **KNOBS)
    assert isinstance(embedding, MultiModalEmbedding)
    facts = embedding.to_dict()
    assert facts.items() >= (KNOBS | {"model": str(vl_folder), "class_name": "NemoVLMEmbedding"}).items()
    assert facts.keys() >= {"revision", "engine", "base_url", "device", "joiner", "embedding_type"}
    assert (embedding.class_name(), embedding.model_name) == ("NemoVLMEmbedding", "tiny-vl")
    other = NemoVLMEmbedding.from_json(embedding.to_json())
    for like in (other, NemoVLMEmbedding.from_dict(facts), copy.deepcopy(embedding), embedding.model_copy()):
        assert like.to_dict() == facts
        assert like.embedder.settings == embedding.embedder.settings
        assert like.model_dump() == embedding.model_dump()
    with pytest.raises(ValidationError, match="dimension\n"):
        NemoVLMEmbedding(model=str(vl_folder), dimension=32)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
def test_what_is_alike_is_equal(vl_folder: Path, copied: Callable[[Any], Any]) -> None:
    """Two objects are equal if their fields are, and only then."""
    embedding = NemoVLMEmbedding(model=str(vl_folder))
    assert embedding != NemoVLMEmbedding(model=str(vl_folder), dimensions=32)
    assert copied(embedding) == embedding == NemoVLMEmbedding.from_dict(embedding.to_dict())


def test_it_shows_no_secrets() -> None:
    """Keys, headers and proxies are in nothing that the framework stores, prints or sends to observers."""
    headers, proxy = {"x-token": "header-secret"}, "http://u:proxy-secret@127.0.0.1:9"
    at_server: dict[str, Any] = {"model": "tiny-vl", "base_url": "http://127.0.0.1:9/v1"}
    embedding = NemoVLMEmbedding(api_key="nvapi-secret", headers=headers, proxy=proxy, **at_server)
    shown = [embedding.to_dict(), embedding.to_json(), embedding.to_payload(), repr(embedding), str(embedding)]
    assert "secret" not in str(shown)
    assert embedding.to_payload()["model_name"] == "tiny-vl"
    again = pickle.loads(pickle.dumps(embedding))  # a worker needs them
    assert again.embedder.settings == embedding.embedder.settings
    assert again.embedder.settings.headers == headers


def test_copies_embed_alike(make: Make, embedding: NemoVLMEmbedding, vl: Embedder) -> None:
    """After pickling and copying, before its first use and after; with a change, as the change says."""
    expected = vl.embed_query("x")
    for original in (make(), embedding):
        for like in (pickle.loads(pickle.dumps(original)), copy.deepcopy(original), original.model_copy()):
            with like.embedder:
                assert same(like.get_query_embedding("x"), expected)
    with (short := embedding.model_copy(update={"dimensions": 32})).embedder:
        assert same(short.get_query_embedding("x"), expected[:32] / np.linalg.norm(expected[:32]))


def test_as_the_model_of_settings(embedding: NemoVLMEmbedding, vl: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Settings.embed_model` takes it, and indexes use it without being told."""
    monkeypatch.setattr(Settings, "_embed_model", None)
    Settings.embed_model = embedding
    index = VectorStoreIndex([TextNode(text="a"), TextNode(text="b")])
    (hit,) = index.as_retriever(similarity_top_k=1).retrieve("a")
    assert hit.score == pytest.approx(max(vl.embed(["a", "b"]) @ vl.embed_query("a")), abs=1e-5)


# What the framework asks for


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Trace:
    """The calls of the methods that LlamaIndex calls, as they are made."""
    calls: Trace = []

    def recorded(name: str) -> None:
        honest = getattr(NemoVLMEmbedding, name)

        def call(self: NemoVLMEmbedding, argument: Any) -> Any:
            calls.append((name, argument))
            return honest(self, argument)

        monkeypatch.setattr(NemoVLMEmbedding, name, call)

    for name in ("query_embedding", "text_embeddings", "image_embeddings"):
        recorded(f"_get_{name}")
        recorded(f"_aget_{name}")
    return calls


@pytest.mark.parametrize("use_async", [False, True])
def test_what_a_multimodal_index_asks_for(make: Make, file: Path, trace: Trace, use_async: bool) -> None:
    """Texts and images in batches to build; a question twice, for texts and images; an image by its path."""
    embedding = make(embed_batch_size=2)
    nodes = [
        ImageNode(image_path=str(file), metadata={"page": 2}, id_="path"),
        ImageNode(image=b64(PHOTO), text="of the page", metadata={"page": 3}, id_="inline"),
        TextNode(text="plain", id_="text"),
    ]
    index = MultiModalVectorStoreIndex(nodes, embed_model=embedding, image_embed_model=embedding, use_async=use_async)
    colour = "_aget" if use_async else "_get"
    (texts, text_argument), (images, (path, inline)) = trace
    assert (texts, text_argument) == (f"{colour}_text_embeddings", ["page: 3\n\nof the page", "plain"])
    assert (images, path, inline.getvalue()) == (f"{colour}_image_embeddings", str(file), PHOTO)
    retriever = index.as_retriever(similarity_top_k=3, image_similarity_top_k=1)
    trace.clear()
    assert {hit.node.node_id for hit in retriever.retrieve("q")} >= {"text", "inline"}
    assert trace == [("_get_query_embedding", "q")] * 2
    trace.clear()
    assert {hit.node.node_id for hit in asyncio.run(retriever.aretrieve("q"))} >= {"text", "inline"}
    assert trace == [("_aget_query_embedding", "q")] * 2
    trace.clear()
    assert len(retriever.text_to_image_retrieve("q")) == 1
    assert trace == [("_get_query_embedding", "q")]
    trace.clear()
    (found,) = retriever.image_to_image_retrieve(str(file))
    assert (found.node.node_id, found.score) == ("path", pytest.approx(1, abs=1e-5))
    assert trace == [("_get_image_embeddings", [str(file)])]


def test_what_a_vector_index_asks_for(embedding: NemoVLMEmbedding, vl: Embedder, file: Path, trace: Trace) -> None:
    """By itself it hands over the text of an image node; a node that has its vector is not embedded again."""
    image = ImageNode(image_path=str(file), text="of the page", metadata={"page": 2}, id_="image")
    VectorStoreIndex([image], embed_model=embedding)
    assert trace == [("_get_text_embeddings", ["page: 2\n\nof the page"])]
    trace.clear()
    index = VectorStoreIndex(embedding([image, TextNode(text="text", id_="text")]), embed_model=embedding)
    assert trace == []
    scores = {hit.node.node_id: hit.score for hit in index.as_retriever(similarity_top_k=2).retrieve("q")}
    right_scores = vl.embed([ICON, "text"]) @ vl.embed_query("q")
    assert [scores["image"], scores["text"]] == pytest.approx(right_scores.tolist(), abs=1e-5)


# Wherever it may run


async def test_in_a_running_loop(embedding: NemoVLMEmbedding, vl: Embedder) -> None:
    """Sync doors in async code, and 200 questions at once."""
    assert same(embedding.get_query_embedding("q"), vl.embed_query("q"))
    assert same(embedding.get_image_embedding_batch([ICON]), vl.embed([ICON]))
    questions = [f"question {number}" for number in range(200)]
    made = await asyncio.gather(*map(embedding.aget_query_embedding, questions))
    assert same(made, vl.embed_queries(questions))


def test_in_threads_and_in_many_loops(embedding: NemoVLMEmbedding, vl: Embedder) -> None:
    """16 threads share one object, and one `asyncio.run` follows another."""
    texts = [f"text {number}" for number in range(64)]
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(embedding.get_text_embedding, texts))
    assert same(made, vl.embed(texts))
    for _ in range(3):
        assert same(asyncio.run(embedding.aget_image_embedding_batch([ICON, PHOTO])), vl.embed([ICON, PHOTO]))
        (node,) = asyncio.run(embedding.acall([ImageNode(image=b64(ICON))]))
        assert same(list(node.embedding or ()), vl.embed([ICON])[0])


@pytest.mark.parametrize(
    "change",
    [{"dimensions": 32}, {"model": "x"}, {"embeddings_cache": SimpleKVStore()}],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_over_vectors_is_decided_once(vl_folder: Path, change: dict[str, Any]) -> None:
    """To set a knob later would change what LlamaIndex's caches believe, and no vector: it is an error."""
    embedding = NemoVLMEmbedding(model=str(vl_folder))
    ((name, value),) = change.items()
    with pytest.raises(ConfigurationError, match=rf"^{name} .*model_copy"):
        setattr(embedding, name, value)
    assert len(embedding.model_copy(update={"dimensions": 32}).get_query_embedding("a")) == 32


def test_copies_settle_for_themselves() -> None:
    """What was worked out for one object is worked out anew for a copy with other settings; what was given is kept."""
    made = NemoVLMEmbedding(model="m", base_url="http://127.0.0.1:9/v1")
    assert made.embed_batch_size == 64 * 8
    assert made.model_copy(update={"max_batch_size": 2}).embed_batch_size == 2 * 8
    assert NemoVLMEmbedding(model="m", base_url="http://127.0.0.1:9/v1", embed_batch_size=7).embed_batch_size == 7


def test_a_deep_copy_keeps_its_cache(vl_folder: Path) -> None:
    """Vectors of a copy go to the store that was given, not to a copy of it."""
    store = SimpleKVStore()
    copy.deepcopy(NemoVLMEmbedding(model=str(vl_folder), embeddings_cache=store)).get_text_embedding("a")
    assert len(store.get_all(collection="nemovlm")) == 1


def test_a_closed_file(embedding: NemoVLMEmbedding) -> None:
    """It is an error that names the item."""
    (file := BytesIO(ICON)).close()
    with pytest.raises(ImageError, match=r"^item 1: the open file cannot be read"):
        embedding.get_image_embedding_batch([ICON, file])
