"""An RGB image becomes the bytes of an image file: for a server, for a folder, for a thumbnail."""

import base64
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from PIL import Image, ImageChops

from nemovlm.errors import ImageError, one_line
from nemovlm.images.decode import ORIENTATION, ImageSource, image_type, open_image, read_image, view_image

# Level 3 makes smaller files of pages than the default 6, in half the time.
_PNG = {"compress_level": 3}


def encode_jpeg(image: Image.Image, *, longest_edge: int, quality: int = 80) -> bytes:
    """Return a JPEG of `image` (RGB), shrunk so that neither side is over `longest_edge` pixels."""
    if (scale := longest_edge / max(image.size)) < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        # Whole pixels are averaged as far as that leaves half as many again as are wanted: a third of the time, and
        # no difference that can be seen.
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=1.5)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def encode_png(image: Image.Image) -> bytes:
    """Return `image` as the bytes of a PNG file."""
    buffer = BytesIO()
    image.save(buffer, "PNG", **_PNG)
    return buffer.getvalue()


def save_png(image: Image.Image, path: Path) -> None:
    """Write `image` as a PNG, and folders for it, unless the file is there: then it is whole.

    Raises:
        ImageError: The file cannot be written.
    """
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(part, "PNG", **_PNG)
        part.replace(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        with suppress(OSError, ValueError):
            part.unlink()
        raise ImageError(f"the image cannot be written to {path}: {one_line(error)}") from error


_TYPES_OF_CHATS = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})


def for_chat(data: bytes) -> "Encoded":
    """Return an image file as chat models take it: as it is, or as a PNG.

    Raises:
        ImageError: It cannot be read.
    """
    if (mime_type := image_type(data)) in _TYPES_OF_CHATS:
        return Encoded(data, mime_type)
    return Encoded(encode_png(view_image(data)), "image/png")


class Encoded(NamedTuple):
    """The bytes of an image file, PNG or JPEG."""

    data: bytes
    mime_type: str


def compact(source: ImageSource, usable: Callable[[int, int], tuple[int, int]], max_bytes: int) -> Encoded:
    """Return `source` as a file that is small enough to be sent, of no more pixels than are of use.

    A PNG or JPEG file that fits already, and shows the same to every decoder, is passed on as it is. Anything else
    becomes a PNG, in shades of gray if it has no others, or a JPEG where a PNG would be too large. Blocks: an
    `ImageUrl` is fetched, a path read.

    Args:
        source: The image.
        usable: (width, height) in pixels -> the (width, height) that is enough.
        max_bytes: The most bytes of the file.

    Raises:
        ImageError: The image cannot be read or fetched, or does not fit.
    """
    if not isinstance(source, Image.Image):
        source = read_image(source)
        if (as_it_is := _plain_file(source, usable, max_bytes)) is not None:
            return as_it_is
    image = view_image(source)
    if (size := usable(*image.size)) != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    red, green, blue = image.split()
    if not (ImageChops.difference(red, green).getbbox() or ImageChops.difference(green, blue).getbbox()):
        image = green
    for mime_type, options in _ENCODINGS:
        buffer = BytesIO()
        image.save(buffer, mime_type.removeprefix("image/"), **options)
        if buffer.tell() <= max_bytes:
            return Encoded(buffer.getvalue(), mime_type)
    raise ImageError(
        f"the image ({image.width} x {image.height} pixels) does not fit into {max_bytes} bytes, even as a JPEG of low "
        "quality; raise max_image_bytes if the server takes more, or shrink it"
    )


# From the best down.
_ENCODINGS: tuple[tuple[str, dict[str, int]], ...] = (
    ("image/png", _PNG),
    ("image/jpeg", {"quality": 95, "subsampling": 0}),
    ("image/jpeg", {"quality": 85}),
    ("image/jpeg", {"quality": 70}),
)
_FILE_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}


def _plain_file(data: bytes, usable: Callable[[int, int], tuple[int, int]], max_bytes: int) -> Encoded | None:
    """Return a file that can be sent as it is: upright, opaque, 8 bits, one frame, not cut off. Decodes nothing."""
    image = open_image(data)
    kind = image.format or ""
    plain = (
        len(data) <= max_bytes
        and image.mode in {"RGB", "L"}
        and data.endswith(_FILE_ENDS.get(kind, b"never"))
        and "transparency" not in image.info
        and getattr(image, "n_frames", 1) == 1
        # Asking a PNG for its EXIF block would decode all of it.
        and (b"eXIf" not in data if kind == "PNG" else image.getexif().get(ORIENTATION, 1) == 1)
        and usable(*image.size) == image.size
    )
    return Encoded(data, f"image/{kind.lower()}") if plain else None


def data_url(encoded: bytes, mime_type: str) -> str:
    """Return `encoded` as a `data:` URL."""
    return f"data:{mime_type};base64,{base64.b64encode(encoded).decode('ascii')}"
