"""A slow MIViT for comparison: convolutions, maxima and attention place after place, and its losses term by term.

Written from the formulas of the released network. It reads tensors by name and shares no code with the package.
"""

from __future__ import annotations

import math

import torch
from helpers.msfmamba_reference import Part
from torch import Tensor


def logistic(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def softmax(x: Tensor) -> Tensor:
    return torch.exp(x) / torch.exp(x).sum()


def convolved(part: Part, x: Tensor, pads: tuple[int, int] | None = None) -> Tensor:
    """Convolution of (c, h, w) with zeros around it, so many rows and columns; as many as keep the size by default."""
    weight = part["weight"]
    rows, columns = (side // 2 for side in weight.shape[2:]) if pads is None else pads
    c, h, w = x.shape
    padded = torch.zeros(c, h + 2 * rows, w + 2 * columns, dtype=x.dtype)
    padded[:, rows : rows + h, columns : columns + w] = x
    height, width = padded.shape[1] - weight.shape[2] + 1, padded.shape[2] - weight.shape[3] + 1
    out = torch.empty(len(weight), height, width, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            box = padded[:, i : i + weight.shape[2], j : j + weight.shape[3]]
            out[:, i, j] = (weight * box).sum(dim=(1, 2, 3)) + part["bias"]
    return out


def batch_norm(part: Part, x: Tensor, eps: float) -> Tensor:
    scale = part["weight"] / torch.sqrt(part["running_var"] + eps)
    return (x - part["running_mean"][:, None, None]) * scale[:, None, None] + part["bias"][:, None, None]


def layer(part: Part, x: Tensor, *, eps: float = 1e-5, pads: tuple[int, int] | None = None) -> Tensor:
    """Convolution, batch normalisation, ReLU."""
    return batch_norm(part / 1, convolved(part / 0, x, pads), eps).clamp(min=0)


def region_maxima(x: Tensor, side: int) -> Tensor:
    """Maxima over regions from floor(i h / side) up to ceil((i + 1) h / side)."""
    h = x.shape[1]
    bounds = [(i * h // side, -(-(i + 1) * h // side)) for i in range(side)]
    rows = [torch.stack([x[:, a:b, c:d].amax(dim=(1, 2)) for c, d in bounds], dim=1) for a, b in bounds]
    return torch.stack(rows, dim=1)


def enlarged(x: Tensor, side: int) -> Tensor:
    at = [i * x.shape[1] // side for i in range(side)]
    return torch.stack([torch.stack([x[:, i, j] for j in at], dim=1) for i in at], dim=1)


def aligned(part: Part, modality: int, parts: list[Tensor]) -> Tensor:
    total = torch.zeros(())
    for scale, x in enumerate(parts):
        stem = layer(part / "stems" / modality, x, eps=0.001)
        features = layer(part / "branches" / modality / scale, stem)
        total = total + part["weights"][scale] * region_maxima(features, parts[0].shape[1])
    return total


def attended(part: Part, x: Tensor, y: Tensor) -> Tensor:
    x, y = (convolved(part / "squeeze" / 1, convolved(part / "squeeze" / 0, z)) for z in (x, y))
    vertical = x + logistic(convolved(part / "vertical", x)) * y
    return vertical + x + logistic(convolved(part / "horizontal", x)) * y


def fused(part: Part, x: Tensor, y: Tensor) -> Tensor:
    return layer(part / "mix", attended(part / "first", x, y) + attended(part / "second", y, x), eps=0.001)


def pyramid(part: Part, first: list[Tensor], second: list[Tensor]) -> Tensor:
    crossed = []
    for scale, (x, y) in enumerate(zip(first, second, strict=True)):
        stems = part / "stems" / scale
        crossed.append(fused(part / "fusions" / scale, layer(stems / 0, x), layer(stems / 1, y)))
    small = layer(part / "small", crossed[0])
    middle = torch.cat([enlarged(small, crossed[1].shape[1]), crossed[1]])
    middle = layer(part / "middle" / 1, layer(part / "middle" / 0, middle))
    large = layer(part / "large", torch.cat([enlarged(middle, crossed[2].shape[1]), crossed[2]]))
    shrunk = layer(part / "shrink" / 1, layer(part / "shrink" / 0, large, pads=(0, 0)), pads=(0, 0))
    again = layer(part / "middle_again" / 0, torch.cat([shrunk, middle]))
    again = layer(part / "middle_again" / 1, again)
    return layer(part / "small_again", torch.cat([region_maxima(again, small.shape[1]), small]))


def map_class(part: Part, x: Tensor) -> Tensor:
    hidden = batch_norm(part / "norm", convolved(part / "convolution", x), 1e-5).mean(dim=(1, 2)).clamp(min=0)
    return softmax(part["linear.weight"] @ hidden + part["linear.bias"])


def layer_norm(part: Part, x: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + 1e-5) * part["weight"] + part["bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def block(part: Part, tokens: list[Tensor]) -> list[Tensor]:
    """4 heads of 16 channels."""
    packed = [part["attention.in_proj.weight"] @ layer_norm(part / "norm1", x) for x in tokens]
    out = []
    for x, own in zip(tokens, packed, strict=True):
        heads = []
        for head in range(4):
            q, k, v = (slice(start + 16 * head, start + 16 * head + 16) for start in (0, 64, 128))
            shares = softmax(torch.stack([own[q] @ other[k] / 4 for other in packed]))
            heads.append(sum(share * other[v] for share, other in zip(shares, packed, strict=True)))
        x = x + part["attention.out_proj.weight"] @ torch.cat(heads) + part["attention.out_proj.bias"]
        inner = gelu(part["mlp.0.weight"] @ layer_norm(part / "norm2", x) + part["mlp.0.bias"])
        out.append(x + part["mlp.2.weight"] @ inner + part["mlp.2.bias"])
    return out


def crops(window: Tensor, sides: tuple[int, int, int]) -> list[Tensor]:
    margins = [(window.shape[1] - side) // 2 for side in sides]
    return [window[:, m : m + side, m : m + side] for m, side in zip(margins, sides, strict=True)]


def slow_mivit(
    state: dict[str, Tensor], depth: int, sides: tuple[int, int, int], first: Tensor, second: Tensor, *, unit: bool
) -> dict[str, Tensor]:
    """Logits, class probabilities of the parts, features x, y and z, and decoding error of one pair of windows."""
    net, inputs = Part(state), (crops(first, sides), crops(second, sides))
    x, y = (aligned(net / "alignment", i, parts) for i, parts in enumerate(inputs))
    z = fused(net / "fusion", x, y)
    side = sides[0]
    mixed = torch.stack(
        [net["mix_positions.weight"] @ channel.flatten() + net["mix_positions.bias"] for channel in z]
    )  # (d, n)
    tokens = [net["class_token"], *(mixed[:, i] for i in range(side**2))]
    tokens = [token + position for token, position in zip(tokens, net["positions"], strict=True)]
    for i in range(depth):
        tokens = block(net / "encoder" / i, tokens)
    head = net / "token_head"
    by_token = head["1.weight"] @ layer_norm(head / 0, tokens[0]) + head["1.bias"]
    by_map = map_class(net / "map_head", mixed.reshape(-1, side, side))
    heads = net / "pyramid_head"
    parts = [map_class(net / "part_heads" / i, features) for i, features in enumerate((x, y))]
    parts.append(map_class(heads / 1, layer(heads / 0, pyramid(net / "pyramid", *inputs), eps=0.001)))
    narrow = [net["narrow.weight"] @ token + net["narrow.bias"] for token in tokens]
    narrow = [token + position for token, position in zip(narrow, net["decoder_positions"], strict=True)]
    for i in range(depth):
        narrow = block(net / "decoder" / i, narrow)
    wide = torch.stack([net["widen.weight"] @ token + net["widen.bias"] for token in narrow[1:]], dim=1)
    errors = []
    for scale in range(3):
        for modality in range(2):
            target = inputs[modality][scale]
            maps = enlarged(wide.reshape(-1, side, side), target.shape[1])
            predicted = convolved(net / "windows" / "layers" / scale / modality, maps)
            predicted = logistic(predicted) if unit else predicted
            errors.append(((predicted - target) ** 2).mean() / 6)
    logits = net["shares"][0] * by_token + net["shares"][1] * by_map
    return {"fused": logits, "parts": torch.stack(parts), "xyz": torch.stack([x, y, z]), "error": sum(errors)}  # type: ignore[dict-item]


def log_share(x: Tensor) -> Tensor:
    return torch.log(softmax(x))


def slow_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum of p (log p - log q) of two vectors."""
    return (softmax(teacher) * (log_share(teacher) - log_share(student))).sum()


def slow_redundancy(part: Part, xs: Tensor, ys: Tensor) -> Tensor:
    """Of batches (b, d, p, p)."""
    described: list[list[Tensor]] = [[], []]
    for k, maps in enumerate((xs, ys)):
        for x in maps:
            features = convolved(part / "convolutions" / k, x)
            features = torch.where(features > 0, features, 0.01 * features).flatten()
            linear = part / "linears" / k
            described[k].append(torch.tanh(linear["weight"] @ features + linear["bias"]))
    total, count = torch.zeros(()), len(xs)
    for x, y in zip(*described, strict=True):
        crossed = -(logistic(x) * log_share(logistic(y))).sum() - (logistic(y) * log_share(logistic(x))).sum()
        divergences = slow_divergence(x, y) + slow_divergence(y, x)
        total = total + crossed / count - divergences / 4 / count
    return total


def slow_loss(
    state: dict[str, Tensor], outputs: list[dict[str, Tensor]], targets: list[int], weights: dict[str, float]
) -> Tensor:
    """The whole loss of a batch from the outputs of `slow_mivit` for each pair of windows."""
    net, count, loss = Part(state), len(outputs), torch.zeros(())
    for output, target in zip(outputs, targets, strict=True):
        share = softmax(output["fused"])[target]
        loss = loss - (1 - share) ** 2 * torch.log(share) / count
        for part in output["parts"]:
            share = softmax(part)[target]
            loss = loss - weights["part"] * (1 - share) ** 2 * torch.log(share) / count
            loss = loss + weights["distillation"] * slow_divergence(part, output["fused"]) / count
        loss = loss + weights["reconstruction"] * output["error"] / count
    x, y, z = (torch.stack([output["xyz"][i] for output in outputs]) for i in range(3))
    pairs, (a, b) = net / "redundancies", net["redundancy_weights"]
    redundancy = slow_redundancy(pairs / 0, x, y)
    redundancy = redundancy - a * slow_redundancy(pairs / 1, z, y) - b * slow_redundancy(pairs / 2, x, z)
    return loss + weights["redundancy"] * redundancy
