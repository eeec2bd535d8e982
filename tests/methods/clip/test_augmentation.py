"""Crops of windows against slow loops."""

from __future__ import annotations

import torch
from torch import Tensor

from mmrs_bench.methods.clip.augmentation import center_resize_crop, random_choice


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_an_enlarged_centre_is_bilinear() -> None:
    side, inner = 5, 3
    window = normal(1, 2, side, side)
    enlarged = center_resize_crop({"hsi": window}, {"hsi": torch.tensor([True])})["hsi"][0]
    for row in range(side):
        for column in range(side):
            expected = torch.zeros(2)
            spots = [min(max((at + 0.5) * inner / side - 0.5, 0), inner - 1) for at in (row, column)]
            low = [min(int(spot), inner - 2) for spot in spots]
            for i in (0, 1):
                for j in (0, 1):
                    weight = (1 - abs(spots[0] - low[0] - i)) * (1 - abs(spots[1] - low[1] - j))
                    expected += weight * window[0, :, 1 + low[0] + i, 1 + low[1] + j]
            torch.testing.assert_close(enlarged[:, row, column], expected, atol=1e-5, rtol=1e-5)


def test_only_chosen_windows_are_enlarged_and_inputs_stay() -> None:
    window = normal(4, 2, 5, 5)
    before = window.clone()
    chosen = torch.tensor([True, False, True, False])
    after = center_resize_crop({"hsi": window}, {"hsi": chosen})["hsi"]
    assert torch.equal(window, before)
    changed = (after != before).flatten(1).any(dim=1)
    assert torch.equal(changed, chosen)


def test_a_window_of_one_pixel_stays() -> None:
    window = normal(2, 3, 1, 1)
    assert torch.equal(center_resize_crop({"hsi": window}, {"hsi": torch.tensor([True, True])})["hsi"], window)


def test_crops_are_joint_or_not() -> None:
    joint = random_choice(("hsi", "lidar"), 200, torch.Generator().manual_seed(0), joint=True)
    apart = random_choice(("hsi", "lidar"), 200, torch.Generator().manual_seed(0), joint=False)
    assert torch.equal(joint["hsi"], joint["lidar"])
    assert not torch.equal(apart["hsi"], apart["lidar"])
    assert all(60 < int(coins.sum()) < 140 for coins in (*joint.values(), *apart.values()))
