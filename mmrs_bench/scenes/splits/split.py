"""Support and query pixels of a scene under three protocols.

- ``random-v1``: the support is drawn from all labelled pixels, the query is every other labelled pixel. Comparable with
  published results, but query windows overlap support windows (see `mmrs_bench.scenes.splits.audit`).
- ``official-v1``: the support is drawn from the official train pixels, the query is the official test pixels.
- ``block-v1``: the support is drawn from train blocks, the query lies apart (see `mmrs_bench.scenes.splits.blocks`).

Supports are nested over shots, and come from ``benchmarks/splits/<scene>/<protocol>.json`` if that file covers them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmrs_bench.config import SplitName
from mmrs_bench.errors import SplitError
from mmrs_bench.io import canonical_json
from mmrs_bench.scenes.scene import IntArray, Scene, check_window
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
        window: Side of the window in pixels, which determines the buffer of ``block-v1``.
        support: (shots * K,), grouped by class 1..K, in random order within each class.
        query: Ascending, disjoint from ``support``; contains every class.
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
        head = {"name": self.name, "shots": self.shots, "draw": self.draw, "window": self.window}
        digest = hashlib.sha256(canonical_json(head).encode())
        for name, pixels in (("support", self.support), ("query", self.query), ("train_area", self.train_area)):
            digest.update(f"{name}:{'none' if pixels is None else pixels.size}:".encode())
            if pixels is not None:
                digest.update(np.ascontiguousarray(pixels, dtype="<i8").tobytes())
        return digest.hexdigest()


def make_split(scene: Scene, name: SplitName, *, shots: int, draw: int, window: int) -> Split:
    """The split of a scene; arguments as in `Split`.

    Raises:
        SplitError: If a class has too few pixels for support or query, the scene has no such split, or its file is
            corrupt.
        ConfigError: If the window does not fit the scene.
    """
    if shots < 1:
        raise SplitError(f"shots is {shots}; use at least 1 label per class.")
    if draw < 0:
        raise SplitError(f"draw is {draw}; draws count from 0.")
    check_window(window, scene.height, scene.width)
    if not scene.manifest.labelled:
        raise SplitError(
            f"{scene.manifest.id} has no ground truth, so it has no split; mmrs-bench predict classifies it"
        )
    if scene.empty_classes:
        raise SplitError(
            f"{scene.manifest.id}: no labelled pixel is of class {', '.join(scene.empty_classes)}; correct the values: "
            "of the class in the manifest, or remove it."
        )
    order = committed_order(scene, name, shots=shots, draw=draw, window=window) or draw_order(scene, name, draw, window)
    place = f"{name} on {scene.manifest.id}, draw {draw}, {shots} shots"
    names = [f"class {k} ({class_name})" for k, class_name in enumerate(scene.manifest.class_names, start=1)]
    for class_name, pixels in zip(names, order.pixels, strict=True):
        if pixels.size < shots:
            fix = _remedy(name, pixels.size - (name == "random-v1"))  # which leaves one for the query
            raise SplitError(f"{place}: {class_name} has {pixels.size} candidates; {fix}.")
    support = np.concatenate([pixels[:shots] for pixels in order.pixels])
    candidates = official_pixels(scene)[1] if name == "official-v1" else scene.labelled_pixels
    query, area = np.setdiff1d(candidates, support), None
    if order.blocks is not None:
        inside = train_area(scene.height, scene.width, order.blocks)
        area = np.flatnonzero(inside)
        query = query[chebyshev_distance(inside).reshape(-1)[query] >= window]
    left = np.bincount(scene.labels[query], minlength=scene.num_classes + 1)[1:]
    if not left.all():
        fix = _remedy(name, shots - 1 if name == "random-v1" else 0)  # other queries do not depend on the shots
        raise SplitError(
            f"{place}, window {window}: {names[int(left.argmin())]} has no query pixel; "
            f"{fix}{' or a smaller window' if name == 'block-v1' else ''}."
        )
    return Split(name, shots, draw, window, support, query, area)


def _remedy(name: SplitName, most: int) -> str:
    """What helps a class that has pixels for so many shots."""
    if most > 0:
        return f"use at most {most} shots"
    return "label more of its pixels, or remove the class" if name == "random-v1" else "use random-v1"
