"""Every kind of image source becomes an upright RGB picture, or an error that helps."""

import base64
import contextlib
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from nemovlm.errors import ImageError
from nemovlm.images import MAX_PIXELS, data_url, encode_jpeg, encode_png, image_source, load_image
from tests.support.reading import NO_FILE

RED, BLUE = (250, 10, 20), (5, 15, 240)
ORIENTATION = 0x0112
LOSSLESS = ("PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "TGA", "JPEG2000")
LOSSY = ("JPEG", "AVIF")


def half_and_half(width: int = 32, height: int = 16) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    if kind == "WEBP":
        options.setdefault("lossless", True)
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, pixels: bytes = b"", *, bits: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """A PNG written by hand, so that it can claim anything."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    chunks = [chunk(*part) for part in parts]
    return b"\x89PNG\r\n\x1a\n" + chunks[0] + extra + b"".join(chunks[1:])


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def exif(orientation: int, *others: tuple[int, int, bytes]) -> bytes:
    """An EXIF block with an orientation and other entries (tag, type, four bytes), right or wrong."""
    entries = sorted([(ORIENTATION, 3, bytes([orientation, 0, 0, 0])), *others])
    table = b"".join(struct.pack("<HHI4s", tag, kind, 1, value) for tag, kind, value in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + b"\0\0\0\0"


def animation(kind: str) -> bytes:
    """Three frames: red, blue, green."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, (0, 200, 0))]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def failure(source: Any, **options: Any) -> str:
    """The message of the `ImageError` that `source` ends in: short, and without any image data."""
    with pytest.raises(ImageError) as caught:
        load_image(source, **options)
    message = str(caught.value)
    assert 0 < len(message) < 300
    assert "base64," not in message.replace("data:image/...;base64,...", "")
    return message


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY])
def test_files_of_every_format_are_read(kind: str) -> None:
    """The bytes of each format give the picture that was saved, in RGB."""
    image = half_and_half()
    loaded = load_image(encoded(image, kind))
    assert (loaded.mode, loaded.size) == ("RGB", image.size)
    worst = np.abs(np.asarray(loaded, int) - np.asarray(image, int))[:, [4, 27]].max()
    assert worst <= (12 if kind in LOSSY else 0)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data, _: data,
        lambda data, folder: (folder / "a.png", (folder / "a.png").write_bytes(data))[0],
        lambda data, _: data_url(data, "image/png"),
        lambda data, _: data_url(data, "image/x-unknown"),  # the bytes tell, not the label
        lambda data, _: Image.open(BytesIO(data)),
    ],
    ids=["bytes", "path", "data-url", "mislabelled", "pillow"],
)
def test_every_kind_of_source_is_the_same_picture(wrap: Callable[[bytes, Path], Any], tmp_path: Path) -> None:
    """Bytes, a path, a data URL and a Pillow image of one picture are that picture."""
    image = half_and_half()
    assert load_image(wrap(encoded(image, "PNG"), tmp_path)).tobytes() == image.tobytes()


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    """A file is what its bytes are, whatever it is called."""
    path = tmp_path / "page.txt"
    path.write_bytes(encoded(half_and_half(), "PNG"))
    assert load_image(path).size == (32, 16)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "size", "red_at"),
    [(1, (32, 16), (2, 8)), (3, (32, 16), (29, 8)), (6, (16, 32), (8, 2)), (8, (16, 32), (8, 29))],
)
def test_photographs_are_turned_upright(
    kind: str, orientation: int, size: tuple[int, int], red_at: tuple[int, int]
) -> None:
    """The orientation that a camera noted is applied."""
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    loaded = load_image(encoded(half_and_half(), kind, exif=tags))
    assert loaded.size == size
    assert loaded.getpixel(red_at) == pytest.approx(RED, abs=12)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "odd", [(0x0100, 2, b"wide"), (0x011A, 2, b"dpi\0"), (0x0103, 7, b"\1\2\3\4")], ids=["width", "resolution", "kind"]
)
def test_odd_notes_of_a_camera_do_no_harm(odd: tuple[int, int, bytes]) -> None:
    """An EXIF entry of the wrong type, which has nothing to do with the orientation, costs nobody the picture."""
    loaded = load_image(encoded(half_and_half(), "JPEG", exif=exif(6, odd)))
    assert loaded.size == (16, 32)


@pytest.mark.parametrize(
    ("mode", "clear", "solid"),
    [
        ("RGBA", (9, 9, 9, 0), (*BLUE, 255)),
        ("LA", (9, 0), (80, 255)),
        ("PA", (0, 0), (0, 255)),
        ("RGBa", (0, 0, 0, 0), (*BLUE, 255)),
    ],
)
def test_alpha_is_laid_on_white(mode: str, clear: tuple[int, ...], solid: tuple[int, ...]) -> None:
    """Where nothing is, the picture is white; where all is covered, it keeps its colour."""
    image = Image.new(mode, (2, 1), clear)
    assert load_image(image).getpixel((0, 0)) == (255, 255, 255)
    image.putpixel((1, 0), solid)
    expected = {"LA": (80, 80, 80), "PA": (0, 0, 0)}.get(mode, BLUE)
    assert load_image(image).getpixel((1, 0)) == expected


def test_half_transparent_is_half_white() -> None:
    """Alpha is blended, not cut off."""
    assert load_image(Image.new("RGBA", (1, 1), (0, 0, 0, 128))).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_colour_is_white(kind: str) -> None:
    """A palette picture with one transparent colour shows white there and the palette elsewhere."""
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, *BLUE])
    image.putpixel((1, 0), 1)
    loaded = load_image(encoded(image, kind, transparency=0))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), BLUE]


@pytest.mark.parametrize(("bits", "colour", "pixel"), [(8, 2, b"\x01\x02\x03"), (8, 0, b"\x07"), (16, 0, b"\x12\x34")])
def test_a_transparent_colour_without_palette_is_white(bits: int, colour: int, pixel: bytes) -> None:
    """RGB and grey PNGs that declare one colour transparent are white there."""
    key = pixel if bits == 16 else b"".join(b"\0" + pixel[n : n + 1] for n in range(len(pixel)))
    data = png(1, 1, b"\0" + pixel, bits=bits, colour=colour, extra=chunk(b"tRNS", key))
    assert load_image(data).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled(kind: str) -> None:
    """Values from 0 to 65535 become 0 to 255; nothing is clipped to white."""
    values = np.array([[0, 255, 256, 0x1234, 0x8000, 0xFFFF]], np.uint16)
    loaded = load_image(encoded(Image.fromarray(values), kind))
    assert np.asarray(loaded)[0].tolist() == [[v] * 3 for v in (0, 0, 1, 0x12, 0x80, 0xFF)]


def test_mode_i_is_16_bit_grey() -> None:
    """Pillow's 32-bit integers hold 16-bit values; what lies beyond is held to the ends."""
    values = np.array([[-5, 0x1234, 70000]], np.int32)
    assert np.asarray(load_image(Image.fromarray(values)))[0].tolist() == [[0] * 3, [0x12] * 3, [255] * 3]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("1", 0, (0, 0, 0)),
        ("L", 77, (77, 77, 77)),
        ("F", 77.4, (77, 77, 77)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", (255, 128, 128), (255, 255, 255)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
        ("LAB", (255, 128, 128), (255, 255, 255)),
        ("RGBX", (1, 2, 3, 0), (1, 2, 3)),
    ],
)
def test_every_mode_becomes_rgb(mode: str, colour: Any, expected: tuple[int, int, int]) -> None:
    """The colours of each mode survive the way to RGB."""
    loaded = load_image(Image.new(mode, (3, 2), colour))
    assert loaded.mode == "RGB"
    assert loaded.getpixel((1, 1)) == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_counts(kind: str) -> None:
    """Of a picture that moves, or has pages, the first is taken."""
    assert load_image(animation(kind)).getpixel((3, 3)) == RED


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_counts_wherever_the_image_stands(kind: str) -> None:
    """A Pillow image that has been played gives the same picture as its file."""
    image = Image.open(BytesIO(animation(kind)))
    image.seek(2)
    assert load_image(image).getpixel((3, 3)) == RED


def test_a_loaded_picture_is_a_copy_of_its_own() -> None:
    """What happens to the caller's image later does not reach the one that is embedded."""
    image = half_and_half()
    loaded = load_image(image)
    image.putpixel((0, 0), (1, 1, 1))
    assert loaded.getpixel((0, 0)) == RED


def test_a_small_file_with_huge_dimensions_is_refused() -> None:
    """A decompression bomb is told by its header, before anything is decoded."""
    assert "too large to be decoded safely" in failure(png(60_000, 60_000))


def test_the_limit_is_pillows_own() -> None:
    """Up to 178 million pixels a header passes, as in Pillow; damage is then what is complained about."""
    side = int(MAX_PIXELS**0.5)
    assert "damaged" in failure(png(side, side))


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY, "PILLOW"])
def test_a_limit_of_ones_own_holds(kind: str) -> None:
    """`max_pixels` is kept, and the message has both numbers."""
    image = half_and_half()
    source = image if kind == "PILLOW" else encoded(image, kind)
    assert load_image(source, max_pixels=512).size == (32, 16)
    message = failure(source, max_pixels=511)
    assert "32 x 16" in message
    assert "511" in message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of cut TIFFs before it gives up
def test_a_truncated_file_is_damaged(kind: str, share: float) -> None:
    """A file that was cut off is refused, rather than half a picture embedded."""
    data = encoded(Image.effect_noise((64, 64), 90).convert("RGB"), kind)
    assert "damaged" in (message := failure(data[: int(len(data) * share)])) or "no image" in message


DAMAGED = {
    kind: encoded(half_and_half(), kind, **({"exif": exif(6)} if kind in {"JPEG", "PNG", "WEBP", "AVIF"} else {}))
    for kind in (*LOSSLESS, *LOSSY)
}


@pytest.mark.filterwarnings("ignore")  # Pillow's, about the damage
@pytest.mark.parametrize("kind", DAMAGED)
@settings(deadline=None)
@example(edits=[(0.9375, 0)])
@given(edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
def test_damage_is_an_image_error_or_nothing(kind: str, edits: list[tuple[float, int]]) -> None:
    """Any bytes changed anywhere: the picture comes, or an `ImageError`, and never another exception."""
    data = bytearray(DAMAGED[kind])
    for place, value in edits:
        data[int(place * len(data))] = value
    with contextlib.suppress(ImageError):
        assert load_image(bytes(data), max_pixels=10_000).mode == "RGB"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (b"", "empty"),
        (b"hello, this is a text", "no image"),
        (b"%PDF-1.7\n", "no image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image"),
        ("scan.png", "pathlib.Path"),
        ("/etc/passwd", "pathlib.Path"),
        ("https://example.org/a.png", "pathlib.Path"),
        ("", "pathlib.Path"),
        ("look at data:image/png;base64,AAAA", "data URL"),
        ("data:text/plain;base64,AAAA", "data URL"),
        ("data:image/png,AAAA", "data URL"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,AAAAA", "not valid base64"),
        ("data:image/png;base64,!!!!", "not valid base64"),
        ("data:image/png;base64,ÄÄÄÄ", "not valid base64"),
        (data_url(b"no image at all, but well encoded", "image/png"), "no image"),
        (Image.new("RGB", (0, 5)), "no pixels"),
        (42, "a int is no image"),
        (None, "a NoneType is no image"),
        (bytearray(b"x"), "no image that can be read"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_image_is_said_to_be_none(source: Any, what: str) -> None:
    """Each wrong source gets a message that says what is wrong."""
    assert what in failure(source)


@pytest.mark.parametrize(("name", "what"), [("none.png", "No such file"), (".", NO_FILE), ("a\0b", "a\0b")])
def test_a_path_that_cannot_be_read_is_named(name: str, what: str, tmp_path: Path) -> None:
    """The path and the system's reason are in the message."""
    message = failure(tmp_path / name)
    assert str(tmp_path) in message
    assert what in message


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    """A file of zero bytes is named as one."""
    (tmp_path / "nothing.png").touch()
    assert "nothing.png is empty" in failure(tmp_path / "nothing.png")


def test_postscript_is_refused() -> None:
    """EPS would start Ghostscript, so it counts as no image."""
    assert "no image" in failure(encoded(half_and_half(), "EPS"))


def test_a_closed_image_is_refused() -> None:
    """A Pillow image whose file is gone is an error of the image."""
    image = Image.open(BytesIO(encoded(half_and_half(), "PNG")))
    image.close()
    assert "closed" in failure(image)


def test_an_address_inside_a_text_is_not_followed(tmp_path: Path) -> None:
    """A `str` is no path, even if there is such a file."""
    (tmp_path / "a.png").write_bytes(encoded(half_and_half(), "PNG"))
    assert "pathlib.Path" in failure(str(tmp_path / "a.png"))


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("scans/a.png", Path("scans/a.png")),
        ("file:///scans/a%20b.png", Path("/scans/a b.png")),
        ("data:image/png;base64,AAAA", "data:image/png;base64,AAAA"),
        (b"bytes", b"bytes"),
        (Path("a.png"), Path("a.png")),
        (BytesIO(b"from a file"), b"from a file"),
    ],
    ids=["path", "file URL", "data URL", "bytes", "Path", "file"],
)
def test_what_frameworks_pass_is_understood(reference: Any, expected: Any) -> None:
    """Paths and URLs in a `str` become what this package takes; everything else stays."""
    assert image_source(reference) == expected


def test_a_half_read_file_is_read_from_its_start() -> None:
    """A framework may have looked into the file before."""
    file = BytesIO(b"from a file")
    file.read(4)
    assert image_source(file) == b"from a file"


@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "s3"])
def test_addresses_on_the_network_are_refused(scheme: str) -> None:
    """Nothing is fetched, and the message says what to do instead, without repeating the address."""
    with pytest.raises(ImageError, match="download the image") as caught:
        image_source(f"{scheme}://user:secret@example.org/a.png")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "/data:image/png;base64,"])
def test_image_data_taken_for_a_path_is_not_repeated(prefix: str) -> None:
    """Base64 without a proper `data:` in front looks like a path; the message must not be the image."""
    encoded_image = base64.b64encode(encoded(Image.effect_noise((64, 64), 90), "PNG")).decode()
    with pytest.raises(ImageError) as caught:
        load_image(image_source(prefix + encoded_image))
    assert len(str(caught.value)) < 500


def test_png_keeps_every_pixel() -> None:
    """What is stored as PNG is the picture itself."""
    assert load_image(encode_png(half_and_half())).tobytes() == half_and_half().tobytes()


@pytest.mark.parametrize(("edge", "size"), [(8, (8, 4)), (32, (32, 16)), (999, (32, 16))])
def test_jpegs_are_shrunk_and_never_enlarged(edge: int, size: tuple[int, int]) -> None:
    """The longest edge is held to, at the same aspect ratio; the caller's image stays as it is."""
    image = half_and_half()
    assert load_image(encode_jpeg(image, longest_edge=edge)).size == size
    assert image.size == (32, 16)
