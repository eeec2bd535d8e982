"""A slow ExViT, pixel after pixel and head after head, for comparison.

Written from the formulas of the released network. It reads tensors by name and shares no code with the package.
"""

from __future__ import annotations

import math

import torch
from helpers.mft_reference import Part, around, at_each_pixel, gelu, layer_norm, linear, standardised
from torch import Tensor

HEADS, EPS = 4, 1e-5


def separable(stem: Part, first: int, x: Tensor) -> Tensor:
    """One separable convolution of (c, h, w): depthwise, pointwise, batch normalisation, GELU."""
    kernel, bias = stem[f"{first}.weight"][:, 0], stem[f"{first}.bias"]

    def mixed(i: int, j: int) -> Tensor:
        return linear(stem / (first + 1), (kernel * around(x, i, j)).sum(dim=(1, 2)) + bias)

    return gelu(standardised(stem / (first + 2), at_each_pixel(mixed, x)))


def attention(part: Part, x: list[Tensor]) -> list[Tensor]:
    """Multi-head attention of tokens (d,)."""
    packed = [(part["in_proj.weight"] @ token).reshape(3, HEADS, -1) for token in x]
    results = []
    for query in packed:
        heads = []
        for head in range(HEADS):
            scale = math.sqrt(query.shape[2])
            scores = [torch.exp(query[0, head] @ other[1, head] / scale) for other in packed]
            weighted = [score * other[2, head] for score, other in zip(scores, packed, strict=True)]
            heads.append(sum(weighted) / sum(scores))
        results.append(linear(part / "out_proj", torch.cat(heads)))
    return results


def block(part: Part, x: list[Tensor]) -> list[Tensor]:
    attended = attention(part / "attention", [layer_norm(part / "norm1", token, EPS) for token in x])
    x = [token + other for token, other in zip(x, attended, strict=True)]
    inner = [gelu(linear(part / "mlp" / 0, layer_norm(part / "norm2", token, EPS))) for token in x]
    return [token + linear(part / "mlp" / 2, value) for token, value in zip(x, inner, strict=True)]


def exvit(state: dict[str, Tensor], windows: dict[str, Tensor], branch_blocks: int, fused_blocks: int) -> Tensor:
    """Logits (k,) of one window (c, h, w) by modality."""
    network, together = Part(state), []
    for modality, maps in windows.items():
        for first in (0, 4, 8):
            maps = separable(network / "stems" / modality, first, maps)
        pixels = [maps[:, i, j] for i in range(maps.shape[1]) for j in range(maps.shape[2])]
        embed, places = network / "embed" / modality, network["position"][0]
        x = [linear(embed, pixel) + place for pixel, place in zip(pixels, places, strict=True)]
        for number in range(branch_blocks):
            x = block(network / "branches" / modality / number, x)
        together += x
    for number in range(fused_blocks):
        together = block(network / "fused" / number, together)
    score, head = network / "score", network / "head"
    weights = [torch.exp(linear(score / 1, layer_norm(score / 0, token, EPS))) for token in together]
    mean = sum(weight * token for weight, token in zip(weights, together, strict=True)) / sum(weights)
    return linear(head / 1, layer_norm(head / 0, mean, EPS))
