"""Upper bound on the accuracy of pixelwise classifiers on a simulated scene.

It is the integral of ``max_k p(x, k)`` with ``p(x, k) = 1/N sum over p in class k of p(x | p)``, estimated by Monte
Carlo as the mean of ``max_k p(k | x)``; see ``docs/simulated-scene.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.scenes.scene import IntArray, PixelBound
from mmrs_bench.scenes.simulator.sensors import Pixels, Sensor, Values

SAMPLES = 4000
#: Scenes with more labelled pixels use a subset of them as mixture components, stratified by class. The integral is
#: convex in the densities, so this can only raise its expectation.
COMPONENTS = 3000
_BLOCK = 500


def choose_components(labels: IntArray, components: int, rng: np.random.Generator) -> list[Pixels]:
    """Labelled pixels of each class, at most ``components`` in total, in proportion to the square root of class sizes.

    ``labels`` is the flat ground truth (pixels,). Rounding and the minimum of one per class can exceed the limit.
    """
    members = [np.flatnonzero(labels == k) for k in range(1, int(labels.max()) + 1)]
    if sum(m.size for m in members) <= components:
        return members
    weights = np.sqrt([m.size for m in members])
    sizes = np.maximum(1, np.rint(components * weights / weights.sum()).astype(int))
    return [
        np.sort(rng.choice(m, size=size, replace=False)) if size < m.size else m
        for m, size in zip(members, sizes, strict=True)
    ]


def class_log_likelihoods(
    sensors: Mapping[str, Sensor],
    subsets: Sequence[tuple[str, ...]],
    values: Mapping[str, Values],
    components: Sequence[Pixels],
) -> NDArray[np.float64]:
    """``log p(x | k)`` (subsets, m, K) of measurements under the mixture of each class.

    Args:
        sensors: Sensors by modality.
        subsets: Sets of modalities to evaluate.
        values: Measurements (m, channels) by modality.
        components: Pixels of each of the K classes.
    """
    out = np.empty((len(subsets), len(next(iter(values.values()))), len(components)))
    for k, pixels in enumerate(components):
        single = {name: sensor.log_density(values[name], pixels) for name, sensor in sensors.items()}
        for i, subset in enumerate(subsets):
            joint = sum((single[name] for name in subset[1:]), single[subset[0]])
            # Single precision after subtracting the maximum: relative error 1e-6, half the time.
            peak = joint.max(axis=1, keepdims=True)
            mean = np.exp((joint - peak).astype(np.float32)).mean(axis=1, dtype=np.float64)
            out[i, :, k] = peak[:, 0] + np.log(mean)
    return out


def pixel_bounds(
    sensors: Mapping[str, Sensor],
    labels: IntArray,
    rng: np.random.Generator,
    *,
    samples: int = SAMPLES,
    components: int = COMPONENTS,
) -> tuple[PixelBound, ...]:
    """Bayes-optimal pixelwise accuracy of each single modality and, if there are several, of all of them together.

    Args:
        sensors: Sensors by modality, in the scene's order.
        labels: Flat ground truth (pixels,), 0 unlabelled, 1..K.
        rng: Random generator of the estimate.
        samples: Monte Carlo samples, in proportion to the class sizes (at least 50 each).
        components: See `COMPONENTS`.
    """
    names = tuple(sensors)
    subsets = [(name,) for name in names] + ([names] if len(names) > 1 else [])
    chosen = choose_components(labels, components, rng)
    counts = np.bincount(labels, minlength=len(chosen) + 1)[1:]
    priors = counts / counts.sum()
    sizes = np.maximum(50, np.rint(samples * priors).astype(int))
    # A random permutation has less variance than sampling with replacement.
    pixels = np.concatenate([np.resize(rng.permutation(m), n) for m, n in zip(chosen, sizes, strict=True)])
    values = {name: sensor.sample(pixels, rng) for name, sensor in sensors.items()}
    best = np.empty((len(subsets), pixels.size))
    for start in range(0, pixels.size, _BLOCK):
        block = {name: v[start : start + _BLOCK] for name, v in values.items()}
        joint = class_log_likelihoods(sensors, subsets, block, chosen) + np.log(priors)
        best[:, start : start + _BLOCK] = 1.0 / np.exp(joint - joint.max(axis=-1, keepdims=True)).sum(axis=-1)
    strata = np.split(best, np.cumsum(sizes)[:-1], axis=1)
    accuracy = sum(p * s.mean(axis=1) for p, s in zip(priors, strata, strict=True))
    variance = sum(p**2 * s.var(axis=1, ddof=1) / n for p, s, n in zip(priors, strata, sizes, strict=True))
    # Rounded, because the order of sums inside BLAS changes the last digits.
    return tuple(
        PixelBound(subset, round(float(a), 6), round(float(np.sqrt(v)), 6))
        for subset, a, v in zip(subsets, accuracy, variance, strict=True)
    )
