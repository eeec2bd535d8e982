"""Batches of one size: all items, in order, padded with the first item of the batch."""

from __future__ import annotations

import pytest
import torch

from mmrs_bench.models.batches import fixed_size_batches


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
def test_batches_have_one_size_and_contain_all_items(count: int) -> None:
    items = torch.arange(2 * count).reshape(count, 2)
    batches = list(fixed_size_batches(items, 3))
    assert all(batch.shape == (3, 2) for batch, _ in batches)
    assert [valid for _, valid in batches] == [3] * (count // 3) + [count % 3] * (count % 3 > 0)
    assert torch.equal(torch.cat([batch[:valid] for batch, valid in batches] or [items]), items)
    for batch, valid in batches:
        assert torch.equal(batch[valid:], batch[:1].expand(3 - valid, 2))
