"""The window network: parameter counts, gradients and windows of all sizes."""

from __future__ import annotations

import pytest
import torch
from helpers.network_helpers import random_windows, without_gradient

from mmrs_bench.methods.cnn.network import WindowCNN, group_count

CHANNELS = {"hsi": 48, "lidar": 2}


def network(channels: dict[str, int], classes: int = 10, width: int = 32) -> WindowCNN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return WindowCNN(channels, classes, width=width, dropout=0.3)


@pytest.mark.parametrize("channels", [{"hsi": 7}, CHANNELS, {"hsi": 6, "sar": 3, "dsm": 1}])
def test_the_parameter_count_follows_the_documented_formula(channels: dict[str, int]) -> None:
    d, m, k = 16, len(channels), 5
    documented = sum(d * c + 9 * d**2 + 4 * d for c in channels.values())
    documented += 18 * m * d**2 + 36 * d**2 + 8 * d + (4 * d + 1) * k
    assert sum(p.numel() for p in network(channels, k, d).parameters()) == documented


def test_all_parameters_have_a_gradient() -> None:
    model = network(CHANNELS).eval()
    torch.nn.functional.cross_entropy(model(random_windows(CHANNELS, 4, 11)), torch.arange(4)).backward()
    assert without_gradient(model) == []


@pytest.mark.parametrize("side", [1, 3, 5, 7, 9, 11, 15])
def test_windows_of_all_odd_sides_are_accepted(side: int) -> None:
    assert network(CHANNELS).eval()(random_windows(CHANNELS, 4, side)).shape == (4, 10)


def test_a_window_of_seven_is_not_padded() -> None:
    """One pixel is left, so the centre pixel equals the mean."""
    model, inputs = network(CHANNELS).eval(), random_windows(CHANNELS, 4, 7)
    maps = model.fusion(torch.cat([stem(inputs[name]) for name, stem in model.stems.items()], dim=1))
    assert maps.shape == (4, 64, 1, 1)
    expected = model.head(torch.cat([maps.flatten(1)] * 2, dim=1))
    torch.testing.assert_close(model(inputs), expected)


@pytest.mark.parametrize("channels", range(1, 70))
def test_the_group_count_divides_the_channels(channels: int) -> None:
    groups = group_count(channels)
    assert 1 <= groups <= 8
    assert channels % groups == 0
    assert groups == 1 or channels // groups >= 2, "one channel of a single pixel has no variance"
