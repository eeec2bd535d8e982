"""The window network: parameter counts, gradients and windows of all sizes."""

from __future__ import annotations

import pytest
import torch

from mmrs_bench.methods.cnn.network import WindowCNN, group_count

CHANNELS = {"hsi": 48, "lidar": 2}


def windows(channels: dict[str, int], side: int, batch: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(batch, count, side, side, generator=generator) for name, count in channels.items()}


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
    torch.nn.functional.cross_entropy(model(windows(CHANNELS, 11)), torch.arange(4)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("side", [1, 3, 5, 7, 9, 11, 15])
def test_windows_of_all_odd_sides_are_accepted(side: int) -> None:
    assert network(CHANNELS).eval()(windows(CHANNELS, side)).shape == (4, 10)


def test_a_window_of_seven_is_not_padded() -> None:
    """One pixel is left, so the centre pixel equals the mean."""
    model = network(CHANNELS).eval()
    inputs = windows(CHANNELS, 7)
    maps = model.fusion(torch.cat([stem(inputs[name]) for name, stem in model.stems.items()], dim=1))
    assert maps.shape == (4, 64, 1, 1)
    expected = model.head(torch.cat([maps.flatten(1)] * 2, dim=1))
    torch.testing.assert_close(model(inputs), expected)


def test_windows_of_a_batch_are_independent() -> None:
    model = network(CHANNELS).eval()
    inputs = windows(CHANNELS, 11)
    single = torch.cat([model({name: values[i : i + 1] for name, values in inputs.items()}) for i in range(4)])
    torch.testing.assert_close(model(inputs), single)


@pytest.mark.parametrize("channels", range(1, 70))
def test_the_group_count_divides_the_channels(channels: int) -> None:
    groups = group_count(channels)
    assert 1 <= groups <= 8
    assert channels % groups == 0
