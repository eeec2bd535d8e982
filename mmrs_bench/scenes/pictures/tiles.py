"""Tiles: large overlapping squares of a raster, for U-Nets.

Letters: n tiles, c channels, s side of a tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mmrs_bench.errors import ConfigError
from mmrs_bench.scenes.scene import IntArray


class Places(NamedTuple):
    """Positions of pixels in tiles, for each pair of a pixel and a tile that contains it (pairs,).

    ``pixel`` is the position of the pixel in the given array, ascending; ``tile`` the number of the tile, ascending for
    each pixel; ``place`` the flat index in the tile, ``row * s + column``.
    """

    pixel: IntArray
    tile: IntArray
    place: IntArray


@dataclass(frozen=True)
class TileGrid:
    """Squares on a regular grid that cover a raster.

    Tiles are numbered row by row; their upper left corners are at multiples of ``stride``. Tiles that extend beyond the
    right or lower border contain the raster's reflection (as ``np.pad(..., mode="reflect")``). A raster smaller than a
    tile is reflected too; each side needs at least (tile + 1) / 2 pixels. A pixel lies in at most
    ``ceil(tile / stride) ** 2`` tiles.

    Attributes:
        height, width: Size of the raster in pixels.
        tile: Side of a tile in pixels.
        stride: Distance in pixels between neighbouring tiles, at most ``tile``.

    Raises:
        ConfigError: If the stride leaves gaps, or the raster is too small for a tile.

    Reference: UniDiff, released code (64, stride 32: 150 tiles on Augsburg, 742 on Berlin).
    Deviation: the code pads with zeros at the top and on the left, so tiles contain black borders; reflected borders
        look like the scene. The number of tiles is the same.
    """

    height: int
    width: int
    tile: int = 64
    stride: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.tile:
            raise ConfigError(
                f"stride {self.stride} does not fit tiles of {self.tile} pixels; use a stride of 1 to {self.tile}"
            )
        smallest = self.tile // 2 + 1
        if min(self.height, self.width) < smallest:
            raise ConfigError(
                f"the raster ({self.height} x {self.width} pixels) is too small for tiles of {self.tile}: each side "
                f"needs at least {smallest}; use a larger scene or smaller tiles"
            )

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns of tiles."""
        rows, columns = (1 + max(0, -(-(side - self.tile) // self.stride)) for side in (self.height, self.width))
        return rows, columns

    def __len__(self) -> int:
        return self.shape[0] * self.shape[1]

    @cached_property
    def origins(self) -> IntArray:
        """Row and column (len(self), 2) of the upper left pixel of every tile."""
        return np.argwhere(np.ones(self.shape)) * self.stride

    def cut(self, image: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Tiles (n, c, s, s) of an image (height, width, c), on its device, with its type.

        ``numbers`` (n,) int64 may contain repetitions.

        Raises:
            ConfigError: If the image has another size, or a tile does not exist.
        """
        if image.shape[:2] != (self.height, self.width):
            raise ConfigError(
                f"an image of shape {tuple(image.shape)} does not fit a grid over {self.height} x {self.width} pixels; "
                "pass (height, width, channels) of the same raster"
            )
        chosen: IntArray = numbers.cpu().numpy()
        _check_range("tiles", chosen, len(self))
        lines = torch.from_numpy(self.origins[chosen])[:, :, None] + torch.arange(self.tile)  # (n, 2, s)
        last = torch.tensor([[self.height - 1], [self.width - 1]])
        reflected = (last - (last - lines).abs()).to(image.device)
        tiles = image[reflected[:, 0, :, None], reflected[:, 1, None, :]]  # (n, s, s, c)
        return tiles.permute(0, 3, 1, 2).contiguous()

    def tiles_of(self, pixels: IntArray) -> Places:
        """All tiles that contain pixels (n,), given as flat indices of the raster; reflections do not count.

        Raises:
            ConfigError: If a pixel is outside the raster.
        """
        _check_range("pixels", pixels, self.height * self.width)
        rows, columns = np.divmod(pixels, self.width)
        tile_rows, inside_rows, row_found = self._candidates(rows, self.shape[0])
        tile_columns, inside_columns, column_found = self._candidates(columns, self.shape[1])
        # (n, k, k): every candidate row of tiles with every candidate column.
        tiles = tile_rows[:, :, None] * self.shape[1] + tile_columns[:, None, :]
        places = inside_rows[:, :, None] * self.tile + inside_columns[:, None, :]
        pixel, first, second = np.nonzero(row_found[:, :, None] & column_found[:, None, :])
        return Places(pixel, tiles[pixel, first, second], places[pixel, first, second])

    def _candidates(self, positions: IntArray, count: int) -> tuple[IntArray, IntArray, NDArray[np.bool_]]:
        """Along one axis, (n, k) each: tiles that may contain a position, its position inside, whether they do."""
        first = np.maximum(0, (positions - self.tile) // self.stride + 1)
        tiles: IntArray = first[:, None] + np.arange(-(-self.tile // self.stride), dtype=np.int64)
        inside: IntArray = positions[:, None] - tiles * self.stride
        return tiles, inside, (inside >= 0) & (tiles < count)


def _check_range(kind: str, numbers: IntArray, count: int) -> None:
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < count):
        raise ConfigError(f"{kind} {numbers.min()} to {numbers.max()} do not exist; use numbers from 0 to {count - 1}")
