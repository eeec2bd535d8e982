"""The network of HCT: convolutions, then a transformer per modality whose class tokens attend to the other one.

Letters: b batch, c channels, m maps, d width, h w space, p pixels (h w), n tokens, e channels of a head, k classes.

Reference: HCT (Zhao et al. 2023), hierarchical CNN, tokens, and cross-token attention (CTA); sizes as released.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.toolkit.supervised import hsi_and_others, stacked_others
from mmrs_bench.models.attention import Tokenizer
from mmrs_bench.models.batch_norm import BatchNorm2d, BatchNorm3d

#: m, maps of the 3-D convolution, and side of the kernels of all convolutions.
MAPS, KERNEL = 8, 3
#: d, and n, tokens of a modality beside its class token.
WIDTH, TOKENS = 64, 4
#: Heads of both kinds of attention, and e of the cross-token attention; the self-attention has d / heads.
HEADS, CROSS_HEAD_WIDTH = 8, 64
#: Hidden units of the two-layer networks.
HIDDEN = 8
#: Standard deviation of the initial position embedding.
POSITION_STD = 0.02
#: Smallest window side: two convolutions without padding leave a pixel.
SMALLEST_WINDOW = 2 * KERNEL - 1


class HsiStem(nn.Module):
    """A 3-D and a 2-D convolution without padding.

    Deviation: the 3-D convolution spans at most all channels; the released code needs 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        span = min(KERNEL, channels)
        volume = nn.Conv3d(1, MAPS, (span, KERNEL, KERNEL))
        self.volume = nn.Sequential(volume, BatchNorm3d(MAPS), nn.ReLU())
        self.plane = _plane(MAPS * (channels - span + 1))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, d, h - 4, w - 4)."""
        return self.plane(self.volume(x[:, None]).flatten(1, 2))  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Multi-head self-attention, whose scores are divided by the square root of d, as released."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 1 + n, d) -> (b, 1 + n, d)."""
        q, k, v = (_heads(part) for part in self.in_proj(x).chunk(3, dim=-1))  # (b, heads, 1 + n, d / heads)
        shares = (q @ k.transpose(2, 3) * WIDTH**-0.5).softmax(dim=-1)
        return self.dropout(self.out_proj(_joined(shares @ v)))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Self-attention, then a two-layer GELU network, each behind layer normalisation and with a residual."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(WIDTH), SelfAttention(dropout), nn.LayerNorm(WIDTH)
        layers = [nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Dropout(dropout), nn.Linear(HIDDEN, WIDTH)]
        self.mlp = nn.Sequential(*layers, nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(b, 1 + n, d) -> (b, 1 + n, d)."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class CrossTokenAttention(nn.Module):
    """CTA: the class token of a modality attends to itself and to the n other tokens of the other modality.

    The class token is normalised, the other tokens are not, as released.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        inner = HEADS * CROSS_HEAD_WIDTH
        self.norm, self.out_proj = nn.LayerNorm(WIDTH), nn.Linear(inner, WIDTH)
        self.query, self.key_value = nn.Linear(WIDTH, inner, bias=False), nn.Linear(WIDTH, 2 * inner, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Tokens (b, 1 + n, d) of both modalities, class tokens first -> the new class token (b, 1, d) of the first."""
        own = self.norm(x[:, :1])
        q = _heads(self.query(own))  # (b, heads, 1, e)
        k, v = (_heads(part) for part in self.key_value(torch.cat([own, other[:, 1:]], dim=1)).chunk(2, dim=-1))
        shares = (q @ k.transpose(2, 3) * CROSS_HEAD_WIDTH**-0.5).softmax(dim=-1)  # (b, heads, 1, 1 + n)
        attended = self.dropout(self.out_proj(_joined(self.dropout(shares) @ v)))
        return x[:, :1] + attended  # type: ignore[no-any-return]


class HCT(nn.Module):
    """Classifies windows of an HSI and a second modality.

    Both modalities share the tokenizer, the class token, the position embedding and the head, whose logits for both are
    added. Further modalities are stacked on the second one.

    Parameters: 4,608 c for c >= 3 channels of the HSI, 576 c' for the c' others, 65 k for the head, and 294,784 for the
    rest. With 30 + 1 channels and 6 classes (Trento): 433,990.

    Args:
        channels: Channels by modality: ``hsi`` and at least one other.
        side: Window side in pixels.
        num_classes: k.
        dropout: Share of values dropped from the embedded tokens, from the shares of the CTA, and behind every
            attention and the layers of the two-layer networks.

    Raises:
        ConfigError: If there is no HSI or no second modality, or the window is too small for the convolutions.

    Reference: HCT (Zhao et al. 2023), released code.
    Deviation: a third encoder, which the released code builds and never applies, is absent.
    """

    def __init__(self, channels: Mapping[str, int], side: int, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        hsi, others = hsi_and_others(channels, "HCT")
        if side < SMALLEST_WINDOW:
            raise ConfigError(
                f"window {side} is too small for the two convolutions of HCT, each of which removes a pixel at every "
                f"side; use a window of at least {SMALLEST_WINDOW}"
            )
        self.hsi_stem, self.other_stem = HsiStem(hsi), _plane(others)
        self.tokenizer = Tokenizer(WIDTH, TOKENS)
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.position = nn.Parameter(torch.randn(1, 1 + TOKENS, WIDTH) * POSITION_STD)
        self.dropout = nn.Dropout(dropout)
        self.hsi_encoder, self.other_encoder = Encoder(dropout), Encoder(dropout)
        self.hsi_cross, self.other_cross = CrossTokenAttention(dropout), CrossTokenAttention(dropout)
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, num_classes))

    def forward(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Logits (b, k) of windows, per modality (b, c, side, side)."""
        x = self.hsi_encoder(self._embedded(self.hsi_stem(windows["hsi"])))  # (b, 1 + n, d)
        y = self.other_encoder(self._embedded(self.other_stem(stacked_others(windows))))
        both = torch.cat([self.hsi_cross(x, y), self.other_cross(y, x)], dim=1)  # (b, 2, d)
        return self.head(both).sum(dim=1)  # type: ignore[no-any-return]

    def _embedded(self, maps: Tensor) -> Tensor:
        """(b, d, h, w) -> (b, 1 + n, d)."""
        tokens = torch.cat([self.class_token.expand(len(maps), -1, -1), self.tokenizer(maps)], dim=1)
        return self.dropout(tokens + self.position)  # type: ignore[no-any-return]


def _plane(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, WIDTH, KERNEL), BatchNorm2d(WIDTH), nn.ReLU())


def _heads(x: Tensor) -> Tensor:
    """(b, n, heads e) -> (b, heads, n, e)."""
    return x.reshape(*x.shape[:2], HEADS, -1).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    """(b, heads, n, e) -> (b, n, heads e)."""
    return x.transpose(1, 2).flatten(2)
