"""Coupled CNNs for one window, pixel by pixel, for comparison.

It reads tensors by name and shares no code with the package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def convolved(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """A 3 x 3 convolution with zeros around the map (c, h, w), batch normalisation in evaluation mode, ReLU."""
    weight, bias = state[f"{name}.convolve.weight"], state[f"{name}.convolve.bias"]
    mean, variance = state[f"{name}.norm.running_mean"], state[f"{name}.norm.running_var"]
    scale, shift = state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]
    _, height, width = x.shape
    out = torch.zeros(len(weight), height, width, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            total = bias.clone()
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    if 0 <= i + down < height and 0 <= j + right < width:
                        total += weight[:, :, down + 1, right + 1] @ x[:, i + down, j + right]
            out[:, i, j] = (total - mean) / torch.sqrt(variance + 1e-5) * scale + shift
    return torch.where(out > 0, out, torch.zeros_like(out))


def pooled(x: Tensor) -> Tensor:
    """The largest of 2 x 2 pixels, without those of an odd last row or column; one pixel stays as it is."""
    side = x.shape[1]
    if side == 1:
        return x
    half = side // 2
    out = torch.empty(len(x), half, half, dtype=x.dtype)
    for i in range(half):
        for j in range(half):
            out[:, i, j] = torch.stack([x[:, 2 * i + a, 2 * j + b] for a in (0, 1) for b in (0, 1)]).amax(dim=0)
    return out


def features(state: Mapping[str, Tensor], name: str, window: Tensor) -> Tensor:
    """Features (128,) of a window (c, h, w) of a modality."""
    x = window
    for layer in (f"own.{name}", "shared.0", "shared.1"):
        x = pooled(convolved(state, layer, x))
    return torch.stack([x[:, i, j] for i in range(x.shape[1]) for j in range(x.shape[2])]).mean(dim=0)


def outputs(state: Mapping[str, Tensor], windows: Mapping[str, Tensor]) -> list[Tensor]:
    """Logits (k,) of each modality, and of the sum of their features."""
    found = [features(state, name, window) for name, window in windows.items()]
    total = found[0]
    for other in found[1:]:
        total = total + other
    heads = range(len(found) + 1)
    return [
        state[f"heads.{i}.weight"] @ x + state[f"heads.{i}.bias"] for i, x in zip(heads, [*found, total], strict=True)
    ]


def fused(state: Mapping[str, Tensor], windows: Mapping[str, Tensor]) -> list[float]:
    """The weighted sum of the outputs, class by class."""
    logits, weights = outputs(state, windows), state["weights"]
    return [sum(float(weights[i, k] * y[k]) for i, y in enumerate(logits)) for k in range(weights.shape[1])]


def loss(
    state: Mapping[str, Tensor], windows: list[Mapping[str, Tensor]], targets: list[int], single_loss: float
) -> float:
    """Mean over windows of the cross-entropies of all outputs, those of single modalities times ``single_loss``."""
    total = 0.0
    for window, target in zip(windows, targets, strict=True):
        found = outputs(state, window)
        entropies = [math.log(sum(math.exp(v) for v in y.tolist())) - float(y[target]) for y in found]
        total += entropies[-1] + single_loss * sum(entropies[:-1])
    return total / len(windows)


def weights(found: list[list[int]], targets: list[int], classes: int) -> list[list[float]]:
    """Weights of outputs that classify windows as ``found``, by output and class."""
    right = [[0] * classes for _ in found]
    for row, classified in zip(right, found, strict=True):
        for one, target in zip(classified, targets, strict=True):
            row[target] += one == target
    return [[row[k] / (sum(other[k] for other in right) + 0.00001) for k in range(classes)] for row in right]
