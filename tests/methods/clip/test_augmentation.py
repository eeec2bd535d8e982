"""Crops of windows against slow loops."""

from __future__ import annotations

import pytest
import torch
from helpers.network_helpers import bilinear, random_windows

from mmrs_bench.models.masked_diffusion.crops import enlarge_centers


def test_an_enlarged_centre_is_bilinear() -> None:
    side, inner = 5, 3
    window = random_windows({"hsi": 2}, 1, side)["hsi"]
    enlarged = enlarge_centers(window, torch.tensor([True]))[0]
    for row in range(side):
        for column in range(side):
            expected = bilinear(window[0, :, 1:-1, 1:-1], *((at + 0.5) * inner / side - 0.5 for at in (row, column)))
            torch.testing.assert_close(enlarged[:, row, column], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [1, 5])
def test_only_chosen_windows_of_several_pixels_are_enlarged_and_inputs_do_not_change(side: int) -> None:
    window = random_windows({"hsi": 2}, 4, side)["hsi"]
    before, chosen = window.clone(), torch.tensor([True, False, True, False])
    after = enlarge_centers(window, chosen)
    assert torch.equal(window, before)
    assert torch.equal((after != before).flatten(1).any(dim=1), chosen & (side > 1))
