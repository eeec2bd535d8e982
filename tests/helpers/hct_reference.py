"""A slow HCT for comparison, place after place, token after token and head after head.

Written from the formulas of the released network. It reads tensors by name and shares no code with the package.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

State = dict[str, Tensor]
HEADS = 8


def normalised_maps(state: State, name: str, x: Tensor) -> Tensor:
    """Batch normalisation in evaluation mode, then ReLU; of maps (m, ...)."""
    shape = (-1, *[1] * (x.dim() - 1))
    mean, variance, weight, bias = (
        state[f"{name}.{part}"].reshape(shape) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return ((x - mean) / torch.sqrt(variance + 1e-5) * weight + bias).clamp(min=0)


def plane(state: State, name: str, x: Tensor) -> Tensor:
    """3 x 3 convolution without padding of (c, h, w)."""
    weight, (_, height, width) = state[f"{name}.0.weight"], x.shape
    out = torch.empty(len(weight), height - 2, width - 2, dtype=x.dtype)
    for i in range(height - 2):
        for j in range(width - 2):
            out[:, i, j] = torch.einsum("cuv,ocuv->o", x[:, i : i + 3, j : j + 3], weight) + state[f"{name}.0.bias"]
    return normalised_maps(state, f"{name}.1", out)


def volume(state: State, name: str, x: Tensor) -> Tensor:
    """3-D convolution without padding of (c, h, w) -> all remaining channels of the first map, of the second, ..."""
    weight, (depth, height, width) = state[f"{name}.0.weight"], x.shape
    maps, _, span, _, _ = weight.shape
    out = torch.empty(maps, depth - span + 1, height - 2, width - 2, dtype=x.dtype)
    for z in range(depth - span + 1):
        for i in range(height - 2):
            for j in range(width - 2):
                box = x[z : z + span, i : i + 3, j : j + 3]
                for m in range(maps):
                    out[m, z, i, j] = (box * weight[m, 0]).sum() + state[f"{name}.0.bias"][m]
    # Map after map, each with all of its channels.
    return torch.cat([*normalised_maps(state, f"{name}.1", out)])


def softmax(scores: list[Tensor]) -> list[Tensor]:
    largest = max(scores)
    powers = [torch.exp(score - largest) for score in scores]
    return [power / sum(powers) for power in powers]


def weighted(shares: list[Tensor], vectors: list[Tensor]) -> Tensor:
    return sum((share * vector for share, vector in zip(shares, vectors, strict=True)), torch.zeros_like(vectors[0]))


def linear(state: State, name: str, vector: Tensor) -> Tensor:
    out = state[f"{name}.weight"] @ vector
    return out + state[f"{name}.bias"] if f"{name}.bias" in state else out


def layer_norm(state: State, name: str, vector: Tensor) -> Tensor:
    centred = vector - vector.mean()
    return centred / torch.sqrt((centred**2).mean() + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]


def embedded(state: State, maps: Tensor) -> list[Tensor]:
    """The class token and the tokens, each with its position."""
    pixels = [maps[:, i, j] for i in range(maps.shape[1]) for j in range(maps.shape[2])]
    values = [pixel @ state["tokenizer.W_V"] for pixel in pixels]
    tokens = [weighted(softmax([row @ pixel for pixel in pixels]), values) for row in state["tokenizer.W_A"]]
    return [token + state["position"][0, n] for n, token in enumerate([state["class_token"][0, 0], *tokens])]


def attended(queries: list[Tensor], keys: list[Tensor], values: list[Tensor], divisor: float) -> list[Tensor]:
    """Each query's mean of the values, head after head."""
    results = []
    for query in queries:
        parts = []
        for head in range(HEADS):
            q = query.chunk(HEADS)[head]
            shares = softmax([q @ key.chunk(HEADS)[head] / divisor for key in keys])
            parts.append(weighted(shares, [value.chunk(HEADS)[head] for value in values]))
        results.append(torch.cat(parts))
    return results


def encoded(state: State, name: str, tokens: list[Tensor]) -> list[Tensor]:
    """A transformer block; its scores are divided by the root of the width of the tokens."""
    mixed = [linear(state, f"{name}.attention.in_proj", layer_norm(state, f"{name}.norm1", t)) for t in tokens]
    queries, keys, values = ([vector.chunk(3)[part] for vector in mixed] for part in range(3))
    out = []
    for token, mean in zip(tokens, attended(queries, keys, values, math.sqrt(len(tokens[0]))), strict=True):
        token = token + linear(state, f"{name}.attention.out_proj", mean)
        hidden = linear(state, f"{name}.mlp.0", layer_norm(state, f"{name}.norm2", token))
        gelu = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        out.append(token + linear(state, f"{name}.mlp.3", gelu))
    return out


def crossed(state: State, name: str, own: list[Tensor], other: list[Tensor]) -> Tensor:
    """The class token of one modality, after it has attended to the tokens of the other."""
    first = layer_norm(state, f"{name}.norm", own[0])
    query = linear(state, f"{name}.query", first)
    pairs = [linear(state, f"{name}.key_value", token).chunk(2) for token in (first, *other[1:])]
    keys, values = ([pair[part] for pair in pairs] for part in range(2))
    (mean,) = attended([query], keys, values, math.sqrt(len(query) / HEADS))
    return own[0] + linear(state, f"{name}.out_proj", mean)


def slow_hct(state: State, hsi: Tensor, other: Tensor) -> Tensor:
    """Logits (k,) of one window of the HSI (c, h, w) and one of the other modality."""
    maps = plane(state, "hsi_stem.plane", volume(state, "hsi_stem.volume", hsi))
    x = encoded(state, "hsi_encoder", embedded(state, maps))
    y = encoded(state, "other_encoder", embedded(state, plane(state, "other_stem", other)))
    tokens = crossed(state, "hsi_cross", x, y), crossed(state, "other_cross", y, x)
    first, second = (linear(state, "head.1", layer_norm(state, "head.0", token)) for token in tokens)
    return first + second
