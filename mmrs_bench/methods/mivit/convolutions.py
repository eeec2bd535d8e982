"""Convolutional parts of MIViT: encoders of three scales, oriented attention, the pyramid, classifiers and decoder.

Letters: b batch, c channels, d width, h w space, k classes, s1 s2 s3 sides of the scales, from small to large.

Reference: MIViT (Zhang et al. 2024), released code; kernel sizes, widths, orders and constants of batch normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.models.batch_norm import BatchNorm2d

#: Epsilon and momentum of batch normalisation in stems, fusions and the pyramid's classifier; its statistics are mostly
#: those of the last batch.
FAST_NORM = (0.001, 0.9)
#: Epsilon and momentum elsewhere.
USUAL_NORM = (1e-5, 0.1)
#: Initial weight of each scale.
SCALE_WEIGHT = 0.33


def scale_sides(side: int) -> tuple[int, int, int]:
    """Sides of the three scales: a third, two thirds and the whole window.

    All are even or all odd, so that they share a centre; the nearest such number, of two the smaller. A window of 24
    has the released sides 8, 16 and 24; one of 11 has 3, 7 and 11.
    """

    def nearest(share: float) -> int:
        candidates = range(2 - side % 2, side + 1, 2)
        return min(candidates, key=lambda number: (abs(number - share), number))

    return nearest(side / 3), nearest(2 * side / 3), side


def scales(window: Tensor) -> list[Tensor]:
    """The middle parts (b, c, s, s) of windows (b, c, w, w) at the three scales."""
    side = window.shape[2]
    margins = [(side - part) // 2 for part in scale_sides(side)]
    return [window[:, :, m : side - m, m : side - m] for m in margins]


def convolution(
    inputs: int, outputs: int, kernel: int = 3, *, pad: bool = True, norm: tuple[float, float] = USUAL_NORM
) -> nn.Sequential:
    """Convolution, batch normalisation with such an epsilon and momentum, ReLU; with ``pad`` to the same size."""
    convolve = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2 if pad else 0)
    return nn.Sequential(convolve, BatchNorm2d(outputs, *norm), nn.ReLU())


class Alignment(nn.Module):
    """Both modalities at three scales, aligned to the side of the smallest.

    Each modality has a stem for all scales and a convolution for each, behind which maxima of regions are taken. The
    scales are added with weights that both modalities share.

    Deviation: regions are those of adaptive pooling, which equal the released ones for windows of 24.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.stems = nn.ModuleList(convolution(count, width // 2, norm=FAST_NORM) for count in channels)
        self.branches = nn.ModuleList(
            nn.ModuleList(convolution(width // 2, width) for _ in range(3)) for _ in range(len(channels))
        )
        self.weights = nn.Parameter(torch.full((3,), SCALE_WEIGHT))

    def forward(self, modality: int, parts: Sequence[Tensor]) -> Tensor:
        """The scales (b, c, s, s) of a modality, by its position -> (b, d, s1, s1)."""
        branches: Any = self.branches[modality]
        pooled = [
            F.adaptive_max_pool2d(branch(self.stems[modality](part)), parts[0].shape[2])
            for branch, part in zip(branches, parts, strict=True)
        ]
        return torch.einsum("s,sbdhw->bdhw", self.weights, torch.stack(pooled))


class OrientedAttention(nn.Module):
    """Adds to one modality the other one, gated by a vertical and by a horizontal convolution of the first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(width, width // 2, 1), nn.Conv2d(width // 2, width, 1))
        self.vertical = nn.Conv2d(width, width, (3, 1), padding=(1, 0))
        self.horizontal = nn.Conv2d(width, width, (1, 3), padding=(0, 1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """X' + s(vertical x') y' + x' + s(horizontal x') y' of squeezed x', y' (b, d, h, w)."""
        x, y = self.squeeze(x), self.squeeze(y)
        gates = self.vertical(x).sigmoid() + self.horizontal(x).sigmoid()
        return 2 * x + gates * y  # type: ignore[no-any-return]


class OrientedFusion(nn.Module):
    """Oriented attention fusion: attention in both directions, added and convolved."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = OrientedAttention(width), OrientedAttention(width)
        self.mix = convolution(width, width, norm=FAST_NORM)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two maps (b, d, h, w) -> one."""
        return self.mix(self.first(x, y) + self.second(y, x))  # type: ignore[no-any-return]


class Pyramid(nn.Module):
    """Fuses both modalities at each scale, then the scales upwards and downwards: -> (b, 3 d, s1, s1).

    Deviation: kernels of the two convolutions without padding fit the sides of the scales; 5 x 5 as released for
    windows of 24. Regions of the maxima are those of adaptive pooling.
    """

    def __init__(self, channels: Sequence[int], width: int, side: int) -> None:
        super().__init__()
        _, middle, large = scale_sides(side)
        kernel = (large - middle) // 2 + 1
        self.stems = nn.ModuleList(nn.ModuleList(convolution(count, width) for count in channels) for _ in range(3))
        self.fusions = nn.ModuleList(OrientedFusion(width) for _ in range(3))
        self.small = convolution(width, width)
        self.middle = nn.Sequential(convolution(2 * width, width), convolution(width, width))
        self.large = convolution(2 * width, width)
        self.shrink = nn.Sequential(*(convolution(width, width, kernel, pad=False) for _ in range(2)))
        self.middle_again = nn.Sequential(*(convolution(2 * width, 2 * width) for _ in range(2)))
        self.small_again = convolution(3 * width, 3 * width)

    def forward(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        """The scales (b, c, s, s) of both modalities -> (b, 3 d, s1, s1)."""
        stems: Any = self.stems
        fused = [
            fusion(one(x), other(y))
            for (one, other), fusion, x, y in zip(stems, self.fusions, first, second, strict=True)
        ]
        small = self.small(fused[0])
        middle = self.middle(torch.cat([resized(small, fused[1].shape[2]), fused[1]], dim=1))
        large = self.large(torch.cat([resized(middle, fused[2].shape[2]), fused[2]], dim=1))
        middle = self.middle_again(torch.cat([self.shrink(large), middle], dim=1))
        reduced = F.adaptive_max_pool2d(middle, small.shape[2])
        return self.small_again(torch.cat([reduced, small], dim=1))  # type: ignore[no-any-return]


def resized(x: Tensor, side: int) -> Tensor:
    """Nearest pixels of maps (b, c, h, h): (b, c, side, side)."""
    return x if x.shape[2] == side else F.interpolate(x, size=(side, side), mode="nearest")


class MapClassifier(nn.Module):
    """1 x 1 convolution, batch normalisation, mean over the map, ReLU, linear: (b, c, h, w) -> (b, k)."""

    def __init__(self, channels: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(channels, hidden, 1), BatchNorm2d(hidden)
        self.linear = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> class probabilities (b, k)."""
        pooled = self.norm(self.convolution(x)).mean(dim=(2, 3)).relu()
        return self.linear(pooled).softmax(dim=1)  # type: ignore[no-any-return]


class WindowDecoder(nn.Module):
    """A 3 x 3 convolution for each modality and scale, of maps enlarged to the scale; with ``unit`` a sigmoid."""

    def __init__(self, channels: Sequence[int], width: int, *, unit: bool) -> None:
        super().__init__()
        self.unit = unit
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(width, count, 3, padding=1) for count in channels) for _ in range(3)
        )

    def forward(self, x: Tensor, *modalities: Sequence[Tensor]) -> Tensor:
        """Mean squared error (scalar) of the windows predicted from a map, averaged over modalities and scales.

        Args:
            x: Decoded tokens (b, d, s1, s1).
            modalities: For each modality its windows (b, c, s, s) by scale.
        """
        errors, scaled = [], zip(self.layers, *modalities, strict=True)
        for layers, *targets in scaled:
            for layer, target in zip(layers, targets, strict=True):
                predicted = layer(resized(x, target.shape[2])).float()
                errors.append(((predicted.sigmoid() if self.unit else predicted) - target).square().mean())
        return torch.stack(errors).mean()
