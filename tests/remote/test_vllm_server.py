"""`engine="vllm-server"` against a stand-in for vLLM's server, and the start of a real one without starting it.

`with_vllm/test_server.py` runs both with vLLM itself.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from typer.testing import CliRunner

from nemovlm import Embedder, Passage
from nemovlm.cli.app import app
from nemovlm.engines.base import Item
from nemovlm.errors import (
    AuthenticationError,
    ConfigurationError,
    EngineError,
    ImageError,
    InputTooLongError,
    ModelNotServedError,
    NemoVLMError,
    ProtocolError,
    RequestRefusedError,
    ServerError,
)
from nemovlm.images import Encoded, load_image
from nemovlm.inputs import Embeddable, Truncate, as_passage
from nemovlm.models import llama_nemotron
from nemovlm.models.catalogue import DEFAULT_MODEL
from nemovlm.models.checkpoint import find_checkpoint
from nemovlm.models.llama_nemotron.prompts import prompt
from nemovlm.models.prompt_encoder import PromptEncoder
from nemovlm.server import vllm_launcher as launcher
from nemovlm.server.vllm_launcher import Launch, command_line
from nemovlm.settings import Settings
from nemovlm.wire.problems import read_problem
from nemovlm.wire.vllm_server import encode_conversation, encode_text, encode_tokens, read_tokens, request_body
from tests.support.checkpoints import case_image
from tests.support.fake_vllm import (
    NO_IMAGE,
    NO_TEMPLATE,
    TOO_LONG,
    TOO_LONG_WITH_IMAGE,
    FakeVllm,
    Refusal,
    image_ids,
    pixels_of,
    render,
    vector_of,
)
from tests.support.servers import running

OURS = llama_nemotron.chat_template.read_text()
# What vLLM's example (`nemotron_embed_vl.jinja`) does: the role decides, any other is embedded without a prefix.
BY_ROLE = (
    "{%- if messages | length > 1 -%}{{ raise_exception('Embedding models should only embed one message at a time') }}"
    "{%- endif -%}{%- set m = messages[0] -%}{{ bos_token }}"
    "{{ {'query': 'query: ', 'document': 'passage: '}.get(m['role'], '') }}"
    "{%- for part in m['content'] if part['type'] == 'image' -%}{{ '<image> ' }}{%- endfor -%}"
    "{%- for part in m['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}"
)
BY_SYSTEM = (
    "{%- if messages[0]['role'] != 'system' -%}{{ raise_exception('a system message must come first') }}{%- endif -%}"
    "{{ bos_token ~ messages[0]['content'][0]['text'] }}{%- for part in messages[1]['content'] -%}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] }}{%- endfor -%}"
)
AS_IT_IS = (
    "{{ bos_token }}{%- for message in messages if message['role'] == 'user' -%}{%- for part in message['content'] -%}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] }}{%- endfor -%}{%- endfor -%}"
)
AS_IT_IS_WITHOUT_SPACE = AS_IT_IS.replace("'<image> '", "'<image>'")
CHAT = "{{ bos_token }}{%- for message in messages -%}[{{ message['role'] }}]" + AS_IT_IS[15:] + "{%- endfor -%}"
TRIMS = BY_ROLE.replace("part['text']", "part['text'] | trim")
WITHOUT_BOS = BY_ROLE.replace("bos_token", "''")
WITHOUT_PREFIX = BY_ROLE.replace("passage: ", "")

MIXED: list[Embeddable] = [
    "one",
    Passage(text="a page with its text", image=case_image("portrait")),
    "",
    case_image("icon"),
    Passage(text="Überraschung 🎈 漢字", image=case_image("banner")),
    Passage(text="  spaces \n", image=case_image("translucent")),
    "see <image> and <|begin_of_text|>",
]


@contextmanager
def served(*servers: FakeVllm, model: str = "tiny-vl", **knobs: Any) -> Iterator[Embedder]:
    """An embedder on stand-ins."""
    with ExitStack() as stack:
        urls = [stack.enter_context(running(server)) for server in servers]
        yield stack.enter_context(Embedder(model, engine="vllm-server", base_url=urls, **knobs))


@lru_cache
def encoder(folder: Path) -> PromptEncoder:
    return PromptEncoder(folder, find_checkpoint(str(folder)).card, None, prompt)


def right(folder: Path, item: Embeddable, truncate: Truncate = "NONE") -> np.ndarray:
    """Return the vector of a passage whose prompt is what local engines make of it."""
    passage = as_passage(item)
    image = None if passage.image is None else load_image(passage.image)
    ids = [] if image is None else image_ids(image)
    item = Item("passage", passage.text or "", image, truncate)
    before, after = encoder(folder).encode(item, len(ids))
    return vector_of([*before, *ids, *after], b"" if image is None else pixels_of(image))


# The template


@pytest.mark.parametrize(("role", "name"), [("passage", "document"), ("query", "query")])
@pytest.mark.parametrize("text", ["a text", " \n two  lines\n", "{{ bos_token }}", ""])
def test_our_template_makes_the_prompts_of_all_engines(role: Any, name: str, text: str) -> None:
    """By role and, as `/v2/embed` sends it, by a system message: bos, prefix, image, text, as the family has them."""
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    texts = [{"type": "text", "text": text}] if text else []
    prefix, behind, _ = prompt(role, text, image=True)
    for conversation in (
        [{"role": name, "content": [image, *texts]}],
        [{"role": name, "content": [*texts, image]}],
        [{"role": "system", "content": prefix}, {"role": "user", "content": [image, *texts]}],
    ):
        assert render(OURS, conversation) == f"<|begin_of_text|>{prefix}<image>{behind}"
    if text:
        assert render(OURS, [{"role": name, "content": text}]) == f"<|begin_of_text|>{prefix}{text}"


@pytest.mark.parametrize(
    ("conversation", "complaint"),
    [
        ([("user", "x")], 'The role must be "query" or "document"'),
        ([("passage", "x")], 'The role must be "query" or "document"'),
        ([("system", "You are helpful."), ("user", "x")], 'The system message must be "query: " or "passage: "'),
        ([("system", "query: ")], "A message must hold one text"),
        ([("system", "query: "), ("document", "x")], 'The role must be "query" or "document"'),
        ([("query", "x"), ("document", "x")], "One message is embedded at a time"),
        ([("document", "x"), ("system", "query: ")], "One message is embedded at a time"),
        ([("document", [])], "A message must hold one text"),
        ([("document", [{"type": "text", "text": "x"}] * 2)], "A message must hold one text"),
        ([("document", [{"type": "image_url"}] * 2)], "A message must hold one text"),
        ([], "A message must hold one text"),
    ],
)
def test_our_template_refuses_what_has_no_prefix(conversation: list[tuple[str, Any]], complaint: str) -> None:
    """Nothing is embedded without its prefix, or as a mixture that the model was not trained on."""
    with pytest.raises(Refusal, match=complaint):
        render(OURS, [{"role": role, "content": content} for role, content in conversation])


# What is found out of a server


@pytest.mark.parametrize(
    ("template", "shape"),
    [
        (OURS, "role"),
        (BY_ROLE, "role"),
        (BY_SYSTEM, "system"),
        (AS_IT_IS, "user"),
        (AS_IT_IS_WITHOUT_SPACE, "spaced user"),
    ],
)
async def test_the_conversation_that_a_template_wants_is_found(
    vl_folder: Path, template: str, shape: str, call: Callable[..., Awaitable[Any]]
) -> None:
    """Whatever gives the exact prompt is used: each vector is that of the prompt of local engines."""
    server = FakeVllm(vl_folder, template)
    with served(server) as embedder:
        vectors = await call(embedder, "embed", MIXED)
        for item, vector in zip(MIXED, vectors, strict=True):
            assert np.abs(vector - right(vl_folder, item)).max() < 1e-6
        query = await call(embedder, "embed_query", "one")
        assert not np.allclose(query, vectors[0], atol=0.01)
    bodies = [body for path, body in server.requests if path == "/v1/embeddings"]
    conversations = [conversation for body in bodies for conversation in body.get("messages", [])]
    assert len(conversations) == 4
    roles = {"role": ["document"], "system": ["system", "user"]}.get(shape, ["user"])
    assert all([message["role"] for message in messages] == roles for messages in conversations)


@pytest.mark.parametrize("template", [None, CHAT, TRIMS, WITHOUT_BOS, WITHOUT_PREFIX])
def test_without_the_exact_prompt_texts_work_and_images_are_refused(vl_folder: Path, template: str | None) -> None:
    """A template that changes the prompt in any way gets no image; the error says what to do."""
    server = FakeVllm(vl_folder, template)
    errors: list[NemoVLMError] = []
    with served(server) as embedder:
        vectors = list(embedder.stream(MIXED, on_error=errors.append))
    assert [vector is not None for vector in vectors] == [as_passage(item).image is None for item in MIXED]
    assert {type(error) for error in errors} == {EngineError}
    assert "nemovlm serve --vllm-server" in str(errors[0])
    assert ("default chat template is no longer allowed" in str(errors[0])) == (template is None)
    assert not any("messages" in body for path, body in server.requests if path == "/v1/embeddings")


def test_without_tokenize_texts_work_and_images_are_refused(vl_folder: Path) -> None:
    """Behind a gateway that lets only `/v1` through nothing can be verified; texts need no verification."""
    server = FakeVllm(vl_folder, OURS, tokenize=False)
    with served(server) as embedder:
        assert np.abs(embedder.embed(["one"])[0] - right(vl_folder, "one")).max() < 1e-6
        with pytest.raises(EngineError, match="without /tokenize"):
            embedder.embed([case_image("icon")])
        with pytest.raises(InputTooLongError, match="at least 1025"):
            embedder.embed(["z" * 2000])


def test_another_number_of_tiles_is_another_space(vl_folder: Path) -> None:
    """A server that cuts images otherwise than the model's card says gets none; its texts are the same."""
    server = FakeVllm(vl_folder, OURS, model=DEFAULT_MODEL, dimension=2048)
    with served(server, model=DEFAULT_MODEL) as embedder:
        assert embedder.embed(["one"]).shape == (1, 2048)
        with pytest.raises(EngineError, match=r"up to 114 tokens of one, where .* has 1794"):
            embedder.embed([case_image("icon")])


def test_a_model_that_reads_text_only_is_not_probed(vl_folder: Path) -> None:
    """Nothing is asked about images where the model is known to take none."""
    server = FakeVllm(vl_folder, None, model="nvidia/llama-nemotron-embed-1b-v2", dimension=2048)
    with served(server, model=server.model) as embedder:
        assert embedder.embed(["one"]).shape == (1, 2048)
    assert not any("messages" in body for _, body in server.requests)


def test_all_servers_must_be_fine(vl_folder: Path) -> None:
    """The conversation is one that all make the exact prompt of; the lowest limit counts; one that is down is told."""
    able, strict = FakeVllm(vl_folder, OURS), FakeVllm(vl_folder, BY_SYSTEM, limit=300)
    with served(able, strict) as embedder:
        for item in MIXED * 4:
            assert np.abs(embedder.embed([item])[0] - right(vl_folder, item)).max() < 1e-6
        with pytest.raises(InputTooLongError, match="over the limit of 300"):
            embedder.embed(["z" * 400])
    assert all(any(path == "/v1/embeddings" for path, _ in server.requests) for server in (able, strict))
    with served(able, FakeVllm(vl_folder, AS_IT_IS)) as embedder, pytest.raises(EngineError, match="nothing in common"):
        embedder.embed([case_image("icon")])
    with (
        running(able) as address,
        Embedder("x", engine="vllm-server", base_url=f"{address},http://127.0.0.1:9", max_retries=0) as embedder,
        pytest.raises(NemoVLMError),
    ):
        embedder.embed_query("one")


def test_a_model_that_is_not_served_is_told(vl_folder: Path) -> None:
    """The error names what the server has."""
    with (
        served(FakeVllm(vl_folder, OURS), model="nope") as embedder,
        pytest.raises(ModelNotServedError, match="it serves: tiny-vl"),
    ):
        embedder.embed_query("one")


def test_nothing_is_sent_before_the_first_use(vl_folder: Path) -> None:
    """Not even the probes."""
    server = FakeVllm(vl_folder, OURS)
    with served(server) as embedder:
        assert not server.requests
        embedder.embed_query("one")
        assert server.requests


# Lengths


@pytest.mark.parametrize("truncate", ["END", "START"])
def test_a_long_text_is_cut_as_by_local_engines(vl_folder: Path, truncate: Truncate) -> None:
    """The very token ids are sent, whatever the tokenizer merges across the seam."""
    texts = ["the " * 900, "x" * 2000, "über 🎈漢" * 300, "short"]
    server = FakeVllm(vl_folder, OURS)
    with served(server) as embedder:
        for text, vector in zip(texts, embedder.embed(texts, truncate=truncate), strict=True):
            assert np.abs(vector - right(vl_folder, text, truncate)).max() < 1e-6


@pytest.mark.parametrize("truncate", ["END", "START"])
@pytest.mark.parametrize("text", ["the quick fox " * 200, "zbcd" * 600, "über 🎈漢" * 300])
def test_a_long_text_with_an_image_is_cut(vl_folder: Path, truncate: Truncate, text: str) -> None:
    """What is embedded is a beginning, or an end, of the text that fills the limit but for a few tokens."""
    picture = case_image("portrait")
    with served(FakeVllm(vl_folder, OURS)) as embedder:
        vector = embedder.embed([Passage(text=text, image=picture)], truncate=truncate)[0]
    found = []
    for length in range(len(text)):
        part = text[:length] if truncate == "END" else text[len(text) - length :]
        try:
            expected = right(vl_folder, Passage(text=part, image=picture))
        except InputTooLongError:
            break
        if np.abs(vector - expected).max() < 1e-6:
            found.append(length)
    assert found
    assert length - found[-1] <= 4


def test_tokens_are_counted_only_where_there_may_be_too_many(vl_folder: Path) -> None:
    """No token has less than a byte, so a text of few bytes is sent as it is."""
    server = FakeVllm(vl_folder, OURS)
    with served(server) as embedder:
        embedder.embed(["one"])
        before = len(server.requests)
        embedder.embed(["z" * 1014, Passage(text="z" * 800, image=case_image("icon"))])
        assert [path for path, _ in server.requests[before:]] == ["/v1/embeddings"] * 2
        embedder.embed(["the " * 300])
        assert [path for path, _ in server.requests[before + 2 :]] == ["/tokenize", "/v1/embeddings"]


@pytest.mark.parametrize("image", [None, "portrait"])
def test_what_is_too_long_is_not_sent(vl_folder: Path, image: str | None) -> None:
    """The error tells both numbers; mates are not concerned."""
    server = FakeVllm(vl_folder, OURS)
    errors: list[NemoVLMError] = []
    items = ["one", Passage(text="z" * 3000, image=case_image(image) if image else None), case_image("icon")]
    with served(server) as embedder:
        assert [vector is not None for vector in embedder.stream(items, on_error=errors.append)] == [True, False, True]
    (error,) = errors
    assert isinstance(error, InputTooLongError)
    assert (error.index, error.limit) == (1, 1024)
    assert error.tokens == (3010 if image is None else 3011 + 114)
    assert all(len(json.dumps(body)) < 3000 or path == "/tokenize" for path, body in server.requests if not image)


# Faults


def test_one_bad_item_costs_only_itself(vl_folder: Path) -> None:
    """vLLM refuses a request as a whole, and does not say which item is to blame."""
    server = FakeVllm(vl_folder, OURS)
    errors: list[NemoVLMError] = []
    bad = Image.new("RGB", server.undecodable)
    items: list[Embeddable] = [*MIXED, bad, *MIXED, Passage(text="z" * 3000, image=bad), Passage(text="x", image=bad)]
    with served(server) as embedder:
        vectors = list(embedder.stream(items, on_error=errors.append))
    assert [error.index for error in errors] == [7, 15, 16]
    assert all(isinstance(error, ImageError) for error in errors)
    for item, vector in zip(items, vectors, strict=True):
        assert vector is None or np.abs(vector - right(vl_folder, item)).max() < 1e-6


def test_a_damaged_image_is_not_sent(vl_folder: Path, tmp_path: Path) -> None:
    """vLLM would embed what can be read of it, and not tell."""
    case_image("noise").save(tmp_path / "noise.png")
    content = bytearray((tmp_path / "noise.png").read_bytes())
    at = content.index(b"IDAT") + 4
    content[at : at + 2] = b"\0\0"
    (tmp_path / "damaged.png").write_bytes(content)
    server = FakeVllm(vl_folder, OURS)
    with served(server) as embedder:
        for image in (bytes(content), tmp_path / "damaged.png"):
            with pytest.raises(ImageError, match="damaged"):
                embedder.embed([image])
        vector = embedder.embed([tmp_path / "noise.png"])[0]
    assert np.abs(vector - right(vl_folder, case_image("noise"))).max() < 1e-6


_ERROR = '{{"error":{{"message":{message},"type":"{kind}","param":{param},"code":{status}}}}}'


def _body(status: int, message: str, kind: str = "BadRequestError", param: str = "null") -> bytes:
    return _ERROR.format(message=json.dumps(message), kind=kind, param=param, status=status).encode()


@pytest.mark.parametrize(
    ("status", "content", "modality", "kind", "says"),
    [
        (
            400,
            _body(400, TOO_LONG.format(tokens=1025, limit=1024), param='"input_tokens"'),
            "text",
            InputTooLongError,
            "",
        ),
        (400, _body(400, TOO_LONG_WITH_IMAGE.format(tokens=1025, limit=1024)), "text_image", InputTooLongError, ""),
        (
            404,
            _body(404, "The model `nope` does not exist.", "NotFoundError", '"model"'),
            "text",
            ModelNotServedError,
            "",
        ),
        (404, b'{"detail":"Not Found"}', "text", ModelNotServedError, "base_url"),
        (
            400,
            _body(
                400,
                "Model 'x' does not support Matryoshka embeddings; dimensions must be unset (received dimensions=64).",
            ),
            "text",
            RequestRefusedError,
            "Matryoshka",
        ),
        (400, _body(400, NO_IMAGE), "image", ImageError, "cannot identify"),
        (400, _body(400, "Non-base64 digit found"), "image", ImageError, "base64"),
        (
            500,
            _body(500, "HTTPConnectionPool(host='127.0.0.1', port=9): Max retries exceeded", "InternalServerError"),
            "image",
            ServerError,
            "Max retries",
        ),
        (
            500,
            _body(500, "Cannot load local files without `--allowed-local-media-path`.", "InternalServerError"),
            "image",
            ServerError,
            "local files",
        ),
        (
            400,
            _body(400, "The URL must be from one of the allowed domains: ['none.invalid']. Input URL domain: x"),
            "text",
            RequestRefusedError,
            "allowed domains",
        ),
        (
            400,
            _body(400, "At most 1 image(s) may be provided in one prompt. (parameter=image)", param='"image"'),
            "image",
            ImageError,
            "At most 1",
        ),
        (
            500,
            _body(500, "Failed to apply prompt replacement for mm_items['image'][0]", "InternalServerError"),
            "image",
            ServerError,
            "replacement",
        ),
        (400, _body(400, NO_TEMPLATE), "text", RequestRefusedError, "chat template"),
        (
            400,
            _body(400, "Embedding models should only embed one message at a time"),
            "text",
            RequestRefusedError,
            "one",
        ),
        (
            400,
            _body(
                400,
                "7 validation errors:\n  {'type': 'missing', 'loc': 'body.input', 'msg': 'Field required'}",
                "Bad Request",
                '"body.input"',
            ),
            "text",
            RequestRefusedError,
            "validation errors",
        ),
        (
            400,
            _body(
                400, "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed", "Bad Request"
            ),
            "text",
            RequestRefusedError,
            "Media Type",
        ),
        (400, _body(400, "You must pass at least one prompt"), "text", RequestRefusedError, "at least one"),
        (400, _body(400, "Token id 99999 is out of vocabulary"), "text", RequestRefusedError, "vocabulary"),
        (401, b'{"error":"Unauthorized"}', "text", AuthenticationError, "Unauthorized"),
        (503, _body(503, "QueueOverflowError", "Service Unavailable"), "text", ServerError, "QueueOverflow"),
    ],
)
def test_errors_of_vllm_are_understood(
    status: int, content: bytes, modality: Any, kind: type[NemoVLMError], says: str
) -> None:
    """Each shape becomes the error that it is, in the server's words."""
    problem = read_problem("host:1", status, {}, content, [])
    error = problem.error(modality)
    assert type(error) is kind
    assert says in str(error)
    assert problem.retryable == (status in {500, 503})
    if isinstance(error, InputTooLongError):
        assert (error.tokens, error.limit) == (1025, 1024)


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"[]",
        b"<html>",
        b'{"tokens": [1], "token_strs": [], "max_model_len": 5}',
        b'{"tokens": ["a"], "token_strs": ["a"], "max_model_len": 5}',
        b'{"tokens": [1], "token_strs": null, "max_model_len": 5}',
        b'{"tokens": [1], "token_strs": ["a"], "max_model_len": null}',
    ],
)
def test_a_reply_without_tokens_is_an_error(content: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(ProtocolError):
        read_tokens(content)


def test_requests_are_what_vllm_documents() -> None:
    """One kind of entry each, and no field that a server may refuse."""
    rest = {"model": "m", "encoding_format": "base64"}
    assert json.loads(request_body([encode_text("query: ü"), encode_text("")], "m")) == {
        "input": ["query: ü", ""],
        **rest,
    }
    assert json.loads(request_body([encode_tokens([1, 2])], "m")) == {"input": [[1, 2]], **rest}
    entry = encode_conversation("role", "passage", "passage: ", Encoded(b"\x89", "image/png"), 'a "text"\0\n')
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iQ=="}}
    message = {"role": "document", "content": [picture, {"type": "text", "text": 'a "text"\0\n'}]}
    assert json.loads(request_body([entry, entry], "m")) == {"messages": [[message], [message]], **rest}


# Settings


def test_a_server_must_be_named() -> None:
    """There is no default address, and floats are all that vLLM sends."""
    with pytest.raises(ConfigurationError, match="pass base_url"):
        Settings.from_kwargs(engine="vllm-server")
    with pytest.raises(ConfigurationError, match="names no server"):
        Settings.from_kwargs(engine="vllm-server", base_url=" ")
    with pytest.raises(ConfigurationError, match="is for NIMs"):
        Settings.from_kwargs(engine="vllm-server", base_url="http://x", embedding_type="int8")
    with pytest.raises(ConfigurationError, match="max_tiles is for a local engine"):
        Settings.from_kwargs(engine="vllm-server", base_url="http://x", max_tiles=2)


# The command that starts vLLM's server

LAUNCH = Launch(host="127.0.0.1", port=8000, names=(), api_key=None, flags=(), grace=10)


def _command(folder: Path, launch: Launch = LAUNCH, device: str = "cpu", **settings: Any) -> list[str]:
    checkpoint = find_checkpoint(str(folder)).with_max_tiles(settings.get("max_tiles"))
    return command_line(checkpoint, folder, Settings.from_kwargs(**settings), launch, device)


def test_the_command_pins_what_decides_over_vectors(vl_folder: Path, text_folder: Path) -> None:
    """Prompt, tiles, pooling and limit come from here; no code of a repository runs, and nothing is fetched."""
    command = _command(vl_folder, replace(LAUNCH, names=("a", "b"), flags=("--data-parallel-size", "2")))
    assert command[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    assert command[-2:] == ["--data-parallel-size", "2"]
    assert "--trust-remote-code" not in command
    line = " ".join(command)
    for part in (
        f"--model {vl_folder}",
        "--served-model-name a b ",
        "--runner pooling",
        "--dtype float32",
        "--max-model-len 1024",
        '--pooler-config {"seq_pooling_type": "MEAN", "use_activation": true}',
        '--limit-mm-per-prompt {"image": 1}',
        '{"dynamic_image_size": true, "min_dynamic_patch": 1, "max_dynamic_patch": 6, "use_thumbnail": true}',
        f"--chat-template {llama_nemotron.chat_template}",
        "--allowed-media-domains none.invalid",
        '--media-io-kwargs {"image": {"rgba_background_color": [255, 255, 255]}}',
        "--no-enable-prefix-caching",
        "--host 127.0.0.1 --port 8000",
    ):
        assert part in line
    assert "mm" not in "".join(flag for flag in _command(text_folder) if flag.startswith("--"))
    assert f"--served-model-name {vl_folder.name} " in " ".join(_command(vl_folder))
    assert "--dtype bfloat16" in " ".join(_command(vl_folder, device="cuda"))
    settings = {
        "max_tiles": 2,
        "max_tokens": 512,
        "engine_options": {"enforce_eager": True, "gpu_memory_utilization": 0.9},
    }
    line = " ".join(_command(vl_folder, **settings))
    for part in ('"max_dynamic_patch": 2', "--max-model-len 512", "--enforce-eager", "--gpu-memory-utilization 0.9"):
        assert part in line


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        ("--trust-remote-code", "what code runs"),
        ("--dtype=half", "it is the setting dtype"),
        ("--mm-processor-kwargs.max_dynamic_patch=2", "the vectors"),
        ("--chat-template=x", "the vectors"),
        ("--api-key", "NEMOVLM_SERVER_API_KEY"),
        ("--port", "option --port"),
        ("--no-trust-remote-code", "what code runs"),
    ],
)
def test_flags_that_decide_over_vectors_are_refused(vl_folder: Path, flag: str, complaint: str) -> None:
    """Behind `--` as in engine_options."""
    with pytest.raises(ConfigurationError, match=complaint):
        _command(vl_folder, replace(LAUNCH, flags=(flag,)))
    name = flag.removeprefix("--").removeprefix("no-").partition("=")[0].partition(".")[0].replace("-", "_")
    with pytest.raises(ConfigurationError, match=complaint):
        _command(vl_folder, engine_options={name: True})


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--vllm-server", "--max-queue", "3"], "--max-queue makes no sense with --vllm-server"),
        (["--vllm-server", "--engine", "vllm"], "--engine makes no sense"),
        (["--vllm-server", "--device", "cpu"], "--device makes no sense"),
        (["--", "--enforce-eager"], "--enforce-eager would be for --vllm-server"),
        (["--vllm-server", "--model", "nope/nope"], "there is no model 'nope/nope'"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str], complaint: str) -> None:
    """In one line, with exit code 1."""
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 1
    assert complaint in " ".join(result.output.split())


_STAND_IN = """
import http.server, subprocess, sys, os
print("its log")
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *_): pass
{fault}
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have another program started instead of vLLM, which starts a process itself; `fault` is what it does first."""

    def prepare(fault: str = "") -> None:
        def command(*arguments: Any) -> list[str]:
            return [sys.executable, "-c", _STAND_IN.format(fault=fault), str(arguments[3].port)]

        monkeypatch.setattr(launcher, "command_line", command)
        monkeypatch.setattr(launcher, "find_spec", lambda _: True)

    return prepare


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_server(vl_folder: Path, stand_in: Callable[..., None], number: signal.Signals) -> None:
    """It is announced when it answers; told to stop, it ends with all that it started, and our handlers are back."""
    stand_in()
    others = set(_descendants())
    started: set[psutil.Process] = set()
    said: list[tuple[str, bool]] = []

    def announce(address: str, prefixes: bool) -> None:
        said.append((address, prefixes))
        started.update(set(_descendants()) - others)
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()

    before = signal.getsignal(number)
    settings = Settings.from_kwargs()
    launch = replace(LAUNCH, port=0)
    if number == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            launcher.serve(find_checkpoint(str(vl_folder)), settings, launch, announce)
    else:
        launcher.serve(find_checkpoint(str(vl_folder)), settings, launch, announce)
    assert signal.getsignal(number) is before
    assert said[0][0].startswith("http://127.0.0.1:")
    assert said[0][1] is False  # the checkpoint has no prefixes for /v2/embed
    assert len(started) >= 2
    _, alive = psutil.wait_procs(list(started), timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_server_that_dies_is_told(vl_folder: Path, stand_in: Callable[..., None]) -> None:
    """With its exit code, and nothing of it is left."""
    stand_in("sys.exit(3)")
    with pytest.raises(EngineError, match=r"could not start \(exit code 3\)"):
        launcher.serve(
            find_checkpoint(str(vl_folder)), Settings.from_kwargs(), replace(LAUNCH, port=0), lambda *_: None
        )
    time.sleep(0.2)
    assert not [process for process in _descendants() if "time.sleep(600)" in " ".join(process.cmdline())]


def test_an_address_that_is_taken_is_told_at_once(vl_folder: Path, stand_in: Callable[..., None]) -> None:
    """Not after half a minute, and not by taking another server for ours."""
    stand_in()
    checkpoint = find_checkpoint(str(vl_folder))
    with running(FakeVllm(vl_folder, OURS)) as address:
        taken = replace(LAUNCH, port=int(address.rpartition(":")[2]))
        with pytest.raises(ConfigurationError, match="cannot listen on"):
            launcher.serve(checkpoint, Settings.from_kwargs(), taken, lambda *_: None)


def test_the_key_is_in_the_environment_alone(monkeypatch: pytest.MonkeyPatch, vl_folder: Path) -> None:
    """Others on the machine can read command lines."""
    monkeypatch.setenv("VLLM_LOGGING_STREAM", "ext://sys.stdout")
    environment = launcher._environment("secret-key")
    assert environment["VLLM_API_KEY"] == "secret-key"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["VLLM_LOGGING_STREAM"] == "ext://sys.stdout"  # a wish of the user's own
    assert "VLLM_API_KEY" not in launcher._environment(None)
    assert "secret-key" not in " ".join(_command(vl_folder, replace(LAUNCH, api_key="secret-key")))
