"""What can be embedded, and in which role.

The words of the field: a *query* is what is searched for, a *passage* is what is found (a text, an image, or
both). They get different prompts, so they are different arguments everywhere.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nemovlm.download import ImageUrl
from nemovlm.errors import ConfigurationError, InputError, NemoVLMError
from nemovlm.images import ImageSource

T = TypeVar("T")

Role: TypeAlias = Literal["query", "passage"]
Modality: TypeAlias = Literal["text", "image", "text_image"]
Truncate: TypeAlias = Literal["NONE", "START", "END"]

Vector: TypeAlias = NDArray[np.float32]
"""Shape (d,), or (n, d) for n of them: float32, finite, each of Euclidean length 1."""

OnError: TypeAlias = Literal["raise", "skip"] | Callable[[NemoVLMError], None]
"""What to do with an item that fails: raise, log a warning and go on, or call back and go on."""

_log = logging.getLogger("nemovlm")


def check_on_error(on_error: OnError) -> None:
    """Raise `ConfigurationError` for what is no `OnError`."""
    if on_error not in {"raise", "skip"} and not callable(on_error):
        raise ConfigurationError(f"on_error={on_error!r} is neither 'raise' nor 'skip', nor a function")


def leave_out(error: NemoVLMError, on_error: OnError) -> None:
    """Do with the error of one item what `on_error` says; return if the others are to go on."""
    if on_error == "raise":
        raise error
    if callable(on_error):
        on_error(error)
    else:
        _log.warning("left out: %s", error)


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


Embeddable: TypeAlias = Passage | str | Image.Image | bytes | Path | ImageUrl
"""A `str` is always a text; a `Path` is always an image file; bytes are an image file's content; an `ImageUrl` is an
image that is fetched."""


def image_passages(references: Iterable[T], source: Callable[[T], ImageSource]) -> list[Passage]:
    """Return a passage for each image that a framework refers to. Raises `ImageError`, naming the item."""
    passages = []
    for index, reference in enumerate(references):
        try:
            passages.append(Passage(image=source(reference)))
        except NemoVLMError as error:
            raise error.at(f"item {index}", index) from None
    return passages


def as_passage(item: Embeddable) -> Passage:
    """Return `item` as a `Passage`. Raises `InputError` for anything that is not `Embeddable`."""
    if isinstance(item, Passage):
        return item
    if isinstance(item, str):
        return Passage(text=item)
    if isinstance(item, (Image.Image, bytes, Path, ImageUrl)):
        return Passage(image=item)
    raise InputError(
        f"a {type(item).__name__} cannot be embedded: pass a str (text), a Pillow image, bytes or a Path (image), "
        "or a Passage"
    )
