"""The network of MIViT: fused scales of two modalities in a transformer, and the parts that only training needs.

Letters: b batch, c channels, d width, p side of the smallest scale, n tokens (p^2), k classes, w window side.

Reference: MIViT (Zhang et al. 2024), released code.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.methods.mivit.convolutions import (
    FAST_NORM,
    Alignment,
    MapClassifier,
    OrientedFusion,
    Pyramid,
    WindowDecoder,
    convolution,
    scale_sides,
    scales,
)
from mmrs_bench.models.attention import Block, TokenLinear

HEADS, HEAD_WIDTH, INNER_WIDTH = 4, 16, 8
LAYER_NORM_EPS = 1e-5
#: Numbers that describe a modality in `Redundancy`.
LATENTS = 4


class Outputs(NamedTuple):
    """What training needs of a batch.

    Attributes:
        fused: Logits (b, k) of the fused modalities, which predict.
        parts: Class probabilities (b, k) of the first modality, of the second one, and of the pyramid.
        reconstruction: Mean squared error of the decoded windows.
        redundancy: What the features of the modalities and the fused ones share, see `MIViT`.
    """

    fused: Tensor
    parts: tuple[Tensor, Tensor, Tensor]
    reconstruction: Tensor
    redundancy: Tensor


class Transformer(nn.Sequential):
    """Blocks as of the vision transformer: queries, keys and values have no bias; no normalisation behind the last."""

    def __init__(self, width: int, depth: int, dropout: float) -> None:
        super().__init__(
            *(
                Block(
                    width,
                    HEADS,
                    INNER_WIDTH / width,
                    head_width=HEAD_WIDTH,
                    input_bias=False,
                    dropout=dropout,
                    eps=LAYER_NORM_EPS,
                )
                for _ in range(depth)
            )
        )


class Redundancy(nn.Module):
    """A bound of the mutual information of two maps, as far as 4 numbers describe each of them.

    Reference: MIViT, information aggregation constraint, as in the released code: cross-entropies with sigmoids as
    targets that get no gradient, minus both divergences per latent number.
    Deviation: the released code divides the divergences by the windows of a batch twice.
    """

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.linears = nn.ModuleList(nn.Linear(width * side**2, LATENTS) for _ in range(2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Maps (b, d, p, p) -> scalar."""
        x, y = (
            linear(F.leaky_relu(convolve(z)).flatten(1)).float().tanh()
            for convolve, linear, z in zip(self.convolutions, self.linears, (x, y), strict=True)
        )
        a, b = x.sigmoid(), y.sigmoid()
        crossed = F.cross_entropy(b, a.detach()) + F.cross_entropy(a, b.detach())
        return crossed - (divergence(x, y) + divergence(y, x)) / LATENTS


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the batch of KL(softmax(teacher) || softmax(student)) of (b, k)."""
    return F.kl_div(student.log_softmax(dim=1), teacher.softmax(dim=1), reduction="batchmean")


class MIViT(nn.Module):
    """Classifies windows of two modalities by a transformer over the positions of their fused features.

    The redundancy is I(x, y) - a I(z, y) - b I(x, z) of the aligned modalities x, y and the fused features z, with
    `Redundancy` as I and learned a and b that start at 0.5.

    Parameters with 144 + 1 channels, windows of 24, 15 classes and width 64, as of the released network without its
    three unused convolutions of 8,515 parameters in either transformer: 2,602,381.

    Args:
        channels: Channels of the first and of the second modality.
        side: w.
        num_classes: k.
        width: d, even; the stems and the decoder have d / 2.
        depth: Blocks of the encoder and of the decoder.
        dropout: Share of values dropped in both transformers, and of the encoder's tokens.
        unit: Whether windows have values from 0 to 1, as released; then the decoder ends in a sigmoid.

    Reference: MIViT (Zhang et al. 2024), released code, fusion by oriented attention.
    Deviation: windows of any side, see `mmrs_bench.methods.mivit.convolutions.scale_sides`.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        side: int,
        num_classes: int,
        *,
        width: int,
        depth: int,
        dropout: float,
        unit: bool,
    ) -> None:
        super().__init__()
        small = scale_sides(side)[0]
        tokens, half = small**2, width // 2
        self.alignment = Alignment(channels, width)
        self.fusion = OrientedFusion(width)
        self.pyramid = Pyramid(channels, width, side)
        self.mix_positions = TokenLinear(tokens, tokens)
        self.class_token = nn.Parameter(torch.randn(width))
        self.positions = nn.Parameter(torch.randn(1 + tokens, width))
        self.dropout = nn.Dropout(dropout)
        self.encoder = Transformer(width, depth, dropout)
        self.token_head = nn.Sequential(nn.LayerNorm(width, eps=LAYER_NORM_EPS), nn.Linear(width, num_classes))
        self.map_head = MapClassifier(width, half, num_classes)
        self.shares = nn.Parameter(torch.full((2,), 0.5))
        self.part_heads = nn.ModuleList(MapClassifier(width, half, num_classes) for _ in range(2))
        self.pyramid_head = nn.Sequential(
            convolution(3 * width, 2 * width, 1, norm=FAST_NORM), MapClassifier(2 * width, width, num_classes)
        )
        self.narrow = TokenLinear(width, half)
        self.decoder_positions = nn.Parameter(torch.randn(1 + tokens, half))
        self.decoder = Transformer(half, depth, dropout)
        self.widen = TokenLinear(half, width)
        self.windows = WindowDecoder(channels, width, unit=unit)
        self.redundancies = nn.ModuleList(Redundancy(width, small) for _ in range(3))
        self.redundancy_weights = nn.Parameter(torch.full((2,), 0.5))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits (b, k) of windows (b, c, w, w) of both modalities."""
        x, y = (self.alignment(i, scales(window)) for i, window in enumerate((first, second)))
        return self._classified(self.fusion(x, y))[0]

    def part(self, modality: int, window: Tensor) -> Tensor:
        """Class probabilities (b, k) from windows (b, c, w, w) of one modality, by its position."""
        return self.part_heads[modality](self.alignment(modality, scales(window)))  # type: ignore[no-any-return]

    def outputs(self, first: Tensor, second: Tensor) -> Outputs:
        """The outputs that training needs, of windows (b, c, w, w) of both modalities."""
        inputs = scales(first), scales(second)
        x, y = (self.alignment(i, parts) for i, parts in enumerate(inputs))
        z = self.fusion(x, y)
        fused, tokens = self._classified(z)
        one, other, both = self.redundancies
        a, b = self.redundancy_weights
        parts = self.part_heads[0](x), self.part_heads[1](y), self.pyramid_head(self.pyramid(*inputs))
        redundancy = one(x, y) - a * other(z, y) - b * both(x, z)
        return Outputs(fused, parts, self._reconstruction(tokens, *inputs), redundancy)

    def _classified(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Fused features (b, d, p, p) -> logits (b, k) and encoded tokens (b, 1 + n, d)."""
        mixed = self.mix_positions(z.flatten(2))  # (b, d, n)
        first = self.class_token.expand(len(z), 1, -1).to(mixed.dtype)
        tokens = torch.cat([first, mixed.transpose(1, 2)], dim=1) + self.positions
        encoded = self.encoder(self.dropout(tokens))
        a, b = self.shares
        return a * self.token_head(encoded[:, 0]) + b * self.map_head(mixed.reshape(z.shape)), encoded

    def _reconstruction(self, tokens: Tensor, *inputs: list[Tensor]) -> Tensor:
        """Error of the windows decoded from encoded tokens (b, 1 + n, d)."""
        decoded = self.widen(self.decoder(self.narrow(tokens) + self.decoder_positions))[:, 1:]
        side = inputs[0][0].shape[2]
        return self.windows(decoded.transpose(1, 2).unflatten(2, (side, side)), *inputs)  # type: ignore[no-any-return]
