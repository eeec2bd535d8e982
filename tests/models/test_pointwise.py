"""1 x 1 convolutions as matrix products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmrs_bench.models.pointwise import PointwiseConv, map_channels


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
def test_it_equals_a_convolution_with_its_gradients(bias: bool, memory: torch.memory_format) -> None:
    torch.manual_seed(0)
    ours, usual = PointwiseConv(5, 7, bias=bias).double(), nn.Conv2d(5, 7, 1, bias=bias).double()
    usual.load_state_dict(ours.state_dict())
    x = torch.randn(3, 5, 4, 6, dtype=torch.float64).contiguous(memory_format=memory).requires_grad_()

    def results(conv: nn.Module) -> list[Tensor]:
        y = conv(x)
        return [y, *torch.autograd.grad(y.sin().sum(), [x, *conv.parameters()])]

    for found, expected in zip(results(ours), results(usual), strict=True):
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_it_has_the_initial_values_of_a_convolution() -> None:
    torch.manual_seed(0)
    ours = PointwiseConv(5, 7)
    torch.manual_seed(0)
    usual = nn.Conv2d(5, 7, 1)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), usual.parameters(), strict=True))


def test_sequences_are_mapped_place_by_place() -> None:
    weight, x = torch.randn(7, 5), torch.randn(3, 5, 4)
    found = map_channels(weight, x)
    assert found.shape == (3, 7, 4)
    assert torch.allclose(found[1, :, 2], weight @ x[1, :, 2], atol=1e-6)
