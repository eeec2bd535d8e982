"""A slow S2ENet for comparison, which forms the matrices of affinities entry by entry.

Written from the formulas of the released network. It reads tensors by name and shares no code with the package.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

State = dict[str, Tensor]


def convolved(state: State, name: str, x: Tensor, nonlinearity: Callable[[Tensor], Tensor]) -> Tensor:
    """Convolution with zeros around the window, batch normalisation in evaluation mode; of one window (c, h, w)."""
    weight, bias = state[f"{name}.0.weight"], state[f"{name}.0.bias"]
    reach, (_, height, width) = weight.shape[-1] // 2, x.shape
    out = torch.zeros(len(weight), height, width, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            total = bias.clone()
            for u in range(-reach, reach + 1):
                for v in range(-reach, reach + 1):
                    if 0 <= i + u < height and 0 <= j + v < width:
                        total = total + weight[:, :, u + reach, v + reach] @ x[:, i + u, j + v]
            out[:, i, j] = total
    mean, variance = state[f"{name}.1.running_mean"], state[f"{name}.1.running_var"]
    scale = state[f"{name}.1.weight"] / torch.sqrt(variance + 1e-5)
    return nonlinearity((out - mean[:, None, None]) * scale[:, None, None] + state[f"{name}.1.bias"][:, None, None])


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def logistic(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def spatially_enhanced(state: State, x: Tensor, y: Tensor) -> Tensor:
    """Each pixel of x times the weighted sum of its affinities to the pixels of y."""
    own, other = convolved(state, "spatial.own", x, logistic), convolved(state, "spatial.other", y, logistic)
    mix, (_, height, width) = state["spatial.mix.weight"][0], x.shape
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            affinities = [own[:, i, j] @ other[:, u, v] for u in range(height) for v in range(width)]
            out[:, i, j] = x[:, i, j] * sum(a * m for a, m in zip(affinities, mix, strict=True))
    return out


def spectrally_enhanced(state: State, x: Tensor, y: Tensor) -> Tensor:
    """Each channel of x times the weighted sum of its affinities to the channels of y."""
    own, other = convolved(state, "spectral.own", x, logistic), convolved(state, "spectral.other", y, logistic)
    mix = state["spectral.mix.weight"][0]
    out = torch.empty_like(x)
    for p in range(len(x)):
        affinities = [(own[p] * other[q]).sum() for q in range(len(y))]
        out[p] = x[p] * sum(a * m for a, m in zip(affinities, mix, strict=True))
    return out


def slow_s2enet(state: State, hsi: Tensor, other: Tensor) -> Tensor:
    """Logits (k,) of one window of the HSI (c, h, w) and one of the other modality."""
    x, y = hsi, other
    for layer in range(3):
        x, y = convolved(state, f"hsi.{layer}", x, relu), convolved(state, f"other.{layer}", y, relu)
    both = torch.cat([spatially_enhanced(state, x, y), spectrally_enhanced(state, y, x)])
    fused = convolved(state, "fuse", both, relu)
    mean = torch.stack([channel.sum() / channel.numel() for channel in fused])
    return state["head.weight"] @ mean + state["head.bias"]
