"""Grids, tiles and render sizes: the numbers of the reference, and what holds for every image."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from nemovlm.models.tiling import NEMOTRON_TILING, Tiling

Size = tuple[float, float]

SMALL = Tiling(tile=8, tokens_per_tile=4)  # tiles that are quick to cut
TILINGS = st.builds(
    Tiling,
    tile=st.sampled_from([8, 64, 512]),
    tokens_per_tile=st.sampled_from([16, 256]),
    max_tiles=st.integers(1, 12),
    thumbnail=st.booleans(),
)
PIXELS = st.tuples(st.integers(1, 4000), st.integers(1, 4000))


def scores(tiling: Tiling, width: float, height: float) -> dict[tuple[int, int], float]:
    """The documented score of every grid, written down once more."""
    grids = [(c, r) for c in range(1, 99) for r in range(1, 99) if tiling.min_tiles <= c * r <= tiling.max_tiles]
    aspect = width / height
    return {
        (c, r): min(c * r * tiling.tile**2 / (width * height), 0.6) * min(c / r / aspect, aspect * r / c)
        for c, r in grids
    }


@st.composite
def pages(draw: st.DrawFn, longest_aspect: float = 3.0) -> Size:
    """Width and height in points of a page that somebody might print, from 1.4 inches to 3.5 feet."""
    short = draw(st.floats(100, 2500))
    long = short * draw(st.floats(1, longest_aspect))
    return draw(st.sampled_from([(short, long), (long, short)]))


def grid_at_200_dpi(page: Size) -> tuple[int, int]:
    """The grid of a page at 200 dpi, where that is no toss-up: rounding to whole pixels moves an aspect ratio a bit."""
    ranking = scores(NEMOTRON_TILING, page[0] / 72 * 200, page[1] / 72 * 200)
    best, second = sorted(ranking, key=ranking.__getitem__)[:-3:-1]
    assume(ranking[second] < 0.99 * ranking[best])
    return best


@pytest.mark.parametrize(
    ("width", "height", "grid", "tokens"),
    [
        (1275, 1650, (2, 3), 1792),  # letter at 150, 200 and 300 dpi
        (1700, 2200, (2, 3), 1792),
        (2550, 3300, (2, 3), 1792),
        (1654, 2339, (2, 3), 1792),  # A4 at 200 dpi
        (612, 792, (2, 3), 1792),
        (2339, 1654, (3, 2), 1792),
        (1920, 1080, (3, 2), 1792),
        (800, 800, (2, 2), 1280),
        (1024, 1024, (2, 2), 1280),
        (512, 512, (1, 1), 256),
        (600, 600, (1, 1), 256),
        (100, 100, (1, 1), 256),
        (3000, 500, (6, 1), 1792),
        (300, 200, (3, 2), 1792),
    ],
)
def test_the_published_models_cut_like_the_reference(
    width: int, height: int, grid: tuple[int, int], tokens: int
) -> None:
    """Grid and token count of usual sizes are those that NVIDIA's and vLLM's processors give."""
    assert NEMOTRON_TILING.grid(width, height) == grid
    assert NEMOTRON_TILING.token_count(width, height) == tokens


@pytest.mark.parametrize(("max_tiles", "grid", "tokens"), [(1, (1, 1), 256), (2, (1, 2), 768), (4, (2, 2), 1280)])
def test_fewer_tiles_are_fewer_tokens(max_tiles: int, grid: tuple[int, int], tokens: int) -> None:
    """A portrait page under a smaller `max_tiles` gets the reference's grid and token count."""
    tiling = Tiling(max_tiles=max_tiles)
    assert (tiling.grid(1700, 2200), tiling.token_count(1700, 2200)) == (grid, tokens)


def test_candidate_grids_are_in_the_order_of_the_reference() -> None:
    """The order decides ties, so it is the reference's to the last grid."""
    assert NEMOTRON_TILING.grids == (
        *((1, 1), (1, 2), (2, 1), (3, 1), (1, 3), (4, 1), (1, 4), (2, 2)),
        *((1, 5), (5, 1), (6, 1), (2, 3), (1, 6), (3, 2)),
    )


@settings(deadline=None)
@given(TILINGS, PIXELS)
def test_the_grid_has_the_best_score(tiling: Tiling, size: tuple[int, int]) -> None:
    """No candidate grid scores higher than the one that is chosen."""
    ranking = scores(tiling, *size)
    assert ranking[tiling.grid(*size)] == pytest.approx(max(ranking.values()), rel=1e-12)


@settings(deadline=None)
@given(TILINGS, PIXELS)
def test_tokens_count_the_tiles_and_the_thumbnail(tiling: Tiling, size: tuple[int, int]) -> None:
    """Tokens are tiles times their worth; a thumbnail comes on top of more than one tile, and never over the most."""
    columns, rows = tiling.grid(*size)
    tiles = columns * rows + (tiling.thumbnail and columns * rows > 1)
    assert tiling.token_count(*size) == tiles * tiling.tokens_per_tile <= tiling.max_tokens


@settings(deadline=None)
@given(st.tuples(st.integers(1, 90), st.integers(1, 90)), st.integers(1, 9), st.booleans())
def test_cut_gives_as_many_tiles_as_tokens_say(size: tuple[int, int], max_tiles: int, thumbnail: bool) -> None:
    """Any image, down to one pixel, becomes (tiles, tile, tile, 3) uint8 with the promised number of tiles."""
    tiling = Tiling(tile=8, tokens_per_tile=4, max_tiles=max_tiles, thumbnail=thumbnail)
    tiles = tiling.cut(Image.new("RGB", size))
    assert tiles.shape == (tiling.token_count(*size) // 4, 8, 8, 3)
    assert tiles.dtype == np.uint8


@pytest.mark.parametrize(("columns", "rows"), [(2, 3), (3, 2), (1, 4), (6, 1), (2, 2)])
def test_tiles_come_row_by_row_and_the_thumbnail_last(columns: int, rows: int) -> None:
    """Every cell of the grid is one tile, left to right, then down; the whole image follows."""
    colours = [(40 * n, 255 - 40 * n, 7 * n) for n in range(columns * rows)]
    image = Image.new("RGB", (512 * columns, 512 * rows))
    for n, colour in enumerate(colours):
        image.paste(Image.new("RGB", (512, 512), colour), (512 * (n % columns), 512 * (n // columns)))
    *tiles, thumbnail = NEMOTRON_TILING.cut(image)
    assert [tile[0, 0].tolist() for tile in tiles] == [list(colour) for colour in colours]
    assert all((tile == tile[0, 0]).all() for tile in tiles)
    assert np.array_equal(thumbnail, np.asarray(image.resize((512, 512), Image.Resampling.BICUBIC)))


def test_one_tile_has_no_thumbnail() -> None:
    """An image that fits one tile is that tile alone, enlarged to its size."""
    image = Image.effect_noise((7, 7), 90).convert("RGB")
    (tile,) = SMALL.cut(image)
    assert np.array_equal(tile, np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("size", [(13, 19), (40, 40), (100, 30), (31, 7)])
def test_resizing_is_bicubic_to_the_whole_grid(size: tuple[int, int]) -> None:
    """Put together again, the tiles are Pillow's bicubic resize: no aspect kept, nothing padded."""
    image = Image.merge("RGB", [Image.effect_noise(size, 90) for _ in range(3)])
    columns, rows = SMALL.grid(*size)
    tiles = SMALL.cut(image)[: columns * rows]
    whole = np.block([[[tiles[r * columns + c]] for c in range(columns)] for r in range(rows)])
    assert np.array_equal(whole, np.asarray(image.resize((8 * columns, 8 * rows), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (595, 842, (1086, 1536)),  # A4
        (842, 595, (1536, 1086)),
        (612, 792, (1187, 1536)),  # letter
        (720, 405, (1821, 1024)),  # a slide, 16:9
        (1024, 1536, (1024, 1536)),
        (600, 600, (1024, 1024)),
    ],
)
def test_usual_pages_are_rendered_to_just_fill_their_grid(width: float, height: float, size: tuple[int, int]) -> None:
    """The smallest picture at the page's aspect ratio in which no tile has to be enlarged."""
    assert NEMOTRON_TILING.render_size(width, height) == size


@settings(deadline=None)
@given(pages())
def test_a_rendered_page_keeps_its_aspect(page: Size) -> None:
    """Width and height are one scale of the page, each rounded up to the next pixel."""
    width, height = page
    columns, rows = NEMOTRON_TILING.render_size(width, height)
    assert -width < columns * height - rows * width < height


@settings(deadline=None)
@given(pages())
def test_a_rendered_page_covers_the_grid_of_200_dpi(page: Size) -> None:
    """No tile that the page gets at 200 dpi has to be enlarged."""
    grid = grid_at_200_dpi(page)
    columns, rows = NEMOTRON_TILING.render_size(*page)
    assert columns >= 512 * grid[0]
    assert rows >= 512 * grid[1]


@settings(deadline=None)
@given(pages())
def test_a_rendered_page_gets_the_grid_of_200_dpi(page: Size) -> None:
    """The model cuts the rendered page as it would have cut it at 200 dpi."""
    assert NEMOTRON_TILING.grid(*NEMOTRON_TILING.render_size(*page)) == grid_at_200_dpi(page)


@settings(deadline=None)
@given(*[st.floats(1e-3, 3e9)] * 2)
def test_no_page_size_makes_a_huge_picture(width: float, height: float) -> None:
    """Hostile page sizes are held to twice the pixels of the largest grid."""
    columns, rows = NEMOTRON_TILING.render_size(width, height)
    assert columns >= 1
    assert rows >= 1
    assert columns * rows <= 2 * 6 * 512**2 * 1.01
    assert math.inf not in (columns, rows)
