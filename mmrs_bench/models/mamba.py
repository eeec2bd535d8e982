"""Mamba blocks over windows: selective state spaces that read the pixels in several orders.

Letters: b batch, d width of a block, e its inner channels, h w space, n pixels (h w), s states, r rank of delta.

Reference: Mamba (Gu & Dao 2023), section 3.4, for the block; VMamba (Liu et al. 2024) for scans of images in four
directions; MSFMamba (Gao et al. 2025) for scans at two scales and for scans steered by another modality.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.models.selective_scan import selective_scan

#: Range of delta at the start of training.
DELTA_FIRST, DELTA_LAST = 1e-3, 1e-1
#: The directions of a scan: along rows (the order of pixels in memory), along columns, and the reverse of each.
DIRECTIONS = ("rows", "columns", "rows-back", "columns-back")
#: Of those, the two of a sequence: a window of height 1, or one whose pixels are taken as a sequence.
BIDIRECTIONAL = ("rows", "rows-back")


def scan_order(direction: str, height: int, width: int) -> Tensor:
    """The pixels of a window, as indices row * width + column, in the order in which a scan visits them (n,).

    Raises:
        ValueError: If ``direction`` is not one of `DIRECTIONS`.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"unknown direction {direction!r} of a scan; choose from {', '.join(DIRECTIONS)}")
    pixels = torch.arange(height * width).reshape(height, width)
    path = (pixels.T if direction.startswith("columns") else pixels).flatten()
    return path.flip(0) if direction.endswith("back") else path


def _reorder(x: Tensor, order: Tensor) -> Tensor:
    # gather, because the backward pass of index_select takes three times as long.
    return x.gather(2, order.expand_as(x))


def _pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply every place of x (b, e, n) by a matrix (f, e): (b, f, n)."""
    return F.conv1d(x, weight[:, :, None])


class StateSpace(nn.Module):
    """A selective state space (S6): along one sequence, with coefficients made of the sequence or of another one.

    Args:
        channels: e, channels of the sequence.
        states: s, states per channel.
        rank: r, rank of the map to delta.
        source_channels: Channels of the sequence that the coefficients are made of; None if it is the same.

    Rates start at -1, ..., -s, skip weights at 1, and delta's bias such that softplus makes it lie in [0.001, 0.1].

    Reference: Mamba, algorithm 2, and section 3.6 for the start.
    Deviation: delta starts log-uniform, as in the released code; the paper says uniform.
    """

    def __init__(self, channels: int, states: int, rank: int, source_channels: int | None = None) -> None:
        super().__init__()
        self.coefficients = nn.Linear(source_channels or channels, rank + 2 * states, bias=False)
        self.delta = nn.Linear(rank, channels)
        self.log_rates = nn.Parameter(torch.arange(1, states + 1).log().repeat(channels, 1))
        self.skip = nn.Parameter(torch.ones(channels))
        nn.init.uniform_(self.delta.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            first, last = math.log(DELTA_FIRST), math.log(DELTA_LAST)
            delta = torch.empty(channels).uniform_(first, last).exp()
            self.delta.bias.copy_(delta.expm1().log())  # softplus backwards

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """Scan a sequence.

        Args:
            x: The sequence (b, e, n).
            source: What delta, b and c are made of (b, source channels, n); None for ``x``.

        Returns:
            (b, e, n).
        """
        states = self.log_rates.shape[1]
        made = _pointwise(x if source is None else source, self.coefficients.weight)
        low, b, c = torch.split(made, [self.delta.in_features, states, states], dim=1)
        # The bias is added outside, in full precision: bfloat16 has too few digits to tell its values apart.
        steps = _pointwise(low, self.delta.weight) + self.delta.bias[:, None]
        return selective_scan(x, F.softplus(steps), -self.log_rates.exp(), b, c, self.skip)


class WindowScan(nn.Module):
    """The sum of scans over a window in several directions, with a state space for each.

    Args:
        channels, states, rank, source_channels: See `StateSpace`.
        directions: Of `DIRECTIONS`; `BIDIRECTIONAL` for sequences.

    Reference: VMamba, 2-D selective scan.
    """

    def __init__(
        self,
        channels: int,
        states: int,
        rank: int,
        source_channels: int | None = None,
        *,
        directions: Sequence[str] = DIRECTIONS,
    ) -> None:
        super().__init__()
        for direction in directions:
            scan_order(direction, 1, 1)  # an unknown one is told now
        self.directions = tuple(directions)
        self.spaces = nn.ModuleList(StateSpace(channels, states, rank, source_channels) for _ in directions)

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """Scan windows.

        Args:
            x: Windows (b, e, h, w).
            source: Windows that delta, b and c are made of (b, source channels, h, w); None for ``x``.

        Returns:
            (b, e, h, w).
        """
        height, width = x.shape[2:]
        sequence = x.flatten(2)
        steering = None if source is None else source.flatten(2)
        total = torch.zeros_like(sequence)
        for direction, space in zip(self.directions, self.spaces, strict=True):
            order = scan_order(direction, height, width).to(x.device)
            y = space(_reorder(sequence, order), None if steering is None else _reorder(steering, order))
            total = total + _reorder(y, order.argsort())
        return total.reshape(x.shape)


class MultiScaleScan(nn.Module):
    """Scans along rows and columns at full resolution, and of their reverses at half of it.

    Reference: MSFMamba, multi-scale spatial Mamba block; kernels and directions as in the released code.
    Deviation: what the half-resolution scans give is summed before, not after, it is brought back to full resolution;
    the released code so adds the bias of that step twice.

    Args:
        channels, states, rank: See `StateSpace`.
    """

    def __init__(self, channels: int, states: int, rank: int) -> None:
        super().__init__()
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.shrink = nn.Conv2d(channels, channels, 5, stride=2, padding=2, groups=channels)
        self.fine = WindowScan(channels, states, rank, directions=("rows", "columns"))
        self.coarse = WindowScan(channels, states, rank, directions=("rows-back", "columns-back"))
        self.grow = nn.ConvTranspose2d(channels, channels, 5, stride=2, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, e, h, w) -> (b, e, h, w)."""
        coarse = self.coarse(self.shrink(x))
        return self.fine(self.smooth(x)) + self.grow(coarse, output_size=x.shape[2:])  # type: ignore[no-any-return]


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (b, d, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, d, h, w) -> the same shape."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class MambaBlock(nn.Module):
    """Normalise, widen, convolve, scan, gate, narrow; with a residual.

    Args:
        width: d, channels of the windows.
        states: s, states per channel.
        expand: Inner channels per channel.
        scan: Makes the scan from (inner channels, states, rank of delta): `WindowScan` or `MultiScaleScan`, or
            ``partial(WindowScan, directions=BIDIRECTIONAL)``.
        kernel: Size of the depthwise convolution, odd; (1, 3) for sequences (b, d, 1, n).

    Reference: Mamba, figure 3; rank of delta d / 16, as in the released code.
    Deviation: as in VMamba, the convolution sees both sides and not only the past, for a window has no direction, and
    the sum of scans is normalised before the gate.
    """

    def __init__(
        self,
        width: int,
        *,
        states: int = 16,
        expand: float = 1.0,
        scan: Callable[[int, int, int], nn.Module] = WindowScan,
        kernel: tuple[int, int] = (3, 3),
    ) -> None:
        super().__init__()
        inner = inner_channels(width, expand)
        self.norm = ChannelNorm(width)
        self.widen = nn.Conv2d(width, 2 * inner, 1, bias=False)
        self.convolve = nn.Conv2d(inner, inner, kernel, padding=(kernel[0] // 2, kernel[1] // 2), groups=inner)
        self.scan = scan(inner, states, -(-width // 16))
        self.scan_norm = ChannelNorm(inner)
        self.narrow = nn.Conv2d(inner, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, d, h, w) -> (b, d, h, w)."""
        features, gate = self.enter(x)
        return self.leave(x, self.scan(features), gate)

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is to be scanned and the gate's argument, each (b, e, h, w)."""
        features, gate = self.widen(self.norm(x)).chunk(2, dim=1)
        return F.silu(self.convolve(features)), gate

    def leave(self, x: Tensor, scanned: Tensor, gate: Tensor) -> Tensor:
        """Add what came out of the scan (b, e, h, w), gated, to ``x``."""
        return x + cast(Tensor, self.narrow(self.scan_norm(scanned) * F.silu(gate)))


class FusionBlock(nn.Module):
    """Two modalities, each scanned with coefficients (delta, b, c) that the other one gives.

    Args:
        widths: Channels of the two modalities.
        states, expand: As of `MambaBlock`.

    Reference: MSFMamba, fusion Mamba block.
    """

    def __init__(self, widths: tuple[int, int], *, states: int = 16, expand: float = 1.0) -> None:
        super().__init__()

        def block(width: int, other: int) -> MambaBlock:
            source_channels = inner_channels(other, expand)
            return MambaBlock(
                width,
                states=states,
                expand=expand,
                scan=lambda inner, states, rank: WindowScan(inner, states, rank, source_channels),
            )

        self.first, self.second = block(*widths), block(*reversed(widths))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Windows of both modalities, (b, d, h, w) with its own d each, to the same."""
        x_features, x_gate = self.first.enter(x)
        y_features, y_gate = self.second.enter(y)
        x_scanned = self.first.scan(x_features, y_features)
        y_scanned = self.second.scan(y_features, x_features)
        return self.first.leave(x, x_scanned, x_gate), self.second.leave(y, y_scanned, y_gate)


def inner_channels(width: int, expand: float) -> int:
    """Channels inside a block: ``expand`` times its width, rounded down, at least 1."""
    return max(1, int(expand * width))
