"""Any image source becomes an upright RGB image, or an `ImageError` that says why not.

Nothing here opens a path or a URL out of a text: a `str` is accepted only if the whole of it is a data URL.
"""

import base64
import os
import re
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

import numpy as np
from PIL import Image

from nemovlm.errors import ImageError, ImageTooLargeError, one_line
from nemovlm.images.download import ImageUrl, download
from nemovlm.paths import local_path, read_binary, readable_name

ImageSource: TypeAlias = Image.Image | bytes | bytearray | memoryview | BinaryIO | os.PathLike[str] | str | ImageUrl
"""A Pillow image, the bytes of an image file, an open binary file, a `Path`, a whole data URL
(`data:image/png;base64,...`), or an `ImageUrl`, which is fetched."""

MAX_PIXELS = 178_956_970
"""Twice Pillow's own `Image.MAX_IMAGE_PIXELS`: where Pillow, and vLLM with it, speak of a decompression bomb."""

# Raster formats that Pillow decodes by itself. Left out on purpose: EPS starts Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF")
# ISO/IEC 23008-12, at byte 8.
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}

# What the EXIF tag Orientation asks for (EXIF 2.32, tag 0x0112).
ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode `source` to mode RGB: EXIF rotation applied, alpha laid on white, first frame of an animation.

    16-bit grayscale is scaled to 8 bits, not clipped. Blocks: an `ImageUrl` is fetched, a path read. What is returned
    is a copy, even of a Pillow image that is RGB already: the caller may go on painting on theirs.

    Args:
        source: The image.
        max_pixels: The most pixels, width times height, that are decoded.

    Raises:
        ImageTooLargeError: It has more pixels.
        ImageError: It cannot be read, fetched or decoded.
    """
    image = view_image(source, max_pixels=max_pixels)
    return image.copy() if image is source else image


def view_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return what `load_image` does, for who only reads it, and at once: no copy of a Pillow image that is RGB already.

    Raises:
        ImageTooLargeError: It has more pixels.
        ImageError: It cannot be read, fetched or decoded.
    """
    image = source if isinstance(source, Image.Image) else open_image(read_image(source))
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
        raise ImageError(f"the image is damaged ({one_line(error)}); save it again or leave it out") from error


def measure(data: bytes) -> tuple[int, int]:
    """Return the pixels (width, height) of an image file, given its bytes, without decoding it.

    Raises:
        ImageError: It is none that can be read.
    """
    return open_image(read_image(data)).size


def image_type(data: bytes) -> str:
    """Return the MIME type of an image file, such as `image/png`, given its bytes, without decoding it.

    MPO, of which phones make photographs, is JPEG with more behind it, and JPEG to everybody else.

    Raises:
        ImageError: It is none that can be read.
    """
    kind = open_image(data).format or ""
    return "image/jpeg" if kind == "MPO" else Image.MIME.get(kind, f"image/{kind.lower()}")


def image_source(reference: ImageSource) -> ImageSource:
    """Return what an image argument of a framework stands for, where, unlike in this package, a `str` is a path.

    Nothing is fetched, and nothing is read but an open file.

    Args:
        reference: A path, a `file://` URL, a data URL, bytes, an open binary file (read from its start), a Pillow image
            or an `ImageUrl`.

    Raises:
        ImageError: It is an address on the network, a file that cannot be read, or of another type.
    """
    if isinstance(reference, str) and not has_data_scheme(reference):
        scheme, _, rest = reference.partition("://")
        if not rest:
            return local_path(reference)
        if scheme.lower() == "file":
            return Path(url2pathname(urlsplit(reference).path))
        raise ImageError(f"{scheme}:// addresses are not fetched; download the image, or pass a nemovlm.ImageUrl")
    if isinstance(reference, str | bytes | os.PathLike | Image.Image | ImageUrl):
        return reference
    return read_image(reference)  # at once: an open file may be closed when it is embedded


def read_image(source: ImageSource) -> bytes:
    """Return the bytes of an image file, whatever they hold: of any source but a Pillow image, which has none.

    Blocks: an `ImageUrl` is fetched, a path read.

    Raises:
        ImageError: They cannot be read or fetched, or there are none.
    """
    if isinstance(source, os.PathLike):
        try:
            data = local_path(source).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            text = os.fspath(source)  # it may be base64 taken for a path
            name = readable_name(text) if len(text) <= 300 and image_in(text) is None else f"{text[:40]}..."
            raise ImageError(f"cannot read {name}: {one_line(error)}") from error
    elif isinstance(source, str):
        data = _decode_data_url(source)
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    elif isinstance(source, ImageUrl):
        data = download(source)
    elif hasattr(source, "read"):
        try:
            data = read_binary(source)
        except (OSError, TypeError) as error:
            raise ImageError(f"the open file cannot be read: {one_line(error)}") from error
    else:
        raise ImageError(
            f"a {type(source).__name__} is no image: pass a Pillow image, bytes, a Path, a binary file or a data URL"
        )
    if not data:
        name = readable_name(source) if isinstance(source, os.PathLike) else "the image"
        raise ImageError(f"{name} is empty (0 bytes)")
    return data


# RFC 2397, and what is made of it: capitals, blanks and line ends, the letters of URLs, and letters as %2B.
_DATA_URL = re.compile(
    r"\s*data:image/[\w.+-]+(?:;\s*[\w.+=-]+){0,9};\s*base64\s*,[\w+/%\s-]+={0,2}\s*", re.IGNORECASE | re.ASCII
)


def has_data_scheme(text: str) -> bool:
    """Return whether `text` begins as a data URL does, of whatever kind."""
    return text.lstrip()[:5].lower() == "data:"


def is_data_url(text: str) -> bool:
    """Return whether the whole of `text` is one data URL of an image in base64."""
    return has_data_scheme(text) and _DATA_URL.fullmatch(text) is not None


def image_in(text: str) -> bytes | None:
    """Return the image file that the whole of `text` is, as a data URL or in bare base64, or None if it is no such.

    Raises:
        ImageError: It is a data URL whose base64 is not valid.
    """
    if is_data_url(text):
        return read_image(text)
    try:
        image_type(image := base64.b64decode(text, validate=True))
    except ValueError:  # no base64, or of something else: ImageError is one as well
        return None
    return image


def decode_base64(letters: str | bytes) -> bytes:
    """Return what base64 stands for, with line ends in it, without its padding, or in the alphabet of URLs.

    Raises:
        ValueError: It is no base64.
    """
    data = letters.encode() if isinstance(letters, str) else letters
    data = b"".join(unquote_to_bytes(data).split()).translate(_OF_URLS).rstrip(b"=")
    return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)


_OF_URLS = bytes.maketrans(b"-_", b"+/")


def _decode_data_url(url: str) -> bytes:
    header, comma, payload = url.partition(",")
    if not (header.lstrip().lower().startswith("data:image/") and header.rstrip().lower().endswith("base64") and comma):
        raise ImageError(
            "a str is taken as an image only if all of it is a data URL (data:image/...;base64,...); "
            "for a file pass a pathlib.Path"
        )
    try:
        return decode_base64(payload)
    except ValueError as error:  # binascii.Error is one; a plain one for letters beyond ASCII
        raise ImageError(f"the data URL is not valid base64 ({error})") from error


def open_image(data: bytes) -> Image.Image:
    """Open an image file without decoding its pixels.

    Raises:
        ImageError: It is none that can be read.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns at half the size at which it refuses; the limit here is checked by the caller.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(BytesIO(data), formats=(*_FORMATS, *_taught_formats()))
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"the image is too large to be decoded safely ({error})") from error
    except Exception as error:  # UnidentifiedImageError is an OSError
        way_out = "if Pillow can read it, pass Image.open(path)"
        if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
            way_out = "it is HEIC: install pillow-heif and call its register_heif_opener(), or save it as JPEG"
        elif b"<svg" in data[:1000].lower():
            way_out = "it is a drawing (SVG): render it as a PNG first"
        raise ImageError(
            f"the bytes are no image that can be read (PNG, JPEG, WebP, TIFF, GIF, BMP); {way_out}"
        ) from error


def _taught_formats() -> Iterator[str]:
    """Yield the formats that somebody else than Pillow has registered with it, as pillow-heif does: on purpose."""
    for name, (factory, _) in Image.OPEN.items():
        if not factory.__module__.startswith("PIL."):
            yield name


def _upright(image: Image.Image) -> Image.Image:
    """Not `ImageOps.exif_transpose`: it writes the EXIF block anew and fails on any odd entry in it."""
    image.load()  # TIFFs are turned by Pillow itself when they are loaded
    turn = _TURNS.get(image.getexif().get(ORIENTATION, 1))
    if turn is None:
        return image
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
