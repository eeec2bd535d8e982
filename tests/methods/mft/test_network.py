"""MFT: the network against a slow one, its size, windows and channels of any size, and errors."""

from __future__ import annotations

import pytest
import torch
from helpers.method_helpers import refused
from helpers.mft_reference import mft
from helpers.network_helpers import perturbed, random_windows, weights, without_gradient

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.mft.module import MftModule
from mmrs_bench.methods.mft.network import MFT, HetConv
from mmrs_bench.models.attention import Tokenizer

pytestmark = pytest.mark.usefixtures("same_start")


def network(channels: dict[str, int], classes: int = 3, width: int = 16) -> MFT:
    return MFT(channels, classes, width=width, dropout=0.1)


@pytest.mark.parametrize(("bands", "width", "groups"), [(12, 16, 4), (4, 16, 4), (11, 64, 8), (10, 64, 16)])
@torch.no_grad()
def test_the_network_equals_a_slow_one(bands: int, width: int, groups: int) -> None:
    """With even and odd numbers of remaining bands, and fewer bands than the kernel spans."""
    channels = {"hsi": bands, "sar": 2}
    module = perturbed(network(channels, width=width))
    windows = {name: x.double() for name, x in random_windows(channels, 2, 3).items()}
    expected = [mft(weights(module), windows["hsi"][i], windows["sar"][i], groups) for i in range(2)]
    torch.testing.assert_close(module(windows), torch.stack(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("bands", "classes", "summary"),
    [pytest.param(144, 15, 313_071, id="houston2013"), pytest.param(63, 6, 263_526, id="trento")],
)
def test_it_has_the_released_number_of_parameters(bands: int, classes: int, summary: int) -> None:
    """The summaries in the released notebook count modules, so that they leave out free parameters."""
    with torch.device("meta"):
        module = network({"hsi": bands, "lidar": 1}, classes, 64)
    free = (4 + 1) * 64 + 2 * 64 * 64 + (4 + 1) * 64
    assert free == 8_832
    assert sum(values.numel() for values in module.parameters()) == summary + free


@pytest.mark.parametrize(("inputs", "groups"), [(1088, 16), (440, 8), (8, 8)])
def test_groups_are_those_of_the_released_code(inputs: int, groups: int) -> None:
    assert HetConv(inputs, 64).grouped.groups == groups


def test_initial_tokens_have_the_released_variances() -> None:
    """Those of Glorot's normal values for a stack of one matrix, whose fans torch takes from the first two axes."""
    part = Tokenizer(64, 4)
    for values, rows in ((part.W_A, 4), (part.W_V, 64)):
        expected = torch.nn.init.xavier_normal_(torch.empty(1, rows, 64)).std()
        assert values.shape == (rows, 64)
        assert values.std().item() == pytest.approx(expected.item(), rel=0.2)


@pytest.mark.parametrize("side", [1, 3, 7])
@pytest.mark.parametrize("channels", [{"hsi": 1, "sar": 1}, {"hsi": 13, "lidar": 7}, {"sar": 4, "hsi": 9, "dsm": 1}])
def test_windows_and_modalities_of_any_size_reach_the_logits(channels: dict[str, int], side: int) -> None:
    module, windows = network(channels).eval(), random_windows(channels, 3, side)
    before = module(windows)
    assert before.shape == (3, 3)
    for name in channels:
        changed = {**windows, name: windows[name] + 1}
        assert (module(changed) - before).abs().max() > 1e-5


def test_every_parameter_gets_a_gradient_from_a_single_window() -> None:
    channels = {"hsi": 12, "sar": 2}
    module = network(channels).train()
    torch.nn.functional.cross_entropy(module(random_windows(channels, 1, 5)), torch.tensor([0])).backward()
    assert without_gradient(module) == []


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"hsi": 5}, "MFT needs a second modality beside the hsi"),
        ({"lidar": 1, "sar": 2}, "MFT needs an hsi, but the modalities are lidar, sar"),
    ],
)
def test_unsuitable_modalities_are_refused(channels: dict[str, int], message: str) -> None:
    with refused(ConfigError, message):
        MftModule(channels, 3)


def test_a_width_that_the_heads_cannot_share_is_refused() -> None:
    with refused(ConfigError, "width is 12, but MFT has 8 heads of equal width; use a multiple of 8"):
        MftModule({"hsi": 5, "sar": 2}, 3, width=12)
