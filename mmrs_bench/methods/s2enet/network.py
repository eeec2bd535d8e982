"""The network of S2ENet: two convolutional streams, each of which is weighted by what the other one sees.

Letters: b batch, c channels, d width, h w space, n pixels (h w), k classes.

Reference: S2ENet (Fang et al. 2022), spatial (SAEM) and spectral (SEEM) enhancement modules; sizes as released.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from mmrs_bench.methods.toolkit.supervised import hsi_and_others, stacked_others
from mmrs_bench.models.batch_norm import BatchNorm2d

#: Channels of the layers of the HSI's stream, and of the other one. Both end with d channels.
HSI_WIDTHS, OTHER_WIDTHS = (128, 64, 32), (8, 16, 32)


class Convolution(nn.Sequential):
    """Convolution of stride 1 that keeps the window, batch normalisation, and a nonlinearity.

    Initial weights of the convolution are normal with variance 2 / (number of outputs that an input reaches).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, nonlinearity: nn.Module) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(convolution, BatchNorm2d(outputs), nonlinearity)


class Stream(nn.Sequential):
    """Three 3 x 3 convolutions with ReLU: (b, c, h, w) -> (b, d, h, w)."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__(
            *(Convolution(inputs, outputs, 3, nn.ReLU()) for inputs, outputs in pairwise((channels, *widths)))
        )


class Affinity(nn.Module):
    """Maps T1 of the stream to enhance and T2 of the other one, which S2ENet multiplies to a matrix of affinities.

    Args:
        width: d.
        inner: Channels e of T1 and T2.
        compared: Number of values of the other stream that one affinity is for: pixels or channels.
    """

    def __init__(self, width: int, inner: int, compared: int) -> None:
        super().__init__()
        self.own, self.other = (Convolution(width, inner, 1, nn.Sigmoid()) for _ in range(2))
        self.mix = nn.Linear(compared, 1, bias=False)  # v, weights of the other stream's pixels or channels

    def maps(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b, d, h, w) of both streams -> T1 and T2, (b, e, n), and v."""
        return self.own(x).flatten(2), self.other(y).flatten(2), self.mix.weight[0]


class SpatialEnhancement(Affinity):
    """SAEM: weights the pixels of x by their affinity to the pixels of y.

    The affinity of pixels i of x and j of y is A_ij = sum_c T1_ci T2_cj, and the weight of i is s_i = sum_j A_ij v_j.

    Deviation: the sum over j comes first, so that A is never formed: s = T1' (T2 v).
    """

    def __init__(self, width: int, pixels: int) -> None:
        super().__init__(width, width // 2, pixels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Streams (b, d, h, w) to enhance and to compare with -> (b, d, h, w)."""
        own, other, v = self.maps(x, y)
        weights = torch.einsum("bcn,bc->bn", own, other @ v)
        return x * weights.reshape(len(x), 1, *x.shape[2:])


class SpectralEnhancement(Affinity):
    """SEEM: weights the channels of x by their affinity to the channels of y.

    The affinity of channels p of x and q of y is A_pq = sum_i T1_pi T2_qi, and the weight of p is s_p = sum_q A_pq v_q.

    Deviation: the sum over q comes first, so that A is never formed: s = T1 (T2' v).
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, width, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Streams (b, d, h, w) to enhance and to compare with -> (b, d, h, w)."""
        own, other, v = self.maps(x, y)
        weights = torch.einsum("bcn,bn->bc", own, torch.einsum("bqn,q->bn", other, v))
        return x * weights[:, :, None, None]


class S2ENet(nn.Module):
    """Classifies windows of an HSI and a second modality.

    The second modality enhances the HSI in space, and the HSI the second modality in its channels. A 1 x 1 convolution
    fuses both, and a linear head reads the mean over the window. Further modalities are stacked on the second one.

    Parameters: 1,152 c for the c channels of the HSI, 72 c' for the c' others, n for the pixels of the window, 33 k for
    the head, and 104,296 for the rest. With 144 + 1 channels, side 7 and 15 classes (Houston2013): 270,800.

    Args:
        channels: Channels by modality: ``hsi`` and at least one other.
        side: Window side in pixels.
        num_classes: k.

    Raises:
        ConfigError: If there is no HSI or no second modality.

    Reference: S2ENet (Fang et al. 2022), released code.
    Deviation: the maps g and W_z of both enhancement modules, which the released code builds and never applies, are
        absent, and so is the output for unlabelled pixels, which no label has.
    """

    def __init__(self, channels: Mapping[str, int], side: int, num_classes: int) -> None:
        super().__init__()
        hsi, others = hsi_and_others(channels, "S2ENet")
        width = HSI_WIDTHS[-1]
        self.hsi, self.other = Stream(hsi, HSI_WIDTHS), Stream(others, OTHER_WIDTHS)
        self.spatial, self.spectral = SpatialEnhancement(width, side**2), SpectralEnhancement(width)
        self.fuse = Convolution(2 * width, width, 1, nn.ReLU())
        self.head = nn.Linear(width, num_classes)

    def forward(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Logits (b, k) of windows, per modality (b, c, side, side)."""
        x, y = self.hsi(windows["hsi"]), self.other(stacked_others(windows))
        fused = self.fuse(torch.cat([self.spatial(x, y), self.spectral(y, x)], dim=1))
        logits: Tensor = self.head(fused.mean(dim=(2, 3)))
        return logits
