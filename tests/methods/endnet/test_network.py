"""EndNet against loops over units; sizes, initial values, and inputs of any number."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.endnet_reference import endnet, loss
from helpers.network_helpers import normal, perturbed, random_windows, silent, weights, without_gradient

from mmrs_bench.methods.endnet.module import EndNetModule
from mmrs_bench.methods.endnet.network import EndNet, centres

pytestmark = pytest.mark.usefixtures("same_start")
CHANNELS = {"hsi": 6, "lidar": 2}


@pytest.mark.parametrize("channels", [{"hsi": 6}, CHANNELS, {"hsi": 3, "sar": 4, "dsm": 1}])
@torch.no_grad()
def test_the_network_equals_a_slow_one(channels: dict[str, int]) -> None:
    network = perturbed(EndNet(channels, 3))
    windows = {name: x.double() for name, x in random_windows(channels, 2, 3).items()}
    logits, decoded = network(windows), network.decoded(network.fused(centres(windows)))
    for i in range(2):
        pixel = {name: window[i, :, 1, 1].tolist() for name, window in windows.items()}
        expected_logits, expected = endnet(weights(network), pixel)
        torch.testing.assert_close(logits[i], torch.tensor(expected_logits, dtype=torch.float64))
        for name, values in expected.items():
            torch.testing.assert_close(decoded[name][i], torch.tensor(values, dtype=torch.float64))


@pytest.mark.parametrize("factor", [1.0, 0.25])
@torch.no_grad()
def test_the_loss_equals_a_slow_one(factor: float) -> None:
    module = EndNetModule(CHANNELS, 3, reconstruction=factor).double().eval()
    silent(module)
    windows = {name: x.double().sigmoid() for name, x in random_windows(CHANNELS, 4, 5).items()}
    targets = [2, 0, 1, 1]
    pixels = [{name: window[i, :, 2, 2].tolist() for name, window in windows.items()} for i in range(4)]
    found = module.training_step({"windows": windows, "target": torch.tensor(targets)}, 0)
    assert found.item() == pytest.approx(loss(weights(module.network), pixels, targets, factor), rel=1e-6)


@pytest.mark.parametrize(
    ("channels", "classes", "count"),
    [
        # The variables of the released code (hidden layers, batch normalisations, decoders), added up layer by layer.
        pytest.param({"hsi": 144, "lidar": 21}, 15, 92_628, id="houston2013"),
        pytest.param({"hsi": 63, "lidar": 1}, 6, 88_710, id="one-lidar-channel"),
    ],
)
def test_it_has_the_released_number_of_parameters(channels: dict[str, int], classes: int, count: int) -> None:
    with torch.device("meta"):
        network = EndNet(channels, classes)
    assert sum(values.numel() for values in network.parameters()) == count


def test_only_the_centre_pixel_counts() -> None:
    network, windows = EndNet(CHANNELS, 4).eval(), random_windows(CHANNELS, 3, 5)
    around = {name: normal(*window.shape, seed=3) for name, window in windows.items()}
    for name, window in around.items():
        window[:, :, 2, 2] = windows[name][:, :, 2, 2]
    assert torch.equal(network(around), network(windows))
    assert torch.equal(network({name: window[:, :, 2:3, 2:3] for name, window in windows.items()}), network(windows))


def test_every_modality_changes_the_logits_and_every_parameter_gets_a_gradient() -> None:
    module = EndNetModule(CHANNELS, 4)
    silent(module)
    windows = random_windows(CHANNELS, 8, 1)
    module.training_step({"windows": windows, "target": torch.arange(8) % 4}, 0).backward()
    # A bias before batch normalisation has the gradient 0 up to rounding.
    assert [name for name in without_gradient(module) if not name.endswith(".0.bias")] == []
    module.eval()
    for name in CHANNELS:
        changed = {**windows, name: windows[name].flip(0)}
        assert (module(changed) - module(windows)).abs().max() > 1e-4


def test_a_batch_of_one_window_trains() -> None:
    module = EndNetModule(CHANNELS, 4).train()
    silent(module)
    loss = module.training_step({"windows": random_windows(CHANNELS, 1, 1), "target": torch.tensor([2])}, 0)
    loss.backward()
    assert math.isfinite(loss.item())


def test_initial_weights_have_the_released_spread() -> None:
    """A normal distribution that is cut at two of its sd, sqrt(2.6 / inputs), has the variance 2 / inputs."""
    layer = EndNet({"hsi": 2000}, 4).encoders["hsi"][0][0]
    assert layer.weight.var().item() == pytest.approx(2 / 2000, rel=0.05)
    assert layer.weight.abs().max().item() <= 2 * math.sqrt(2.6 / 2000)
    assert not layer.bias.any()


def test_the_penalty_is_on_weight_matrices_only_and_the_rate_is_halved_every_30_epochs() -> None:
    module = EndNetModule(CHANNELS, 4)
    found = module.configure_optimizers()
    matrices, others = found["optimizer"].param_groups
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.001, 0.0)
    assert {id(values) for values in matrices["params"]} == {id(v) for v in module.parameters() if v.dim() == 2}
    assert len(matrices["params"]) + len(others["params"]) == len([*module.parameters()])
    rates = []
    for _ in range(61):
        rates.append(others["lr"])
        found["optimizer"].step()
        found["lr_scheduler"].step()
    assert rates == [0.001] * 30 + [0.0005] * 30 + [0.00025]
