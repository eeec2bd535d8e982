"""The network of MFT: a transformer whose class token is made of the second modality.

Letters: b batch, c channels, m maps, d width, h w space, p pixels (h w), n tokens of the HSI, e channels of a head, k
classes.

Reference: Multimodal Fusion Transformer (Roy et al. 2023), with channel tokenization; sizes as released.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmrs_bench.methods.toolkit.supervised import stacked_others
from mmrs_bench.models.attention import LAYER_NORM_EPS, Tokenizer
from mmrs_bench.models.batch_norm import BatchNorm2d, BatchNorm3d

#: m, maps of the 3-D convolution, and the bands that it spans.
MAPS, SPECTRAL_KERNEL = 8, 9
#: n, tokens of the HSI.
TOKENS = 4
HEADS = 8
BLOCKS = 2
#: Hidden units of the two-layer networks, per d.
MLP_RATIO = 8
#: Standard deviation of the initial biases of the two-layer networks and the head.
SMALL = 1e-6


class HetConv(nn.Module):
    """The sum of a grouped 3 x 3 convolution and a full 1 x 1 convolution, both with bias.

    There are d / 4 groups, or as many of them as divide the inputs: for 8 m inputs and d = 64, 16 or 8.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(inputs, width, 3, padding=1, groups=math.gcd(inputs, width // 4))
        self.pointwise = nn.Conv2d(inputs, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, d, h, w)."""
        x = x.contiguous(memory_format=torch.channels_last)  # 5 times as fast on a CPU
        return self.grouped(x) + self.pointwise(x)  # type: ignore[no-any-return]


class SpectralStem(nn.Module):
    """A 3-D convolution without padding along the bands, then a `HetConv` over all maps of all remaining bands.

    Deviation: the 3-D convolution spans at most all bands; the released code needs 9.
    """

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        span = min(SPECTRAL_KERNEL, bands)
        self.volume = nn.Sequential(nn.Conv3d(1, MAPS, (span, 3, 3), padding=(0, 1, 1)), BatchNorm3d(MAPS), nn.ReLU())
        self.plane = nn.Sequential(HetConv(MAPS * (bands - span + 1), width), BatchNorm2d(width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, d, h, w)."""
        return self.plane(self.volume(x[:, None]).flatten(1, 2))  # type: ignore[no-any-return]


class CrossPatchAttention(nn.Module):
    """Attention of the class token to all tokens (mCrossPA).

    A head sees e = d / 8 channels of the tokens. One matrix each, shared by all heads, makes its queries, keys and
    values, which have d channels. Scores are divided by the square root of e.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        e = width // HEADS
        self.query, self.key, self.value = (nn.Linear(e, width, bias=False) for _ in range(3))
        self.out_proj = nn.Linear(HEADS * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (b, 1 + n, d), the class token first -> (b, 1, d)."""
        parts = x.reshape(*x.shape[:2], HEADS, -1).transpose(1, 2)  # (b, heads, 1 + n, e)
        scale = parts.shape[-1] ** -0.5
        q, k, v = self.query(parts[:, :, :1]), self.key(parts), self.value(parts)  # (b, heads, 1 or 1 + n, d)
        heads = (q @ k.transpose(2, 3) * scale).softmax(dim=-1) @ v  # (b, heads, 1, d)
        return self.dropout(self.out_proj(heads.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Cross-patch attention, whose result is added to every token as released; then a two-layer GELU network."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attention = CrossPatchAttention(width, dropout)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        inside, outside = nn.Linear(width, MLP_RATIO * width), nn.Linear(MLP_RATIO * width, width)
        self.mlp = nn.Sequential(inside, nn.GELU(), nn.Dropout(dropout), outside, nn.Dropout(dropout))
        for layer in (inside, outside):
            _xavier(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 1 + n, d) -> (b, 1 + n, d)."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class MFT(nn.Module):
    """Classifies windows of an HSI and a second modality. Further modalities are stacked on the second one.

    The HSI becomes 4 tokens, the second modality the class token; two blocks let the class token attend to all, and a
    linear head reads it. Windows may have any side.

    Parameters with d = 64, as of the released networks: 321,903 for Houston 2013 (144 bands, 1 LiDAR channel, 15
    classes) and 272,358 for Trento (63, 1, 6). The summaries of the released notebook, 313,071 and 263,526, leave out
    the 8,832 values of the tokenizers and of the position embedding.

    Args:
        channels: Channels by modality, ``hsi`` and at least one other.
        num_classes: k.
        width: d, a multiple of 8.
        dropout: Share of values dropped from the embedded tokens, after the attention, and in the two-layer networks.

    Reference: Roy et al. 2023, released code.
    """

    def __init__(self, channels: Mapping[str, int], num_classes: int, *, width: int, dropout: float) -> None:
        super().__init__()
        others = sum(count for name, count in channels.items() if name != "hsi")
        self.hsi_stem = SpectralStem(channels["hsi"], width)
        self.other_stem = nn.Sequential(nn.Conv2d(others, width, 3, padding=1), BatchNorm2d(width), nn.GELU())
        self.hsi_tokens, self.class_token = Tokenizer(width, TOKENS), Tokenizer(width, 1)
        self.position = nn.Parameter(torch.randn(1, 1 + TOKENS, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(width, num_classes)
        _xavier(self.head)

    def forward(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Logits (b, k) of windows, per modality (b, c, h, w)."""
        tokens = self.hsi_tokens(self.hsi_stem(windows["hsi"]))  # (b, n, d)
        first = self.class_token(self.other_stem(stacked_others(windows)))  # (b, 1, d)
        x = self.blocks(self.dropout(torch.cat([first, tokens], dim=1) + self.position))
        return self.head(self.norm(x[:, 0]))  # type: ignore[no-any-return]


def _xavier(layer: nn.Linear) -> None:
    nn.init.xavier_uniform_(layer.weight)
    nn.init.normal_(layer.bias, std=SMALL)
