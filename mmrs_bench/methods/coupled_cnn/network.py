"""Coupled CNNs: one network per modality, of whose three convolutions two are shared, and fusion at two levels.

Letters: b batch, c channels, h w space, m modalities, k classes.

Reference: Coupled CNNs (Hang et al. 2020); sizes, fusion by a sum, and weights of the outputs as released.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmrs_bench.models.batch_norm import BatchNorm2d

#: Maps of the three convolutions.
WIDTHS = (32, 64, 128)
#: Keeps the weights of a class finite that no output finds.
EPSILON = 1e-5


class ConvBlock(nn.Module):
    """A 3 x 3 convolution, batch normalisation, ReLU, the largest of 2 x 2 pixels, dropout.

    Deviation: a map of one pixel is not pooled, so that windows can be small; the released code needs 8 pixels.
    """

    def __init__(self, inputs: int, outputs: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.convolve = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, outputs, h / 2, w / 2), rounded down, at least 1."""
        x = functional.relu(self.norm(self.convolve(x)))
        pooled: Tensor = self.dropout(functional.max_pool2d(x, (min(2, x.shape[2]), min(2, x.shape[3]))))
        return pooled


class CoupledCNNs(nn.Module):
    """Classifies windows by m + 1 outputs: one of each modality, and one of the sum of their features.

    The first convolution of each modality is its own. The other two are shared, with their batch normalisation. Each
    output has a linear layer. The logits are the sum of all outputs, each times its weight for the class.

    Parameters: 288 c + 96 per modality, 92,736 shared, 129 k per output. As released for Trento (20 components, 1
    channel of the LiDAR, 6 classes): 101,298.

    Args:
        channels: Channels by modality, at least two modalities.
        num_classes: k.
        dropout: Share of values dropped behind each shared convolution.

    Reference: Coupled CNNs (Hang et al. 2020).
    Deviation: any number of modalities; the released network has two. Of windows that are larger than 15 pixels, more
    than one pixel remains; their mean is taken.
    """

    weights: Tensor

    def __init__(self, channels: Mapping[str, int], num_classes: int, *, dropout: float) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.own = nn.ModuleDict({name: ConvBlock(count, first) for name, count in channels.items()})
        self.shared = nn.Sequential(
            ConvBlock(first, second, dropout=dropout), ConvBlock(second, third, dropout=dropout)
        )
        outputs = len(channels) + 1
        self.heads = nn.ModuleList(nn.Linear(third, num_classes) for _ in range(outputs))
        self.register_buffer("weights", torch.full((outputs, num_classes), 1 / outputs))

    def forward(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Logits (b, k) of windows, per modality (b, c, h, w)."""
        return (self.outputs(windows) * self.weights).sum(dim=1)

    def outputs(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Logits (b, m + 1, k) of each modality, in their order, and of their sum."""
        features = [self.shared(block(windows[name])).mean(dim=(2, 3)) for name, block in self.own.items()]
        features.append(torch.stack(features).sum(dim=0))  # (b, 128) each
        return torch.stack([head(x) for head, x in zip(self.heads, features, strict=True)], dim=1)


def weights_of_outputs(correct: Tensor) -> Tensor:
    """Weights (m + 1, k) of outputs that find so many windows (m + 1, k) of each class: their shares of all findings.

    Those of a class that no output finds are 0.
    """
    return correct / (correct.sum(dim=0) + EPSILON)
