"""The requests of the NIM protocol: items become the body of `POST /v1/embeddings`.

Source: NVIDIA's API reference of the embedding NIM (`POST /v1/embeddings`). The schema is strict: nothing is sent
that it does not have.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from nemovlm.images import Encoded
from nemovlm.inputs import Role, Truncate
from nemovlm.wire.items import EncodedItem, data_url_parts, join
from nemovlm.wire.quantize import EmbeddingType

Joiner: TypeAlias = Literal["newline", "space", "img"]
"""What stands between a text and its image: generations of servers, and NVIDIA's own clients, differ."""

# Before and after the data URL of an image.
_FRAMES: dict[Joiner, tuple[str, str]] = {"newline": ("\n", ""), "space": (" ", ""), "img": (" <img src='", "'/>")}


@dataclass(frozen=True, slots=True)
class NimItem(EncodedItem):
    """A JSON string that holds a text, an image as a data URL, or both."""

    input_type: Role
    truncate: Truncate

    @property
    def group(self) -> tuple[Role, Truncate]:
        """A request has one role and one way of truncation."""
        return self.input_type, self.truncate


@dataclass(frozen=True, slots=True)
class Dialect:
    """The optional fields that a server takes. All are sent at first; one that it refuses is left out from then on."""

    encoding_format: bool = True
    """Vectors as base64, which is smaller and faster to read than numbers: what servers send by default."""
    modality: bool = True
    """Without it the server guesses from the string."""
    dimensions: bool = True
    """Without it vectors come whole, and are cut here."""
    input_type: bool = True
    """Without it the name of the model gets the suffix `-query` or `-passage`, as for proxies that drop the field."""
    embedding_type: bool = True
    """Without it vectors come as floats: never what was asked for, but it shows that this was what is refused."""


def encode_item(role: Role, text: str, image: Encoded | None, truncate: Truncate, joiner: Joiner) -> NimItem:
    """Return an item as it travels. Images are passages to a NIM: it takes none as a query."""
    if image is None:
        return NimItem(json.dumps(text).encode(), "text", role, truncate)
    before, after = _FRAMES[joiner]
    lead = json.dumps(text + before if text else before.lstrip()).encode().removesuffix(b'"')
    encoded = b"".join((lead, *data_url_parts(image), after.encode(), b'"'))
    return NimItem(encoded, "text_image" if text else "image", "passage", truncate)


def request_body(
    items: Sequence[NimItem],
    model: str,
    dialect: Dialect,
    *,
    dimensions: int | None = None,
    embedding_type: EmbeddingType = "float",
) -> bytes:
    """Return the JSON of a request for items of one group."""
    first = items[0]
    body: dict[str, Any] = {
        "model": model if dialect.input_type else f"{model}-{first.input_type}",
        "truncate": first.truncate,
    }
    if dialect.encoding_format:
        body["encoding_format"] = "base64"
    if dialect.input_type:
        body["input_type"] = first.input_type
    if dialect.modality:
        modalities = [item.modality for item in items]
        body["modality"] = modalities if len(set(modalities)) > 1 else modalities[0]
    if dimensions and dialect.dimensions:
        body["dimensions"] = dimensions
    if embedding_type != "float" and dialect.embedding_type:  # the default, which older servers do not know by name
        body["embedding_type"] = embedding_type
    return b"".join([b'{"input": [', join(items), b"], ", json.dumps(body).encode()[1:]])
