"""A small convolutional network for windows of any number of modalities.

b batch, c channels, h w height and width, d width of the network, k classes, m modalities.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

#: Smallest window side from which three 3 x 3 convolutions without padding leave a pixel.
SMALLEST_WINDOW = 7


class ConvBlock(nn.Sequential):
    """Convolution without padding, group normalisation, GELU.

    Group instead of batch normalisation, because a few-shot batch is too small for batch statistics.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, bias=False),
            nn.GroupNorm(group_count(outputs), outputs),
            nn.GELU(),
        )


def group_count(channels: int) -> int:
    """Number of groups for group normalisation: the largest divisor up to 8 that leaves two channels per group.

    A group of one channel has no variance in a map of one pixel.
    """
    return max(groups for groups in range(1, 9) if channels % groups == 0 and (groups == 1 or channels >= 2 * groups))


class WindowCNN(nn.Module):
    """One stem per modality, fusion by concatenation, linear head on centre pixel and window mean.

    A stem is a 1 x 1 convolution and a 3 x 3 convolution; the fusion is two 3 x 3 convolutions. Windows below 7 are
    padded to 7 with their border pixels.

    Parameters: d c + 9 d^2 + 4 d per modality with c channels, 18 m d^2 + 36 d^2 + 8 d in the fusion, (4 d + 1) k in
    the head.

    Args:
        channels: Channels by modality.
        num_classes: k.
        width: d, channels of a stem; the fusion has 2 d.
        dropout: Share of maps dropped before the fusion, and of features dropped before the head.
    """

    def __init__(self, channels: Mapping[str, int], num_classes: int, *, width: int, dropout: float) -> None:
        super().__init__()
        self.stems = nn.ModuleDict(
            {
                name: nn.Sequential(ConvBlock(count, width, kernel=1), ConvBlock(width, width))
                for name, count in channels.items()
            }
        )
        self.fusion = nn.Sequential(
            nn.Dropout2d(dropout), ConvBlock(width * len(channels), 2 * width), ConvBlock(2 * width, 2 * width)
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * width, num_classes))

    def forward(self, windows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits of windows.

        Args:
            windows: (b, c, h, w) by modality, h and w odd.

        Returns:
            (b, k).
        """
        padded = {name: _pad(window) for name, window in windows.items()}
        maps = torch.cat([stem(padded[name]) for name, stem in self.stems.items()], dim=1)  # (b, m d, h - 2, w - 2)
        maps = self.fusion(maps)  # (b, 2 d, h - 6, w - 6)
        height, width = maps.shape[2:]
        features = torch.cat([maps[:, :, height // 2, width // 2], maps.mean(dim=(2, 3))], dim=1)  # (b, 4 d)
        logits: torch.Tensor = self.head(features)
        return logits


def _pad(window: torch.Tensor) -> torch.Tensor:
    missing = max(0, SMALLEST_WINDOW - window.shape[-1]) // 2
    return functional.pad(window, [missing] * 4, mode="replicate") if missing else window
