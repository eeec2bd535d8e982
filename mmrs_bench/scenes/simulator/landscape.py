"""The simulated ground: which class lies where, which pixels carry a label, how high it is.

The map is painted in layers, each with an exact number of pixels: lakes (level sets of a smooth random field),
networks of lines, rectangles along the same street grid, the shadows beside them, blobs of trees (level sets again),
and parcels (cells of a stretched Voronoi diagram) on what is left. One code serves all layouts; they differ in the
numbers of `mmrs_bench.scenes.simulator.painter.Layout`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mmrs_bench.errors import ManifestError
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.simulator.painter import Address, Field, Painter, Raster, top
from mmrs_bench.scenes.simulator.profiles import ClassProfile


@dataclass(frozen=True, eq=False)
class Ground:
    """The ground without its sensors.

    Attributes:
        classes: True class (height, width), 0..K-1, of every pixel, labelled or not.
        polygons: Number of the polygon (height, width) that a pixel belongs to.
        ground_truth: Labels (height, width): 0 is unlabelled, 1..K are classes.
        elevation: Height above ground (height, width) in m.
    """

    classes: Raster
    polygons: Raster
    ground_truth: NDArray[np.int64]
    elevation: Field


def _inner_depth(polygons: Raster, limit: int) -> NDArray[np.int32]:
    """Chessboard distance (height, width) to the nearest pixel of another polygon, minus 1, at most ``limit``."""
    cross = ndimage.generate_binary_structure(2, 1)
    lowest = ndimage.minimum_filter(polygons, footprint=cross)
    edge = lowest != ndimage.maximum_filter(polygons, footprint=cross)
    if not edge.any():
        return np.full(polygons.shape, limit, dtype=np.int32)
    return np.asarray(np.minimum(ndimage.distance_transform_cdt(~edge, metric="chessboard"), limit), dtype=np.int32)


def _labels(painter: Painter) -> NDArray[np.int64]:
    layout = painter.layout
    rank = painter.draw("label").permutation(painter.next_polygon) / painter.next_polygon
    score = layout.whole * rank[painter.polygons] + painter.smooth(layout.patch, "label-patch")
    score = score + 100.0 * (_inner_depth(painter.polygons, layout.gap) >= layout.gap)
    truth = np.zeros(painter.size, dtype=np.int64)
    for k, count in enumerate(painter.counts):
        truth[top(score, np.flatnonzero(painter.classes == k), count)] = k + 1
    return truth.reshape(painter.shape)


def _elevation(painter: Painter, gsd_m: float) -> Field:
    """Roofs that rise towards their ridge, crowns, and ground that is level to a few decimetres, in m."""
    profiles, classes = painter.profiles, painter.classes
    height = np.array([p.height.mean for p in profiles], dtype=np.float32)
    spread = np.array([p.height.spread for p in profiles], dtype=np.float32)
    rough = np.array([p.height.rough for p in profiles], dtype=np.float32)
    offset = painter.draw("height").standard_normal(painter.next_polygon).astype(np.float32)
    base = np.maximum(height[classes] + spread[classes] * offset[painter.polygons], 0.3 * height[classes])
    pitch = np.array([p.height.pitch for p in profiles], dtype=np.float32)
    base += pitch[classes] * _inner_depth(painter.polygons, 5)
    crown = rough[classes] * painter.smooth(1.5 if gsd_m < 3 else 0.8, "crown")
    ground = np.float32(0.1) * painter.smooth(12.0, "ground")
    surface = np.maximum(base + crown, 0.0) + ground
    # A laser footprint spans a little more than its pixel, so heights mix at borders as spectra do.
    return np.asarray(ndimage.gaussian_filter(surface, 0.5, mode="nearest", truncate=2.0), dtype=np.float32)


def label_counts(manifest: Manifest) -> list[int]:
    """Labelled pixels per class: the manifest's counts, and for classes without one an equal share of 55 %."""
    share = max(1, int(0.55 * manifest.height * manifest.width / len(manifest.classes)))
    return [share if c.count is None else c.count for c in manifest.classes]


def build_ground(manifest: Manifest, profiles: list[ClassProfile], *, gsd_m: float, address: Address) -> Ground:
    """Paint the map of a scene, choose its labelled pixels and raise its heights.

    Args:
        manifest: Raster size, class counts and, by its generator, the layout.
        profiles: Appearance of every class.
        gsd_m: Ground sampling distance in m.
        address: Where in the random streams the scene lives.

    Raises:
        ManifestError: If the classes' counts add up to more pixels than the raster has.
    """
    counts = label_counts(manifest)
    if sum(counts) > manifest.height * manifest.width:
        raise ManifestError(
            f"{manifest.path}: classes: counts add up to {sum(counts)} labelled pixels, the raster has "
            f"{manifest.height * manifest.width}; lower the counts or enlarge the raster"
        )
    painter = Painter(manifest, profiles, counts, address)
    layers = {
        "lake": painter.blobs,
        "network": painter.network,
        "rectangle": painter.rectangles,
        "shadow": painter.shadows,
        "blob": painter.blobs,
    }
    order = ["blob", *(form for form in layers if form != "blob")] if painter.layout.woods_first else list(layers)
    for form in order:
        for k in sorted((k for k, p in enumerate(profiles) if p.form == form), key=lambda k: (-profiles[k].size, k)):
            layers[form](k)
    painter.parcels()
    painter.repair()
    return Ground(painter.classes, painter.polygons, _labels(painter), _elevation(painter, gsd_m))
