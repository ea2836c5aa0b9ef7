"""Does every engine give the same vectors? One fixed set of inputs is embedded with each and compared with the first.

Knows what to ask and how to compare; knows nothing of how the answers are shown.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeAlias, Unpack, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nemovlm.embedder import Description, Embedder
from nemovlm.engines.choice import default_model
from nemovlm.errors import ConfigurationError, NemoVLMError
from nemovlm.images import ImageSource, encode_png
from nemovlm.inputs import Modality, Passage, Role, Truncate, Vector
from nemovlm.models.catalogue import find_card
from nemovlm.models.tiling import NEMOTRON_TILING, Tiling
from nemovlm.settings import Options, Settings

FLOOR = 0.999
"""The least cosine of two vectors that count as the same. Engines in float32 come within 1e-6 of 1 and bfloat16 within
2e-4 (small random checkpoint); tiles in another order, another resampling or a space less in a prompt fall below."""

_SAME_SCORE = 1e-5  # scores nearer to each other than this are a tie: float32 makes no more of them
_Outcome: TypeAlias = Vector | NemoVLMError
_Scores: TypeAlias = NDArray[np.float64]

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
_TEXTS = {
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
    """One input, and what people call it."""

    name: str
    role: Role
    text: str | None = None
    image: ImageSource | None = None
    truncate: Truncate = "NONE"


@dataclass(frozen=True)
class Difference:
    """What two engines made of one case: two vectors, one vector and one error, or two errors."""

    case: str
    cosine: float | None = None
    """None where a vector is missing, as is `largest`."""
    largest: float | None = None
    """The largest difference of two components."""
    reference_error: NemoVLMError | None = None
    error: NemoVLMError | None = None

    @property
    def agreement(self) -> float:
        """The cosine. Where there is none: 1 if both engines gave the same kind of error, else -1."""
        if self.cosine is not None:
            return self.cosine
        return 1.0 if type(self.error) is type(self.reference_error) else -1.0

    def __str__(self) -> str:
        if self.cosine is not None:
            return f"{self.case}: cosine {self.cosine:.6f}, largest difference {self.largest:.1e}"
        ours, theirs = (error and _told(error) for error in (self.error, self.reference_error))
        return f"{self.case}: {ours or 'a vector'}, where the reference has {theirs or 'a vector'}"

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        errors = {"reference_error": self.reference_error, "error": self.error}
        told = {name: error and _told(error) for name, error in errors.items()}
        return {"case": self.case, "cosine": self.cosine, "largest": self.largest, **told}


@dataclass(frozen=True)
class Comparison:
    """One engine, held against the reference."""

    engine: Description
    floor: float
    differences: tuple[Difference, ...]
    """One for each case, in their order."""
    same_first: float | None
    """The share of queries for which both engines put the same passage first. None if there was nothing to rank."""
    rank_correlation: float | None
    """Kendall's tau-b of the order in which the two engines put the passages, the mean over all queries."""

    @property
    def worst(self) -> Difference:
        """The case in which the engine is farthest from the reference: one that only one of them could do, if any."""
        return min(self.differences, key=lambda difference: difference.agreement)

    @property
    def largest(self) -> float:
        """The largest difference of two components, over all cases."""
        return max((difference.largest or 0.0 for difference in self.differences), default=0.0)

    @property
    def amiss(self) -> list[Difference]:
        """The cases below the floor, and those that only one of the engines could do; the worst first."""
        below = [difference for difference in self.differences if difference.agreement < self.floor]
        return sorted(below, key=lambda difference: difference.agreement)

    @property
    def fine(self) -> bool:
        """Whether no case is amiss."""
        return not self.amiss

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "engine": asdict(self.engine),
            "fine": self.fine,
            "worst": self.worst.as_dict(),
            "largest": self.largest,
            "same_first": self.same_first,
            "rank_correlation": self.rank_correlation,
            "differences": [difference.as_dict() for difference in self.differences],
        }


@dataclass(frozen=True)
class Parity:
    """Several engines, each held against the first."""

    reference: Description
    comparisons: tuple[Comparison, ...]

    @property
    def fine(self) -> bool:
        """Whether all engines agree with the reference in every case."""
        return all(comparison.fine for comparison in self.comparisons)

    def __str__(self) -> str:
        count, floor = len(self.comparisons[0].differences), self.comparisons[0].floor
        if self.fine:
            return f"{len(self.comparisons) + 1} engines agree: none of {count} cases is below {floor}"
        apart = [
            f"{engine_name(engine.engine)} in {len(engine.amiss)} of {count} cases, the worst {engine.worst}"
            for engine in self.comparisons
            if not engine.fine
        ]
        return f"not the same as {engine_name(self.reference)} (floor {floor}): {'; '.join(apart)}"

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "fine": self.fine,
            "floor": self.comparisons[0].floor,
            "reference": asdict(self.reference),
            "comparisons": [comparison.as_dict() for comparison in self.comparisons],
        }


def engine_name(facts: Description) -> str:
    """Return what people call an engine: what it is, and where it computes in what."""
    return f"{facts.engine} ({facts.device}, {facts.dtype})"


def compare(
    embedders: Sequence[Embedder], *, floor: float = FLOOR, opened: Callable[[Description], None] | None = None
) -> Parity:
    """Embed one set of cases with each of `embedders`, and hold all against the first.

    They are opened one after the other, and each is closed before the next: no two models share a GPU's memory. What
    is asked depends on the model, as a local engine or the catalogue knows it: its tiles and its limits. An error of
    one case is part of the result.

    Args:
        embedders: Two or more.
        floor: The least cosine that counts as the same.
        opened: Called with each engine before it embeds.

    Raises:
        ConfigurationError: Fewer than two engines, or vectors of different lengths.
        NemoVLMError: An engine cannot work at all: it is not here, does not load, is down, wants a key.
    """
    if len(embedders) < 2:
        raise ConfigurationError("a comparison wants two engines or more, such as transformers,nim")
    outcomes: list[list[_Outcome]] = []
    with ExitStack() as stack:
        # Neither this nor trying a server loads weights: what is missing, of another length or down is known at once.
        engines = [stack.enter_context(embedder).describe() for embedder in embedders]
        _check_dimensions(engines)
        for embedder, engine in zip(embedders, engines, strict=True):
            if embedder.settings.remote:
                _try(embedder, engine)
        cases = parity_set(*_facts(embedders))
        for embedder, engine in zip(embedders, engines, strict=True):
            if opened:
                opened(engine)
            _try(embedder, engine)
            outcomes.append(_embed(embedder, cases))
            embedder.close()
    return Parity(
        engines[0],
        tuple(
            Comparison(
                engine,
                floor,
                tuple(_difference(case, *pair) for case, *pair in zip(cases, outcomes[0], ours, strict=True)),
                *_rank_agreement(cases, outcomes[0], ours),
            )
            for engine, ours in zip(engines[1:], outcomes[1:], strict=True)
        ),
    )


def open_engines(
    engines: str, *, model: str | None = None, served_model_name: str | None = None, **knobs: Unpack[Options]
) -> list[Embedder]:
    """Return an embedder for each of `engines`: their names, separated by commas.

    One may bring its own address, as in `nim=http://host:8000`; any other remote one has that of `knobs`. Servers are
    asked for `served_model_name`, or for `model` unless that is a folder: then for whatever they have. Without a model
    it is the one that the first engine would take by itself. Raises `ConfigurationError`, `CheckpointError`.
    """
    embedders: list[Embedder] = []
    for entry in engines.split(","):
        name, _, address = entry.strip().partition("=")
        own: dict[str, Any] = {**knobs, "engine": name, "base_url": address or knobs.get("base_url")}
        settings = Settings.from_kwargs(model=model, **own)
        if not embedders:
            model = settings.model or default_model(settings)[0]
        name_there = served_model_name or (None if _is_folder(model) else model)
        embedders.append(Embedder(name_there if settings.remote else model, **own))
    return embedders


def _is_folder(model: str | None) -> bool:
    return model is not None and find_card(model) is None and Path(model).is_dir()


def _check_dimensions(engines: Sequence[Description]) -> None:
    reference = engines[0]
    for engine in engines:
        if engine.dimension != reference.dimension:
            one, other = (f"{facts.model} on {engine_name(facts)}" for facts in (engine, reference))
            raise ConfigurationError(
                f"{one} has vectors of {engine.dimension} components, and {other} of {reference.dimension}: "
                "they cannot be compared"
            )


def _try(embedder: Embedder, engine: Description) -> None:
    """Embed one text: an engine that cannot work at all fails here and once, and not in every case."""
    embedder.embed([Passage(_TEXTS["short text"], label=engine_name(engine))])


# What is asked


def parity_set(tiling: Tiling | None, max_tokens: Mapping[Modality, int]) -> list[Case]:
    """Return the cases for a model with these tiles, or None if it reads text only, and these limits.

    A modality without a known limit gets no case over it.
    """
    cases = [Case(name, "query", text) for name, text in _QUERIES.items()]
    cases += [Case(name, "passage", text) for name, text in _TEXTS.items()]
    if tiling:
        cases += _image_cases(tiling)
    pictures: dict[Modality, ImageSource | None] = {"text": None}
    if tiling:
        pictures["text_image"] = _page("a long text", *_size(tiling, tiling.grids[0]))
    for modality, picture in pictures.items():
        if limit := max_tokens.get(modality):
            kind, text = "image and long text" if picture else "long text", _over(limit)
            cases += [
                Case(f"{kind}, {how}", "passage", text, picture, truncate) for truncate, how in _TRUNCATIONS.items()
            ]
    return cases


def _image_cases(tiling: Tiling) -> Iterator[Case]:
    """Yield images in every grid, in every kind of file and mode that matters, and with texts."""
    for columns, rows in tiling.grids:
        name = f"image {columns} x {rows}"
        yield Case(name, "passage", image=encode_png(_page(name, *_size(tiling, (columns, rows)))))
    portrait = (3 * tiling.tile, 3 * tiling.tile * 297 // 210)  # A4
    page = _page("A4", *portrait)
    yield Case("image with more pixels than its tiles", "passage", image=encode_png(page))
    small = page.resize((tiling.tile, tiling.tile * 297 // 210))
    yield Case("tiny image", "passage", image=small.resize((16, 12)))
    yield Case("grey image", "passage", image=small.convert("L"))
    clear = small.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    yield Case("image with alpha", "passage", image=encode_png(clear))
    yield Case("image turned by EXIF", "passage", image=_turned(small))
    yield Case("image and text", "passage", _PARAGRAPH, small)
    yield Case("image and other scripts", "passage", _TEXTS["Arabic and Hebrew"] + _TEXTS["emoji"], small)
    yield Case("image and special tokens", "passage", _TEXTS["special tokens"], small)
    yield Case("image and nothing but whitespace", "passage", _TEXTS["nothing but whitespace"], small)


def _size(tiling: Tiling, grid: tuple[int, int]) -> tuple[int, int]:
    """Return pixels (width, height) that `tiling` cuts into `grid`.

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


def _turned(image: Image.Image) -> bytes:
    """Return a JPEG that lies on its side, with the EXIF tag that says how to turn it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn it by 90 degrees clockwise to see it
    buffer = BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def _over(limit: int) -> str:
    """Return a text of more than `limit` tokens whatever the tokenizer: a word is a token at least, and none recurs."""
    words = cycle(_PARAGRAPH.split())
    return " ".join(f"{next(words)} {number}" for number in range(limit * 9 // 16))


def _facts(embedders: Sequence[Embedder]) -> tuple[Tiling | None, Mapping[Modality, int]]:
    """Return the tiles and limits of the model: from the first engine that has its files, else from the catalogue.

    Of a model that servers alone know it is not known whether it sees: it is shown images as the published ones cut
    them. Its limits, which servers do not tell, are not tried.
    """
    knowing = next((embedder for embedder in embedders if not embedder.settings.remote), embedders[0])
    limits = knowing.describe().max_tokens
    if not limits and (card := find_card(knowing.model)):
        limits = {modality: card.max_tokens(modality) for modality in card.modalities}
    return knowing.tiling or (NEMOTRON_TILING if "image" in knowing.modalities else None), limits


# How it is answered


def _embed(embedder: Embedder, cases: Sequence[Case]) -> list[_Outcome]:
    """Return what each case became. All that have one role and one truncation go together."""
    queries = [case for case in cases if case.role == "query"]
    outcomes = dict(zip((case.name for case in queries), _embed_queries(embedder, queries), strict=True))
    for truncate in get_args(Truncate):
        passages = [case for case in cases if case.role == "passage" and case.truncate == truncate]
        errors: list[NemoVLMError] = []
        vectors = embedder.stream(
            [Passage(case.text, case.image, case.name) for case in passages], truncate=truncate, on_error=errors.append
        )
        for case, vector in zip(passages, vectors, strict=True):
            outcomes[case.name] = errors[-1] if vector is None else vector
    return [outcomes[case.name] for case in cases]


def _embed_queries(embedder: Embedder, cases: Sequence[Case]) -> list[_Outcome]:
    try:
        return list(embedder.embed_queries([case.text or "" for case in cases]))
    except NemoVLMError as error:
        if len(cases) == 1:
            return [error]
    return [outcome for case in cases for outcome in _embed_queries(embedder, [case])]  # the others have vectors


# How it is compared


def _told(error: NemoVLMError) -> str:
    return f"{type(error).__name__}: {Exception.__str__(error)}"  # without the item that it names: that is the case


def _difference(case: Case, theirs: _Outcome, ours: _Outcome) -> Difference:
    if isinstance(theirs, NemoVLMError) or isinstance(ours, NemoVLMError):
        errors = [outcome if isinstance(outcome, NemoVLMError) else None for outcome in (theirs, ours)]
        return Difference(case.name, None, None, *errors)
    one, other = theirs.astype(np.float64), ours.astype(np.float64)
    cosine = float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
    return Difference(case.name, min(cosine, 1.0), float(np.abs(one - other).max()))


def _rank_agreement(
    cases: Sequence[Case], theirs: Sequence[_Outcome], ours: Sequence[_Outcome]
) -> tuple[float | None, float | None]:
    """Return the share of queries with the same first passage and the mean rank correlation, over what both did."""
    rows: dict[Role, list[tuple[Vector, Vector]]] = {"query": [], "passage": []}
    for case, one, other in zip(cases, theirs, ours, strict=True):
        if not isinstance(one, NemoVLMError) and not isinstance(other, NemoVLMError):
            rows[case.role].append((one, other))
    if not (rows["query"] and rows["passage"]):
        return None, None
    queries, passages = (np.array(rows[role], np.float64).swapaxes(0, 1) for role in ("query", "passage"))
    wanted, found = queries @ passages.swapaxes(1, 2)  # (queries, passages) of either engine
    firsts = [same_first(*scores) for scores in zip(wanted, found, strict=True)]
    correlations = [rank_correlation(*scores) for scores in zip(wanted, found, strict=True)]
    return float(np.mean(firsts)), float(np.mean(correlations))


def same_first(wanted: _Scores, found: _Scores) -> bool:
    """Return whether what `found` puts first is first in `wanted` as well, or tied with the first."""
    return bool(wanted[found.argmax()] >= wanted.max() - _SAME_SCORE)


def rank_correlation(wanted: _Scores, found: _Scores) -> float:
    """Return Kendall's tau-b of two lists of scores: 1 for the same order, -1 for the reverse, ties being ties."""
    one, other = (_order(scores) for scores in (wanted, found))
    if np.array_equal(one, other):
        return 1.0  # also where all are tied, for which the quotient has no value
    size = np.sqrt(np.square(one).sum() * np.square(other).sum())
    return float((one * other).sum() / size) if size else 0.0


def _order(scores: _Scores) -> _Scores:
    """Return for each pair of scores whether the first is higher (1), lower (-1) or as high (0)."""
    apart = scores[:, None] - scores
    signs: _Scores = np.where(np.abs(apart) > _SAME_SCORE, np.sign(apart), 0.0)
    return signs
