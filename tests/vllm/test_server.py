"""`nemovlm serve --vllm-server` and `engine="vllm-server"` with vLLM's real server between them."""

import base64
import signal
from collections.abc import Awaitable, Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from nemovlm import Embedder, Passage
from nemovlm.errors import EngineError, ImageError, InputTooLongError, ModelNotServedError, NemoVLMError
from nemovlm.inputs import Embeddable, Truncate
from tests.support.checkpoints import case_image
from tests.support.launched import launched

CASES = ("portrait", "landscape", "square", "banner", "tiny", "icon", "noise", "gray", "translucent")
TEXTS = [
    "one",
    "",
    "the quick fox",
    "Überraschung 🎈 漢字",
    "  spaces \n\n",
    "see <image> and <|begin_of_text|>",
    "x" * 700,
]
GRIDS = [(columns * 64, rows * 64) for columns in range(1, 7) for rows in range(1, 7) if columns * rows <= 6]
# vLLM's own template, `examples/pooling/embed/template/nemotron_embed_vl.jinja`, in other words.
BY_ROLE = (
    "{%- if messages | length > 1 -%}{{ raise_exception('Embedding models should only embed one message at a time') }}"
    "{%- endif -%}{% set found = namespace(prefix='', images=[], texts=[]) %}{%- for message in messages -%}"
    "{%- if message['role'] == 'query' -%}{%- set found.prefix = 'query: ' %}"
    "{%- elif message['role'] == 'document' -%}{%- set found.prefix = 'passage: ' %}{%- endif -%}"
    "{%- for content in message['content'] -%}{%- if content['type'] == 'text' -%}"
    "{%- set found.texts = found.texts + [content['text']] %}{%- elif content['type'] == 'image' -%}"
    "{%- set found.images = found.images + ['<image> '] %}{%- endif -%}{%- endfor -%}{%- endfor -%}"
    "{{- bos_token }}{{ found.prefix }}{{ (found.images + found.texts) | join('') }}"
)


@pytest.fixture(scope="module")
def served(vllm_served: str) -> Iterator[Embedder]:
    with Embedder("tiny-vl", engine="vllm-server", base_url=vllm_served) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def reference(vllm_folder: Path) -> Iterator[Embedder]:
    with Embedder(vllm_folder, engine="transformers", dtype="float32", device="cpu") as embedder:
        yield embedder


def test_the_server_is_recognized(vllm_served: str, served: Embedder) -> None:
    """Without an engine that was chosen, it is asked in its own way, and vectors are the same."""
    with Embedder("tiny-vl", base_url=vllm_served) as embedder:
        assert np.array_equal(embedder.embed_query("a"), served.embed_query("a"))
        assert embedder.describe().engine == "vllm-server"


async def test_vectors_are_those_of_torch(
    served: Embedder, reference: Embedder, call: Callable[..., Awaitable[Any]]
) -> None:
    """Within 1e-5: queries, passages, images of every grid, images with texts, all in one call."""
    queries = await call(served, "embed_queries", TEXTS)
    assert np.abs(queries - reference.embed_queries(TEXTS)).max() <= 1e-5
    images: list[Embeddable] = [case_image(name) for name in CASES]
    images += [case_image("noise").resize(size) for size in GRIDS]
    both = [Passage(text=text, image=case_image(name)) for text in TEXTS for name in ("portrait", "icon")]
    mixed = [item for trio in zip(TEXTS * 6, images, both * 3, strict=False) for item in trio]
    passages = await call(served, "embed", mixed)
    assert np.abs(passages - reference.embed(mixed)).max() <= 1e-5


@pytest.mark.parametrize("truncate", ["END", "START"])
def test_long_texts_are_cut_as_by_torch(served: Embedder, reference: Embedder, truncate: Truncate) -> None:
    """The same token ids, whatever the tokenizer merges, and wherever in a character the cut is."""
    texts = ["the quick fox " * 200, "zbcd" * 600, "über 🎈漢" * 300]
    assert np.abs(served.embed(texts, truncate=truncate) - reference.embed(texts, truncate=truncate)).max() <= 1e-5


@pytest.mark.parametrize("truncate", ["END", "START"])
@pytest.mark.parametrize("text", ["the quick fox " * 200, "zbcd" * 600, "über 🎈漢" * 300])
def test_long_texts_with_an_image_are_cut(served: Embedder, reference: Embedder, truncate: Truncate, text: str) -> None:
    """The vector is that of a beginning, or an end, of the text that is nearly as long as the limit allows."""
    picture = case_image("portrait")
    vector = served.embed([Passage(text=text, image=picture)], truncate=truncate)[0]
    parts = [text[:length] if truncate == "END" else text[-length:] for length in range(1, len(text))]
    fitting, low, high = 0, 0, len(parts)
    while low < high:  # the longest part that fits
        middle = (low + high) // 2
        try:
            reference.embed([Passage(text=parts[middle], image=picture)])
            fitting, low = middle, middle + 1
        except InputTooLongError:
            high = middle
    near = [Passage(text=part, image=picture) for part in parts[max(0, fitting - 4) : fitting + 1]]
    assert np.abs(reference.embed(near) - vector).max(axis=1).min() <= 1e-5
    if truncate == "END" and text.isascii():  # then the cut is the very one of local engines
        assert np.abs(reference.embed([Passage(text=text, image=picture)], truncate="END")[0] - vector).max() <= 1e-5


def test_one_bad_item_costs_only_itself(served: Embedder, reference: Embedder) -> None:
    """What is damaged, which vLLM itself embeds in part, and what is too long, among good ones of all kinds."""
    buffer = BytesIO()
    case_image("noise").save(buffer, "PNG")
    broken = bytearray(buffer.getvalue())
    at = broken.index(b"IDAT") + 4
    broken[at : at + 2] = b"\0\0"  # nothing but decoding it finds that out
    good: list[Embeddable] = ["one", case_image("icon"), Passage(text="two", image=case_image("square"))]
    items = [*good, bytes(broken), "z" * 3000, *good, Passage(text="z" * 3000, image=case_image("icon"))]
    errors: list[NemoVLMError] = []
    vectors = list(served.stream(items, on_error=errors.append))
    assert {error.index: type(error) for error in errors} == {3: ImageError, 4: InputTooLongError, 8: InputTooLongError}
    wanted = reference.embed(good)
    for places in ((0, 1, 2), (5, 6, 7)):
        assert np.abs(np.stack([vectors[place] for place in places]) - wanted).max() <= 1e-5


def test_a_model_that_is_not_served_is_told(vllm_served: str) -> None:
    """The error names what the server has."""
    with (
        Embedder("nope", engine="vllm-server", base_url=vllm_served) as embedder,
        pytest.raises(ModelNotServedError, match="it serves: tiny-vl"),
    ):
        embedder.embed_query("one")


def _url(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _vectors(reply: httpx.Response) -> np.ndarray:
    assert reply.status_code == 200, reply.text
    return np.array([row["embedding"] for row in reply.json()["data"]])


def test_other_peoples_clients_get_the_same_vectors(vllm_served: str, reference: Embedder) -> None:
    """`/v1/embeddings` with roles, and `/v2/embed` with an `input_type`, for texts, images and both."""
    icon = case_image("icon")
    both = [{"type": "image_url", "image_url": {"url": _url(icon)}}, {"type": "text", "text": "two"}]
    passages = reference.embed(["one", icon, Passage(text="two", image=icon)])
    conversations = [[{"role": "document", "content": content}] for content in ("one", both[:1], both)]
    by_role = _vectors(httpx.post(f"{vllm_served}/v1/embeddings", json={"messages": conversations}))
    assert np.abs(by_role - passages).max() <= 1e-5
    query = [[{"role": "query", "content": "one"}]]
    assert (
        np.abs(
            _vectors(httpx.post(f"{vllm_served}/v1/embeddings", json={"messages": query}))
            - reference.embed_query("one")
        ).max()
        <= 1e-5
    )
    for wanted, kind, body in (
        (reference.embed_queries(["one"]), "query", {"texts": ["one"]}),
        (passages[:1], "document", {"texts": ["one"]}),
        (passages[1:2], "document", {"images": [_url(icon)]}),
        (passages[2:], "document", {"inputs": [{"content": both}]}),
    ):
        asked = {"model": "tiny-vl", "input_type": kind, "embedding_types": ["float"], **body}
        reply = httpx.post(f"{vllm_served}/v2/embed", json=asked)
        assert reply.status_code == 200, reply.text
        assert np.abs(np.array(reply.json()["embeddings"]["float"]) - wanted).max() <= 1e-5


@pytest.mark.parametrize(
    ("url", "role", "status", "says"),
    [
        (None, "user", 400, 'The role must be \\"query\\" or \\"document\\"'),
        (None, "passage", 400, 'The role must be \\"query\\" or \\"document\\"'),
        ("http://127.0.0.1:9/image.png", "document", 400, "allowed domains"),
        ("file:///etc/hostname", "document", 500, "local files"),
    ],
)
def test_what_is_unsafe_or_without_prefix_is_refused(
    vllm_served: str, url: str | None, role: str, status: int, says: str
) -> None:
    """No request makes the server fetch anything, read a file, or embed without a prefix."""
    picture = {"type": "image_url", "image_url": {"url": url or _url(case_image("icon"))}}
    reply = httpx.post(f"{vllm_served}/v1/embeddings", json={"messages": [{"role": role, "content": [picture]}]})
    assert (reply.status_code, says in reply.text) == (status, True), reply.text


def test_no_code_of_a_checkpoint_is_run(vllm_served: str, vllm_folder: Path) -> None:
    """Although it has some, and names it in its configuration."""
    assert httpx.get(f"{vllm_served}/health").status_code == 200
    assert not (vllm_folder / "code-was-run").exists()


def _alive(family: list[psutil.Process]) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(family, timeout=20)
    return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_the_template_of_vllm_and_a_key(vllm_folder: Path, reference: Embedder, tmp_path: Path) -> None:
    """Its template is found to be exact; a key is wanted and is in no command line; SIGTERM leaves nothing behind."""
    (template := tmp_path / "by_role.jinja").write_text(BY_ROLE)
    items: list[Embeddable] = ["one", case_image("portrait"), Passage(text=" two\n", image=case_image("icon"))]
    with launched(vllm_folder, template, NEMOVLM_SERVER_API_KEY="the-server-key") as server:
        address = server.ready()
        with Embedder("tiny-vl", engine="vllm-server", base_url=address, api_key="the-server-key") as embedder:
            assert np.abs(embedder.embed(items) - reference.embed(items)).max() <= 1e-5
        with Embedder("tiny-vl", engine="vllm-server", base_url=address) as stranger, pytest.raises(EngineError):
            stranger.embed_query("one")
        family = server.family()
        assert len(family) >= 3
        assert not any("the-server-key" in part for process in family for part in process.cmdline())
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert not _alive(family)
    assert "listening at http://127.0.0.1:" in server.log.read_text()


def test_another_template_gets_no_images(vllm_folder: Path, tmp_path: Path) -> None:
    """One that embeds without a prefix is found out; SIGINT leaves nothing behind."""
    (template := tmp_path / "plain.jinja").write_text(BY_ROLE.replace("passage: ", "").replace("query: ", ""))
    with launched(vllm_folder, template) as server:
        with Embedder("tiny-vl", engine="vllm-server", base_url=server.ready()) as embedder:
            assert embedder.embed(["one"]).shape == (1, 128)
            with pytest.raises(EngineError, match="nemovlm serve --vllm-server"):
                embedder.embed([case_image("icon")])
        family = server.family()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 130
        assert not _alive(family)
