"""Random crops of windows of several modalities.

Letters: b batch, c channels, w window side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from mmrs_bench.randomness import SampleRandom

#: ``none``; ``joint``: all modalities of a window are cropped or none; ``independent``: each by its own coin.
Crop = Literal["none", "joint", "independent"]

#: Pixels that a crop leaves out on each side, as released: a window of 11 is cropped to 9.
CROP_BORDER = 1
#: Smaller windows have no centre to enlarge and stay as they are.
SMALLEST_CROPPED = 3


def random_crops(windows: Mapping[str, Tensor], crop: Crop, random: SampleRandom) -> Mapping[str, Tensor]:
    """Windows (b, c, w, w) by modality with the centres of about half of them enlarged."""
    if crop == "none":
        return windows
    batch, modalities = len(next(iter(windows.values()))), len(windows)
    draws = 1 if crop == "joint" else modalities
    coins = [random.uniform(batch) < 0.5 for _ in range(draws)]
    return {name: enlarge_centers(window, coins[i % draws]) for i, (name, window) in enumerate(windows.items())}


def enlarge_centers(windows: Tensor, chosen: Tensor) -> Tensor:
    """Windows (b, c, w, w) with the centres of the chosen ones (bool (b,)) enlarged to whole windows, bilinearly.

    Reference: DiffCLIP's released code (CenterResizeCrop with sides 9 and 11 of a window of 11).
    """
    side = windows.shape[-1]
    if side < SMALLEST_CROPPED or not chosen.any():
        return windows
    inner = slice(CROP_BORDER, side - CROP_BORDER)
    enlarged = windows.clone()
    enlarged[chosen] = F.interpolate(
        windows[chosen][:, :, inner, inner], size=(side, side), mode="bilinear", align_corners=False
    )
    return enlarged
