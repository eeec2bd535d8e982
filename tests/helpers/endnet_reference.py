"""EndNet for one pixel, unit by unit, for comparison. It reads tensors by name and shares no code with the package."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

Vector = list[float]


def linear(state: Mapping[str, Tensor], name: str, x: Vector) -> Vector:
    weight, bias = state[f"{name}.weight"].tolist(), state[f"{name}.bias"].tolist()
    return [sum(w * value for w, value in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def normalised_relu(state: Mapping[str, Tensor], name: str, x: Vector) -> Vector:
    """Batch normalisation in evaluation mode with epsilon 0.001, then ReLU."""
    parts = [state[f"{name}.{part}"].tolist() for part in ("running_mean", "running_var", "weight", "bias")]
    rows = zip(x, *parts, strict=True)
    return [max(0.0, (v - mean) / math.sqrt(var + 0.001) * scale + shift) for v, mean, var, scale, shift in rows]


def layer(state: Mapping[str, Tensor], name: str, x: Vector) -> Vector:
    return normalised_relu(state, f"{name}.1", linear(state, f"{name}.0", x))


def endnet(state: Mapping[str, Tensor], pixels: Mapping[str, Vector]) -> tuple[Vector, dict[str, Vector]]:
    """Logits (k,) and reconstructions of one pixel."""
    joined: Vector = []
    for name, x in pixels.items():
        for number in range(4):
            x = layer(state, f"encoders.{name}.{number}", x)
        joined += x
    fused = layer(state, "fusion", joined)
    logits = linear(state, "head.1", layer(state, "head.0", fused))
    decoded = {}
    for name in pixels:
        x = fused
        for number in range(4):
            x = [1 / (1 + math.exp(-value)) for value in linear(state, f"decoders.{name}.{2 * number}", x)]
        decoded[name] = x
    return logits, decoded


def loss(state: Mapping[str, Tensor], pixels: list[Mapping[str, Vector]], targets: list[int], factor: float) -> float:
    """Cross-entropy plus ``factor`` times the mean squared errors of reconstruction, in evaluation mode."""
    total = 0.0
    for pixel, target in zip(pixels, targets, strict=True):
        logits, decoded = endnet(state, pixel)
        total += math.log(sum(math.exp(value) for value in logits)) - logits[target]
        for name, values in pixel.items():
            squares = [(one - other) ** 2 for one, other in zip(decoded[name], values, strict=True)]
            total += factor * sum(squares) / len(squares)
    return total / len(pixels)
