"""Order of the support pixels of a draw; the support of n shots is the first n pixels of every class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmrs_bench.config import SplitName
from mmrs_bench.errors import SplitError
from mmrs_bench.randomness import numpy_generator
from mmrs_bench.scenes.scene import IntArray, Scene
from mmrs_bench.scenes.splits.blocks import BlockAssignment, assign_blocks, train_area


class SupportOrder(NamedTuple):
    """Ordered support candidates of one draw, as flat indices by class, and the train blocks of ``block-v1``."""

    pixels: tuple[IntArray, ...]
    blocks: BlockAssignment | None = None


def draw_order(scene: Scene, name: SplitName, draw: int, window: int) -> SupportOrder:
    """Shuffle all support candidates of every class; raises `SplitError` if the scene has no such split."""
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
    """The official (train, test) pixels; raises `SplitError` if the scene has none."""
    if scene.official is None:
        reason = scene.official_missing or f"{scene.manifest.tag} has no official split."
        raise SplitError(f"official-v1: {reason} Use random-v1 or block-v1, which need none.")
    return scene.official
