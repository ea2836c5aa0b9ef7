"""What servers reply: vectors, and which models they have. The same for all protocols.

Source: NVIDIA's API reference of the embedding NIM, whose replies have the shape of OpenAI's. Read strictly: what
cannot be told apart is an error.
"""

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemovlm.errors import ProtocolError
from nemovlm.wire.quantize import DTYPES, EmbeddingType, dequantize


class GarbledReplyError(ProtocolError):
    """A reply is cut off or no JSON at all: another attempt may bring a whole one."""


def read_json(content: bytes) -> Any:
    """Return what the JSON of a reply holds.

    Raises:
        GarbledReplyError: It is no JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError):  # the latter for what is nested thousands deep
        raise GarbledReplyError(f"the server's reply is no JSON ({len(content)} bytes)") from None


def read_reply(
    content: bytes, count: int, embedding_type: EmbeddingType = "float"
) -> tuple[list[NDArray[np.float32]], int]:
    """Return the vectors (d,) of a reply in the order of the request, all of one size, and the tokens it counted.

    Raises:
        ProtocolError: There is not exactly one vector for each of `count` items.
        GarbledReplyError: It cannot be read at all.
    """
    reply = read_json(content)
    data = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise ProtocolError("the server's reply has no list of embeddings")
    if count == 1 and len(data) == 1 and data[0].get("index") is None:
        data[0]["index"] = 0  # there is nothing to be told apart
    vectors = {row.get("index"): row.get("embedding") for row in data if type(row.get("index")) is int}
    if len(data) != count or vectors.keys() != set(range(count)):
        raise ProtocolError(
            f"the server answered with {len(data)} embeddings for {count} items, numbered "
            f"{_abridged([row.get('index') for row in data])}: they cannot be told apart"
        )
    decoded = [_vector(vectors[index], embedding_type) for index in range(count)]
    if not decoded[0].size:
        raise ProtocolError("the server answered with an embedding of dimension 0")
    if len(lengths := {vector.size for vector in decoded}) > 1:
        raise ProtocolError(f"the server answered with embeddings of different lengths: {_abridged(sorted(lengths))}")
    return decoded, _tokens(reply)


def _vector(embedding: object, kind: EmbeddingType) -> NDArray[np.float32]:
    dtype = DTYPES[kind]
    try:
        if isinstance(embedding, str):
            return dequantize(np.frombuffer(base64.b64decode(embedding, validate=True), dtype), kind)
        if isinstance(embedding, list):
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found out later, item by item
                numbers = np.array(embedding, dtype=np.float64)
                if numbers.ndim == 1 and (dtype.kind == "f" or (numbers == numbers.astype(dtype)).all()):
                    return dequantize(numbers, kind)
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
    owner: str = ""
    """Who made it, or what serves it: servers say either."""


def read_models(content: bytes) -> list[ServedModel]:
    """Return the models of a reply to `GET /v1/models`, each once.

    Raises:
        ProtocolError: It is no list of models.
    """
    try:
        rows = json.loads(content)["data"]
        models = {
            row["id"]: ServedModel(str(row["id"]), str(row.get("root") or row["id"]), str(row.get("owned_by") or ""))
            for row in rows
            if row["id"]
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ProtocolError("the server's reply is no list of models") from None
    return list(models.values())
