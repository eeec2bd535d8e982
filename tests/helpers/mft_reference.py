"""A slow MFT, pixel after pixel and head after head, for comparison.

Written from the formulas of the released network. It reads tensors by name and shares no code with the package.
"""

from __future__ import annotations

import math

import torch
from helpers.msfmamba_reference import Part
from torch import Tensor

HEADS = 8


def around(x: Tensor, i: int, j: int) -> Tensor:
    """The 3 x 3 neighbourhood of a pixel of (c, h, w), with zeros beyond the borders."""
    box = torch.zeros(len(x), 3, 3, dtype=x.dtype)
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            if 0 <= i + di < x.shape[1] and 0 <= j + dj < x.shape[2]:
                box[:, di + 1, dj + 1] = x[:, i + di, j + dj]
    return box


def at_each_pixel(function: object, x: Tensor) -> Tensor:
    """A function of a pixel's row and column -> vector, for every pixel of (c, h, w)."""
    rows = [[function(i, j) for j in range(x.shape[2])] for i in range(x.shape[1])]  # type: ignore[operator]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def standardised(norm: Part, x: Tensor) -> Tensor:
    """Batch normalisation in evaluation mode of (c, ...)."""
    shape = (-1, *[1] * (x.dim() - 1))
    scale = norm["weight"] / torch.sqrt(norm["running_var"] + 1e-5)
    return (x - norm["running_mean"].reshape(shape)) * scale.reshape(shape) + norm["bias"].reshape(shape)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def layer_norm(norm: Part, x: Tensor, eps: float = 1e-6) -> Tensor:
    """Of one token (d,)."""
    mean = x.mean()
    return (x - mean) / torch.sqrt((x - mean).square().mean() + eps) * norm["weight"] + norm["bias"]


def linear(layer: Part, x: Tensor) -> Tensor:
    """Of one token (d,); ``layer`` may be a 1 x 1 convolution."""
    return layer["weight"].flatten(1) @ x + layer["bias"]


def hsi_maps(stem: Part, x: Tensor, groups: int) -> Tensor:
    """3-D convolution over bands and pixels, then the grouped and the 1 x 1 convolution over all maps and bands."""
    kernel, bias = stem["volume.0.weight"][:, 0], stem["volume.0.bias"]  # (m, bands, 3, 3)
    span = kernel.shape[1]
    depths = range(len(x) - span + 1)

    def volume(i: int, j: int) -> Tensor:
        box = around(x, i, j)
        per_depth = [torch.einsum("mzij,zij->m", kernel, box[d : d + span]) + bias for d in depths]
        return torch.stack(per_depth, dim=1)  # (m, depth)

    maps = standardised(
        stem / "volume" / 1, at_each_pixel(lambda i, j: volume(i, j).flatten(), x).unflatten(0, (8, -1))
    )
    maps = maps.clamp(min=0).flatten(0, 1)  # all bands of map 0, then of map 1, ...
    het = stem / "plane" / 0
    grouped, pointwise = het["grouped.weight"], het["pointwise.weight"][:, :, 0, 0]
    outputs, inputs = len(grouped) // groups, len(maps) // groups

    def heterogeneous(i: int, j: int) -> Tensor:
        box = around(maps, i, j)
        own = [
            (grouped[o] * box[o // outputs * inputs : (o // outputs + 1) * inputs]).sum() for o in range(len(grouped))
        ]
        return torch.stack(own) + het["grouped.bias"] + pointwise @ maps[:, i, j] + het["pointwise.bias"]

    return standardised(stem / "plane" / 1, at_each_pixel(heterogeneous, maps)).clamp(min=0)


def other_maps(stem: Part, x: Tensor) -> Tensor:
    weight = stem["0.weight"]
    convolved = at_each_pixel(lambda i, j: torch.einsum("dcij,cij->d", weight, around(x, i, j)) + stem["0.bias"], x)
    return gelu(standardised(stem / 1, convolved))


def tokens(part: Part, maps: Tensor) -> list[Tensor]:
    """Means of the projected pixels, weighted by a softmax over pixels."""
    pixels = [maps[:, i, j] for i in range(maps.shape[1]) for j in range(maps.shape[2])]
    result = []
    for row in part["W_A"]:
        weights = torch.stack([torch.exp(row @ pixel) for pixel in pixels])
        result.append(sum(w / weights.sum() * (pixel @ part["W_V"]) for w, pixel in zip(weights, pixels, strict=True)))
    return result


def attention(part: Part, x: list[Tensor]) -> Tensor:
    """What the class token, the first one, gets from all tokens."""
    width = len(x[0])
    e, heads = width // HEADS, []
    for head in range(HEADS):
        parts = [token[head * e : (head + 1) * e] for token in x]
        query = part["query.weight"] @ parts[0]
        scores = torch.stack([torch.exp(query @ (part["key.weight"] @ own) / math.sqrt(e)) for own in parts])
        values = [part["value.weight"] @ own for own in parts]
        heads.append(sum(score / scores.sum() * value for score, value in zip(scores, values, strict=True)))
    return linear(part / "out_proj", torch.cat(heads))


def mft(state: dict[str, Tensor], hsi: Tensor, other: Tensor, groups: int) -> Tensor:
    """Logits (k,) of one window of the HSI (c, h, w) and one of the other modality."""
    network = Part(state)
    x = tokens(network / "class_token", other_maps(network / "other_stem", other))
    x += tokens(network / "hsi_tokens", hsi_maps(network / "hsi_stem", hsi, groups))
    x = [token + place for token, place in zip(x, network["position"][0], strict=True)]
    for number in range(2):
        block = network / "blocks" / number
        attended = attention(block / "attention", [layer_norm(block / "norm1", token) for token in x])
        x = [token + attended for token in x]
        inner = [gelu(linear(block / "mlp" / 0, layer_norm(block / "norm2", token))) for token in x]
        x = [token + linear(block / "mlp" / 3, value) for token, value in zip(x, inner, strict=True)]
    return linear(network / "head", layer_norm(network / "norm", x[0]))
