"""A random scene of Trento's size, and its windows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmrs_bench.scenes.windows import WindowGatherer, build_canvas

HEIGHT, WIDTH, WINDOW = 166, 600, 11
CLASSES = ("apple trees", "buildings", "ground", "woods", "vineyard", "roads")


def images(channels: dict[str, int]) -> dict[str, np.ndarray]:
    """Standard normal images (HEIGHT, WIDTH, c) by modality."""
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((HEIGHT, WIDTH, c), dtype=np.float32) for name, c in channels.items()}


def gatherer(channels: dict[str, int]) -> WindowGatherer:
    """The windows of that scene."""
    return WindowGatherer(build_canvas(images(channels), WINDOW), channels, WINDOW)


def pixels(count: int) -> Tensor:
    """Random pixels of it, each once."""
    return torch.randperm(HEIGHT * WIDTH, generator=torch.Generator().manual_seed(0))[:count]


def batch(windows: WindowGatherer, count: int) -> dict[str, object]:
    """A batch of windows with pixels and targets."""
    pixel = pixels(count)
    return {"pixel": pixel, "windows": windows.gather(pixel), "target": torch.arange(count) % len(CLASSES)}
