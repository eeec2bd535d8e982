"""Crops of windows against slow loops."""

from __future__ import annotations

import torch
from helpers.network_helpers import random_windows

from mmrs_bench.methods.clip.augmentation import enlarge_centers, random_crops
from mmrs_bench.randomness import SampleRandom


def test_an_enlarged_centre_is_bilinear() -> None:
    side, inner = 5, 3
    window = random_windows({"hsi": 2}, 1, side)["hsi"]
    enlarged = enlarge_centers(window, torch.tensor([True]))[0]
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


def test_only_chosen_windows_are_enlarged_and_inputs_do_not_change() -> None:
    window = random_windows({"hsi": 2}, 4, 5)["hsi"]
    before, chosen = window.clone(), torch.tensor([True, False, True, False])
    after = enlarge_centers(window, chosen)
    assert torch.equal(window, before)
    assert torch.equal((after != before).flatten(1).any(dim=1), chosen)


def test_a_window_of_one_pixel_does_not_change() -> None:
    window = random_windows({"hsi": 3}, 2, 1)["hsi"]
    assert torch.equal(enlarge_centers(window, torch.tensor([True, True])), window)


def test_about_half_of_the_windows_are_cropped_with_one_coin_or_one_per_modality() -> None:
    window = random_windows({"hsi": 2}, 200, 5)["hsi"]
    both, changed = {"hsi": window, "lidar": window.clone()}, {}
    for crop in ("none", "joint", "independent"):
        windows = random_crops(both, crop, SampleRandom("crops"))  # type: ignore[arg-type]
        changed[crop] = [(windows[name] != window).flatten(1).any(dim=1) for name in both]
    assert not torch.stack(changed["none"]).any()
    assert torch.equal(*changed["joint"])
    assert not torch.equal(*changed["independent"])
    assert all(60 < int(coins.sum()) < 140 for coins in (*changed["joint"], *changed["independent"]))
