"""The network of EndNet: one pixel of all modalities is encoded, fused, classified, and decoded again.

Letters: b batch, c channels, m modalities, k classes.

Reference: EndNet (Hong et al. 2020); widths, activations and initial values as released.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from mmrs_bench.models.batch_norm import BatchNorm1d

#: Outputs of the layers of an encoder; those of a decoder are the same backwards.
WIDTHS = (16, 32, 64, 128)
#: Width of the layer between fused features and classes.
HIDDEN = 64
EPSILON = 1e-3


class EndNet(nn.Module):
    """Classifies the centre pixel of windows, and reconstructs it from the fused features.

    An encoder per modality has the layers c -> 16 -> 32 -> 64 -> 128. A layer maps all encodings to 128 fused features;
    two more map these to the classes. A decoder per modality has the layers 128 -> 64 -> 32 -> 16 -> c.

    Parameters: 33 c + 22,336 per modality, 16,384 m + 8,768 + 65 k for fusion and classes. As released for Houston
    2013 (144 bands, 21 profiles of the LiDAR, 15 classes): 92,628.

    Args:
        channels: Channels by modality, one modality or more.
        num_classes: k.

    Reference: EndNet (Hong et al. 2020). Batch normalisation and ReLU follow each layer but the last one, and a sigmoid
    each layer of the decoders.
    """

    def __init__(self, channels: Mapping[str, int], num_classes: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: _encoder(count) for name, count in channels.items()})
        self.fusion = _layer(WIDTHS[-1] * len(channels), WIDTHS[-1])
        self.head = nn.Sequential(_layer(WIDTHS[-1], HIDDEN), nn.Linear(HIDDEN, num_classes))
        self.decoders = nn.ModuleDict({name: _decoder(count) for name, count in channels.items()})
        for module in self.modules():
            if isinstance(module, nn.Linear):
                _initialise(module)

    def forward(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Logits (b, k) of windows, per modality (b, c, h, w)."""
        logits: Tensor = self.head(self.fused(centres(windows)))
        return logits

    def fused(self, pixels: Mapping[str, Tensor]) -> Tensor:
        """Fused features (b, 128) of pixels, per modality (b, c)."""
        encoded = [encoder(pixels[name]) for name, encoder in self.encoders.items()]
        fused: Tensor = self.fusion(torch.cat(encoded, dim=1))
        return fused

    def decoded(self, fused: Tensor) -> dict[str, Tensor]:
        """Reconstructed pixels, per modality (b, c) in 0..1, of fused features (b, 128)."""
        return {name: decoder(fused) for name, decoder in self.decoders.items()}


def centres(windows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The centre pixels (b, c) of windows (b, c, h, w), h and w odd."""
    return {name: window[:, :, window.shape[2] // 2, window.shape[3] // 2] for name, window in windows.items()}


def reconstruction_error(decoded: Mapping[str, Tensor], pixels: Mapping[str, Tensor]) -> Tensor:
    """Mean square over batch and channels of the differences of (b, c), summed over modalities."""
    return torch.stack([(decoded[name] - pixels[name]).square().mean() for name in decoded]).sum()


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), BatchNorm1d(outputs, eps=EPSILON), nn.ReLU())


def _encoder(channels: int) -> nn.Sequential:
    return nn.Sequential(*(_layer(*sizes) for sizes in pairwise((channels, *WIDTHS))))


def _decoder(channels: int) -> nn.Sequential:
    sizes = pairwise((*WIDTHS[::-1], channels))
    return nn.Sequential(*(part for pair in sizes for part in (nn.Linear(*pair), nn.Sigmoid())))


def _initialise(layer: nn.Linear) -> None:
    """A normal distribution, cut at two sd, whose sd before the cut is sqrt(2.6 / inputs); biases are 0."""
    deviation = math.sqrt(2.6 / layer.in_features)
    nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    nn.init.zeros_(layer.bias)
