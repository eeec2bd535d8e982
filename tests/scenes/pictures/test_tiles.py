"""Tiles: they cover every pixel, and positions agree with a slow loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.errors import ConfigError
from mmrs_bench.scenes.pictures.tiles import Places, TileGrid


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    tile = draw(st.integers(1, 9))
    sides = st.integers(tile // 2 + 1, 3 * tile + 4)
    return TileGrid(draw(sides), draw(sides), tile, draw(st.integers(1, tile)))


def slow_places(grid: TileGrid, pixels: list[int]) -> Places:
    """Compare every pixel with every tile."""
    found = []
    for position, pixel in enumerate(pixels):
        row, column = divmod(pixel, grid.width)
        for number, (top, left) in enumerate(grid.origins.tolist()):
            if top <= row < top + grid.tile and left <= column < left + grid.tile:
                found.append((position, number, (row - top) * grid.tile + column - left))
    return Places(*np.array(found, dtype=np.int64).reshape(-1, 3).T)


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"), [(332, 485, 10, 15), (1723, 476, 53, 14), (64, 64, 1, 1), (65, 96, 2, 2)]
)
def test_the_number_of_tiles_is_that_of_the_released_code(height: int, width: int, rows: int, columns: int) -> None:
    grid = TileGrid(height, width)
    assert (*grid.shape, len(grid)) == (rows, columns, rows * columns)
    assert grid.origins.tolist() == [[32 * row, 32 * column] for row in range(rows) for column in range(columns)]


@given(grids())
@settings(max_examples=60, deadline=None)
def test_tiles_of_all_pixels_agree_with_a_slow_loop_and_cover_the_raster(grid: TileGrid) -> None:
    pixels = np.arange(grid.height * grid.width)
    places = grid.tiles_of(pixels)
    for found, expected in zip(places, slow_places(grid, pixels.tolist()), strict=True):
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, expected)
    times = np.bincount(places.pixel, minlength=pixels.size)
    assert times.min() >= 1
    assert times.max() <= (-(-grid.tile // grid.stride)) ** 2


def test_pixels_may_have_any_order_and_repeat() -> None:
    grid = TileGrid(20, 23, 8, 4)
    pixels = [459, 0, 77, 77, 23]
    for found, expected in zip(grid.tiles_of(np.array(pixels)), slow_places(grid, pixels), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert all(part.shape == (0,) for part in grid.tiles_of(np.empty(0, dtype=np.int64)))


@given(grids(), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_tiles_are_slices_of_the_reflected_image(grid: TileGrid, channels: int, seed: int) -> None:
    image = np.random.default_rng(seed).normal(size=(grid.height, grid.width, channels)).astype(np.float32)
    below, right = (grid.origins[-1] + grid.tile - (grid.height, grid.width)).tolist()
    padded = np.pad(image, ((0, max(0, below)), (0, max(0, right)), (0, 0)), mode="reflect")
    numbers = torch.tensor([len(grid) - 1, 0, len(grid) // 2, 0])
    tiles = grid.cut(torch.from_numpy(image), numbers)
    assert tiles.is_contiguous()
    for number, tile in zip(numbers.tolist(), tiles.numpy(), strict=True):
        top, left = grid.origins[number]
        expected = padded[top : top + grid.tile, left : left + grid.tile].transpose(2, 0, 1)
        np.testing.assert_array_equal(tile, expected)


@pytest.mark.parametrize(("height", "width"), [(32, 100), (100, 32)])
def test_a_raster_that_is_too_small_for_a_tile_is_an_error(height: int, width: int) -> None:
    with pytest.raises(ConfigError, match=rf"\({height} x {width} pixels\) is too small for tiles of 64.*least 33"):
        TileGrid(height, width)
    assert len(TileGrid(33, 33)) == 1


@pytest.mark.parametrize("stride", [0, -1, 9])
def test_a_stride_outside_1_to_the_side_of_a_tile_is_an_error(stride: int) -> None:
    with pytest.raises(ConfigError, match=f"stride {stride} does not fit tiles of 8 pixels"):
        TileGrid(20, 20, 8, stride)


def test_pixels_and_images_of_another_raster_are_errors() -> None:
    grid = TileGrid(10, 12, 8, 4)
    for pixel in (-1, 120):
        with pytest.raises(ConfigError, match=f"pixels {pixel} to {pixel} do not exist; use numbers from 0 to 119"):
            grid.tiles_of(np.array([pixel]))
    with pytest.raises(ConfigError, match=r"\(3, 10, 12\) does not fit a grid over 10 x 12"):
        grid.cut(torch.zeros(3, 10, 12), torch.tensor([0]))
    with pytest.raises(ConfigError, match="tiles 4 to 4"):
        grid.cut(torch.zeros(10, 12, 3), torch.tensor([4]))
