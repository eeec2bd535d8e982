"""Batches of pixel indices."""

from __future__ import annotations

import numpy as np
import pytest

from mmrs_bench.scenes.loader import PixelLoader


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (16, [16]), (17, [9, 8]), (40, [14, 13, 13])])
def test_batch_sizes_differ_by_at_most_one(count: int, sizes: list[int]) -> None:
    loader = PixelLoader(np.arange(count), batch_size=16)
    assert len(loader) == len(sizes)
    assert [len(batch["pixel"]) for batch in loader] == sizes
