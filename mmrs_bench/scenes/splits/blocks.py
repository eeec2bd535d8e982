"""Train blocks of the spatially disjoint split ``block-v1``.

Each draw takes a random share of the square blocks with labelled pixels as the train area. Query pixels are at least
the window away from it (Chebyshev distance), so that no query window overlaps a window centred in the train area.

The search lowers the train share from a quarter towards zero until every class has `enough` pixels on both sides, then
tries smaller blocks, then a lower demand. The result depends neither on shots nor on windows up to 11.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt
from scipy.ndimage import distance_transform_cdt

from mmrs_bench.errors import SplitError
from mmrs_bench.randomness import numpy_generator
from mmrs_bench.scenes.scene import IntArray, Scene

BLOCK_SIDES = (32, 24, 16)
#: Pixels that every class needs on both sides: the largest common number of shots, then a lower demand.
DEMANDS = (40, 10)
TRAIN_SHARE = 0.25
REFERENCE_WINDOW = 11
CANDIDATES = 100

BoolArray = NDArray[np.bool_]


class BlockAssignment(NamedTuple):
    """The train blocks of one draw: side in pixels (smaller at the edges) and ascending indices, row by row."""

    side: PositiveInt
    train: tuple[NonNegativeInt, ...]


def block_raster(height: int, width: int, side: int) -> IntArray:
    """The block index of every pixel (height, width), counted row by row."""
    per_row = -(-width // side)
    return (np.arange(height, dtype=np.int64)[:, None] // side) * per_row + np.arange(width, dtype=np.int64) // side


def train_area(height: int, width: int, assignment: BlockAssignment) -> BoolArray:
    """Mask (height, width) of the pixels in train blocks."""
    return np.isin(block_raster(height, width, assignment.side), assignment.train)


def chebyshev_distance(mask: BoolArray) -> IntArray:
    """Chebyshev distance (height, width) in pixels of every pixel to the nearest true pixel of a mask.

    Two windows of odd side w overlap exactly if the distance of their centres is below w.
    """
    if not mask.any():
        raise ValueError("the mask has no true pixel, so no distance is defined")
    return np.asarray(distance_transform_cdt(~mask, metric="chessboard"), dtype=np.int64)


def enough(class_counts: IntArray, demand: int) -> IntArray:
    """Pixels (K,) that every class needs on both sides: the demand, or a fifth of a small class."""
    return np.clip(class_counts // 5, 1, demand)


def assign_blocks(scene: Scene, draw: int, window: int) -> BlockAssignment:
    """The train blocks of one draw; equal for all windows up to 11.

    Raises:
        SplitError: If no assignment leaves every class enough pixels on both sides.
    """
    distance = max(window, REFERENCE_WINDOW)
    for demand in DEMANDS:
        for side in BLOCK_SIDES:
            assignment, failures = _search(scene, draw, distance, side, demand)
            if assignment is not None:
                return assignment
    k = int(failures.argmax())
    count = int(np.count_nonzero(scene.labels == k + 1))
    least = enough(np.array([count]), DEMANDS[-1])[0]
    shared = f", as for all windows up to {REFERENCE_WINDOW}" if window < REFERENCE_WINDOW else ""
    fixes = ["random-v1"]
    if scene.official is not None:
        fixes.append("official-v1")
    if window > REFERENCE_WINDOW:
        fixes.append("a smaller window")
    raise SplitError(
        f"block-v1 on {scene.manifest.id}, draw {draw}: class {k + 1} ({scene.manifest.class_names[k]}, {count} "
        f"pixels) cannot have {least} pixels in train blocks and {least} query pixels {distance} pixels away{shared}; "
        f"use {' or '.join(fixes)}."
    )


def _search(scene: Scene, draw: int, distance: int, side: int, demand: int) -> tuple[BlockAssignment | None, IntArray]:
    """The first valid candidate, and in how many invalid ones each class (K,) lacked pixels."""
    labels, classes = scene.labels, scene.num_classes
    blocks = block_raster(scene.height, scene.width, side)
    cells = np.bincount(blocks.reshape(-1) * (classes + 1) + labels, minlength=(int(blocks.max()) + 1) * (classes + 1))
    counts = cells.reshape(-1, classes + 1)[:, 1:]  # (blocks, classes)
    need = enough(counts.sum(axis=0), demand)
    labelled_blocks = np.flatnonzero(counts.sum(axis=1))
    failures = np.zeros(classes, dtype=np.int64)
    for candidate in range(CANDIDATES):
        rng = numpy_generator("blocks", scene.ground_truth_sha256, draw, side, demand, candidate)
        share = TRAIN_SHARE * (1 - candidate / CANDIDATES)
        train = _draw_blocks(rng.permutation(labelled_blocks), counts, need, share)
        assignment = BlockAssignment(side, tuple(sorted(train)))
        far = chebyshev_distance(train_area(scene.height, scene.width, assignment)).reshape(-1) >= distance
        query_counts = np.bincount(labels[far], minlength=classes + 1)[1:]
        lacking = (counts[train].sum(axis=0) < need) | (query_counts < need)
        if not lacking.any():
            return assignment, failures
        failures += lacking
    return None, failures


def _draw_blocks(order: IntArray, counts: IntArray, need: IntArray, share: float) -> list[int]:
    """The first share of the blocks in an order, plus later blocks for classes that lack pixels."""
    first = max(1, round(share * order.size))
    train = [int(block) for block in order[:first]]
    have = counts[train].sum(axis=0)
    for block in order[first:]:
        missing = have < need
        if not missing.any():
            break
        if counts[block][missing].any():
            train.append(int(block))
            have = have + counts[block]
    return train
