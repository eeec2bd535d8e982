"""The order in which a draw hands out support pixels.

Each class is shuffled once per draw, by a stream addressed by ground truth, protocol, draw and class; the support of n
shots is the first n pixels of every class. So the support of 2 shots is a subset of that of 5 shots of the same draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmrs_bench.config import SplitName
from mmrs_bench.errors import SplitError
from mmrs_bench.randomness import numpy_generator
from mmrs_bench.scenes.scene import IntArray, Scene
from mmrs_bench.scenes.splits.blocks import BlockAssignment, assign_blocks, train_area


@dataclass(frozen=True, eq=False)
class SupportOrder:
    """One draw's support pixels in order, class by class, and its train blocks (``block-v1``).

    ``pixels[k]`` are distinct flat indices of class k+1; the support of n shots is the first n of each.
    """

    pixels: tuple[IntArray, ...]
    blocks: BlockAssignment | None = None


def draw_order(scene: Scene, name: SplitName, draw: int, window: int) -> SupportOrder:
    """Draw all support candidates of every class in order, without any committed file.

    Raises:
        SplitError: If the scene has no such split.
    """
    blocks = assign_blocks(scene, draw, window) if name == "block-v1" else None
    candidates = scene.labelled_pixels
    if blocks is not None:
        candidates = candidates[train_area(scene.height, scene.width, blocks).reshape(-1)[candidates]]
    elif name == "official-v1":
        candidates = np.sort(official_pixels(scene)[0])
    pixels = []
    for k in range(1, scene.num_classes + 1):
        rng = numpy_generator("support", scene.ground_truth_sha256, name, draw, k)
        pixels.append(rng.permutation(candidates[scene.labels[candidates] == k]))
    return SupportOrder(tuple(pixels), blocks)


def official_pixels(scene: Scene) -> tuple[IntArray, IntArray]:
    """The publishers' (train, test) pixels.

    Raises:
        SplitError: If the scene has none.
    """
    if scene.official is None:
        lacking = scene.official_missing
        if scene.manifest.official_split is None:
            lacking = f"{scene.manifest.tag} has no official split"
        raise SplitError(f"official-v1: {lacking.rstrip('.')}. Use random-v1 or block-v1, which need none.")
    return scene.official
