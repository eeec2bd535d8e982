"""ExViT: the network against a slow one, its size, windows and modalities of any number, and errors."""

from __future__ import annotations

import pytest
import torch
from helpers.exvit_reference import exvit
from helpers.method_helpers import refused
from helpers.network_helpers import perturbed, random_windows, weights, without_gradient

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.exvit.module import ExvitModule
from mmrs_bench.methods.exvit.network import ExViT

pytestmark = pytest.mark.usefixtures("same_start")
CHANNELS = {"hsi": 5, "sar": 2}


def network(
    channels: dict[str, int], side: int = 3, classes: int = 3, *, width: int = 8, branch: int = 2, fused: int = 1
) -> ExViT:
    return ExViT(channels, side, classes, width=width, branch_blocks=branch, fused_blocks=fused, dropout=0.1)


@pytest.mark.parametrize(
    ("channels", "branch", "fused", "width"),
    [(CHANNELS, 2, 1, 8), ({"lidar": 1}, 1, 2, 12), ({"hsi": 3, "sar": 2, "dsm": 1}, 0, 1, 8)],
)
@torch.no_grad()
def test_the_network_equals_a_slow_one(channels: dict[str, int], branch: int, fused: int, width: int) -> None:
    module = perturbed(network(channels, branch=branch, fused=fused, width=width))
    windows = {name: x.double() for name, x in random_windows(channels, 2, 3).items()}
    expected = [exvit(weights(module), {name: x[i] for name, x in windows.items()}, branch, fused) for i in range(2)]
    torch.testing.assert_close(module(windows), torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_it_has_the_number_of_parameters_that_the_released_code_builds() -> None:
    """For Houston 2013 (144 bands, 1 channel, windows of 13, 15 classes), counted layer by layer from its sizes."""

    def separable(inputs: int, outputs: int) -> int:
        return (9 + 1) * inputs + (inputs + 1) * outputs + 2 * outputs

    later = separable(16, 32) + separable(32, 64)
    stems = separable(144, 16) + separable(1, 16) + 2 * later
    tokens = 2 * (64 + 1) * 64 + 13**2 * 64
    block = 2 * 64 + 64 * 3 * 64 + (64 + 1) * 64 + 2 * 64 + (64 + 1) * 32 + (32 + 1) * 64
    head = 2 * 64 + 64 + 1 + 2 * 64 + (64 + 1) * 15
    released = stems + tokens + (4 + 4 + 2) * block + head
    assert released == 239_914
    with torch.device("meta"):
        module = ExvitModule({"hsi": 144, "lidar": 1}, 15, 13)
    assert sum(values.numel() for values in module.parameters()) == released


@pytest.mark.parametrize("side", [1, 3, 7])
@pytest.mark.parametrize("channels", [{"sar": 1}, {"hsi": 13, "lidar": 7}, {"hsi": 1, "sar": 4, "dsm": 1}])
def test_windows_and_modalities_of_any_size_reach_the_logits(channels: dict[str, int], side: int) -> None:
    module = perturbed(network(channels, side))
    windows = {name: x.double() for name, x in random_windows(channels, 3, side).items()}
    before = module(windows)
    assert before.shape == (3, 3)
    for name in channels:
        changed = {**windows, name: windows[name] + 1}
        assert (module(changed) - before).abs().max() > 1e-9


def test_every_parameter_gets_a_gradient_from_a_single_window() -> None:
    module = network(CHANNELS, 5).train()
    torch.nn.functional.cross_entropy(module(random_windows(CHANNELS, 1, 5)), torch.tensor([0])).backward()
    assert without_gradient(module) == []


def test_a_width_that_the_heads_cannot_share_is_refused() -> None:
    with refused(ConfigError, "width is 10, but ExViT has 4 heads of equal width; use a multiple of 4"):
        ExvitModule(CHANNELS, 3, width=10)
