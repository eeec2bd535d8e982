"""A slow MSFMamba in the released layout, place after place and direction after direction, for comparison.

Written from the formulas of the released network, with its axes in order. It reads tensors by name and shares no code
with the package.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

#: Epsilons of layer normalisation before a block, and after a scan.
BEFORE, AFTER = 1e-6, 1e-5


class Part:
    """The tensors of a state dict whose names start with ``prefix``."""

    def __init__(self, state: dict[str, Tensor], prefix: str = "") -> None:
        self.state, self.prefix = state, prefix

    def __truediv__(self, name: object) -> Part:
        return Part(self.state, f"{self.prefix}{name}.")

    def __getitem__(self, name: str) -> Tensor:
        return self.state[self.prefix + name]


def normalised(vector: Tensor, norm: Part, eps: float) -> Tensor:
    """Layer normalisation of a vector (d,)."""
    mean = vector.mean()
    return (vector - mean) / torch.sqrt((vector - mean).square().mean() + eps) * norm["weight"] + norm["bias"]


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def scanned(space: Part, path: list[Tensor], sources: list[Tensor]) -> list[Tensor]:
    """h = exp(delta A) h + delta B u, y = C h + D u along a path of vectors (e,)."""
    rank, a = space["dt_proj.weight"].shape[1], -torch.exp(space["A_log"])
    states, h, out = a.shape[1], torch.zeros_like(a), []
    for u, source in zip(path, sources, strict=True):
        dt, b, c = torch.split(space["x_proj.weight"] @ source, [rank, states, states])
        delta = torch.log1p(torch.exp(space["dt_proj.weight"] @ dt + space["dt_proj.bias"]))
        h = torch.exp(delta[:, None] * a) * h + (delta * u)[:, None] * b[None, :]
        out.append(h @ c + space["D"] * u)
    return out


def scan_along(part: Part, number: int, order: list[tuple[int, int]], x: Tensor, source: Tensor) -> Tensor:
    """One direction over a window (e, h, w), with coefficients from a source window."""
    out = torch.empty_like(x)
    path, sources = ([window[:, i, j] for i, j in order] for window in (x, source))
    for (i, j), y in zip(order, scanned(part / "spaces" / number, path, sources), strict=True):
        out[:, i, j] = y
    return out


def orders(height: int, width: int) -> list[list[tuple[int, int]]]:
    """Rows, columns, and both backwards."""
    rows = [(i, j) for i in range(height) for j in range(width)]
    columns = [(i, j) for j in range(width) for i in range(height)]
    return [rows, columns, rows[::-1], columns[::-1]]


def at_each_place(function: object, x: Tensor) -> Tensor:
    """A function of vectors, applied at each place of (d, h, w)."""
    columns = [[function(x[:, i, j]) for j in range(x.shape[2])] for i in range(x.shape[1])]  # type: ignore[operator]
    return torch.stack([torch.stack(row, dim=1) for row in columns], dim=1)


def depthwise(part: Part, x: Tensor) -> Tensor:
    return F.conv2d(x[None], part["weight"], part["bias"], padding=1, groups=len(x))[0]


def entered(block: Part, x: Tensor) -> tuple[Tensor, Tensor]:
    """Inner features before the scan, and the argument of the gate."""
    wide = at_each_place(lambda v: block["in_proj.weight"] @ normalised(v, block / "norm", BEFORE), x)
    features, gate = wide.chunk(2)
    return silu(depthwise(block / "conv2d", features)), gate


def left(block: Part, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """The residual and the gated, normalised result of the scan."""
    gated = at_each_place(lambda v: normalised(v, block / "out_norm", AFTER), y) * silu(gate)
    return x + at_each_place(lambda v: block["out_proj.weight"] @ v, gated)


def multi_scale(block: Part, x: Tensor) -> Tensor:
    """Rows and columns at full resolution; backwards at half of it, each enlarged with its own bias."""
    features, gate = entered(block, x)
    scan, (_, height, width) = block / "scan", x.shape
    fine = depthwise(scan / "conv2d", features)
    down = scan / "downsample"
    coarse = F.conv2d(features[None], down["weight"], down["bias"], stride=2, padding=2, groups=len(features))[0]
    forwards, backwards = orders(height, width)[:2], orders(*coarse.shape[1:])[2:]
    total = sum(scan_along(scan / "fine", k, order, fine, fine) for k, order in enumerate(forwards))
    up = scan / "upsample"
    for k, order in enumerate(backwards):
        y = scan_along(scan / "coarse", k, order, coarse, coarse)
        extra = tuple((side - 1) % 2 for side in (height, width))
        half = up["bias"] / 2  # the released code adds its bias for each direction, ours once
        total = total + F.conv_transpose2d(y[None], up["weight"], half, stride=2, padding=2, output_padding=extra)[0]
    return left(block, x, total, gate)


def spectral(block: Part, x: Tensor) -> Tensor:
    """Both directions along the channels; a channel is the vector of its pixels."""
    channels, height, width = x.shape
    rows = [x[c].flatten() for c in range(channels)]
    wide = [block["in_proj.weight"] @ normalised(row, block / "norm", BEFORE) for row in rows]
    mixing = block["conv2d.weight"][:, :, 0, 0]  # the full linear map
    path = [silu(mixing @ vector[: len(mixing)]) for vector in wide]
    forward = scanned(block / "scan" / "spaces" / 0, path, path)
    backward = scanned(block / "scan" / "spaces" / 1, path[::-1], path[::-1])[::-1]
    out = []
    for row, vector, one, other in zip(rows, wide, forward, backward, strict=True):
        gated = normalised(one + other, block / "out_norm", AFTER) * silu(vector[len(mixing) :])
        out.append((row + block["out_proj.weight"] @ gated).reshape(height, width))
    return torch.stack(out)


def fused(part: Part, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Each modality is scanned in four directions with coefficients from the other one."""
    inside, gates = zip(*(entered(part / name, z) for name, z in (("first", x), ("second", y))), strict=True)
    results = []
    for own, name in enumerate(("first", "second")):
        block = part / name
        total = sum(
            scan_along(block / "scan", k, order, inside[own], inside[1 - own])
            for k, order in enumerate(orders(*x.shape[1:]))
        )
        results.append(left(block, (x, y)[own], total, gates[own]))
    return results[0], results[1]


def convolved(part: Part, x: Tensor, dimensions: int) -> Tensor:
    """Convolution without padding, batch normalisation in evaluation mode, ReLU; of one sample."""
    convolve = F.conv3d if dimensions == 3 else F.conv2d
    out = convolve(x[None], part["0.weight"], part["0.bias"])[0]
    scale = part["1.weight"] / torch.sqrt(part["1.running_var"] + 1e-5)
    shape = (-1, *[1] * dimensions)
    shifted = (out - part["1.running_mean"].reshape(shape)) * scale.reshape(shape) + part["1.bias"].reshape(shape)
    return shifted.clamp(min=0)


def released_msfmamba(state: dict[str, Tensor], layers: int, hsi: Tensor, other: Tensor) -> Tensor:
    """Logits (k,) of one window of the HSI (c, h, w) and one of the other modality."""
    network, x, y = Part(state), hsi[None], other
    for n in range(layers):
        x, y = convolved(network / "volumes" / n, x, 3), convolved(network / "planes" / n, y, 2)
        maps, depth, height, width = x.shape
        layer = network / "layers" / n
        flat = spectral(layer / "first" / 1 / "block", multi_scale(layer / "first" / 0, x.reshape(-1, height, width)))
        flat, y = fused(layer / "fuse", flat, multi_scale(layer / "second", y))
        x = flat.reshape(maps, depth, height, width)
    features = torch.cat([x.flatten(), y.flatten()])
    assert math.prod(features.shape) == network["head.weight"].shape[1]
    return network["head.weight"] @ features + network["head.bias"]
