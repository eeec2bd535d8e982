"""Tiles: every pixel covered, places against a slow loop, and the raster back out of its tiles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.errors import ConfigError, TrainingError
from mmrs_bench.scenes.pictures.tiles import Places, Stitcher, TileGrid


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    tile = draw(st.integers(1, 9))
    sides = st.integers(tile // 2 + 1, 3 * tile + 4)
    return TileGrid(draw(sides), draw(sides), tile, draw(st.integers(1, tile)))


def slow_places(grid: TileGrid, pixels: list[int]) -> Places:
    """Every pixel against every tile."""
    found = []
    for position, pixel in enumerate(pixels):
        row, column = divmod(pixel, grid.width)
        for number, (top, left) in enumerate(grid.origins.tolist()):
            if top <= row < top + grid.tile and left <= column < left + grid.tile:
                found.append((position, number, (row - top) * grid.tile + column - left))
    return Places(*np.array(found, dtype=np.int64).reshape(-1, 3).T)


def batches(grid: TileGrid, seed: int, size: int = 5) -> tuple[torch.Tensor, ...]:
    """All tile numbers in random order, in batches."""
    return torch.randperm(len(grid), generator=torch.Generator().manual_seed(seed)).split(size)


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"), [(332, 485, 10, 15), (1723, 476, 53, 14), (64, 64, 1, 1), (65, 96, 2, 2)]
)
def test_as_many_tiles_as_the_released_code_cuts(height: int, width: int, rows: int, columns: int) -> None:
    grid = TileGrid(height, width)
    assert (grid.rows, grid.columns, len(grid)) == (rows, columns, rows * columns)
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


@pytest.mark.parametrize(("height", "width"), [(332, 485), (100, 33)])
def test_by_default_a_pixel_lies_in_1_2_or_4_tiles(height: int, width: int) -> None:
    times = np.bincount(TileGrid(height, width).tiles_of(np.arange(height * width)).pixel)
    assert set(times.tolist()) == ({1, 2, 4} if width > 64 else {1, 2})


def test_tiles_of_pixels_in_any_order() -> None:
    grid = TileGrid(20, 23, 8, 4)
    pixels = [459, 0, 77, 77, 23]
    for found, expected in zip(grid.tiles_of(np.array(pixels)), slow_places(grid, pixels), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert all(part.shape == (0,) for part in grid.tiles_of(np.empty(0, dtype=np.int64)))


@given(grids(), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_cut_is_a_slice_of_the_padded_image(grid: TileGrid, channels: int, seed: int) -> None:
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


@given(grids(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_places_are_where_a_cut_shows_the_pixels(grid: TileGrid, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, grid.height * grid.width, size=6)
    flat = torch.arange(grid.height * grid.width)
    places = grid.tiles_of(pixels)
    tiles = grid.cut(flat.reshape(grid.height, grid.width, 1), torch.from_numpy(places.tile))
    shown = tiles.reshape(len(tiles), -1)[torch.arange(len(tiles)), torch.from_numpy(places.place)]
    np.testing.assert_array_equal(shown.numpy(), pixels[places.pixel])


@given(grids(), st.integers(1, 3), st.integers(0, 2**31 - 1))
@settings(max_examples=60, deadline=None)
def test_an_image_comes_back_out_of_its_tiles(grid: TileGrid, channels: int, seed: int) -> None:
    image = torch.randn(grid.height, grid.width, channels, generator=torch.Generator().manual_seed(seed))
    stitcher = Stitcher(grid, channels)
    for numbers in batches(grid, seed):
        stitcher.add(numbers, grid.cut(image, numbers))
    np.testing.assert_array_equal(stitcher.finish(), image.numpy())


def test_stitching_is_the_mean_over_the_tiles_of_a_pixel() -> None:
    grid = TileGrid(11, 13, 6, 2)
    arrays = torch.rand(len(grid), 2, 6, 6, generator=torch.Generator().manual_seed(0))
    stitcher = Stitcher(grid, 2)
    for numbers in batches(grid, 1):
        stitcher.add(numbers, arrays[numbers])
    result = stitcher.finish()
    assert (result.shape, result.dtype) == ((11, 13, 2), np.float32)
    for pixel in range(11 * 13):
        _, tiles, places = slow_places(grid, [pixel])
        votes = [arrays[t, :, p // 6, p % 6].double().numpy() for t, p in zip(tiles, places, strict=True)]
        expected = sum(votes) / len(votes)
        np.testing.assert_allclose(result[pixel // 13, pixel % 13], expected, rtol=1e-6)


def test_half_precision_tiles_with_gradients_are_stitched() -> None:
    grid = TileGrid(9, 9, 6, 3)
    stitcher = Stitcher(grid, 1)
    stitcher.add(torch.arange(4), torch.full((4, 1, 6, 6), 0.5, dtype=torch.bfloat16, requires_grad=True))
    assert (stitcher.finish() == 0.5).all()


def test_a_missing_tile_is_told() -> None:
    grid = TileGrid(10, 10, 6, 4)
    stitcher = Stitcher(grid, 1)
    stitcher.add(torch.tensor([0, 1, 2]), torch.zeros(3, 1, 6, 6))
    with pytest.raises(ConfigError, match=r"16 of 100 pixels lie in no tile that was added \(3 of 4 tiles were\)"):
        stitcher.finish()
    stitcher.add(torch.tensor([3]), torch.zeros(1, 1, 6, 6))
    assert (stitcher.finish() == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.add(torch.tensor([1]), torch.zeros(1, 2, 5, 5)), "tile 1 is added twice"),
        (lambda s: s.add(torch.tensor([0, 0]), torch.zeros(2, 2, 5, 5)), "tile 0 is added twice"),
        (lambda s: s.add(torch.tensor([4]), torch.zeros(1, 2, 5, 5)), "tiles 4 to 4 were asked for, expected 0 to 3"),
        (lambda s: s.add(torch.tensor([-1]), torch.zeros(1, 2, 5, 5)), "tiles -1 to -1"),
        (lambda s: s.add(torch.tensor([0]), torch.zeros(1, 3, 5, 5)), r"\(1, 3, 5, 5\), expected \(1, 2, 5, 5\)"),
        (lambda s: s.add(torch.tensor([0, 2]), torch.zeros(1, 2, 5, 5)), r"expected \(2, 2, 5, 5\)"),
    ],
)
def test_wrong_tiles_are_an_error(call: Callable[[Stitcher], None], message: str) -> None:
    stitcher = Stitcher(TileGrid(8, 8, 5, 3), 2)
    stitcher.add(torch.tensor([1]), torch.zeros(1, 2, 5, 5))
    with pytest.raises(ConfigError, match=message):
        call(stitcher)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tiles_that_are_no_numbers_are_an_error(value: float) -> None:
    tiles = torch.zeros(1, 1, 5, 5)
    tiles[0, 0, 4, 4] = value
    with pytest.raises(TrainingError, match="NaN or infinite"):
        Stitcher(TileGrid(5, 5, 5, 5), 1).add(torch.tensor([0]), tiles)


@pytest.mark.parametrize(("height", "width"), [(32, 100), (100, 32), (1, 1)])
def test_a_raster_that_cannot_be_mirrored_into_a_tile_is_an_error(height: int, width: int) -> None:
    with pytest.raises(ConfigError, match=rf"\({height} x {width} pixels\) is too small for tiles of 64.*least 33"):
        TileGrid(height, width)
    assert len(TileGrid(33, 33)) == 1


@pytest.mark.parametrize("stride", [0, -1, 9])
def test_a_stride_that_leaves_gaps_is_an_error(stride: int) -> None:
    with pytest.raises(ConfigError, match=f"with stride {stride} leave gaps"):
        TileGrid(20, 20, 8, stride)


def test_pixels_and_images_of_another_raster_are_errors() -> None:
    grid = TileGrid(10, 12, 8, 4)
    for pixel in (-1, 120):
        with pytest.raises(ConfigError, match=rf"pixels {pixel} to {pixel} were asked for, expected 0 to 119"):
            grid.tiles_of(np.array([pixel]))
    with pytest.raises(ConfigError, match=r"\(3, 10, 12\) does not fit a grid over 10 x 12"):
        grid.cut(torch.zeros(3, 10, 12), torch.tensor([0]))
    with pytest.raises(ConfigError, match="tiles 4 to 4"):
        grid.cut(torch.zeros(10, 12, 3), torch.tensor([4]))
