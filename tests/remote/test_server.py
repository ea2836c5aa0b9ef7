"""The NIM-compatible server, over real sockets, with the tiny checkpoint that sees."""

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from nemovlm import Embedder, Passage
from nemovlm.errors import ImageError, NemoVLMError
from nemovlm.images import data_url, encode_png
from nemovlm.server import ServerOptions, make_app
from nemovlm.server.schema import EmbeddingRequest
from tests.support.checkpoints import case_image
from tests.support.servers import ready, running

PNG = encode_png(case_image("portrait"))
URL = data_url(PNG, "image/png")


@pytest.fixture
def post(served_vl: str) -> Iterator[Callable[..., httpx.Response]]:
    """Send a request for embeddings; the fields that every request needs are filled in."""
    with httpx.Client(base_url=f"{served_vl}/v1", timeout=60) as client:

        def send(content: Any = "a", **fields: Any) -> httpx.Response:
            body = {"model": "tiny-vl", "input": content, "input_type": "passage", **fields}
            return client.post("/embeddings", json={key: value for key, value in body.items() if value is not ...})

        yield send


def vectors(reply: httpx.Response) -> np.ndarray:
    assert reply.status_code == 200, reply.text
    rows = reply.json()["data"]
    assert [row["index"] for row in rows] == list(range(len(rows)))
    return np.array([row["embedding"] for row in rows], dtype=np.float32)


# What is embedded


@pytest.mark.parametrize("modality", [..., "inferred_list"])
@pytest.mark.parametrize(
    ("content", "passage"),
    [
        ("plain", Passage(text="plain")),
        (URL, Passage(image=PNG)),
        (URL.replace(";base64", ""), Passage(image=PNG)),  # as in the model card's example for the OpenAI client
        (f"<img src='{URL}'/>", Passage(image=PNG)),
        (f"a page\n{URL}", Passage(text="a page", image=PNG)),
        (f"a page  {URL}", Passage(text="a page ", image=PNG)),  # one blank is the joiner, the other is the text's
        (f'a page <img src="{URL}" />', Passage(text="a page", image=PNG)),
        (f"data:image/ is how it begins\n{URL}", Passage(text="data:image/ is how it begins", image=PNG)),
    ],
    ids=["text", "image", "no-base64", "img", "newline", "space", "text-img", "text-of-urls"],
)
def test_strings_are_what_they_say(
    post: Callable[..., httpx.Response], vl: Embedder, content: str, passage: Passage, modality: Any
) -> None:
    """Text, image and both come out as the local engine embeds them, with the modality given or inferred."""
    given_modality = modality if modality is ... else [passage.modality]
    got = vectors(post([content], modality=given_modality))[0]
    assert float(got @ vl.embed([passage])[0]) >= 0.999999


def test_a_text_that_looks_like_an_image_is_a_text_if_the_client_says_so(
    post: Callable[..., httpx.Response], vl: Embedder
) -> None:
    """`modality="text"` is believed; without it the string is an image, and the error says what to set."""
    text = "see <img src='data:image/png;base64,xx!'/> there"
    assert float(vectors(post(text, modality="text"))[0] @ vl.embed([text])[0]) >= 0.999999
    reply = post(text, modality=...)
    assert reply.status_code == 400
    assert "set modality='text'" in reply.json()["message"]


def test_roles(post: Callable[..., httpx.Response], vl: Embedder) -> None:
    """A query is one by `input_type` or by the suffix of the model's name."""
    query = vl.embed_query("a")
    for fields in ({"input_type": "query"}, {"input_type": ..., "model": "tiny-vl-query"}):
        assert float(vectors(post("a", **fields))[0] @ query) >= 0.999999
    assert float(vectors(post("a", model="tiny-vl-passage", input_type=""))[0] @ vl.embed(["a"])[0]) >= 0.999999


def test_mixed_batches_and_usage(post: Callable[..., httpx.Response], vl: Embedder) -> None:
    """One list of modalities, one vector each, in order; tokens are counted; the model is named as asked."""
    reply = post(["x", URL, f"x {URL}"], modality=["text", "image", "text_image"])
    expected = vl.embed(["x", PNG, Passage(text="x", image=PNG)])
    assert np.abs(vectors(reply) - expected).max() <= 1e-6
    body = reply.json()
    assert (body["object"], body["model"]) == ("list", "tiny-vl")
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 2 * 7 * 16


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize("kind", ["float", "int8", "uint8", "binary", "ubinary"])
def test_every_type_in_both_encodings(
    post: Callable[..., httpx.Response], vl: Embedder, kind: str, encoding: str
) -> None:
    """Numbers are what sentence-transformers calls them; base64 holds the same numbers."""
    (row,) = post("a", embedding_type=kind, encoding_format=encoding).json()["data"]
    dtype = {"float": "<f4", "uint8": "u1", "ubinary": "u1"}.get(kind, "i1")
    numbers = row["embedding"]
    got = np.frombuffer(base64.b64decode(numbers), dtype) if encoding == "base64" else np.array(numbers, dtype)
    exact = vl.embed(["a"])[0]
    bits = np.packbits(exact > 0)
    expected = {"binary": bits.astype(int) - 128, "ubinary": bits}.get(kind)
    if expected is not None:
        assert (got == expected).all()
    else:
        wide = got.astype(np.float64) - (128 if kind == "uint8" else 0)
        assert wide @ exact / np.linalg.norm(wide) > (0.9999 if "int" in kind else 0.9999999)


def test_dimensions(post: Callable[..., httpx.Response], vl: Embedder) -> None:
    """The first components, of unit length again."""
    full = vl.embed(["a"])[0][:32]
    assert np.abs(vectors(post("a", dimensions=32))[0] - full / np.linalg.norm(full)).max() <= 1e-6


def test_long_texts(post: Callable[..., httpx.Response], vl: Embedder) -> None:
    """`truncate` END and START cut; NONE is an error in a NIM's words."""
    text = "z" * 3000
    assert float(vectors(post(text, truncate="END"))[0] @ vl.embed([text], truncate="END")[0]) >= 0.999999
    reply = post(["short", text])
    assert reply.status_code == 400
    assert reply.json()["detail"][0]["loc"] == ["body", "input", 1]
    assert reply.json()["detail"][0]["msg"] == "Input length 3010 exceeds maximum allowed token size 1024"


# What is refused, and how


def secret_picture() -> str:
    return base64.b64encode(PNG[:800]).decode()  # cut off: no image


@pytest.mark.parametrize(
    ("content", "fields", "status", "where", "message"),
    [
        ("a", {"dimension": 3}, 422, ["dimension"], "Extra inputs are not permitted"),
        ("a", {"model": ...}, 422, ["model"], "Field required"),
        ("a", {"model": "other"}, 404, None, "the model 'other' does not exist here; this server has tiny-vl"),
        ("a", {"input_type": ...}, 400, ["input", 0], "'input_type' parameter is required for asymmetric models"),
        ("a", {"input_type": "document"}, 422, ["input_type"], "Input should be 'query', 'passage' or ''"),
        ("a", {"truncate": "MIDDLE"}, 422, ["truncate"], "Input should be"),
        ("a", {"dimensions": 0}, 422, ["dimensions"], "greater than or equal to 1"),
        ("a", {"dimensions": 129}, 400, ["dimensions"], "from 1 to 128"),
        ("a", {"dimensions": "32"}, 422, ["dimensions"], "valid integer"),
        ("a", {"modality": "image_text"}, 422, None, "Input should be 'text', 'image' or 'text_image'"),
        (["a", "b"], {"modality": ["text"] * 3}, 400, ["modality"], "modality has 3 entries for 2 inputs"),
        ([], {}, 400, ["input"], "input is empty"),
        (5, {}, 422, None, "Input should be a valid string"),
        (["a", URL], {"input_type": "query"}, 400, ["input", 1], "images are supported only with input_type 'passage'"),
        (["a", "b"], {"modality": ["text", "image"]}, 400, ["input", 1], "there is no image as a data URL"),
        ([URL], {"modality": "text_image"}, 400, ["input", 0], "text part must be non-empty"),
        ([f"x {URL}"], {"modality": "image"}, 400, ["input", 0], "set 'text_image'"),
        ([f"{URL} {URL}"], {"modality": ...}, 400, ["input", 0], "more than one image"),
        (["file:///etc/passwd"], {"modality": "image"}, 400, ["input", 0], "no image as a data URL"),
        (["http://127.0.0.1:1/x.png"], {"modality": "image"}, 400, ["input", 0], "no image as a data URL"),
        (["/etc/hostname.png"], {"modality": "image"}, 400, ["input", 0], "no image as a data URL"),
        (["a", "data:image/png;base64,@@@"], {"modality": ...}, 400, ["input", 1], "not valid base64"),
        (["a", f"data:image/png;base64,{secret_picture()}"], {"modality": ...}, 400, ["input", 1], "damaged"),
        (["data:image/png;base64,AAAA"], {"modality": ...}, 400, ["input", 0], "no image that can be read"),
        (["data:image/png;base64,"], {"modality": ...}, 400, ["input", 0], "empty"),
    ],
)
def test_refusals_name_the_place(
    post: Callable[..., httpx.Response],
    content: Any,
    fields: dict[str, Any],
    status: int,
    where: list[Any] | None,
    message: str,
) -> None:
    """Status, sentence, and where in the body it is; never any of the image's data."""
    reply = post(content, **fields)
    body = reply.json()
    assert reply.status_code == status, body
    assert body["object"] == "error"
    assert message in body["message"]
    assert secret_picture()[:40] not in reply.text
    if where is not None:
        assert body["detail"][0]["loc"] == ["body", *where]


def test_all_bad_items_are_named_at_once(post: Callable[..., httpx.Response]) -> None:
    """A client can put all of them aside after one reply."""
    body = post(["a", "z" * 3000, "b", "z" * 4000]).json()
    assert [detail["loc"] for detail in body["detail"]] == [["body", "input", 1], ["body", "input", 3]]
    assert body["message"].endswith("(and 1 more items)")


def test_no_json(served_vl: str) -> None:
    """A body that is no JSON object gets the same shape of error."""
    for content in (b"", b"{", b"[]", b"\xff\xfe"):
        reply = httpx.post(f"{served_vl}/v1/embeddings", content=content)
        assert reply.status_code == 422
        assert reply.json()["object"] == "error"


@contextmanager
def serving(folder: Path, **options: Any) -> Iterator[str]:
    with running(make_app(Embedder(folder), ServerOptions(**options))) as address:
        yield ready(address)


def test_limits_of_size(vl_folder: Path) -> None:
    """A body and an image over their limits are refused with 413, announced or not; the next request is served."""
    with serving(vl_folder, max_body_bytes=20_000, max_pixels=300 * 423) as address:
        ask = {"model": "tiny-vl", "input": ["a", URL], "input_type": "passage"}
        reply = httpx.post(f"{address}/v1/embeddings", json=ask)
        assert (reply.status_code, reply.json()["detail"][0]["loc"]) == (413, ["body", "input", 1])
        assert "300 x 424 pixels" in reply.json()["message"]

        def unannounced() -> Iterator[bytes]:
            yield from [b" " * 1000] * 100

        for content in (b" " * 20_001, unannounced()):
            reply = httpx.post(f"{address}/v1/embeddings", content=content)
            assert reply.status_code == 413
            assert "20000 bytes" in reply.json()["message"]
        assert httpx.post(f"{address}/v1/embeddings", json={**ask, "input": "a"}).status_code == 200


def test_the_key(vl_folder: Path) -> None:
    """With a key, what computes or describes wants it; health and metrics do not."""
    with serving(vl_folder, api_key=SecretStr("geheim-ü")) as address:
        ask = {"model": "tiny-vl", "input": "a", "input_type": "query"}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "geheim"}):
            reply = httpx.post(f"{address}/v1/embeddings", json=ask, headers=headers)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert "Unauthorized" in reply.json()["message"]
            assert httpx.get(f"{address}/v1/models", headers=headers).status_code == 401
            assert httpx.get(f"{address}/v1/metadata", headers=headers).status_code == 401
        right = {"Authorization": "Bearer geheim-ü".encode()}
        assert httpx.post(f"{address}/v1/embeddings", json=ask, headers=right).status_code == 200
        assert httpx.get(f"{address}/v1/metrics").status_code == 200


class Held:
    """An engine that waits to be let go: what a server does meanwhile can be looked at."""

    def __init__(self, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.batches = threading.Event(), []
        engine_type = type(asyncio.run(_engine_of(embedder)))
        run = engine_type._run

        def held(engine: Any, items: Any) -> Any:
            self.go.wait(60)
            self.batches.append(len(items))
            return run(engine, items)

        monkeypatch.setattr(engine_type, "_run", held)


async def _engine_of(embedder: Embedder) -> Any:
    from nemovlm import runtime

    return await runtime.wait_async(runtime.submit(embedder._handle.engine()))


async def _crowd(address: str, count: int, more: int, held: Held) -> list[httpx.Response]:
    """Send `count` requests of one item that are held up, then `more`; return all replies."""
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:

        def ask(number: int) -> Any:
            body = {"model": "tiny-vl", "input": f"text {number}", "input_type": "passage"}
            return client.post("/v1/embeddings", json=body)

        first = [asyncio.create_task(ask(number)) for number in range(count)]
        while f"nemovlm_queue_items {count}.0" not in (await client.get("/v1/metrics")).text:
            await asyncio.sleep(0.01)
        late = [await ask(number) for number in range(count, count + more)]
        held.go.set()
        return [*await asyncio.gather(*first), *late]


def test_a_full_queue_refuses_at_once(vl_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past its queue the server answers 503 with Retry-After; all that it had accepted is answered right."""
    with Embedder(vl_folder) as embedder, running(make_app(embedder, ServerOptions(max_queue=6))) as address:
        ready(address)
        held = Held(embedder, monkeypatch)
        *replies, refused = asyncio.run(_crowd(address, 6, 1, held))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "6 items wait, and 6 may" in refused.json()["message"]
        for number, reply in enumerate(replies):
            assert float(vectors(reply)[0] @ embedder.embed([f"text {number}"])[0]) >= 0.999999


def test_requests_are_merged(vl_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty requests of one text, come while the model is busy, are two or three passes of the model."""
    with Embedder(vl_folder) as embedder, running(make_app(embedder)) as address:
        ready(address)
        held = Held(embedder, monkeypatch)
        replies = asyncio.run(_crowd(address, 30, 0, held))
        assert {reply.status_code for reply in replies} == {200}
        assert sum(held.batches) == 30
        assert len(held.batches) <= 4


# What it says of itself


def test_descriptions(served_vl: str, vl: Embedder) -> None:
    """Models as OpenAI lists them, health as a NIM says it, and the vector space in the metadata."""
    (model,) = httpx.get(f"{served_vl}/v1/models").json()["data"]
    assert (model["id"], model["root"], model["object"]) == ("tiny-vl", "tiny-vl", "model")
    ready = {"object": "health.response", "message": "ready", "ready": True}
    assert httpx.get(f"{served_vl}/v1/health/ready").json() == ready
    assert httpx.get(f"{served_vl}/v1/health/live").json()["live"] is True
    metadata = httpx.get(f"{served_vl}/v1/metadata").json()
    assert (metadata["space"], metadata["dimension"]) == (vl.space, 128)
    assert metadata["modalities"] == ["text", "image", "text_image"]


def test_metrics(served_vl: str, post: Callable[..., httpx.Response]) -> None:
    """Prometheus can count requests by status, items by modality, and tokens."""
    post("a")
    post("z" * 3000)
    text = httpx.get(f"{served_vl}/v1/metrics").text
    for line in ('nemovlm_requests_total{status="200"}', 'nemovlm_requests_total{status="400"}', "nemovlm_items_total"):
        assert line in text
    assert "nemovlm_queue_items 0.0" in text


def test_the_documentation_needs_no_other_host(served_vl: str) -> None:
    """/docs shows the OpenAPI schema with scripts of its own."""
    page = httpx.get(f"{served_vl}/docs").text
    assert "https://" not in page
    for reference in ("/static-offline-docs/swagger-ui-bundle.js", "/openapi.json"):
        assert reference in page
        assert httpx.get(f"{served_vl}{reference}").status_code == 200
    schema = httpx.get(f"{served_vl}/openapi.json").json()
    body = schema["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == set(EmbeddingRequest.model_fields)


def test_request_ids(served_vl: str) -> None:
    """A client's own id comes back; without one, or with a strange one, the server makes one."""
    for sent, same in (("abc-1", True), (None, False), ("x" * 200, False)):
        reply = httpx.get(f"{served_vl}/v1/health/live", headers={"x-request-id": sent} if sent else {})
        assert (reply.headers["x-request-id"] == sent) is same
        assert 0 < len(reply.headers["x-request-id"]) <= 128


def test_unknown_routes(served_vl: str) -> None:
    """404 and 405 are JSON as well."""
    assert httpx.get(f"{served_vl}/v1/nothing").status_code == 404
    assert httpx.get(f"{served_vl}/v1/embeddings").status_code == 405


# The process


# Any string at all


@settings(max_examples=200, deadline=None)
@given(
    content=st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(["data:image/", "png", ";base64", ",", "<img src='", "'/>", "AAAA", " ", "\n", "=", URL]),
            max_size=9,
        ).map("".join),
    ),
    modality=st.sampled_from([None, "text", "image", "text_image"]),
    role=st.sampled_from([None, "query", "passage"]),
)
def test_every_string_is_an_item_or_an_error(content: str, modality: Any, role: Any) -> None:
    """Whatever a string holds, it becomes one item whose parts are its own, or one typed error."""
    asked = EmbeddingRequest(model="m", input=content, modality=modality)
    (item,) = asked.items(role, 10**9)
    if isinstance(item, NemoVLMError):
        return
    assert item.text in content
    assert (item.image is None) == (item.modality == "text")
    if modality:
        assert item.modality == modality
    elif "data:image/" not in content:
        assert item.modality == "text"
    if item.image is not None:
        assert item.role == "passage"


def test_messages_hold_no_image() -> None:
    """However an image fails, what is said of it is short."""
    (error,) = EmbeddingRequest(model="m", input=f"{URL}@", modality="image").items(None, 10**9)
    assert isinstance(error, ImageError)
    assert len(json.dumps(str(error))) < 200
