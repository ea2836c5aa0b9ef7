"""The body of `POST /v1/embeddings`, what its strings stand for, and the body of the reply.

Source: NVIDIA's API reference of the embedding NIM, and what its own clients send: one string an item, with at most
one image in it, as a data URL behind the text. Nothing in a string is ever opened or fetched.
"""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nemovlm.errors import ImageError, ImageTooLargeError, InputError, NemoVLMError
from nemovlm.images import decode_base64, measure
from nemovlm.inputs import Item, Modality, Role, Truncate, Vector, replace_surrogates
from nemovlm.wire.quantize import EmbeddingType, quantize

# Nine parameters at the most: more are nobody's, and to look through a body full of them takes seconds.
_START = re.compile(r"(?:<img\s+src=['\"])?data:image/", re.IGNORECASE)
# A data URL that a string ends with, by itself or in an <img>. `;base64` may be missing: the model card's own example
# for the OpenAI client leaves it out.
_IMAGE = re.compile(
    r"(?:<img\s+src=(?P<quote>['\"]))?data:image/[\w.+-]+(?:;[\w.+=-]+){0,9},(?P<payload>[^'\"<>:;,]*)(?(quote)(?P=quote)\s*/?>)\s*",
    re.IGNORECASE,
)
_ANOTHER = re.compile(
    r"data:image/[\w.+-]+(?:;[\w.+=-]+){0,9},[A-Za-z0-9+/=]{64}", re.IGNORECASE
)  # no example is so long
_AS_TEXT = "; if it is meant as a text, set modality='text'"


class EmbeddingRequest(BaseModel):
    """What a client asks for. Fields that are not listed are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(description="A served model; with `-query` or `-passage` behind it, its `input_type`.")]
    input: Annotated[
        str | list[str], Field(description="Texts, images as data URLs, or texts with a data URL behind them.")
    ]
    input_type: Annotated[
        Literal["query", "passage", ""] | None, Field(description="Needed for texts. Images are passages.")
    ] = None
    modality: Annotated[
        Modality | list[Modality | None] | None,
        Field(description="For all items, or a list with one for each. Absent: inferred from each string."),
    ] = None
    encoding_format: Literal["float", "base64"] = "float"
    embedding_type: EmbeddingType = "float"
    dimensions: Annotated[int | None, Field(ge=1, description="Keep the first so many numbers of each vector.")] = None
    truncate: Truncate = "NONE"
    user: Annotated[str | None, Field(description="Ignored.")] = None

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Return the request in a body of JSON.

        Raises:
            ValidationError: It is none.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            if error.errors()[0]["type"] != "json_invalid":
                raise
            try:  # half a character is valid JSON, but no Unicode, so pydantic takes it for none
                return cls.model_validate(_replace_surrogates(json.loads(body)))
            except (ValueError, RecursionError):
                raise error from None

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, fields: Any) -> Any:
        return (
            {name: value for name, value in fields.items() if value is not None} if isinstance(fields, dict) else fields
        )

    @property
    def inputs(self) -> list[str]:
        """The strings, as a list."""
        return [self.input] if isinstance(self.input, str) else self.input

    @property
    def modalities(self) -> Sequence[Modality | None]:
        """The modality of each string; None is to be inferred.

        Raises:
            InputError: There is neither one for all strings nor one for each.
        """
        count = len(self.inputs)
        if not isinstance(self.modality, list):
            return [self.modality] * count
        if len(self.modality) not in {1, count}:
            raise InputError(f"modality has {len(self.modality)} entries for {count} inputs")
        return self.modality if len(self.modality) == count else self.modality * count

    def items(self, role_in_name: Role | None, max_pixels: int) -> Iterator[Item | NemoVLMError]:
        """Yield each string as an item, or as what is wrong with it.

        Args:
            role_in_name: The role that the name of the model brought, for a request without an `input_type`.
            max_pixels: Pixels that one image may have.

        Raises:
            InputError: The list of modalities does not fit.
        """
        role = self.input_type or role_in_name
        for content, modality in zip(self.inputs, self.modalities, strict=True):
            try:
                yield _item(content, modality, role, self.truncate, max_pixels)
            except NemoVLMError as error:
                yield error

    def reply(self, vectors: Sequence[Vector], tokens: int) -> dict[str, Any]:
        """Return the body of the reply: vectors (d,), of unit length, and the tokens of all prompts.

        Numbers that are not to be base64 are NumPy arrays (d,), or (d / 8,) of packed bits.
        """
        rows = [
            {"object": "embedding", "index": index, "embedding": self._encoded(vector)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": rows, "model": self.model, "usage": usage}

    def _encoded(self, vector: Vector) -> Any:
        numbers = quantize(vector, self.embedding_type)
        return base64.b64encode(numbers.tobytes()).decode("ascii") if self.encoding_format == "base64" else numbers


def _replace_surrogates(value: Any) -> Any:
    if isinstance(value, dict):
        return {_replace_surrogates(name): _replace_surrogates(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_replace_surrogates(part) for part in value]
    return replace_surrogates(value) if isinstance(value, str) else value


def _item(content: str, modality: Modality | None, role: Role | None, truncate: Truncate, max_pixels: int) -> Item:
    if modality == "text" or (modality is None and not _START.search(content)):
        if role is None:
            raise InputError("'input_type' parameter is required for asymmetric models: 'query' or 'passage'")
        return Item(role, content, None, truncate)
    if role == "query":
        raise InputError("images are supported only with input_type 'passage' or without; a query is a text")
    text, image = _split_text_and_image(content, hint="" if modality else _AS_TEXT)
    if modality == "image" and text:
        raise InputError("modality 'image' takes a data URL alone; for a text with its image set 'text_image'")
    if modality == "text_image" and not text.strip():
        raise InputError("text part must be non-empty for text_image modality")
    width, height = measure(image)
    if width * height > max_pixels:
        raise ImageTooLargeError(f"the image has {width} x {height} pixels; this server takes {max_pixels} at the most")
    return Item("passage", text if text.strip() else "", image, truncate)


def _split_text_and_image(content: str, hint: str) -> tuple[str, bytes]:
    """Return the text, without the one blank that joins it to its image, and the bytes of the image."""
    matches = (_IMAGE.fullmatch(content, start.start()) for start in _START.finditer(content))
    if (match := next(filter(None, matches), None)) is None:
        raise ImageError(f"there is no image as a data URL (data:image/png;base64,...) at the end of the string{hint}")
    try:
        image = decode_base64(match["payload"])
    except ValueError:
        raise ImageError(f"the data URL is not valid base64{hint}") from None
    text = content[: match.start()]
    if _ANOTHER.search(text):
        raise InputError("there is more than one image in the string; an item has one at the most")
    return (text[:-1] if text[-1:].isspace() else text), image
