"""Batch normalisation of batches of any size."""

from __future__ import annotations

import pytest
import torch
from helpers.network_helpers import normal
from torch import nn

from mmrs_bench.models.batch_norm import BatchNorm1d, BatchNorm2d


@pytest.mark.parametrize(("layer", "shape"), [(BatchNorm1d(3), (1, 3)), (BatchNorm2d(3), (1, 3, 1, 1))])
def test_in_training_a_single_value_per_channel_is_normalised_as_in_evaluation(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    with torch.no_grad():
        for values in layer.state_dict().values():
            values.copy_(torch.arange(1, 1 + values.numel()).reshape(values.shape))
    x = normal(*shape)
    before = {name: values.clone() for name, values in layer.state_dict().items()}
    trained = layer.train()(x)
    assert all(torch.equal(values, before[name]) for name, values in layer.state_dict().items())
    assert torch.equal(trained, layer.eval()(x))


def test_two_values_per_channel_are_normalised_with_their_own_statistics() -> None:
    x = normal(2, 3)
    expected = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(BatchNorm1d(3).train()(x), expected)
