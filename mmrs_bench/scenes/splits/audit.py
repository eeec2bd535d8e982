"""Leakage audit: how much of the query is covered by or close to support windows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from skimage.measure import label

from mmrs_bench.scenes.scene import Scene
from mmrs_bench.scenes.splits.blocks import chebyshev_distance
from mmrs_bench.scenes.splits.split import Split


class LeakageAudit(NamedTuple):
    """Shares of the query pixels of a split, in [0, 1].

    Attributes:
        shared_window: The pixel's window shares a pixel with a support window (Chebyshev distance below w).
        centre_inside: The pixel's window contains a support pixel (Chebyshev distance at most (w - 1) / 2).
        same_component: The pixel lies in the same 8-connected component of its class as a support pixel.
    """

    shared_window: float
    centre_inside: float
    same_component: float


def audit(scene: Scene, split: Split) -> LeakageAudit:
    """Measure the spatial dependence between support and query.

    Reference: Liang et al. 2017, On the Sampling Strategy for Evaluation of Spectral-Spatial Methods in
    Hyperspectral Image Classification, IEEE TGRS 55(2).
    """
    support = np.zeros(scene.ground_truth.shape, dtype=np.bool_)
    support.reshape(-1)[split.support] = True
    distance = chebyshev_distance(support).reshape(-1)[split.query]
    components = label(scene.ground_truth, background=0, connectivity=2).reshape(-1)  # type: ignore[no-untyped-call]
    return LeakageAudit(
        shared_window=float(np.mean(distance < split.window)),
        centre_inside=float(np.mean(distance <= (split.window - 1) // 2)),
        same_component=float(np.mean(np.isin(components[split.query], components[split.support]))),
    )
