"""Square blocks of the raster as train areas, for spatially disjoint splits.

The raster is cut into square blocks from its upper left corner. Per draw a random quarter of the blocks that hold
labels becomes the train area; blocks are added where a class would still lack train pixels. Query pixels are the
labelled pixels whose Chebyshev distance to the whole train area is at least the window, so that no query window
shares a pixel with a window centred anywhere in the train area, support or not.

Blocks of 32 pixels are tried first: with the buffer of 10 pixels around them about half of Trento stays in the query,
of smaller blocks the buffers would take more. For every side candidates are drawn, with a train share that falls from a
quarter towards none, until one leaves every class at least `enough` pixels in the train area and in the query; if none
does, blocks of 24 and 16 pixels are tried, and then all three with a lower demand. The assignment depends neither on
shots nor, up to the usual window of 11, on the window, so shots are nested and windows share their support.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_cdt

from mmrs_bench.errors import SplitError
from mmrs_bench.randomness import numpy_generator
from mmrs_bench.scenes.scene import IntArray, Scene

BLOCK_SIDES = (32, 24, 16)
#: Pixels that every class should have on both sides: the largest number of shots in common use, else some.
DEMANDS = (40, 10)
TRAIN_SHARE = 0.25
REFERENCE_WINDOW = 11
CANDIDATES = 100

BoolArray = NDArray[np.bool_]


class BlockAssignment(NamedTuple):
    """The train blocks of one draw.

    Attributes:
        side: Side of a block in pixels; blocks at the right and lower edge may be smaller.
        train: Ascending indices of the train blocks, counted row by row.
    """

    side: int
    train: tuple[int, ...]


def block_raster(height: int, width: int, side: int) -> IntArray:
    """The block index of every pixel, (height, width), counted row by row."""
    per_row = -(-width // side)
    return (np.arange(height, dtype=np.int64)[:, None] // side) * per_row + np.arange(width, dtype=np.int64) // side


def train_area(height: int, width: int, assignment: BlockAssignment) -> BoolArray:
    """Which pixels (height, width) lie in a train block."""
    return np.isin(block_raster(height, width, assignment.side), assignment.train)


def chebyshev_distance(mask: BoolArray) -> IntArray:
    """Chebyshev distance (height, width) in pixels of every pixel to the nearest true pixel of a mask.

    Two windows of odd side w share a pixel exactly where the distance of their centres is below w.
    """
    if not mask.any():
        raise ValueError("the mask has no true pixel, so there is no distance to it")
    return np.asarray(distance_transform_cdt(~mask, metric="chessboard"), dtype=np.int64)


def assignment_window(window: int) -> int:
    """The window whose buffer an assignment has to leave room for."""
    return max(window, REFERENCE_WINDOW)


def enough(class_counts: IntArray, demand: int) -> IntArray:
    """Pixels (K,) that every class must have in the train area, and again in the query.

    The demand, or a fifth of a class that is too small for it.
    """
    return np.clip(class_counts // 5, 1, demand)


def assign_blocks(scene: Scene, draw: int, window: int) -> BlockAssignment:
    """The train blocks of one draw; equal for all windows up to 11.

    Raises:
        SplitError: If no assignment leaves some class enough pixels on both sides.
    """
    failures = np.zeros(scene.num_classes, dtype=np.int64)
    for demand in DEMANDS:
        for side in BLOCK_SIDES:
            assignment, lacking = _search(scene, draw, assignment_window(window), side, demand)
            if assignment is not None:
                return assignment
            failures = lacking
    k = int(failures.argmax())
    count = int(np.count_nonzero(scene.labels == k + 1))
    least = enough(np.array([count]), DEMANDS[-1])[0]
    raise SplitError(
        f"block-v1 on {scene.manifest.id}, draw {draw}: class {k + 1} ({scene.manifest.class_names[k]}, {count} "
        f"pixels) cannot have {least} pixels in train blocks and {least} query pixels at least "
        f"{assignment_window(window)} pixels away from all train blocks; use random-v1, or official-v1 where the scene "
        f"has one{', or a smaller window' if window > REFERENCE_WINDOW else ''}."
    )


def _search(scene: Scene, draw: int, distance: int, side: int, demand: int) -> tuple[BlockAssignment | None, IntArray]:
    """The first good candidate, and how often each class (K,) was lacking before it."""
    labels, classes = scene.labels, scene.num_classes
    blocks = block_raster(scene.height, scene.width, side)
    cells = np.bincount(blocks.reshape(-1) * (classes + 1) + labels, minlength=(int(blocks.max()) + 1) * (classes + 1))
    counts = cells.reshape(-1, classes + 1)[:, 1:]  # blocks x classes
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
    """The first blocks of an order up to a share of all, then those that a class still lacks."""
    first = max(1, round(share * order.size))
    train = [int(block) for block in order[:first]]
    held = counts[train].sum(axis=0)
    for block in order[first:]:
        missing = held < need
        if not missing.any():
            break
        if counts[block][missing].any():
            train.append(int(block))
            held = held + counts[block]
    return train
