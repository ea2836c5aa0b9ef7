"""Images are cut into square tiles: which grid, which pixels, how many tokens.

Source: vLLM `vllm/transformers_utils/processors/nemotron_vl.py` (`get_nemotron_vl_target_ratios`,
`find_closest_aspect_ratio`), identical in NVIDIA's `nemo_automodel` 0.7.0.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

# A page is measured as if it had been rendered at this resolution, the one at which NVIDIA's own pipelines
# (NeMo-Retriever, `dpi=200`) show a page to the model before it is cut.
_REFERENCE_DPI = 200
_POINTS_PER_INCH = 72
_FULL = 0.6  # the reference's: tiles that hold this share of the pixels are enough


@dataclass(frozen=True)
class Tiling:
    """How a model cuts images into square tiles. It is the `Vision` of models that do."""

    tile: int = 512
    """Pixels on each side of a tile."""
    tokens_per_tile: int = 256
    min_tiles: int = 1
    max_tiles: int = 6
    thumbnail: bool = True
    """Whether the whole image comes once more, as a tile, if there is more than one."""

    @cached_property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """All grids (columns, rows) to choose from, fewest tiles first.

        Grids of one size keep the order of Python's set, as in the reference: the first wins a tie.
        """
        grids = {
            (columns, rows)
            for n in range(self.min_tiles, self.max_tiles + 1)
            for columns in range(1, n + 1)
            for rows in range(1, n + 1)
            if self.min_tiles <= columns * rows <= self.max_tiles
        }
        return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))

    def grid(self, width: float, height: float) -> tuple[int, int]:
        """Return the grid (columns, rows) for an image of `width` x `height` pixels.

        It maximizes `min(n * tile**2 / area, 0.6) * min(r / a, a / r)`: enough tiles to hold the pixels, and
        an aspect ratio r near the image's own a.
        """
        aspect = width / height

        def fit(grid: tuple[int, int]) -> float:
            columns, rows = grid
            ratio = columns / rows
            capacity = columns * rows * self.tile * self.tile / (width * height)
            return min(capacity, _FULL) * min(ratio / aspect, aspect / ratio)

        return max(self.grids, key=fit)  # max() keeps the first of equals

    def token_count(self, width: float, height: float) -> int:
        """Return how many image tokens an image of `width` x `height` pixels becomes."""
        return self._tiles(self.grid(width, height)) * self.tokens_per_tile

    @property
    def fingerprint(self) -> str:
        """How the name of the vector space says it."""
        return f"tiles={self.max_tiles}"

    @property
    def max_tokens(self) -> int:
        """The most image tokens that any image becomes."""
        return self._tiles((self.max_tiles, 1)) * self.tokens_per_tile

    def cut(self, image: "Image.Image") -> "NDArray[np.uint8]":
        """Cut an RGB image into tiles: (tiles, tile, tile, 3) uint8, row by row, the thumbnail last.

        Bicubic resize to the grid, without keeping the aspect ratio and without padding, as in the reference.
        """
        import numpy as np

        columns, rows = self.grid(*image.size)
        side = self.tile
        whole = np.asarray(_resized(image, side * columns, side * rows))
        tiles = np.empty((self._tiles((columns, rows)), side, side, 3), np.uint8)
        grid = tiles[: columns * rows].reshape(rows, columns, side, side, 3)
        grid.swapaxes(1, 2)[:] = whole.reshape(rows, side, columns, side, 3)
        if len(tiles) > columns * rows:
            tiles[-1] = np.asarray(_resized(image, side, side))
        return tiles

    @lru_cache(maxsize=256)  # noqa: B019 - documents have few sizes of page, and tilings live for ever
    def render_size(self, width: float, height: float) -> tuple[int, int]:
        """Return the pixels (width, height) at which to render a page of `width` x `height` points.

        The smallest size, at the page's own aspect ratio, that fills the grid which the page would get at 200
        dpi: the model sees no pixel that had to be enlarged, and none is rendered in vain. Pages far longer than
        any grid are held to twice the grid's pixels.
        """
        return self._smallest(width, height, _REFERENCE_DPI / _POINTS_PER_INCH)

    @lru_cache(maxsize=256)  # noqa: B019 - as above
    def usable_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the pixels (width, height) to which an image can be shrunk before it is cut, at no loss to the model.

        Its own size if it has no pixel too many.
        """
        size = self._smallest(width, height, 1.0)
        smaller = size[0] <= width and size[1] <= height and self.grid(*size) == self.grid(width, height)
        return size if smaller else (width, height)

    def _smallest(self, width: float, height: float, to_pixels: float) -> tuple[int, int]:
        """Return the least size that fills the grid of something of `width * to_pixels` x `height * to_pixels`."""
        columns, rows = grid = self.grid(width * to_pixels, height * to_pixels)
        shape = math.sqrt(width) * math.sqrt(height)  # not of the product, which may be too large for a float
        cover = max(columns * self.tile / width, rows * self.tile / height)
        smallest = self._scaled(width, height, min(cover, self.tile * math.sqrt(2 * columns * rows) / shape))
        if self.grid(*smallest) == grid:
            return smallest
        # What is nearly square gets more tiles at full size than at this one: take just so many pixels that `grid`
        # sees too many for fewer tiles.
        return self._scaled(width, height, min(to_pixels, self.tile * math.sqrt(self.max_tiles / _FULL) / shape))

    def _scaled(self, width: float, height: float, scale: float) -> tuple[int, int]:
        longest = 2 * self.max_tiles * self.tile
        columns, rows = (min(max(1, math.ceil(side * scale - 1e-6)), longest) for side in (width, height))
        return columns, rows

    def _tiles(self, grid: tuple[int, int]) -> int:
        tiles = grid[0] * grid[1]
        return tiles + 1 if self.thumbnail and tiles > 1 else tiles


def _resized(image: "Image.Image", width: int, height: int) -> "Image.Image":
    # Pillow's default filter is bicubic. Of an image that has the size already it would make a copy.
    return image if image.size == (width, height) else image.resize((width, height))


NEMOTRON_TILING = Tiling()
"""The tiling of NVIDIA's published VL embedding models: an A4 page fills 2 x 3 tiles of 512, 1792 tokens in all."""
