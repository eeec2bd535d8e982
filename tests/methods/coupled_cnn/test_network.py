"""Coupled CNNs against loops over pixels; shared layers, sizes, windows and inputs of any number."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.coupled_cnn_reference import features, fused, loss, outputs, weights
from helpers.network_helpers import normal, perturbed, random_windows, silent, without_gradient
from helpers.network_helpers import weights as tensors

from mmrs_bench.methods.coupled_cnn.module import CoupledCnnModule
from mmrs_bench.methods.coupled_cnn.network import CoupledCNNs, weights_of_outputs

pytestmark = pytest.mark.usefixtures("same_start")
CHANNELS = {"hsi": 6, "lidar": 2}


@pytest.mark.parametrize(
    ("channels", "side"), [(CHANNELS, 11), (CHANNELS, 1), (CHANNELS, 5), ({"hsi": 2, "sar": 3, "dsm": 1}, 8)]
)
@torch.no_grad()
def test_the_network_equals_a_slow_one(channels: dict[str, int], side: int) -> None:
    network: Any = perturbed(CoupledCNNs(channels, 3, dropout=0.5))
    windows = {name: x.double() for name, x in random_windows(channels, 2, side).items()}
    state, logits, found = tensors(network), network(windows), network.outputs(windows)
    for i in range(2):
        window = {name: x[i] for name, x in windows.items()}
        torch.testing.assert_close(found[i], torch.stack(outputs(state, window)))
        torch.testing.assert_close(logits[i], torch.tensor(fused(state, window), dtype=torch.float64))


@torch.no_grad()
def test_the_mean_of_the_remaining_pixels_is_taken() -> None:
    """A window of 16 pixels leaves 2 x 2."""
    network: Any = perturbed(CoupledCNNs(CHANNELS, 3, dropout=0.5))
    window = normal(1, 2, 16, 16, dtype=torch.float64)
    expected = features(tensors(network), "lidar", window[0])
    torch.testing.assert_close(network.shared(network.own["lidar"](window)).mean(dim=(2, 3))[0], expected)


@pytest.mark.parametrize("single_loss", [0.01, 0.5])
@torch.no_grad()
def test_the_loss_equals_a_slow_one(single_loss: float) -> None:
    module = CoupledCnnModule(CHANNELS, 3, single_loss=single_loss).double().eval()
    silent(module)
    windows = {name: x.double() for name, x in random_windows(CHANNELS, 3, 5).items()}
    targets = [2, 0, 1]
    single = [{name: x[i] for name, x in windows.items()} for i in range(3)]
    found = module.training_step({"windows": windows, "target": torch.tensor(targets)}, 0)
    assert found.item() == pytest.approx(loss(tensors(module.network), single, targets, single_loss), rel=1e-6)


def test_outputs_are_weighed_by_what_they_find_of_each_class() -> None:
    """No output finds the last class."""
    found, targets = [[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 1, 2]], [0, 0, 1, 3]
    correct = torch.tensor([[1.0, 1, 0, 0], [2, 1, 0, 0], [2, 1, 0, 0]])
    torch.testing.assert_close(weights_of_outputs(correct), torch.tensor(weights(found, targets, 4)))
    assert not weights_of_outputs(correct)[:, 2:].any()


@pytest.mark.parametrize(
    ("channels", "classes", "count"),
    [
        # Convolutions, batch normalisations and linear layers of the released code, added up layer by layer.
        pytest.param({"hsi": 20, "lidar": 1}, 6, 101_298, id="trento"),
        pytest.param({"hsi": 20, "lidar": 1}, 15, 104_781, id="houston2013"),
    ],
)
def test_it_has_the_released_number_of_parameters(channels: dict[str, int], classes: int, count: int) -> None:
    with torch.device("meta"):
        network = CoupledCNNs(channels, classes, dropout=0.5)
    assert sum(values.numel() for values in network.parameters()) == count


def test_two_convolutions_are_shared_and_train_on_all_modalities() -> None:
    network = CoupledCNNs(CHANNELS, 4, dropout=0.0)
    windows = random_windows(CHANNELS, 3, 7)
    gradients = []
    for output in (0, 1):
        network.zero_grad()
        network.outputs(windows)[:, output].square().sum().backward()
        other = list(CHANNELS)[1 - output]
        assert any(name.startswith(f"own.{other}") for name in without_gradient(network))
        gradients.append([block.convolve.weight.grad.abs().sum().item() for block in network.shared])
    assert min(min(pair) for pair in gradients) > 0


def test_every_modality_changes_the_logits_and_every_parameter_gets_a_gradient() -> None:
    module = CoupledCnnModule(CHANNELS, 4)
    silent(module)
    windows = random_windows(CHANNELS, 8, 11)
    module.training_step({"windows": windows, "target": torch.arange(8) % 4}, 0).backward()
    # A bias before batch normalisation has the gradient 0 up to rounding.
    assert [name for name in without_gradient(module) if not name.endswith("convolve.bias")] == []
    module.eval()
    for name in CHANNELS:
        changed = {**windows, name: windows[name].flip(0)}
        assert (module(changed) - module(windows)).abs().max() > 1e-4


@pytest.mark.parametrize("side", [1, 3, 11, 17])
def test_a_batch_of_one_window_of_any_side_trains(side: int) -> None:
    module = CoupledCnnModule(CHANNELS, 4).train()
    silent(module)
    value = module.training_step({"windows": random_windows(CHANNELS, 1, side), "target": torch.tensor([2])}, 0)
    value.backward()
    assert math.isfinite(value.item())
