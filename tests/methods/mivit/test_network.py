"""MIViT: network and losses against loops, sizes, missing modalities, and windows and channels of any number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.method_helpers import fitted, refused, small_data
from helpers.mivit_reference import slow_loss, slow_mivit
from helpers.network_helpers import perturbed, random_windows, silent, weights, without_gradient

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.mivit.convolutions import scale_sides
from mmrs_bench.methods.mivit.module import MivitModule
from mmrs_bench.methods.mivit.network import MIViT

pytestmark = pytest.mark.usefixtures("same_start")
CHANNELS = {"hsi": 3, "sar": 1, "lidar": 1}
SMALL: dict[str, Any] = {"width": 4, "depth": 2, "dropout": 0.0}
RELEASED: dict[str, Any] = {"unit": True, "reconstruction_weight": 5.0}


def in_unit(channels: dict[str, int], batch: int, side: int) -> dict[str, torch.Tensor]:
    return {name: x.double().sigmoid() for name, x in random_windows(channels, batch, side).items()}


@pytest.mark.parametrize("changes", [{}, RELEASED], ids=["default", "release"])
@torch.no_grad()
def test_the_network_and_its_loss_equal_slow_ones(changes: dict[str, Any]) -> None:
    """Regions of the maxima overlap for this window; the modalities but the HSI are in the order of their names."""
    module, windows = MivitModule(CHANNELS, 3, 11, **SMALL, **changes), in_unit(CHANNELS, 2, 11)
    perturbed(module), silent(module)
    for values in module.parameters():
        values.mul_(0.3 if values.dim() == 4 else 1)  # random weights with a mean above 0 would saturate the softmax
    state, other = weights(module.network), torch.cat([windows["lidar"], windows["sar"]], dim=1)
    expected = [slow_mivit(state, 2, (3, 7, 11), windows["hsi"][i], other[i], unit=bool(changes)) for i in range(2)]
    found = module.network.outputs(windows["hsi"], other)
    torch.testing.assert_close(found.fused, torch.stack([one["fused"] for one in expected]))
    torch.testing.assert_close(torch.stack(found.parts, dim=1), torch.stack([one["parts"] for one in expected]))
    torch.testing.assert_close(module(windows), found.fused)
    for modality in (0, 1):
        module.only = modality
        torch.testing.assert_close(module(windows), found.parts[modality])
    loss = module.training_step({"windows": windows, "target": torch.tensor([2, 0])}, 0)
    terms = {"part": 0.3, "distillation": 1.0, "reconstruction": 5.0 if changes else 0.1, "redundancy": 0.1}
    torch.testing.assert_close(loss.double(), slow_loss(state, expected, [2, 0], terms), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("window", "sides"),
    [
        (24, (8, 16, 24)),
        (11, (3, 7, 11)),
        (27, (9, 17, 27)),
        (7, (3, 5, 7)),
        (5, (1, 3, 5)),
        (3, (1, 1, 3)),
        (1, (1, 1, 1)),
    ],
)
def test_the_scales_share_a_centre(window: int, sides: tuple[int, int, int]) -> None:
    assert scale_sides(window) == sides


@pytest.mark.parametrize("others", [1, 21])
def test_the_released_network_for_houston_2013_has_this_number_of_parameters(others: int) -> None:
    """Counted layer by layer: 144 bands, windows of 24, 15 classes; without the convolutions that are never applied."""

    def convolution(inputs: int, outputs: int, kernel: int = 3, norm: int = 2) -> int:
        return (inputs * kernel**2 + 1 + norm) * outputs

    def linear(inputs: int, outputs: int) -> int:
        return (inputs + 1) * outputs

    def transformer(width: int) -> int:
        return 5 * (4 * width + width * 192 + linear(64, width) + linear(width, 8) + linear(8, width))

    attention = linear(64, 32) + linear(32, 64) + 2 * (64 * 3 + 1) * 64
    fusion = 2 * attention + convolution(64, 64)
    stems = sum(convolution(count, 32) + 3 * convolution(32, 64) for count in (144, others)) + 3
    crossed = 3 * (convolution(144, 64) + convolution(others, 64) + fusion)
    pyramid = 2 * convolution(64, 64) + 2 * convolution(128, 64) + 2 * convolution(64, 64, 5)
    pyramid += 2 * convolution(128, 128) + convolution(192, 192)
    heads = 3 * (convolution(64, 32, 1) + linear(32, 15))
    heads += convolution(192, 128, 1) + convolution(128, 64, 1) + linear(64, 15) + 2 * 64 + linear(64, 15) + 2
    encoder = 65 * 64 + 64 + linear(64, 64) + transformer(64)
    decoder = linear(64, 32) + 65 * 32 + transformer(32) + linear(32, 64)
    decoder += 3 * (convolution(64, 144, norm=0) + convolution(64, others, norm=0))
    redundancy = 3 * 2 * (convolution(64, 64, norm=0) + linear(4096, 4)) + 2
    with torch.device("meta"):
        network = MIViT((144, others), 24, 15, width=64, depth=5, dropout=0.1, unit=True)
    total = stems + crossed + fusion + pyramid + heads + encoder + decoder + redundancy
    assert sum(values.numel() for values in network.parameters()) == total == {1: 2_602_381, 21: 2_677_321}[others]


@pytest.mark.parametrize("channels", [{"hsi": 1, "sar": 1}, {"sar": 3, "dsm": 1, "hsi": 7}])
@pytest.mark.parametrize(("side", "batch"), [(1, 1), (3, 1), (5, 2), (7, 3)])
def test_windows_and_channels_can_have_any_number_and_every_parameter_is_trained(
    channels: dict[str, int], side: int, batch: int
) -> None:
    module = MivitModule(channels, 4, side, **SMALL)
    silent(module)
    windows = {name: x.float() for name, x in in_unit(channels, batch, side).items()}
    loss = module.training_step({"windows": windows, "target": torch.arange(batch)}, 0)
    loss.backward()
    assert loss.isfinite()
    if side == 7:
        before_norms = (".0.bias", "convolution.bias")
        assert all(name.endswith(before_norms) for name in without_gradient(module))


@pytest.mark.parametrize(
    ("channels", "width", "message"),
    [
        ({"hsi": 5}, 4, "^MIViT needs a second"),
        ({"lidar": 1, "sar": 2}, 4, "^MIViT needs an hsi"),
        (CHANNELS, 5, "^width is 5"),
    ],
)
def test_unsuitable_inputs_are_refused(channels: dict[str, int], width: int, message: str) -> None:
    with refused(ConfigError, message):
        MivitModule(channels, 3, 11, width=width)


def test_without_a_modality_the_classifier_of_the_other_one_predicts(tmp_path: Path) -> None:
    data = small_data(2, window=5)
    method, pixels = fitted("mivit", tmp_path, data, epochs=2), np.arange(60)
    with torch.no_grad():
        windows = method.inputs(data).add_windows({"pixel": torch.from_numpy(pixels)})["windows"]
        parts = method.module.network.outputs(windows["hsi"], windows["lidar"]).parts
    for missing, part in (("lidar", parts[0]), ("hsi", parts[1])):
        np.testing.assert_array_equal(method.predict_without(data, pixels, (missing,)), part.argmax(dim=1))
    assert method.module.only is None


@pytest.mark.parametrize("budget", ["smoke", "quick", "paper"])
def test_the_variant_release_has_the_released_settings_under_every_budget(budget: Any) -> None:
    config = resolve_config(method_card("mivit"), "release", budget)
    released = {"epochs": 500, "batch_size": 64, "learning_rate": 1e-4, "weight_decay": 0.001, "schedule": "step"}
    released |= {
        **RELEASED,
        "decay_every": 50,
        "decay": 0.9,
        "components": None,
        "width": 64,
        "depth": 5,
        "dropout": 0.1,
    }
    assert {name: config[name] for name in released} == released
