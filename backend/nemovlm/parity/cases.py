"""The set of inputs that every engine is asked to embed: queries, texts, and images in every shape that matters.

Knows what to ask; knows nothing of how the answers are compared.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle, islice

from PIL import Image, ImageDraw

from nemovlm.images import ImageSource, encode_png
from nemovlm.inputs import Modality, Role, Truncate
from nemovlm.models.tiling import Tiling

_QUERIES = {
    "question": "How many days of leave do I get?",
    "one word": "bicycle",
    "keywords": "revenue by region, second edition 1987",
    "question about a picture": "Which chart has a disc and four bars?",
    "question in other scripts": "Wie hoch ist der Zuschuss für Fahrräder? 自転車 🚲",
    "question with special tokens": "what do <image> and <|end_of_text|> mean?",
}
_PARAGRAPH = (
    "The quarterly report lists revenue by region: growth in the north, a decline in the south, and an error of "
    "3.14159 % in the table on page 12, which the authors corrected in the second edition of 1987. Staff who have been "
    "with the cooperative for a year get 28 days of leave and half the price of a bicycle."
)
TEXTS = {
    "short text": "The office is closed on Sundays.",
    "paragraph": _PARAGRAPH,
    "page of text": "\n\n".join([_PARAGRAPH] * 6),
    "emoji": "Ride 🚲 to work 👩🏽‍💻, not ✈️; family 👨‍👩‍👧‍👦, flag 🇳🇱",
    "combining letters": "naïve cafe\u0301, A\u030angstro\u0308m, Việt, ﬁ, ①, z̸a̷l̶g̴o̵",
    "Chinese and Japanese": "数式は図３を参照。自転车补贴是多少？",
    "Arabic and Hebrew": "كم عدد أيام الإجازة؟ \u200fהמשרד סגור בימי ראשון\u200f (2024)",
    "odd whitespace": "  two  spaces,\ttab,\r\na\u00a0b\u2003c\u200bd \n\n\n end ",
    "nothing but whitespace": " \n\t ",
    "empty text": "",
    "special tokens": "<image> <img><IMG_CONTEXT></img> <|begin_of_text|> </s> [INST] passage: query: <box>",
    "markup and code": '<td class="x">&amp;</td> if (a[i] != b) { return "\\n"; } \\frac{1}{2} https://example.org/?q=1',
}
_TRUNCATIONS: Mapping[Truncate, str] = {"NONE": "refused", "END": "cut at its end", "START": "cut at its start"}


@dataclass(frozen=True)
class Case:
    """One input: a query, or a passage that is a text, an image or both."""

    name: str
    """What people call it; no two cases of a set share one."""
    role: Role
    text: str | None = None
    image: ImageSource | None = None
    truncate: Truncate = "NONE"


def parity_set(tiling: Tiling | None, max_tokens: Mapping[Modality, int]) -> list[Case]:
    """Return the cases for a model.

    Args:
        tiling: How the model cuts images. None if it reads text only: then no case has an image.
        max_tokens: The most tokens of a prompt, by modality. A modality that is missing gets no case over its limit.
    """
    cases = [Case(name, "query", text) for name, text in _QUERIES.items()]
    cases += [Case(name, "passage", text) for name, text in TEXTS.items()]
    if tiling:
        cases += _image_cases(tiling)
    pictures: dict[Modality, ImageSource | None] = {"text": None}
    if tiling:
        pictures["text_image"] = _page("a long text", *image_size(tiling, tiling.grids[0]))
    for modality, picture in pictures.items():
        if limit := max_tokens.get(modality):
            kind, text = "image and long text" if picture else "long text", _text_longer_than(limit)
            cases += [
                Case(f"{kind}, {how}", "passage", text, picture, truncate) for truncate, how in _TRUNCATIONS.items()
            ]
    return cases


def _image_cases(tiling: Tiling) -> Iterator[Case]:
    """Yield images in every grid, in every kind of file and mode that matters, and with texts."""
    for columns, rows in tiling.grids:
        name = f"image {columns} x {rows}"
        yield Case(name, "passage", image=encode_png(_page(name, *image_size(tiling, (columns, rows)))))
    portrait = (3 * tiling.tile, 3 * tiling.tile * 297 // 210)  # A4
    page = _page("A4", *portrait)
    yield Case("image with more pixels than its tiles", "passage", image=encode_png(page))
    small = page.resize((tiling.tile, tiling.tile * 297 // 210))
    yield Case("tiny image", "passage", image=small.resize((16, 12)))
    yield Case("grey image", "passage", image=small.convert("L"))
    clear = small.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    yield Case("image with alpha", "passage", image=encode_png(clear))
    yield Case("image turned by EXIF", "passage", image=_exif_rotated(small))
    yield Case("image and text", "passage", _PARAGRAPH, small)
    yield Case("image and other scripts", "passage", TEXTS["Arabic and Hebrew"] + TEXTS["emoji"], small)
    yield Case("image and special tokens", "passage", TEXTS["special tokens"], small)
    yield Case("image and nothing but whitespace", "passage", TEXTS["nothing but whitespace"], small)


def image_size(tiling: Tiling, grid: tuple[int, int]) -> tuple[int, int]:
    """Return the pixels (width, height) of an image that `tiling` cuts into `grid` (columns, rows).

    One side is a bit longer than the tiles and the other shorter, so that engines have to resize both ways. With very
    many tiles that may be nearer to another grid; the very size of the tiles is not, and if a smaller grid of the same
    aspect holds 0.6 of it, which counts as enough (5 x 5 against 4 x 4), it has to be larger.
    """
    width, height = grid[0] * tiling.tile, grid[1] * tiling.tile
    sizes = (width * 33 // 32, height * 31 // 32), (width, height), (width * 5 // 4, height * 5 // 4)
    return next(size for size in sizes if tiling.grid(*size) == grid)


def _page(name: str, width: int, height: int) -> Image.Image:
    """Draw a page with lines of text, a disc, bars and a band of all shades; no two names have the same page."""
    page = Image.new("RGB", (width, height), "white")
    band = Image.linear_gradient("L").rotate(90).resize((width, max(1, height // 16)))
    page.paste(Image.merge("RGB", (band, band.transpose(Image.Transpose.FLIP_LEFT_RIGHT), band)), (0, 0))
    draw = ImageDraw.Draw(page)
    unit = max(1, min(width, height) // 24)
    words = cycle(f"{name}: {_PARAGRAPH}".split())
    for top in range(height // 8, height * 5 // 8, 2 * unit):
        draw.text(
            (unit, top), " ".join(islice(words, 3 + 8 * width // height)), "black", font_size=max(6, unit * 3 // 2)
        )
    floor = height - unit
    draw.ellipse(
        (unit, floor - 6 * unit, 7 * unit, floor), fill=(200, 30, 40), outline="black", width=max(1, unit // 4)
    )
    for number, letter in enumerate((name * 4)[-4:]):
        left = width // 2 + 2 * number * unit
        draw.rectangle((left, floor - unit * (1 + ord(letter) % 6), left + unit, floor), fill=(20, 60 * number, 160))
    return page


def _exif_rotated(image: Image.Image) -> bytes:
    """Return a JPEG file whose pixels lie on their side, with the EXIF tag that says how to turn them upright."""
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn it by 90 degrees clockwise to see it
    buffer = BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def _text_longer_than(limit: int) -> str:
    """Return a text of more than `limit` tokens, whatever the tokenizer: a word is at least one token."""
    words = cycle(_PARAGRAPH.split())
    return " ".join(f"{next(words)} {number}" for number in range(limit * 9 // 16))
