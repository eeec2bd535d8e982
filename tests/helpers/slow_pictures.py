"""Slow references for the scaling of pictures."""

from __future__ import annotations

from mmrs_bench.scenes.scene import FloatArray


def slow_percentile(values: list[float], share: float) -> float:
    """Percentile with linear interpolation between the two values around the rank."""
    ranked = sorted(values)
    rank = share * (len(ranked) - 1)
    below = int(rank)
    return ranked[below] + (rank - below) * (ranked[min(below + 1, len(ranked) - 1)] - ranked[below])


def slow_stretch(values: list[float]) -> list[float]:
    """Values scaled from their 2nd to their 98th percentile to [0, 1]."""
    low, high = slow_percentile(values, 0.02), slow_percentile(values, 0.98)
    return [(min(max(value, low), high) - low) / (high - low) for value in values]


def channel(image: FloatArray, k: int) -> list[float]:
    """Values of a channel of an image (height, width, c)."""
    return [float(v) for v in image[:, :, k].reshape(-1)]
