"""HCT: the network against loops, its size, and windows and channels of any number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.hct_reference import slow_hct
from helpers.method_helpers import refused
from helpers.network_helpers import perturbed, random_windows, weights, without_gradient
from torch.nn.functional import cross_entropy

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.hct.network import HCT

pytestmark = pytest.mark.usefixtures("same_start")
CHANNELS = {"hsi": 4, "lidar": 2}


def small(channels: dict[str, int] = CHANNELS, side: int = 7, classes: int = 3) -> HCT:
    return HCT(channels, side, classes, dropout=0.1)


@torch.no_grad()
def test_the_network_equals_a_slow_one() -> None:
    network = perturbed(small())
    inputs = {name: x.double() for name, x in random_windows(CHANNELS, 2, 7).items()}
    expected = [slow_hct(weights(network), inputs["hsi"][i], inputs["lidar"][i]) for i in range(2)]
    torch.testing.assert_close(network(inputs), torch.stack(expected))


def test_the_released_network_for_trento_has_this_number_of_parameters() -> None:
    """Counted layer by layer: 30 components, 1 LiDAR channel and 6 classes."""
    stems = (27 + 1 + 2) * 8 + (8 * 28 * 9 + 1 + 2) * 64 + (9 + 1 + 2) * 64  # weights, bias, normalisation
    tokens = 4 * 64 + 64 * 64 + 64 + 5 * 64  # both matrices of the tokenizer, class token, positions
    encoder = 2 * 2 * 64 + (64 + 1) * 192 + (64 + 1) * 64 + (64 + 1) * 8 + (8 + 1) * 64
    cross = 2 * 64 + 64 * 512 + 64 * 1024 + (512 + 1) * 64
    head = 2 * 64 + (64 + 1) * 6
    released = stems + tokens + 3 * encoder + 2 * cross + head
    assert released == 451_982
    with torch.device("meta"):
        network = HCT({"hsi": 30, "lidar": 1}, 11, 6, dropout=0.1)
    assert sum(values.numel() for values in network.parameters()) == 433_990 == released - encoder


def test_the_number_of_parameters_follows_the_documented_formula() -> None:
    network = small({"hsi": 5, "sar": 4, "dsm": 1}, classes=9)
    assert sum(values.numel() for values in network.parameters()) == 4608 * 5 + 576 * 5 + 65 * 9 + 294_784


@pytest.mark.parametrize("channels", [{"hsi": 1, "sar": 1}, {"sar": 3, "dsm": 1, "hsi": 13}])
@pytest.mark.parametrize("side", [6, 7])
def test_windows_and_channels_can_have_any_number_and_every_parameter_is_trained(
    channels: dict[str, int], side: int
) -> None:
    network = small(channels, side, 4)
    cross_entropy(network(random_windows(channels, 3, side)), torch.tensor([0, 1, 2])).backward()
    biases_before_norms = {"hsi_stem.volume.0.bias", "hsi_stem.plane.0.bias", "other_stem.0.bias"}
    assert {*without_gradient(network)} <= biases_before_norms


def test_a_batch_of_the_smallest_window_trains() -> None:
    loss = cross_entropy(small(side=5)(random_windows(CHANNELS, 1, 5)), torch.tensor([0]))
    loss.backward()
    assert loss.isfinite()


def test_further_modalities_are_stacked_on_the_second() -> None:
    network, inputs = small({"hsi": 4, "sar": 3}).eval(), random_windows({"hsi": 4, "sar": 3}, 2, 7)
    parts = {"hsi": inputs["hsi"], "sar": inputs["sar"][:, 1:], "dsm": inputs["sar"][:, :1]}
    assert torch.equal(network(parts), network(inputs))


@pytest.mark.parametrize("channels", [{"hsi": 5}, {"lidar": 1, "sar": 2}])
def test_unsuitable_modalities_are_refused(channels: dict[str, int]) -> None:
    with refused(ConfigError, "^HCT needs an? "):
        small(channels)


def test_a_window_that_is_too_small_is_refused() -> None:
    with refused(ConfigError, "^window 3 is too small .* use a window of at least 5$"):
        small(side=3)


@pytest.mark.parametrize("budget", ["smoke", "quick", "paper"])
def test_the_variant_release_has_the_released_settings_under_every_budget(budget: Any) -> None:
    config = resolve_config(method_card("hct"), "release", budget)
    released = {"components": 30, "epochs": 100, "batch_size": 64, "learning_rate": 0.001, "weight_decay": 0.0}
    assert {name: config[name] for name in released} == released
    assert (config["schedule"], config["symmetries"], config["dropout"]) == ("constant", False, 0.1)
