"""Leakage audit: how much of the query a method has partly seen through its support windows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from skimage.measure import label

from mmrs_bench.scenes.scene import Scene
from mmrs_bench.scenes.splits.blocks import chebyshev_distance
from mmrs_bench.scenes.splits.split import Split


class LeakageAudit(NamedTuple):
    """Shares of all query pixels of a split, in [0, 1].

    Attributes:
        shared_window: Its window shares at least one pixel with a support window (Chebyshev distance below w).
        centre_inside: Its window contains a support pixel (Chebyshev distance at most (w - 1) / 2).
        same_component: It lies in the same labelled polygon as a support pixel: the 8-connected component of
            pixels of one class (38 of them on Trento).
    """

    shared_window: float
    centre_inside: float
    same_component: float


def audit(scene: Scene, split: Split) -> LeakageAudit:
    """Measure the spatial dependence between support and query of a split.

    Reference: Liang et al. 2017, On the Sampling Strategy for Evaluation of Spectral-Spatial Methods in
    Hyperspectral Image Classification, IEEE TGRS 55(2).
    """
    support = np.zeros(scene.ground_truth.shape, dtype=np.bool_)
    support.reshape(-1)[split.support] = True
    distance = chebyshev_distance(support).reshape(-1)[split.query]
    components = label(scene.ground_truth, background=0, connectivity=2).reshape(-1)  # type: ignore[no-untyped-call]
    same = np.isin(components[split.query], components[split.support])
    return LeakageAudit(
        shared_window=float(np.mean(distance < split.window)),
        centre_inside=float(np.mean(distance <= (split.window - 1) // 2)),
        same_component=float(np.mean(same)),
    )
