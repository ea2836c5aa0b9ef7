"""What can be embedded, and in which role.

The words of the field: a *query* is what is searched for, a *passage* is what is found (a text, an image, or
both). They get different prompts, so they are different arguments everywhere.
"""

import os
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nemovlm.choices import Modality as Modality  # noqa: PLC0414 - with what they are said of, to import them from here
from nemovlm.choices import Role as Role  # noqa: PLC0414
from nemovlm.choices import Truncate as Truncate  # noqa: PLC0414
from nemovlm.errors import InputError
from nemovlm.images import ImageSource, ImageUrl
from nemovlm.on_error import OnError as OnError  # noqa: PLC0414 - where it was first published

Vector: TypeAlias = NDArray[np.float32]
"""One embedding (d,): float32, finite, of Euclidean length 1."""

Vectors: TypeAlias = NDArray[np.float32]
"""Embeddings (n, d), one a row: float32, finite, each of Euclidean length 1."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One thing to embed: a text, an image, or an image with its text.

    `label` is how errors name it ("report.pdf page 3"); without one they say "item 7".
    """

    text: str | None = None
    image: ImageSource | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.text is None and self.image is None:
            raise InputError("a Passage needs a text, an image, or both")
        if self.text is not None and not isinstance(self.text, str):
            raise InputError(f"Passage.text must be a str, not {type(self.text).__name__}")

    @property
    def modality(self) -> Modality:
        """`text_image` only if there is some text: an image with blank text counts as an image alone."""
        if self.image is None:
            return "text"
        return "text_image" if self.text and self.text.strip() else "image"


def replace_surrogates(text: str) -> str:
    """Return text that every encoding has: a half of a character is replaced by U+FFFD, two that belong are joined.

    Such halves come of texts that were cut by JavaScript, and of PDFs.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


Embeddable: TypeAlias = (
    Passage | str | Image.Image | bytes | bytearray | memoryview | BinaryIO | os.PathLike[str] | ImageUrl
)
"""A `str` is always a text; a `Path` is always an image file; bytes are an image file's content, and so is what an open
binary file holds; an `ImageUrl` is an image that is fetched."""


@dataclass(frozen=True, slots=True)
class Item:
    """One input, as engines get it: `image` is as the user gave it, and `text` is empty where there is none."""

    role: Role
    text: str
    image: ImageSource | None
    truncate: Truncate

    def __post_init__(self) -> None:
        if not self.text.isascii():
            object.__setattr__(self, "text", replace_surrogates(self.text))

    @property
    def modality(self) -> Modality:
        """What the item consists of."""
        if self.image is None:
            return "text"
        return "text_image" if self.text else "image"


def as_passage(item: Embeddable) -> Passage:
    """Return `item` as a `Passage`.

    Raises:
        InputError: It is nothing that is `Embeddable`.
    """
    if isinstance(item, Passage):
        return item
    if isinstance(item, str):
        return Passage(text=item)
    if isinstance(item, Image.Image | bytes | bytearray | memoryview | os.PathLike | ImageUrl) or hasattr(item, "read"):
        return Passage(image=item)
    raise InputError(
        f"a {type(item).__name__} cannot be embedded: pass a str (text), a Pillow image, bytes, a Path or a file "
        "opened as binary (image), or a Passage"
    )
