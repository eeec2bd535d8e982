"""Windows equal padding and slicing; symmetries are the same in all modalities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.errors import ConfigError
from mmrs_bench.scenes import windows as windows_module
from mmrs_bench.scenes.scene import FloatArray
from mmrs_bench.scenes.windows import SYMMETRIES, WindowGatherer, build_canvas


def random_images(height: int, width: int, seed: int = 0) -> dict[str, FloatArray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=(height, width, channels)).astype(np.float32)
        for name, channels in (("hsi", 4), ("lidar", 1), ("sar", 2))
    }


def make_gatherer(images: dict[str, FloatArray], window: int) -> WindowGatherer:
    channels = {name: image.shape[2] for name, image in images.items()}
    return WindowGatherer(build_canvas(images, window), channels, window)


def sliced_window(image: FloatArray, window: int, pixel: int) -> FloatArray:
    """The window (channels, w, w) cut out of a padded copy."""
    radius = window // 2
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    row, column = divmod(pixel, image.shape[1])
    return padded[row : row + window, column : column + window].transpose(2, 0, 1)


@given(st.integers(1, 14), st.integers(1, 14), st.integers(0, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_windows_equal_padding_and_slicing(height: int, width: int, radius: int, seed: int) -> None:
    window = 2 * radius + 1
    images = random_images(height, width, seed)
    if window > min(height, width):
        with pytest.raises(ConfigError, match=rf"{window} is larger than the scene \({height} x {width} pixels\)"):
            build_canvas(images, window)
        return
    pixels = np.random.default_rng(seed).permutation(height * width)
    windows = make_gatherer(images, window).gather(torch.from_numpy(pixels))
    for name, image in images.items():
        expected = np.stack([sliced_window(image, window, pixel) for pixel in pixels])
        np.testing.assert_array_equal(windows[name].numpy(), expected)


def test_window_without_centre_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no centre pixel"):
        build_canvas(random_images(9, 12), 2)


def test_canvas_on_the_cpu_is_shared_not_copied() -> None:
    canvas = build_canvas(random_images(9, 12), 3)
    gatherer = WindowGatherer(canvas, {"hsi": 4, "lidar": 1, "sar": 2}, 3)
    canvas[4, 5] = 42
    centre = gatherer.gather(torch.tensor([3 * 12 + 4]))["hsi"][0, :, 1, 1]
    assert (centre == 42).all()


def test_symmetries_are_the_eight_of_the_square() -> None:
    gatherer, pixel = make_gatherer(random_images(9, 12), 5), torch.full((SYMMETRIES,), 40)
    turned = gatherer.gather(pixel, torch.arange(SYMMETRIES))["hsi"]
    plain = gatherer.gather(pixel[:1])["hsi"][0]
    expected = [torch.rot90(w, k, (1, 2)) for w in (plain, plain.transpose(1, 2)) for k in range(4)]
    torch.testing.assert_close(turned.unique(dim=0), torch.stack(expected).unique(dim=0), rtol=0, atol=0)
    torch.testing.assert_close(turned[0], plain, rtol=0, atol=0)


def test_modalities_stay_registered_under_symmetries() -> None:
    image = np.random.default_rng(0).normal(size=(15, 15, 1)).astype(np.float32)
    gatherer = make_gatherer({"hsi": image, "lidar": 2 * image, "sar": image + 1}, 7)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(15 * 15, (64,), generator=generator)
    symmetry = torch.randint(SYMMETRIES, (64,), generator=generator)
    windows = gatherer.gather(pixels, symmetry)
    torch.testing.assert_close(windows["lidar"], 2 * windows["hsi"], rtol=0, atol=0)
    torch.testing.assert_close(windows["sar"], windows["hsi"] + 1, rtol=0, atol=0)
    assert not torch.equal(windows["hsi"], gatherer.gather(pixels)["hsi"])


# Functions of pixels

Values = dict[str, torch.Tensor]


def per_pixel(pixels: Values) -> Values:
    """Other values, other channels, and modalities in another order."""
    return {
        "sum": pixels["hsi"].sum(dim=1, keepdim=True) + pixels["lidar"],
        "sar": pixels["sar"].abs(),
        "wide": torch.cat([pixels["hsi"], pixels["lidar"] * 2, pixels["hsi"].square()], dim=1),
    }


@pytest.mark.parametrize("chunk", [1, 7, 1 << 14])
@pytest.mark.parametrize("window", [1, 5])
def test_mapped_is_the_function_of_every_gathered_pixel(
    window: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows_module, "MAPPED_PIXELS", chunk)
    plain = make_gatherer(random_images(9, 12), window)
    before = plain.rows.clone()
    mapped = plain.mapped(per_pixel)
    assert mapped.channels == {"sum": 1, "sar": 2, "wide": 9}
    pixels = torch.arange(9 * 12)
    for symmetry in (None, pixels % SYMMETRIES):
        windows = plain.gather(pixels, symmetry)
        found = mapped.gather(pixels, symmetry)
        for row in range(window):
            for column in range(window):
                expected = per_pixel({name: values[:, :, row, column] for name, values in windows.items()})
                for name, values in expected.items():
                    torch.testing.assert_close(found[name][:, :, row, column], values, rtol=0, atol=0)
    assert torch.equal(plain.rows, before)
    assert plain.channels == {"hsi": 4, "lidar": 1, "sar": 2}


def test_mapped_computes_every_pixel_of_the_canvas_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One extra pixel gives the channels and the type."""
    monkeypatch.setattr(windows_module, "MAPPED_PIXELS", 50)
    sizes: list[int] = []
    plain = make_gatherer(random_images(9, 12), 5)
    plain.mapped(lambda pixels: (sizes.append(len(pixels["hsi"])), per_pixel(pixels))[1])
    assert sorted(sizes) == [1, 8, 50, 50, 50, 50]
    assert sum(sizes) == 1 + 13 * 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_mapped_keeps_the_type_of_the_function(dtype: torch.dtype) -> None:
    plain, pixels = make_gatherer(random_images(9, 12), 3), torch.tensor([0, 50, 107])
    found = plain.mapped(lambda values: {"hsi": values["hsi"].to(dtype) * 2}).gather(pixels)
    assert list(found) == ["hsi"]
    torch.testing.assert_close(found["hsi"], plain.gather(pixels)["hsi"].to(dtype) * 2, rtol=0, atol=0)
