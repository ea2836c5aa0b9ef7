"""Any image source becomes an upright RGB picture, or an `ImageError` that says why not.

Knows Pillow; knows nothing of models. Nothing here opens a path or a URL out of a text: a `str` is accepted
only if the whole of it is a data URL.
"""

import base64
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import uuid4

import numpy as np
from PIL import Image, ImageChops

from nemovlm.download import ImageUrl, download
from nemovlm.errors import ImageError, ImageTooLargeError

ImageSource: TypeAlias = Image.Image | bytes | Path | str | ImageUrl
"""A Pillow image, the bytes of an image file, a `Path`, a whole data URL (`data:image/png;base64,...`), or an
`ImageUrl`, which is fetched."""

MAX_PIXELS = 178_956_970
"""Twice Pillow's own `Image.MAX_IMAGE_PIXELS`: where Pillow, and vLLM with it, speak of a decompression bomb."""

# Raster formats that Pillow decodes by itself. Left out on purpose: EPS starts Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF")

# What the EXIF tag Orientation asks for (EXIF 2.32, tag 0x0112).
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# Level 3 makes smaller files of pages than the default 6, in half the time.
_PNG = {"compress_level": 3}


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode `source` to mode RGB: EXIF rotation applied, alpha laid on white, first frame of an animation.

    16-bit greyscale is scaled to 8 bits, not clipped. Raises `ImageError`.
    """
    image = source if isinstance(source, Image.Image) else _open(read_image(source))
    if image.width * image.height > max_pixels:
        raise ImageTooLargeError(
            f"the image has {image.width} x {image.height} pixels, more than the limit of {max_pixels}; shrink it first"
        )
    if not image.width or not image.height:
        raise ImageError("the image has no pixels")
    try:
        if getattr(image, "n_frames", 1) > 1:
            image.seek(0)
        return _rgb(_upright(image))
    except Exception as error:  # what decoders raise on damaged data
        raise ImageError(f"the image is damaged ({_reason(error)}); save it again or leave it out") from error


def measure(data: bytes) -> tuple[int, int]:
    """Return the pixels (width, height) of an image file, without decoding it. Raises `ImageError`."""
    return _open(read_image(data)).size


def image_type(data: bytes) -> str:
    """Return the MIME type of an image file, such as `image/png`, without decoding it. Raises `ImageError`."""
    return Image.MIME[_open(data).format or ""]


def image_source(reference: "ImageSource | BinaryIO") -> ImageSource:
    """Return what an image argument of a framework stands for, where, unlike in this package, a `str` is a path.

    Takes a path, a `file://` URL, a data URL, bytes, an open binary file (read from its start) or a Pillow image.
    Raises `ImageError` for an address on the network: nothing is fetched.
    """
    if isinstance(reference, str) and not reference.startswith("data:"):
        scheme, _, rest = reference.partition("://")
        if not rest:
            return Path(reference)
        if scheme == "file":
            return Path(url2pathname(urlsplit(reference).path))
        raise ImageError(f"{scheme}:// addresses are not fetched; download the image, or pass a nemovlm.ImageUrl")
    if isinstance(reference, (str, bytes, Path, Image.Image, ImageUrl)):
        return reference
    if not hasattr(reference, "read"):
        raise ImageError(
            f"{type(reference).__name__} is no type of image: pass a path, bytes, a data URL or a Pillow image"
        )
    try:
        reference.seek(0)
        return reference.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise ImageError(f"the open file cannot be read: {error}") from error


def encode_jpeg(image: Image.Image, *, longest_edge: int, quality: int = 80) -> bytes:
    """Return a JPEG of `image` (RGB), shrunk so that neither side is over `longest_edge` pixels."""
    small = image.copy()
    small.thumbnail((longest_edge, longest_edge), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def encode_png(image: Image.Image) -> bytes:
    """Return `image` as the bytes of a PNG file."""
    buffer = BytesIO()
    image.save(buffer, "PNG", **_PNG)
    return buffer.getvalue()


def save_png(image: Image.Image, path: Path) -> None:
    """Write `image` as a PNG, and folders for it, unless the file is there: then it is whole. Raises `ImageError`."""
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
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"the picture cannot be written to {path}: {reason}") from error


class Encoded(NamedTuple):
    """The bytes of an image file, PNG or JPEG."""

    data: bytes
    mime_type: str


def compact(source: ImageSource, usable: Callable[[int, int], tuple[int, int]], max_bytes: int) -> Encoded:
    """Return `source` as a file of `max_bytes` at the most, and of no more pixels than `usable(width, height)` says.

    A PNG or JPEG file that fits already, and shows the same to every decoder, is passed on as it is. Anything else
    becomes a PNG, in shades of grey if it has no others, or a JPEG where a PNG would be over `max_bytes`. Raises
    `ImageError`.
    """
    if not isinstance(source, Image.Image):
        source = read_image(source)
        if (as_it_is := _plain_file(source, usable, max_bytes)) is not None:
            return as_it_is
    image = load_image(source)
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
    """Return a file that needs no work, without decoding it: upright, opaque, 8 bits, one frame, not cut off."""
    image = _open(data)
    kind = image.format or ""
    plain = (
        len(data) <= max_bytes
        and image.mode in {"RGB", "L"}
        and data.endswith(_FILE_ENDS.get(kind, b"never"))
        and "transparency" not in image.info
        and getattr(image, "n_frames", 1) == 1
        # Asking a PNG for its EXIF block would decode all of it.
        and (b"eXIf" not in data if kind == "PNG" else image.getexif().get(_ORIENTATION, 1) == 1)
        and usable(*image.size) == image.size
    )
    return Encoded(data, f"image/{kind.lower()}") if plain else None


def data_url(encoded: bytes, mime_type: str) -> str:
    """Return `encoded` as a `data:` URL."""
    return f"data:{mime_type};base64,{base64.b64encode(encoded).decode('ascii')}"


def read_image(source: bytes | Path | str | ImageUrl) -> bytes:
    """Return the bytes of an image file, whatever they hold. Raises `ImageError`."""
    if isinstance(source, Path):
        try:
            data = source.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            text = str(source)  # it may be base64 taken for a path
            name = text if len(text) <= 300 and image_in(text) is None else f"{text[:40]}..."
            raise ImageError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error
    elif isinstance(source, str):
        data = _decode_data_url(source)
    elif isinstance(source, bytes):
        data = source
    elif isinstance(source, ImageUrl):
        data = download(source)
    else:
        raise ImageError(f"a {type(source).__name__} is no image: pass a Pillow image, bytes, a Path or a data URL")
    if not data:
        raise ImageError(f"{source} is empty (0 bytes)" if isinstance(source, Path) else "the image is empty (0 bytes)")
    return data


_DATA_URL = re.compile(r"data:image/[\w.+-]+(?:;[\w.+=-]+)*;base64,[A-Za-z0-9+/]+={0,2}")


def is_data_url(text: str) -> bool:
    """Return whether the whole of `text` is one data URL of an image in base64."""
    return _DATA_URL.fullmatch(text) is not None


def image_in(text: str) -> bytes | None:
    """Return the image file that the whole of `text` is, as a data URL or in bare base64, or None if it is no such."""
    if is_data_url(text):
        return read_image(text)
    try:
        image_type(image := base64.b64decode(text, validate=True))
    except ValueError:  # no base64, or of something else: ImageError is one as well
        return None
    return image


def _decode_data_url(url: str) -> bytes:
    header, comma, payload = url.partition(",")
    if not (header.startswith("data:image/") and header.endswith(";base64") and comma):
        raise ImageError(
            "a str is taken as an image only if all of it is a data URL (data:image/...;base64,...); "
            "for a file pass a pathlib.Path"
        )
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError as error:  # binascii.Error is one; a plain one for letters beyond ASCII
        raise ImageError(f"the data URL is not valid base64 ({error})") from error


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns at half the size at which it refuses; the limit here is checked by the caller.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"the image is too large to be decoded safely ({error})") from error
    except Exception as error:  # UnidentifiedImageError is an OSError
        raise ImageError("the bytes are no image that can be read (PNG, JPEG, WebP, TIFF, GIF, BMP)") from error


def _upright(image: Image.Image) -> Image.Image:
    """Not `ImageOps.exif_transpose`: it writes the EXIF block anew and fails on any odd entry in it."""
    image.load()  # TIFFs are turned by Pillow itself when they are loaded
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    if turn is None:
        return image.copy()  # the caller may go on painting on theirs
    turned = image.transpose(turn)
    turned.info = dict(image.info)
    return turned


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, under one of several names; convert() would clip it
        values = np.asarray(image, dtype=np.int64).clip(0, 65535)
        if isinstance(clear := image.info.get("transparency"), int):
            values[values == clear] = 65535
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
