"""Augmentation of windows of several modalities.

Letters: b batch, c channels, w window side.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

#: Pixels that a crop leaves out on each side, as released: a window of 11 is cropped to 9.
CROP_BORDER = 1
SMALLEST_CROPPED = 3


def center_resize_crop(windows: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Enlarge the centre of some windows to the whole window, bilinearly.

    Reference: DiffCLIP's released code (CenterResizeCrop with sides 9 and 11 of a window of 11).

    Args:
        windows: Windows (b, c, w, w) by modality.
        chosen: Which windows to enlarge, bool (b,), by modality; the same tensor for all keeps them registered.

    Returns:
        Windows (b, c, w, w) by modality; windows below 3 have no centre to enlarge and stay as they are.
    """
    return {name: _enlarge(window, chosen[name]) for name, window in windows.items()}


def _enlarge(window: Tensor, chosen: Tensor) -> Tensor:
    side = window.shape[-1]
    if side < SMALLEST_CROPPED or not chosen.any():
        return window
    centre = window[chosen][:, :, CROP_BORDER : side - CROP_BORDER, CROP_BORDER : side - CROP_BORDER]
    enlarged = window.clone()
    enlarged[chosen] = F.interpolate(centre, size=(side, side), mode="bilinear", align_corners=False)
    return enlarged


def random_choice(names: tuple[str, ...], batch: int, generator: torch.Generator, *, joint: bool) -> dict[str, Tensor]:
    """A fair coin (b,) for each window: one for all its modalities, or one for each.

    Args:
        names: Modalities.
        batch: b.
        generator: Where the coins come from.
        joint: Whether all modalities share one coin.
    """
    if joint:
        coins = torch.rand(batch, generator=generator, device=generator.device) < 0.5
        return dict.fromkeys(names, coins)
    return {name: torch.rand(batch, generator=generator, device=generator.device) < 0.5 for name in names}
