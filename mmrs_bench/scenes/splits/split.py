"""Which labelled pixels a method may learn from and which it is scored on.

Three protocols:

- ``random-v1``: per class, support pixels drawn from all its labelled pixels; the query is every other labelled
  pixel. Comparable with the field's papers; query windows overlap support windows (see `mmrs_bench.scenes.splits.audit`).
- ``official-v1``: support drawn from the publishers' train pixels; the query is the publishers' test pixels.
- ``block-v1``: support drawn from train blocks; the query is every labelled pixel whose Chebyshev distance to the
  whole train area is at least the window (see `mmrs_bench.scenes.splits.blocks`).

Each class is shuffled once per draw, by a stream addressed by ground truth, protocol, draw and class; ``shots``
pixels are its prefix. So the support of 2 shots is a subset of that of 5 shots of the same draw.

Where ``benchmarks/splits/<scene>/<protocol>.json`` holds the scene's ground truth, draw and shots, that file is the
source of the support; elsewhere the support is drawn by the function that wrote the file. Drawing takes
milliseconds, so nothing is cached.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmrs_bench.config import SplitName
from mmrs_bench.errors import SplitError
from mmrs_bench.io import canonical_json
from mmrs_bench.scenes.scene import IntArray, Scene
from mmrs_bench.scenes.splits.blocks import chebyshev_distance, train_area
from mmrs_bench.scenes.splits.split_files import committed_order
from mmrs_bench.scenes.splits.support import draw_order, official_pixels


@dataclass(frozen=True, eq=False)
class Split:
    """Support and query pixels of one draw, as flat indices.

    Attributes:
        name: Protocol.
        shots: Support pixels per class.
        draw: Index of the support sample.
        window: Side of the window that the buffer of ``block-v1`` is made for, in pixels.
        support: (shots * K,), grouped by class 1..K, in the draw's order within each class.
        query: Ascending, disjoint from ``support``; holds every class.
        train_area: Ascending pixels, labelled or not, of the train blocks (``block-v1``), else None.
    """

    name: SplitName
    shots: int
    draw: int
    window: int
    support: IntArray
    query: IntArray
    train_area: IntArray | None = None

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of all attributes."""
        digest = hashlib.sha256()
        head = {"name": self.name, "shots": self.shots, "draw": self.draw, "window": self.window}
        digest.update(canonical_json(head).encode())
        for name, pixels in (("support", self.support), ("query", self.query), ("train_area", self.train_area)):
            digest.update(f"{name}:{'none' if pixels is None else pixels.size}:".encode())
            if pixels is not None:
                digest.update(np.ascontiguousarray(pixels, dtype="<i8").tobytes())
        return digest.hexdigest()


def make_split(scene: Scene, name: SplitName, *, shots: int, draw: int, window: int) -> Split:
    """The split of a scene.

    Args:
        scene: The scene.
        name: Protocol.
        shots: Support pixels per class, at least 1.
        draw: Index of the support sample, at least 0; nested over shots.
        window: Side of the window in pixels, odd.

    Raises:
        SplitError: If a class has too few pixels for the shots, no query pixel would be left of a class, the window
            does not fit into the scene, the scene has no such split, or a committed split file is corrupt.
    """
    _check_arguments(scene, shots, draw, window)
    order = committed_order(scene, name, shots=shots, draw=draw, window=window) or draw_order(scene, name, draw, window)
    for k, pixels in enumerate(order.pixels):
        if pixels.size < shots:
            raise SplitError(
                f"{name} on {scene.manifest.id}, draw {draw}: class {k + 1} ({scene.manifest.class_names[k]}) has "
                f"{pixels.size} pixels to draw support from, {shots} shots were asked for; use at most {pixels.size}."
            )
    support = np.concatenate([pixels[:shots] for pixels in order.pixels])
    area = None if order.blocks is None else np.flatnonzero(train_area(scene.height, scene.width, order.blocks))
    query = _query(scene, name, support, area, window)
    left = np.bincount(scene.labels[query], minlength=scene.num_classes + 1)[1:]
    if not left.all():
        k = int(left.argmin())
        raise SplitError(
            f"{name} on {scene.manifest.id}, draw {draw}, {shots} shots, window {window}: no query pixel is left of "
            f"class {k + 1} ({scene.manifest.class_names[k]}); use fewer shots"
            f"{' or a smaller window' if name == 'block-v1' else ''}."
        )
    return Split(name, shots, draw, window, support, query, area)


def _check_arguments(scene: Scene, shots: int, draw: int, window: int) -> None:
    if shots < 1:
        raise SplitError(f"shots is {shots}; give at least 1 label per class.")
    if draw < 0:
        raise SplitError(f"draw is {draw}; draws count from 0.")
    if window < 1 or window % 2 == 0:
        raise SplitError(f"window {window} has no centre pixel; use an odd number of at least 1.")
    if window > min(scene.height, scene.width):
        raise SplitError(
            f"window {window} is larger than scene {scene.manifest.id} ({scene.height} x {scene.width} pixels); use a "
            "smaller odd window."
        )


def _query(scene: Scene, name: SplitName, support: IntArray, area: IntArray | None, window: int) -> IntArray:
    if name == "official-v1":
        return np.setdiff1d(official_pixels(scene)[1], support)
    query = scene.labelled_pixels
    if area is not None:
        inside = np.zeros(scene.labels.size, dtype=np.bool_)
        inside[area] = True
        distance = chebyshev_distance(inside.reshape(scene.height, scene.width)).reshape(-1)
        return query[distance[query] >= window]
    return np.setdiff1d(query, support, assume_unique=True)
