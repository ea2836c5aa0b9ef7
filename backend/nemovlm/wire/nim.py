"""The NIM protocol: items become the body of a request, and the reply vectors.

Source: NVIDIA's API reference of the embedding NIM (`POST /v1/embeddings`). The schema is strict: nothing is sent
that it does not have.
"""

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nemovlm.errors import ProtocolError
from nemovlm.images import Encoded
from nemovlm.inputs import Modality, Role, Truncate
from nemovlm.wire.quantise import DTYPES, EmbeddingType, dequantise

Joiner: TypeAlias = Literal["newline", "space", "img"]
"""What stands between a text and its image: generations of servers, and NVIDIA's own clients, differ."""

_COMMA = b", "
# What stands before and behind the data URL of an image.
_FRAMES: dict[Joiner, tuple[str, str]] = {"newline": ("\n", ""), "space": (" ", ""), "img": (" <img src='", "'/>")}


@dataclass(frozen=True, slots=True)
class Entry:
    """One item as it travels: a JSON string that holds its text, its image as a data URL, or both."""

    encoded: bytes
    modality: Modality
    input_type: Role
    truncate: Truncate

    @property
    def group(self) -> tuple[Role, Truncate]:
        """What a request has once."""
        return self.input_type, self.truncate

    @property
    def size(self) -> int:
        """How many bytes it adds to a request."""
        return len(self.encoded) + len(_COMMA)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a server understands. One starts with everything; what it turns out to refuse is given up."""

    encoding_format: bool = True
    """Vectors as base64, which is smaller and faster to read than numbers: what servers send by default."""
    modality: bool = True
    """Without it the server guesses from the string."""
    dimensions: bool = True
    """Without it vectors come whole, and are cut here."""
    input_type: bool = True
    """Without it the name of the model gets the suffix `-query` or `-passage`, as for proxies that drop the field."""


class GarbledReplyError(ProtocolError):
    """A reply is cut off or no JSON at all: another attempt may bring a whole one."""


def entry(role: Role, text: str, image: Encoded | None, truncate: Truncate, joiner: Joiner) -> Entry:
    """Return an item as it travels. Images are passages to a NIM: it takes none as a query."""
    if image is None:
        return Entry(json.dumps(text).encode(), "text", role, truncate)
    before, behind = _FRAMES[joiner]
    lead = json.dumps(text + before if text else before.lstrip()).encode().removesuffix(b'"')
    # Base64 needs no escapes: to let a JSON encoder look for them in a page would cost more than all else here.
    parts = (lead, b"data:", image.mime_type.encode(), b";base64,", base64.b64encode(image.data), behind.encode(), b'"')
    return Entry(b"".join(parts), "text_image" if text else "image", "passage", truncate)


def request_body(
    entries: Sequence[Entry],
    model: str,
    dialect: Dialect,
    *,
    dimensions: int | None = None,
    embedding_type: EmbeddingType = "float",
) -> bytes:
    """Return the JSON of a request for `entries`, which agree in `input_type` and `truncate`."""
    first = entries[0]
    body: dict[str, Any] = {
        "model": model if dialect.input_type else f"{model}-{first.input_type}",
        "truncate": first.truncate,
    }
    if dialect.encoding_format:
        body["encoding_format"] = "base64"
    if dialect.input_type:
        body["input_type"] = first.input_type
    if dialect.modality:
        modalities = [item.modality for item in entries]
        body["modality"] = modalities if len(set(modalities)) > 1 else modalities[0]
    if dimensions and dialect.dimensions:
        body["dimensions"] = dimensions
    if embedding_type != "float":  # the default, which older servers do not know by name
        body["embedding_type"] = embedding_type
    return b"".join(
        [b'{"input": [', _COMMA.join([item.encoded for item in entries]), b"], ", json.dumps(body).encode()[1:]]
    )


def read_json(content: bytes) -> Any:
    """Return what the JSON of a reply holds. Raises `GarbledReplyError`."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):  # the latter for what is nested thousands deep
        raise GarbledReplyError(f"the server's reply is no JSON ({len(content)} bytes)") from None


def read_reply(
    content: bytes, count: int, embedding_type: EmbeddingType = "float"
) -> tuple[list[NDArray[np.float32]], int]:
    """Return the vectors of a reply in the order of the request, all of one size, and the tokens it counted.

    Raises `ProtocolError` unless there is exactly one vector for each of `count` items, and `GarbledReplyError` if
    it cannot be read at all.
    """
    reply = read_json(content)
    data = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise ProtocolError("the server's reply has no list of embeddings")
    vectors = {row.get("index"): row.get("embedding") for row in data if type(row.get("index")) is int}
    if len(data) != count or vectors.keys() != set(range(count)):
        raise ProtocolError(
            f"the server answered with {len(data)} embeddings for {count} items, numbered "
            f"{_abridged([row.get('index') for row in data])}: they cannot be told apart"
        )
    decoded = [_vector(vectors[index], embedding_type) for index in range(count)]
    if not decoded[0].size:
        raise ProtocolError("the server answered with an embedding without any component")
    if len(lengths := {vector.size for vector in decoded}) > 1:
        raise ProtocolError(f"the server answered with embeddings of different lengths: {_abridged(sorted(lengths))}")
    return decoded, _tokens(reply)


def _vector(embedding: object, kind: EmbeddingType) -> NDArray[np.float32]:
    dtype = DTYPES[kind]
    try:
        if isinstance(embedding, str):
            return dequantise(np.frombuffer(base64.b64decode(embedding, validate=True), dtype), kind)
        if isinstance(embedding, list):
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found out later, item by item
                numbers = np.array(embedding, dtype=np.float64)
                if numbers.ndim == 1 and (dtype.kind == "f" or (numbers == numbers.astype(dtype)).all()):
                    return dequantise(numbers, kind)
    except (ValueError, TypeError, OverflowError):
        pass
    raise ProtocolError(f"the server answered with an embedding that is neither a list of {kind} nor base64 of {dtype}")


def _tokens(reply: dict[str, Any]) -> int:
    usage = reply.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return int(tokens) if isinstance(tokens, int | float) and math.isfinite(tokens) else 0


def _abridged(values: Sequence[object]) -> str:
    shown = ", ".join(str(value)[:12] for value in values[:6])
    return f"{shown}, …" if len(values) > 6 else shown or "not at all"


@dataclass(frozen=True)
class ServedModel:
    """A model that a server has. `root` is the one that it was made from, where that is another (LoRA)."""

    id: str
    root: str


def read_models(content: bytes) -> list[ServedModel]:
    """Return the models of a reply to `GET /v1/models`, each once. Raises `ProtocolError`."""
    try:
        rows = json.loads(content)["data"]
        models = {str(row["id"]): str(row.get("root") or row["id"]) for row in rows}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ProtocolError("the server's reply is no list of models") from None
    return [ServedModel(name, root) for name, root in models.items()]
