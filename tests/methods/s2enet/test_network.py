"""S2ENet: the network against loops, its size, and windows and channels of any number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.method_helpers import refused
from helpers.network_helpers import perturbed, random_windows, weights, without_gradient
from helpers.s2enet_reference import slow_s2enet
from torch.nn.functional import cross_entropy

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.s2enet.network import S2ENet

pytestmark = pytest.mark.usefixtures("same_start")
CHANNELS = {"hsi": 4, "lidar": 2}


@torch.no_grad()
def test_the_network_equals_a_slow_one() -> None:
    network = perturbed(S2ENet(CHANNELS, 5, 3))
    inputs = {name: x.double() for name, x in random_windows(CHANNELS, 2, 5).items()}
    expected = [slow_s2enet(weights(network), inputs["hsi"][i], inputs["lidar"][i]) for i in range(2)]
    torch.testing.assert_close(network(inputs), torch.stack(expected))


def test_the_released_network_for_houston_2013_has_this_number_of_parameters() -> None:
    """Counted layer by layer: 144 bands, 1 LiDAR channel, windows of 7, 15 classes and one output for no class."""
    hsi = (144 * 9 + 1 + 2) * 128 + (128 * 9 + 1 + 2) * 64 + (64 * 9 + 1 + 2) * 32  # weights, bias, normalisation
    lidar = (9 + 1 + 2) * 8 + (8 * 9 + 1 + 2) * 16 + (16 * 9 + 1 + 2) * 32
    spatial = 2 * (32 + 1 + 2) * 16 + 49
    spectral = 2 * (32 + 1 + 2) * 32 + 32
    never_applied = (32 + 1) * 16 + (16 + 1 + 2) * 32 + (32 + 1) * 32 + (32 + 1 + 2) * 32
    released = hsi + lidar + spatial + spectral + never_applied + (64 + 1 + 2) * 32 + (32 + 1) * 16
    assert released == 274_145
    with torch.device("meta"):
        network = S2ENet({"hsi": 144, "lidar": 1}, 7, 15)
    assert sum(values.numel() for values in network.parameters()) == 270_800 == released - never_applied - 33


@pytest.mark.parametrize(("hsi", "others", "side", "classes"), [(30, 1, 11, 6), (1, 7, 3, 2)])
def test_the_number_of_parameters_follows_the_documented_formula(
    hsi: int, others: int, side: int, classes: int
) -> None:
    network = S2ENet({"hsi": hsi, "sar": others}, side, classes)
    expected = 1152 * hsi + 72 * others + side**2 + 33 * classes + 104_296
    assert sum(values.numel() for values in network.parameters()) == expected


@pytest.mark.parametrize("channels", [{"hsi": 1, "sar": 1}, {"sar": 3, "dsm": 1, "hsi": 13}])
@pytest.mark.parametrize("side", [1, 5, 6])
def test_windows_and_channels_can_have_any_number_and_every_parameter_is_trained(
    channels: dict[str, int], side: int
) -> None:
    network = S2ENet(channels, side, 4)
    cross_entropy(network(random_windows(channels, 3, side)), torch.tensor([0, 1, 2])).backward()
    biases_before_norms = {name for name, _ in network.named_parameters() if name.endswith(".0.bias")}
    assert {*without_gradient(network)} <= biases_before_norms


def test_a_batch_of_one_window_trains() -> None:
    loss = cross_entropy(S2ENet(CHANNELS, 1, 3)(random_windows(CHANNELS, 1, 1)), torch.tensor([0]))
    loss.backward()
    assert loss.isfinite()


def test_further_modalities_are_stacked_on_the_second() -> None:
    network, inputs = S2ENet({"hsi": 4, "sar": 3}, 5, 3).eval(), random_windows({"hsi": 4, "sar": 3}, 2, 5)
    parts = {"hsi": inputs["hsi"], "sar": inputs["sar"][:, 1:], "dsm": inputs["sar"][:, :1]}
    assert torch.equal(network(parts), network(inputs))


@pytest.mark.parametrize("channels", [{"hsi": 5}, {"lidar": 1, "sar": 2}])
def test_unsuitable_modalities_are_refused(channels: dict[str, int]) -> None:
    with refused(ConfigError, "^S2ENet needs an? "):
        S2ENet(channels, 5, 3)


@pytest.mark.parametrize("budget", ["smoke", "quick", "paper"])
def test_the_variant_release_has_the_released_settings_under_every_budget(budget: Any) -> None:
    config = resolve_config(method_card("s2enet"), "release", budget)
    released = {"components": None, "epochs": 128, "batch_size": 64, "learning_rate": 0.001, "weight_decay": 0.0}
    assert {name: config[name] for name in released} == released
    assert config["schedule"] == "cosine"
