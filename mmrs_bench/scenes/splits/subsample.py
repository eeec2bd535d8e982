"""Subsamples of the query: limited queries for quick runs, and validation pixels as in released codes."""

from __future__ import annotations

import numpy as np

from mmrs_bench.errors import ConfigError
from mmrs_bench.randomness import numpy_generator
from mmrs_bench.scenes.scene import IntArray, Scene
from mmrs_bench.scenes.splits.split import Split

#: Smallest number of query pixels of a class under a limit (or all of them, if it has fewer).
QUERY_FLOOR = 10
PAPER_VALIDATION_PIXELS = 200
PAPER_POOL_SHARE = 0.2


def limit_query(scene: Scene, split: Split, limit: int | None) -> IntArray:
    """At most ``limit`` query pixels, ascending; the same ones for every method and seed.

    Classes keep their proportions, but each keeps at least `QUERY_FLOOR` pixels (or an equal share of a smaller limit).
    Rare classes therefore have slightly more weight in the overall accuracy than in the full query.

    Raises:
        ConfigError: If the limit is smaller than the number of classes.
    """
    if limit is None or split.query.size <= limit:
        return split.query
    classes = scene.num_classes
    if limit < classes:
        raise ConfigError(f"query_limit {limit} is below the number of classes; use at least {classes}.")
    counts = np.bincount(scene.labels[split.query], minlength=classes + 1)[1:]
    floor = np.minimum(counts, min(QUERY_FLOOR, limit // classes))
    quota = floor + _largest_remainder(counts - floor, limit - int(floor.sum()))
    shuffled = _shuffled_classes(scene, split, "query-limit")
    return np.sort(np.concatenate([pixels[:count] for pixels, count in zip(shuffled, quota, strict=True)]))


def paper_validation(scene: Scene, split: Split) -> IntArray:
    """The 200 query pixels for the selection rule ``paper-val``, ascending; they stay in the query.

    Reference: released code of DiffCLIP (AAAI 2025), which pools a fifth of each class after the support pixels and
        draws 200 pixels from the pool, which remain test pixels.
    Deviation: other random streams; a pool of fewer than 200 pixels is used completely.
    """
    shuffled = _shuffled_classes(scene, split, "paper-val-pool")
    pool = np.concatenate([pixels[: int(PAPER_POOL_SHARE * (pixels.size + split.shots))] for pixels in shuffled])
    rng = numpy_generator("paper-val", scene.ground_truth_sha256, split.name, split.draw)
    return np.sort(rng.permutation(pool)[:PAPER_VALIDATION_PIXELS])


def _shuffled_classes(scene: Scene, split: Split, purpose: str) -> list[IntArray]:
    """The query pixels of each class in a random order for this purpose."""
    labels = scene.labels[split.query]
    return [
        numpy_generator(purpose, scene.ground_truth_sha256, split.name, split.draw, k).permutation(
            split.query[labels == k]
        )
        for k in range(1, scene.num_classes + 1)
    ]


def _largest_remainder(weights: IntArray, total: int) -> IntArray:
    """Integers proportional to the weights with the given total (at most the sum of the weights)."""
    exact = weights * (total / int(weights.sum()))
    shares: IntArray = np.floor(exact).astype(np.int64)
    largest = np.argsort(-(exact - shares), kind="stable")[: total - int(shares.sum())]
    shares[largest] += 1
    return shares
