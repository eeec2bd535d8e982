"""Mamba blocks for sequences, and for windows whose pixels are scanned in several orders.

Letters: b batch, d width of a block, e its inner channels, h w space, n pixels (h w) or places of a sequence, s states
per channel, r rank of delta. Parameters have the names, shapes and layouts of mamba-ssm's ``Mamba``.

Reference: Mamba (Gu & Dao 2023), section 3.4; VMamba (Liu et al. 2024) for scans in four directions; MSFMamba (Gao et
al. 2025) for scans at two scales, and for coefficients from another modality.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.models.pointwise import PointwiseConv, map_channels
from mmrs_bench.models.selective_scan import selective_scan

#: Range of delta at the start of training.
DELTA_FIRST, DELTA_LAST = 1e-3, 1e-1
#: The directions of a scan: along rows, along columns, and the reverse of each.
DIRECTIONS = ("rows", "columns", "rows-back", "columns-back")
#: Epsilons of layer normalisation: torch's, and that of the released MSFMamba before its blocks.
NORM_EPS, MSFMAMBA_EPS = 1e-5, 1e-6
#: The two directions of a sequence: a window of height 1, or a window whose pixels are read as a sequence.
BIDIRECTIONAL = ("rows", "rows-back")


def to_sequence(x: Tensor, axis: str) -> Tensor:
    """Windows (b, e, h, w) -> their pixels along ``rows`` (the order in memory) or ``columns``, (b, e, n)."""
    return (x.transpose(2, 3) if axis == "columns" else x).flatten(2)


def to_windows(y: Tensor, axis: str, height: int, width: int) -> Tensor:
    """The inverse of `to_sequence`: (b, e, n) -> (b, e, h, w)."""
    if axis == "columns":
        return y.reshape(*y.shape[:2], width, height).transpose(2, 3)
    return y.reshape(*y.shape[:2], height, width)


class StateSpace(nn.Module):
    """A selective state space model (S6) along a sequence of e ``channels``.

    Delta, B and C are computed from the same sequence, or from another one with ``source_channels``. At the start A is
    -1, ..., -s, D is 1, and softplus of delta's bias is in [0.001, 0.1].

    Reference: Mamba, algorithm 2 and section 3.6.
    Deviation: delta starts log-uniform, as in the released code; the paper says uniform.
    """

    def __init__(self, channels: int, states: int, rank: int, source_channels: int | None = None) -> None:
        super().__init__()
        self.x_proj = nn.Linear(source_channels or channels, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, channels)
        self.A_log = nn.Parameter(torch.arange(1, states + 1).log().repeat(channels, 1))
        self.D = nn.Parameter(torch.ones(channels))
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            delta = torch.empty(channels).uniform_(math.log(DELTA_FIRST), math.log(DELTA_LAST)).exp()
            self.dt_proj.bias.copy_(delta.expm1().log())  # the inverse of softplus

    def forward(self, x: Tensor, source: Tensor | None = None, *, reverse: bool = False) -> Tensor:
        """The sequence (b, e, n), and the source (b, source channels, n) if it is another one -> (b, e, n).

        With ``reverse`` the scan starts at the last place.
        """
        states = self.A_log.shape[1]
        projected = map_channels(self.x_proj.weight, x if source is None else source)  # (b, r + 2 s, n)
        dt, b, c = torch.split(projected, [self.dt_proj.in_features, states, states], dim=1)
        delta = map_channels(self.dt_proj.weight, dt)  # (b, e, n)
        # The scan adds the bias, in full precision: bfloat16 has too few digits for it.
        return selective_scan(x, delta, -self.A_log.exp(), b, c, self.D, self.dt_proj.bias, reverse=reverse)


class Mamba(StateSpace):
    """The plain Mamba block for sequences, causal and without residual; loads state dicts of mamba-ssm's ``Mamba``.

    ``expand`` is e / d, and ``kernel`` the size of the causal convolution.

    Reference: Mamba, figure 3; rank of delta d / 16, as in the released code.
    """

    def __init__(self, width: int, *, states: int = 16, expand: int = 2, kernel: int = 4) -> None:
        inner = expand * width
        super().__init__(inner, states, delta_rank(width))
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, kernel, padding=kernel - 1, groups=inner)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(b, n, d) -> (b, n, d)."""
        features, gate = self.in_proj(x).transpose(1, 2).chunk(2, dim=1)  # (b, e, n)
        y = super().forward(F.silu(self.conv1d(features)[..., : x.shape[1]]))  # (b, e, n)
        return cast(Tensor, self.out_proj((y * F.silu(gate)).transpose(1, 2)))


class WindowScan(nn.Module):
    """The sum of scans over a window in some of the `DIRECTIONS`, each with its own `StateSpace`.

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
        unknown = ", ".join(sorted(set(directions) - set(DIRECTIONS)))
        if unknown:
            raise ValueError(f"unknown scan direction {unknown}; choose from {', '.join(DIRECTIONS)}")
        self.directions = tuple(directions)
        self.spaces = nn.ModuleList(StateSpace(channels, states, rank, source_channels) for _ in directions)

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """Windows (b, e, h, w), and source windows (b, source channels, h, w) if they are others -> (b, e, h, w)."""
        totals = []
        for axis in ("rows", "columns"):
            path, other = (None if image is None else to_sequence(image, axis) for image in (x, source))
            scans = [
                space(path, other, reverse=direction.endswith("back"))
                for direction, space in zip(self.directions, self.spaces, strict=True)
                if direction.startswith(axis)
            ]
            if scans:
                totals.append(to_windows(reduce(add, scans), axis, *x.shape[2:]))
        return reduce(add, totals)


class MultiScaleScan(nn.Module):
    """Scans along rows and columns at full resolution, and in the reverse directions at half of it.

    Reference: MSFMamba, multi-scale spatial Mamba block; kernels and directions as in the released code.
    Deviation: the two half-resolution scans are added before upsampling. The released code upsamples each, and so adds
    the bias of that step twice.
    """

    def __init__(self, channels: int, states: int, rank: int) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.downsample = nn.Conv2d(channels, channels, 5, stride=2, padding=2, groups=channels)
        self.fine = WindowScan(channels, states, rank, directions=("rows", "columns"))
        self.coarse = WindowScan(channels, states, rank, directions=("rows-back", "columns-back"))
        self.upsample = nn.ConvTranspose2d(channels, channels, 5, stride=2, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, e, h, w) -> (b, e, h, w)."""
        coarse = self.coarse(self.downsample(x))  # (b, e, h / 2, w / 2), rounded up
        return self.fine(self.conv2d(x)) + self.upsample(coarse, output_size=x.shape[2:])  # type: ignore[no-any-return]


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (b, d, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, d, h, w) -> (b, d, h, w)."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class MambaBlock(nn.Module):
    """A Mamba block for windows: norm, ``in_proj``, ``conv2d``, scan, gate, ``out_proj``, residual.

    Args:
        width: d.
        states: s.
        expand: e / d.
        scan: Makes the scan from (inner channels, states, rank of delta): `WindowScan` or `MultiScaleScan`, or
            ``partial(WindowScan, directions=BIDIRECTIONAL)``.
        pointwise: Whether ``conv2d`` is a full linear map of the inner channels at each place, without bias, as in
            MSFMamba's spectral block. Otherwise it is a depthwise 3 x 3 convolution.
        norm_eps: Epsilon of ``norm``.

    Reference: Mamba, figure 3; rank of delta d / 16, as in the released code.
    Deviation: as in VMamba, the convolution is not causal, because a window has no direction, and the sum of scans is
    normalised before the gate.
    """

    def __init__(
        self,
        width: int,
        *,
        states: int = 16,
        expand: float = 1.0,
        scan: Callable[[int, int, int], nn.Module] = WindowScan,
        pointwise: bool = False,
        norm_eps: float = NORM_EPS,
    ) -> None:
        super().__init__()
        inner = inner_channels(width, expand)
        self.norm = ChannelNorm(width, eps=norm_eps)
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv2d: nn.Conv2d = (
            PointwiseConv(inner, inner, bias=False)
            if pointwise
            else nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        )
        self.scan = scan(inner, states, delta_rank(width))
        self.out_norm = ChannelNorm(inner)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, d, h, w) -> (b, d, h, w)."""
        features, gate = self.before_scan(x)
        return self.after_scan(x, self.scan(features), gate)

    def before_scan(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The input of the scan and the argument of the gate, each (b, e, h, w)."""
        features, gate = map_channels(self.in_proj.weight, self.norm(x)).chunk(2, dim=1)
        return F.silu(self.conv2d(features)), gate

    def after_scan(self, x: Tensor, scanned: Tensor, gate: Tensor) -> Tensor:
        """Add the gated output of the scan (b, e, h, w) to ``x``."""
        gated = self.out_norm(scanned) * F.silu(gate)  # (b, e, h, w)
        return x + map_channels(self.out_proj.weight, gated)


class FusionBlock(nn.Module):
    """Two modalities, each scanned with coefficients (delta, B, C) from the other one.

    Args:
        width: d of the first modality.
        other_width: d of the second modality; None takes ``width``.
        states, expand: As of `MambaBlock`.

    Reference: MSFMamba, fusion Mamba block; the rank of delta follows from the width of the modality that delta is
        computed from, as in the released code.
    """

    def __init__(self, width: int, other_width: int | None = None, *, states: int, expand: float) -> None:
        super().__init__()
        widths = (width, other_width or width)

        def block(own: int, source: int) -> MambaBlock:
            def scan(inner: int, states: int, _rank: int) -> WindowScan:
                return WindowScan(inner, states, delta_rank(source), inner_channels(source, expand))

            return MambaBlock(own, states=states, expand=expand, scan=scan, norm_eps=MSFMAMBA_EPS)

        self.first, self.second = block(*widths), block(*widths[::-1])

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Windows of both modalities, (b, d, h, w) of either width -> the same shapes."""
        x_features, x_gate = self.first.before_scan(x)
        y_features, y_gate = self.second.before_scan(y)
        x_scanned = self.first.scan(x_features, y_features)
        y_scanned = self.second.scan(y_features, x_features)
        return self.first.after_scan(x, x_scanned, x_gate), self.second.after_scan(y, y_scanned, y_gate)


def inner_channels(width: int, expand: float) -> int:
    """Channels inside a block: ``expand`` times its width, rounded down, at least 1."""
    return max(1, int(expand * width))


def delta_rank(width: int) -> int:
    """Rank of delta in a block: a sixteenth of its width, rounded up."""
    return -(-width // 16)
