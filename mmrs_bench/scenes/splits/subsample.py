"""Deterministic subsamples of the query: for quick looks, and for the selection rule of released codes."""

from __future__ import annotations

import numpy as np

from mmrs_bench.errors import ConfigError
from mmrs_bench.randomness import numpy_generator
from mmrs_bench.scenes.scene import IntArray, Scene
from mmrs_bench.scenes.splits.split import Split

#: Fewest query pixels that a class keeps under a limit (all of them, if it has fewer).
QUERY_FLOOR = 10
PAPER_VALIDATION_PIXELS = 200
PAPER_POOL_SHARE = 0.2


def limit_query(scene: Scene, split: Split, limit: int | None) -> IntArray:
    """At most ``limit`` query pixels, ascending; the same ones for every method and seed.

    Classes keep their proportions, but none falls below `QUERY_FLOOR` pixels (or an equal share of the limit, if
    that is less), so that no class vanishes from the scores. Overall accuracy on a limited query therefore gives rare
    classes slightly more weight than the full query does.

    Raises:
        ConfigError: If the limit is smaller than the number of classes.
    """
    if limit is None or split.query.size <= limit:
        return split.query
    classes = scene.num_classes
    if limit < classes:
        raise ConfigError(
            f"query_limit {limit} cannot hold a pixel of each of {classes} classes; use at least {classes}."
        )
    targets = scene.labels[split.query] - 1
    counts = np.bincount(targets, minlength=classes)
    floor = np.minimum(counts, min(QUERY_FLOOR, limit // classes))
    quota = floor + _largest_remainder(counts - floor, limit - int(floor.sum()))
    kept = []
    for k in range(classes):
        rng = numpy_generator("query-limit", scene.ground_truth_sha256, split.name, split.draw, k + 1)
        kept.append(rng.permutation(split.query[targets == k])[: quota[k]])
    return np.sort(np.concatenate(kept))


def _largest_remainder(weights: IntArray, total: int) -> IntArray:
    """Whole numbers proportional to weights that sum to a total (at most the sum of the weights)."""
    exact = weights * (total / int(weights.sum()))
    shares: IntArray = np.floor(exact).astype(np.int64)
    most = np.argsort(-(exact - shares), kind="stable")[: total - int(shares.sum())]
    shares[most] += 1
    return shares


def paper_validation(scene: Scene, split: Split) -> IntArray:
    """The 200 query pixels that ``paper-val`` selects on, ascending; they stay in the query.

    Reference: released code of DiffCLIP (AAAI 2025), which pools a fifth of each class after the support pixels and
        draws 200 pixels from the pool, whose members remain test pixels.
    Deviation: the streams are ours; a pool of fewer than 200 pixels is used whole.
    """
    targets = scene.labels[split.query] - 1
    pool = []
    for k in range(scene.num_classes):
        rng = numpy_generator("paper-val-pool", scene.ground_truth_sha256, split.name, split.draw, k + 1)
        own = rng.permutation(split.query[targets == k])
        pool.append(own[: int(PAPER_POOL_SHARE * (own.size + split.shots))])
    joined = np.concatenate(pool)
    rng = numpy_generator("paper-val", scene.ground_truth_sha256, split.name, split.draw)
    return np.sort(rng.permutation(joined)[:PAPER_VALIDATION_PIXELS])
