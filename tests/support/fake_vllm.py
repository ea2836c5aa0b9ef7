"""What vLLM's server does with a prompt, without vLLM: it tokenises, fills in a chat template, and refuses likewise.

Its vectors follow from the token ids and the pixels that would be embedded: a test knows the right one of every item.
The sentences of its refusals were recorded from vLLM 0.32.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from nemovlm.models.tiling import Tiling
from tests.support.checkpoints import IMG_CONTEXT, IMG_END, IMG_START, MAX_TILES, TILE, TOKENS_PER_TILE

TILING = Tiling(tile=TILE, tokens_per_tile=TOKENS_PER_TILE, max_tiles=MAX_TILES)
TOO_LONG = (
    "This model's maximum context length is {limit} tokens. However, your prompt contains at least {tokens} input "
    "tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
    "(parameter=input_tokens, value={tokens})"
)
TOO_LONG_WITH_IMAGE = (
    "The decoder prompt (length {tokens}) is longer than the maximum model length of {limit}. Make sure that "
    "`max_model_len` is no smaller than the number of text tokens plus multimodal tokens. For image inputs, the number "
    "of image tokens depends on the number of images, and possibly their aspect ratios as well."
)
NO_TEMPLATE = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the "
    "tokenizer does not define one."
)
NO_IMAGE = "Failed to load image: cannot identify image file <_io.BytesIO object>"


def vector_of(ids: list[int], pixels: bytes = b"", dimension: int = 128) -> NDArray[np.float32]:
    """Return the vector (dimension,) of a prompt, of unit length."""
    seed = hashlib.sha256(json.dumps(ids).encode() + pixels).digest()
    numbers = np.random.Generator(np.random.PCG64(int.from_bytes(seed))).standard_normal(dimension)
    return (numbers / np.linalg.norm(numbers)).astype(np.float32)


class Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def render(template: str, messages: list[dict[str, Any]]) -> str:
    """Return what a chat template makes of a conversation, as vLLM has it filled in."""

    def raise_exception(message: str) -> None:
        raise Refusal(400, message)

    def parts(content: Any) -> list[dict[str, Any]]:
        whole = [{"type": "text", "text": content}] if isinstance(content, str) else content
        return [{"type": "image"} if part["type"] == "image_url" else part for part in whole]

    conversation = [{"role": message["role"], "content": parts(message["content"])} for message in messages]
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)  # as transformers has it
    return environment.from_string(template).render(
        messages=conversation, bos_token="<|begin_of_text|>", raise_exception=raise_exception
    )


@dataclass
class FakeVllm:
    """An ASGI application. Everything may be changed while it runs; every body that came in is on record."""

    folder: Path
    template: str | None
    model: str = "tiny-vl"
    limit: int = 1024
    tiling: Tiling = TILING
    dimension: int = 128
    tokenize: bool = True
    """Whether it has that route."""
    undecodable: tuple[int, int] = (13, 13)
    """Images of this size count as broken."""
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        content = b""
        while True:
            event = await receive()
            content += event.get("body", b"")
            if not event.get("more_body"):
                break
        body = json.loads(content) if content else {}
        self.requests.append((scope["path"], body))
        try:
            status, reply = 200, self._reply(scope["path"], body)
        except Refusal as refusal:
            status = refusal.status
            reply = {"error": {"message": str(refusal), "type": "BadRequestError", "param": None, "code": status}}
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}
        )
        await send({"type": "http.response.body", "body": json.dumps(reply).encode()})

    def _reply(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/v1/models":
            return {
                "object": "list",
                "data": [{"id": self.model, "root": str(self.folder), "max_model_len": self.limit, "owned_by": "vllm"}],
            }
        if path not in {"/tokenize", "/v1/embeddings"} or (path == "/tokenize" and not self.tokenize):
            raise Refusal(404, "Not Found")
        if body["model"] != self.model:
            raise Refusal(404, f"The model `{body['model']}` does not exist.")
        if path == "/tokenize":
            ids = self._chat(body["messages"])[0] if "messages" in body else self._text(body)
            pieces = [self.tokenizer.id_to_token(token) for token in ids]
            return {"count": len(ids), "max_model_len": self.limit, "tokens": ids, "token_strs": pieces}
        assert set(body) in ({"model", "encoding_format", "input"}, {"model", "encoding_format", "messages"})
        if "messages" in body:
            prompts = [self._chat(messages) for messages in body["messages"]]
        else:
            assert len({type(entry) for entry in body["input"]}) == 1
            prompts = [
                (self.tokenizer.encode(entry).ids if isinstance(entry, str) else entry, b"") for entry in body["input"]
            ]
        for ids, pixels in prompts:
            if len(ids) > self.limit:
                sentence = TOO_LONG_WITH_IMAGE if pixels else TOO_LONG
                raise Refusal(400, sentence.format(tokens=len(ids) if pixels else self.limit + 1, limit=self.limit))
        vectors = [vector_of(ids, pixels, self.dimension) for ids, pixels in prompts]
        data = [
            {"index": index, "object": "embedding", "embedding": base64.b64encode(vector.astype("<f4")).decode()}
            for index, vector in enumerate(vectors)
        ]
        return {"object": "list", "data": data, "usage": {"prompt_tokens": sum(len(ids) for ids, _ in prompts)}}

    def _text(self, body: dict[str, Any]) -> list[int]:
        return self.tokenizer.encode(body["prompt"], add_special_tokens=body["add_special_tokens"]).ids

    def _chat(self, messages: list[dict[str, Any]]) -> tuple[list[int], bytes]:
        """Return the ids of a conversation and the pixels of its image."""
        if self.template is None:
            raise Refusal(400, NO_TEMPLATE)
        ids = self.tokenizer.encode(
            render(self.template, messages).replace("<image>", "<img><IMG_CONTEXT></img>"), add_special_tokens=False
        ).ids
        urls = [
            part["image_url"]["url"]
            for message in messages
            if not isinstance(message["content"], str)
            for part in message["content"]
            if part["type"] == "image_url"
        ]
        (url,) = urls
        image = Image.open(BytesIO(base64.b64decode(url.partition(",")[2])))
        if image.size == self.undecodable:
            raise Refusal(400, NO_IMAGE)
        if IMG_CONTEXT not in ids:
            raise Refusal(500, "Failed to apply prompt replacement for mm_items['image'][0]")
        at = ids.index(IMG_CONTEXT)
        return ids[:at] + [IMG_CONTEXT] * self.tiling.token_count(*image.size) + ids[at + 1 :], pixels_of(image)


def pixels_of(image: Image.Image) -> bytes:
    return image.convert("RGB").tobytes()


def image_ids(image: Image.Image, tiling: Tiling = TILING) -> list[int]:
    """Return all tokens that stand for an image."""
    return [IMG_START, *[IMG_CONTEXT] * tiling.token_count(*image.size), IMG_END]
