"""Tiles: large overlapping squares of a raster for U-Nets, and the way back from tiles to pixels.

Letters: n tiles, c channels, s side of a tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mmrs_bench.errors import ConfigError, TrainingError
from mmrs_bench.scenes.scene import FloatArray, IntArray

BoolArray = NDArray[np.bool_]


class Places(NamedTuple):
    """Where pixels lie in tiles, one entry for each pair of a pixel and a tile that contains it.

    Attributes:
        pixel: Which of the given pixels, by its position among them (pairs,), ascending.
        tile: Number of the tile (pairs,), ascending for each pixel.
        place: Flat index in the tile (pairs,), ``row * s + column``.
    """

    pixel: IntArray
    tile: IntArray
    place: IntArray


@dataclass(frozen=True)
class TileGrid:
    """Squares on a regular grid that cover a whole raster.

    Tiles are numbered row by row, with their upper left corners at multiples of ``stride``. Where the last ones reach
    over the right or lower border they see the raster's mirror image about its edge pixels, as
    ``np.pad(..., mode="reflect")`` makes it. A raster smaller than a tile is mirrored too, as long as one mirror
    image is enough: no side may be less than (tile + 1) / 2.

    With ``stride = tile / 2`` a pixel lies in 1, 2 or 4 tiles, in general in at most ``ceil(tile / stride) ** 2``.

    Attributes:
        height: Rows of the raster.
        width: Columns of the raster.
        tile: Side of a tile in pixels.
        stride: Pixels from one tile to the next, at most ``tile``.

    Raises:
        ConfigError: If the stride leaves gaps, or the raster is too small to fill a tile.

    Reference: UniDiff, released code (64, stride 32: 150 tiles on Augsburg, 742 on Berlin).
    Deviation: the code pads with zeros at the top and on the left, so that tiles see black borders; mirrored borders
        look like the scene. The number of tiles is the same.
    """

    height: int
    width: int
    tile: int = 64
    stride: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.tile:
            raise ConfigError(
                f"tiles of {self.tile} pixels with stride {self.stride} leave gaps or overlap for ever; use a stride "
                "of 1 to the tile's side."
            )
        least = self.tile // 2 + 1
        if min(self.height, self.width) < least:
            raise ConfigError(
                f"the raster ({self.height} x {self.width} pixels) is too small for tiles of {self.tile}: each side "
                f"needs at least {least}, so that its mirror image fills a tile; use a larger scene or smaller tiles."
            )

    @property
    def rows(self) -> int:
        """Tiles from top to bottom."""
        return self._along(self.height)

    @property
    def columns(self) -> int:
        """Tiles from left to right."""
        return self._along(self.width)

    def __len__(self) -> int:
        return self.rows * self.columns

    def _along(self, side: int) -> int:
        return 1 + max(0, -(-(side - self.tile) // self.stride))

    @cached_property
    def origins(self) -> IntArray:
        """Row and column (len(self), 2) of every tile's upper left pixel."""
        rows, columns = np.divmod(np.arange(len(self), dtype=np.int64), self.columns)
        return np.stack([rows, columns], axis=1) * self.stride

    def corners(self, numbers: torch.Tensor) -> IntArray:
        """Row and column (n, 2) of the upper left pixels of the tiles ``numbers`` (n,).

        Raises:
            ConfigError: If there is no such tile.
        """
        wanted: IntArray = numbers.cpu().numpy()
        _check_range("tiles", wanted, len(self))
        corners: IntArray = self.origins[wanted]
        return corners

    def cut(self, image: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Tiles of an image.

        Args:
            image: (height, width, c) on any device.
            numbers: (n,) int64, which tiles; a tile may come several times.

        Returns:
            (n, c, s, s) on the image's device, in its type.

        Raises:
            ConfigError: If the image has another size, or there is no such tile.
        """
        if image.shape[:2] != (self.height, self.width):
            raise ConfigError(
                f"an image of {tuple(image.shape)} does not fit a grid over {self.height} x {self.width} pixels; give "
                "(height, width, channels) of the same raster."
            )
        lines = torch.from_numpy(self.corners(numbers))[:, :, None] + torch.arange(self.tile)  # (n, 2, s)
        last = torch.tensor([[self.height - 1], [self.width - 1]])
        mirrored = (last - (last - lines).abs()).to(image.device)
        tiles = image[mirrored[:, 0, :, None], mirrored[:, 1, None, :]]  # (n, s, s, c)
        return tiles.permute(0, 3, 1, 2).contiguous()

    def tiles_of(self, pixels: IntArray) -> Places:
        """All tiles that contain some pixels, and where in them the pixels lie; mirror images do not count.

        Args:
            pixels: Flat indices (n,) of the raster, in any order.

        Raises:
            ConfigError: If there is no such pixel.
        """
        _check_range("pixels", pixels, self.height * self.width)
        rows, columns = np.divmod(pixels, self.width)
        tile_rows, inside_rows, holds_row = self._hits(rows, self.rows)
        tile_columns, inside_columns, holds_column = self._hits(columns, self.columns)
        # (n, k, k): every candidate row of tiles with every candidate column.
        tiles = tile_rows[:, :, None] * self.columns + tile_columns[:, None, :]
        places = inside_rows[:, :, None] * self.tile + inside_columns[:, None, :]
        pixel, first, second = np.nonzero(holds_row[:, :, None] & holds_column[:, None, :])
        return Places(pixel, tiles[pixel, first, second], places[pixel, first, second])

    def _hits(self, positions: IntArray, count: int) -> tuple[IntArray, IntArray, BoolArray]:
        """Along one axis, (n, k) each: tiles that may hold a position, its place in them, and whether they do hold it.

        Args:
            positions: Rows or columns (n,).
            count: Tiles along this axis.
        """
        first = np.maximum(0, (positions - self.tile) // self.stride + 1)
        candidates = np.arange(-(-self.tile // self.stride), dtype=np.int64)
        tiles: IntArray = first[:, None] + candidates
        inside: IntArray = positions[:, None] - tiles * self.stride
        return tiles, inside, (inside >= 0) & (tiles < count)


class Stitcher:
    """Puts arrays over tiles together to one array over the raster: the mean over the tiles that hold a pixel.

    With class probabilities this is soft voting. Tiles come in batches of any order and size; only the sums are kept
    (float64, on the CPU: 52 MB for 8 classes on Berlin). What tiles say about mirrored borders is dropped.

    Args:
        grid: The tiles.
        channels: c of the arrays.
    """

    def __init__(self, grid: TileGrid, channels: int) -> None:
        self._grid = grid
        height, width = grid.origins[-1] + grid.tile
        self._sums = torch.zeros(channels, height, width, dtype=torch.float64)
        self._counts = torch.zeros(height, width, dtype=torch.float64)
        self._added = np.zeros(len(grid), dtype=bool)

    def add(self, numbers: torch.Tensor, tiles: torch.Tensor) -> None:
        """Add the arrays of some tiles.

        Args:
            numbers: (n,) int64, which tiles; each tile once in all.
            tiles: (n, c, s, s) on any device.

        Raises:
            ConfigError: If there is no such tile, one was added before, or the arrays have another shape.
            TrainingError: If they hold NaN or infinite values.
        """
        side = self._grid.tile
        expected = (len(numbers), len(self._sums), side, side)
        if tiles.shape != expected:
            raise ConfigError(f"arrays over tiles have the shape {tuple(tiles.shape)}, expected {expected}.")
        if not torch.isfinite(tiles).all():
            raise TrainingError(
                "the arrays over tiles hold NaN or infinite values, which their mean would spread over the map; find "
                "out where the network's output leaves the numbers (a lower precision, a diverged training)."
            )
        corners = self._grid.corners(numbers)
        values = tiles.detach().to("cpu", torch.float64)
        for number, (row, column), value in zip(numbers.tolist(), corners.tolist(), values, strict=True):
            if self._added[number]:
                raise ConfigError(f"tile {number} is added twice and would count twice; add each tile once.")
            self._added[number] = True
            self._sums[:, row : row + side, column : column + side] += value
            self._counts[row : row + side, column : column + side] += 1

    def finish(self) -> FloatArray:
        """The mean (height, width, c) over the tiles of every pixel, float32.

        Raises:
            ConfigError: If some pixel lies in none of the tiles that were added.
        """
        height, width = self._grid.height, self._grid.width
        counts = self._counts[:height, :width]
        if bare := int((counts == 0).sum()):
            raise ConfigError(
                f"{bare} of {height * width} pixels lie in no tile that was added ({int(self._added.sum())} of "
                f"{len(self._grid)} tiles were); add the missing tiles first."
            )
        mean = self._sums[:, :height, :width] / counts
        return np.ascontiguousarray(mean.permute(1, 2, 0).numpy(), dtype=np.float32)


def _check_range(what: str, numbers: IntArray, count: int) -> None:
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < count):
        raise ConfigError(
            f"{what} {numbers.min()} to {numbers.max()} were asked for, expected 0 to {count - 1}; number them within "
            "the raster."
        )
