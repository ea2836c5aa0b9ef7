"""What a vLLM server takes: texts and token ids to complete, conversations that its chat template makes prompts of.

Source: vLLM 0.32, `entrypoints/pooling/embed/protocol.py` and `entrypoints/serve/tokenize/protocol.py`. Replies with
vectors have the shape that NIMs' have, and nothing is sent that a server may refuse.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from nemovlm.errors import ProtocolError
from nemovlm.images import Encoded
from nemovlm.inputs import Role
from nemovlm.wire.items import EncodedItem, data_url_parts, join
from nemovlm.wire.replies import read_json

Kind: TypeAlias = Literal["text", "tokens", "conversation"]
"""What one request can have only one of."""

MessageLayout: TypeAlias = Literal["role", "system", "user", "spaced user"]
"""How a conversation tells a chat template the prefix of its prompt: by the role of its message, in a system message
before it, or as a text before the image; `spaced` has the space that belongs between image and text in the text."""

MESSAGE_LAYOUTS: tuple[MessageLayout, ...] = ("role", "system", "user", "spaced user")
"""From the likeliest on: the templates of vLLM and of this package know roles, and the latter a system message too."""

_HOLE = "\0"
_ROLES: dict[Role, str] = {"query": "query", "passage": "document"}


@dataclass(frozen=True, slots=True)
class VllmItem(EncodedItem):
    """The JSON of a text, of token ids, or of a conversation."""

    kind: Kind

    @property
    def group(self) -> str:
        """A request has one kind."""
        return self.kind


def encode_text(text: str) -> VllmItem:
    """Return a whole prompt without an image, which the server tokenizes."""
    return VllmItem(json.dumps(text).encode(), "text", "text")


def encode_tokens(ids: Sequence[int]) -> VllmItem:
    """Return a whole prompt without an image as its token ids."""
    return VllmItem(json.dumps(list(ids)).encode(), "text", "tokens")


def encode_conversation(layout: MessageLayout, role: Role, prefix: str, image: Encoded, text: str) -> VllmItem:
    """Return an image with the text after it, which may be empty, for a template that knows `layout`."""
    spaced = f" {text}" if layout == "spaced user" else text
    content = [{"type": "image_url", "image_url": {"url": _HOLE}}, *_texts(spaced)]
    if layout == "role":
        messages = [{"role": _ROLES[role], "content": content}]
    elif layout == "system":
        messages = [{"role": "system", "content": _texts(prefix)}, {"role": "user", "content": content}]
    else:
        messages = [{"role": "user", "content": [*_texts(prefix), *content]}]
    before, after = json.dumps(messages).encode().split(json.dumps(_HOLE)[1:-1].encode(), 1)
    encoded = b"".join((before, *data_url_parts(image), after))
    return VllmItem(encoded, "text_image" if text else "image", "conversation")


def _texts(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}] if text else []


def request_body(items: Sequence[VllmItem], model: str) -> bytes:
    """Return the JSON of a request for items of one kind."""
    field = b"messages" if items[0].kind == "conversation" else b"input"
    rest = json.dumps({"model": model, "encoding_format": "base64"}).encode()[1:]
    return b"".join([b'{"', field, b'": [', join(items), b"], ", rest])


class Tokens(NamedTuple):
    """A prompt as the server sees it, an image as all the tokens that stand for it."""

    ids: list[int]
    pieces: list[str]
    """How the vocabulary spells each token: of a byte-level one, a character for each byte."""
    limit: int
    """The most tokens of a prompt that the server takes."""


def count_text(text: str, model: str, *, special: bool) -> bytes:
    """Return the JSON that asks for the tokens of a text, with what the tokenizer puts around it if `special`."""
    asked = {"prompt": text, "add_special_tokens": special, "return_token_strs": True, "model": model}
    return json.dumps(asked).encode()


def count_conversation(item: VllmItem, model: str) -> bytes:
    """Return the JSON that asks for the tokens that the server's template makes of a conversation."""
    asked = {"add_generation_prompt": False, "return_token_strs": True, "model": model}  # as for vectors
    return b"".join([b'{"messages": ', item.encoded, b", ", json.dumps(asked).encode()[1:]])


def read_tokens(content: bytes) -> Tokens:
    """Return what a server says of a prompt.

    Raises:
        ProtocolError: It is no list of tokens.
    """
    match read_json(content):
        case {"tokens": [*ids], "token_strs": [*pieces], "max_model_len": int(limit)} if (
            len(ids) == len(pieces)
            and all(type(token) is int for token in ids)
            and all(isinstance(piece, str) for piece in pieces)
        ):
            return Tokens(ids, pieces, limit)
    raise ProtocolError("the server's reply is no list of tokens")
