"""The network of MSFMamba: two modalities through spatial, spectral and fusion selective scans.

Letters: b batch, c channels, d width, h w space, n pixels (h w), k classes, L layers.

Reference: MSFMamba (Gao et al. 2025), multi-scale spatial, spectral and fusion Mamba blocks; sizes as released.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from mmrs_bench.models.batch_norm import BatchNorm2d, BatchNorm3d
from mmrs_bench.models.mamba import BIDIRECTIONAL, MSFMAMBA_EPS, FusionBlock, MambaBlock, MultiScaleScan, WindowScan

#: Channels of the 3-D convolutions; in the released network, layer n has n times as many, counted from 1.
VOLUME_MAPS = 8
#: Channels of the second modality in layer 1 of the released network; layer n has n times as many.
SECOND_WIDTH = 64
#: Channels that the first 3-D convolution spans; each further convolution spans 2 fewer.
SPECTRAL_KERNEL = 9
#: Smallest side of the scanned windows; below it, a spectral scan normalises over a single pixel.
SMALLEST_SCANNED = 3


class SpectralStem(nn.Module):
    """L 3-D convolutions over channels and pixels, without padding, then a 1 x 1 convolution.

    Kernels span at most the channels that remain.
    """

    def __init__(self, channels: int, width: int, layers: int) -> None:
        super().__init__()
        volumes: list[nn.Module] = []
        depth, maps = channels, 1
        for layer in range(layers):
            span = spectral_span(layer, depth)
            volumes += [nn.Conv3d(maps, VOLUME_MAPS, (span, 3, 3), bias=False), BatchNorm3d(VOLUME_MAPS), nn.ReLU()]
            depth, maps = depth - span + 1, VOLUME_MAPS
        self.volumes = nn.Sequential(*volumes)
        self.mix = nn.Conv2d(maps * depth, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, d, h - 2 L, w - 2 L)."""
        return self.mix(self.volumes(x[:, None]).flatten(1, 2))  # type: ignore[no-any-return]


class PlainStem(nn.Sequential):
    """L 2-D convolutions without padding: (b, c, h, w) -> (b, d, h - 2 L, w - 2 L)."""

    def __init__(self, channels: int, width: int, layers: int) -> None:
        inputs = [channels, *[width] * (layers - 1)]
        parts = [[nn.Conv2d(count, width, 3, bias=False), BatchNorm2d(width), nn.ReLU()] for count in inputs]
        super().__init__(*(module for part in parts for module in part))


class SpectralBlock(nn.Module):
    """A Mamba block along the channels in both directions; the vector at each channel is its map over the window.

    Reference: MSFMamba, spectral Mamba block: in place of a convolution, a full linear map without bias.
    Deviation: axes are transposed; the released code reshapes, which mixes the values of different pixels.
    """

    def __init__(self, pixels: int, *, states: int, expand: float) -> None:
        super().__init__()
        scan = partial(WindowScan, directions=BIDIRECTIONAL)
        self.block = MambaBlock(pixels, states=states, expand=expand, scan=scan, pointwise=True, norm_eps=MSFMAMBA_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(b, d, h, w) -> (b, d, h, w)."""
        sequence = x.flatten(2).transpose(1, 2)[:, :, None]  # (b, n, 1, d)
        return self.block(sequence)[:, :, 0].transpose(1, 2).reshape(x.shape)  # type: ignore[no-any-return]


class MSFMambaLayer(nn.Module):
    """Spatial scans of both modalities, a spectral scan of the first one, and fusion scans.

    Args:
        widths: d of the first and of the second modality.
        pixels: n.
        states, expand: See `MSFMamba`.

    Reference: MSFMamba, released code.
    Deviation: axes are transposed; the released code reshapes windows before its spatial and fusion scans, which mixes
        the values of different pixels and channels.
    """

    def __init__(self, widths: tuple[int, int], pixels: int, *, states: int, expand: float) -> None:
        super().__init__()

        def spatial(width: int) -> MambaBlock:
            return MambaBlock(width, states=states, expand=expand, scan=MultiScaleScan, norm_eps=MSFMAMBA_EPS)

        self.first = nn.Sequential(spatial(widths[0]), SpectralBlock(pixels, states=states, expand=expand))
        self.second = spatial(widths[1])
        self.fuse = FusionBlock(*widths, states=states, expand=expand)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Windows of the first and the second modality, (b, d, h, w) of either width -> the same shapes."""
        fused: tuple[Tensor, Tensor] = self.fuse(self.first(x), self.second(y))
        return fused


class MSFMamba(nn.Module):
    """Classifies windows of a hyperspectral and a second modality.

    The first window goes through 3-D convolutions, the second through 2-D ones, then both through the layers; the head
    is connected to every pixel of both. Further modalities are stacked on the second one.

    Parameters with 30 + 4 channels, side 11, 10 classes, width 64, 16 states and ``expand`` 0.75: 346,992, of which the
    head has 103,690; with two layers 542,942.

    Args:
        channels: Channels by modality, at least two modalities; the first is the hyperspectral one.
        side: Window side in pixels, at least 2 L + `SMALLEST_SCANNED`.
        num_classes: k.
        width: d.
        layers: L, of convolutions and of scans; as released, 2 for Berlin and Houston2018, 1 for Augsburg and
            Houston2013.
        states: States per channel; as released 16, and 8 for Augsburg.
        expand: Inner channels of a block per channel.

    Reference: MSFMamba (Gao et al. 2025); kernels, states, expansion and layers as in the released code.
    Deviation: all convolutions come before all scans, where the released code alternates them; a 1 x 1 convolution
    reduces the maps of the HSI to d, the same d as of the second modality. The other convolutions have no bias, which
    the batch normalisation behind them would remove. `ReleasedMSFMamba` has the released layout.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        side: int,
        num_classes: int,
        *,
        width: int,
        layers: int,
        states: int,
        expand: float,
    ) -> None:
        super().__init__()
        self.modalities = tuple(channels)
        scanned = side - 2 * layers
        first, *others = channels.values()
        self.first_stem = SpectralStem(first, width, layers)
        self.second_stem = PlainStem(sum(others), width, layers)
        self.layers = nn.ModuleList(
            MSFMambaLayer((width, width), scanned**2, states=states, expand=expand) for _ in range(layers)
        )
        self.head = nn.Linear(2 * width * scanned**2, num_classes)

    def forward(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Logits (b, k) of windows, per modality (b, c, side, side)."""
        first, *others = (windows[name] for name in self.modalities)
        x, y = self.first_stem(first), self.second_stem(torch.cat(others, dim=1))
        for layer in self.layers:
            x, y = layer(x, y)
        logits: Tensor = self.head(torch.cat([x, y], dim=1).flatten(1))
        return logits


class ReleasedMSFMamba(nn.Module):
    """MSFMamba in the released layout: in each layer a convolution without padding, then the scans of `MSFMambaLayer`.

    Layer n (from 1) has 8 n maps and 64 n channels of the second modality. The HSI is scanned with all maps of all its
    remaining channels: with 30 components, a width of 176 in layer 1 and of 256 in layer 2. The head is connected to
    every pixel of both.

    Parameters with 30 components and side 11, as of the released networks: 1,077,873 (Houston2013: 1 layer, 16 states,
    1 LiDAR channel, 15 classes), 886,633 (Augsburg: 1, 8, 4 SAR channels, 7), 2,744,992 (Berlin: 2, 16, 4, 8) and
    2,969,068 (Houston2018: 2, 16, 1, 20).

    Args:
        channels, side, num_classes, layers, states, expand: See `MSFMamba`.

    Reference: MSFMamba (Gao et al. 2025), released code.
    Deviation: kernels span at most the remaining channels; the released code needs 9 components. Further modalities are
    stacked on the second one. See also `MSFMambaLayer` and `mmrs_bench.models.mamba.MultiScaleScan`.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        side: int,
        num_classes: int,
        *,
        layers: int,
        states: int,
        expand: float,
    ) -> None:
        super().__init__()
        self.modalities = tuple(channels)
        depth, *others = channels.values()
        maps, second = 1, sum(others)
        self.volumes, self.planes, self.layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for layer in range(layers):
            span, side = spectral_span(layer, depth), side - 2
            depth, more_maps, wider = depth - span + 1, VOLUME_MAPS * (layer + 1), SECOND_WIDTH * (layer + 1)
            volume = nn.Conv3d(maps, more_maps, (span, 3, 3)), BatchNorm3d(more_maps), nn.ReLU()
            plane = nn.Conv2d(second, wider, 3), BatchNorm2d(wider), nn.ReLU()
            maps, second = more_maps, wider
            self.volumes.append(nn.Sequential(*volume))
            self.planes.append(nn.Sequential(*plane))
            self.layers.append(MSFMambaLayer((maps * depth, second), side**2, states=states, expand=expand))
        self.head = nn.Linear((maps * depth + second) * side**2, num_classes)

    def forward(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Logits (b, k) of windows, per modality (b, c, side, side)."""
        first, *others = (windows[name] for name in self.modalities)
        x, y = first[:, None], torch.cat(others, dim=1)
        for volume, plane, layer in zip(self.volumes, self.planes, self.layers, strict=True):
            x, y = volume(x), plane(y)  # (b, maps, depth, h, w), (b, d, h, w)
            scanned, y = layer(x.flatten(1, 2), y)
            x = scanned.reshape(x.shape)
        logits: Tensor = self.head(torch.cat([x.flatten(1, 2), y], dim=1).flatten(1))
        return logits


def spectral_span(layer: int, depth: int) -> int:
    """Channels that the 3-D convolution of a layer (from 0) spans, of ``depth`` remaining ones."""
    return min(max(1, SPECTRAL_KERNEL - 2 * layer), depth)
