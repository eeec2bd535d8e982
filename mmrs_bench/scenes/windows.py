"""Windows of pixels, gathered on the device from one padded canvas of all modalities.

The canvas is a channels-last float32 array (height + 2r, width + 2r, channels) of the concatenated modalities, with
borders of r = (window - 1) / 2 pixels reflected about the edge pixel. An array of all windows never exists.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch

from mmrs_bench.scenes.scene import FloatArray, check_window

#: Chunk of pixels in `WindowGatherer.mapped`.
MAPPED_PIXELS = 1 << 14

#: Symmetries of the square: 4 rotations, without and with a left-right flip before. 0 is the identity.
SYMMETRIES = 8


def empty_canvas(height: int, width: int, channels: int, window: int) -> FloatArray:
    """An uninitialised canvas for images of this size; raises `ConfigError` for an even or too large window."""
    check_window(window, height, width)
    radius = window // 2
    return np.empty((height + 2 * radius, width + 2 * radius, channels), dtype=np.float32)


def interior(canvas: FloatArray, window: int) -> FloatArray:
    """The image part (height, width, channels) of a canvas, as a view."""
    radius = window // 2
    return canvas[radius : canvas.shape[0] - radius, radius : canvas.shape[1] - radius]


def reflect_borders(canvas: FloatArray, window: int) -> None:
    """Fill the borders of a canvas from its interior, as ``np.pad(..., mode="reflect")`` does."""
    radius = window // 2
    if radius == 0:
        return
    canvas[radius:-radius, :radius] = canvas[radius:-radius, 2 * radius : radius : -1]
    canvas[radius:-radius, -radius:] = canvas[radius:-radius, -radius - 2 : -2 * radius - 2 : -1]
    canvas[:radius] = canvas[2 * radius : radius : -1]
    canvas[-radius:] = canvas[-radius - 2 : -2 * radius - 2 : -1]


def build_canvas(images: Mapping[str, FloatArray], window: int) -> FloatArray:
    """A canvas of images (height, width, channels) of equal size; raises `ConfigError` as `empty_canvas`."""
    height, width, _ = next(iter(images.values())).shape
    canvas = empty_canvas(height, width, sum(image.shape[2] for image in images.values()), window)
    np.concatenate(list(images.values()), axis=2, out=interior(canvas, window))
    reflect_borders(canvas, window)
    return canvas


class WindowGatherer:
    """Gathers windows from a canvas on a device; on the CPU, the canvas is shared and not copied.

    Args:
        canvas: (height + 2r, width + 2r, channels) float32.
        channels: Channels by modality, in the canvas's order.
        window: Side of the window in pixels, odd.
        device: Device of the windows.
    """

    def __init__(
        self, canvas: FloatArray, channels: Mapping[str, int], window: int, device: torch.device | str = "cpu"
    ) -> None:
        self.channels = dict(channels)
        self.window = window
        self.canvas_width = canvas.shape[1]
        self.width = canvas.shape[1] - 2 * (window // 2)
        self.rows = torch.from_numpy(canvas).reshape(-1, canvas.shape[2]).to(device)
        self.offsets = _offsets(window, self.canvas_width).to(device)

    def gather(self, pixels: torch.Tensor, symmetry: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Windows centred on pixels.

        Args:
            pixels: (b,) int64 flat indices of the unpadded image, on the gatherer's device.
            symmetry: (b,) int64 in 0..7, applied to each window in all modalities; None applies none.

        Returns:
            Per modality (b, channels, window, window) float32: views into one tensor (use ``reshape``, not ``view``).
        """
        corners = (pixels // self.width) * self.canvas_width + pixels % self.width
        if symmetry is None:  # the rows of a window lie together in memory
            places = corners[:, None] + self.offsets[0, :: self.window]
            windows = self._strips().index_select(0, places.reshape(-1))
        else:
            places = corners[:, None] + self.offsets[symmetry]
            windows = self.rows.index_select(0, places.reshape(-1))
        windows = windows.view(pixels.shape[0], self.window, self.window, -1).permute(0, 3, 1, 2)  # (b, c, w, w)
        return self._parts(windows)

    def _strips(self) -> torch.Tensor:
        """A view of ``window`` neighbouring pixels of a row, from each pixel on: (pixels, window * channels)."""
        count, channels = self.rows.shape
        return self.rows.as_strided((count - self.window + 1, self.window * channels), (channels, 1))

    def mapped(self, function: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> WindowGatherer:
        """A gatherer of a pixelwise function, which is computed once per pixel of the canvas.

        Args:
            function: Maps pixels (n, channels) by modality to values (n, d) by modality.
        """
        sample = function(self._parts(self.rows[:1]))
        new = copy.copy(self)
        new.channels = {name: values.shape[1] for name, values in sample.items()}
        new.rows = next(iter(sample.values())).new_empty(len(self.rows), sum(new.channels.values()))
        chunks = (torch.split(rows, MAPPED_PIXELS) for rows in (self.rows, new.rows))
        for source, target in zip(*chunks, strict=True):
            torch.cat(list(function(self._parts(source)).values()), dim=1, out=target)
        return new

    def _parts(self, stacked: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of the modalities of (n, c, ...)."""
        parts = torch.split(stacked, list(self.channels.values()), dim=1)
        return dict(zip(self.channels, parts, strict=True))


def _offsets(window: int, canvas_width: int) -> torch.Tensor:
    """Offsets (8, window * window) of the pixels of a window from its upper left pixel, under each symmetry."""
    steps = torch.arange(window)
    square = steps[:, None] * canvas_width + steps
    turned = [torch.rot90(side, turns) for side in (square, square.flip(1)) for turns in range(4)]
    return torch.stack([offsets.reshape(-1) for offsets in turned])
