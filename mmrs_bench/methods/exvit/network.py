"""The network of ExViT: a transformer over pixels for each modality, then one over the pixels of all of them.

Letters: b batch, c channels, d width, h w space, n pixels (h w), m modalities, k classes.

Reference: Extended Vision Transformer (Yao et al. 2023); sizes as released.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from mmrs_bench.models.attention import Block, TokenLinear
from mmrs_bench.models.batch_norm import BatchNorm2d
from mmrs_bench.models.pointwise import PointwiseConv

#: Channels after the separable convolutions of a stem.
STEM_WIDTHS = (16, 32, 64)
HEADS = 4
#: Hidden units of the two-layer networks, per d.
MLP_RATIO = 0.5
#: Epsilon of layer normalisation.
EPS = 1e-5


class SeparableStem(nn.Sequential):
    """Three separable convolutions that keep the window: (b, c, h, w) -> (b, 64, h, w).

    Each is a 3 x 3 convolution of every channel, a 1 x 1 convolution, batch normalisation and GELU.
    """

    def __init__(self, channels: int) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((channels, *STEM_WIDTHS)):
            depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs)
            layers += [depthwise, PointwiseConv(inputs, outputs), BatchNorm2d(outputs), nn.GELU()]
        super().__init__(*layers)


class ExViT(nn.Module):
    """Classifies windows of any number of modalities.

    Each modality has a stem and a transformer of its own, in which each pixel is a token; all share one position
    embedding. The tokens of all modalities then go through one transformer. A linear head reads their mean, weighted by
    a softmax over a linear score of each token.

    Parameters as of the released network, with 144 + 1 channels, side 13 and 15 classes: 239,914, of which the stems
    have 7,120 + 3,402, the maps to tokens 8,320, the position embedding 10,816, the 10 blocks 20,896 each, and the head
    1,296.

    Args:
        channels: Channels by modality.
        side: Window side in pixels.
        num_classes: k.
        width: d, a multiple of 4.
        branch_blocks: Transformer blocks of each modality.
        fused_blocks: Transformer blocks over the tokens of all modalities.
        dropout: Share of values dropped from the embedded tokens and in the blocks.

    Reference: Yao et al. 2023, released code.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        side: int,
        num_classes: int,
        *,
        width: int,
        branch_blocks: int,
        fused_blocks: int,
        dropout: float,
    ) -> None:
        super().__init__()

        def blocks(count: int) -> nn.Sequential:
            return nn.Sequential(
                *(Block(width, HEADS, MLP_RATIO, input_bias=False, dropout=dropout, eps=EPS) for _ in range(count))
            )

        self.stems = nn.ModuleDict({name: SeparableStem(count) for name, count in channels.items()})
        self.embed = nn.ModuleDict({name: TokenLinear(STEM_WIDTHS[-1], width) for name in channels})
        self.position = nn.Parameter(torch.randn(1, side**2, width))
        self.dropout = nn.Dropout(dropout)
        self.branches = nn.ModuleDict({name: blocks(branch_blocks) for name in channels})
        self.fused = blocks(fused_blocks)
        self.score = nn.Sequential(nn.LayerNorm(width, eps=EPS), nn.Linear(width, 1))
        self.head = nn.Sequential(nn.LayerNorm(width, eps=EPS), nn.Linear(width, num_classes))

    def forward(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Logits (b, k) of windows, per modality (b, c, side, side)."""
        x = self.fused(torch.cat([self._tokens(name, windows[name]) for name in self.stems], dim=1))  # (b, m n, d)
        shares = self.score(x).softmax(dim=1)  # (b, m n, 1)
        return self.head((shares * x).sum(dim=1))  # type: ignore[no-any-return]

    def _tokens(self, name: str, window: Tensor) -> Tensor:
        """(b, c, h, w) of a modality -> (b, n, d)."""
        maps = self.stems[name](window)  # (b, 64, h, w)
        tokens = self.dropout(self.embed[name](maps.flatten(2).transpose(1, 2)) + self.position)
        return self.branches[name](tokens)  # type: ignore[no-any-return]
