"""The simulated landscape: class map, polygons, labelled pixels and elevation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mmrs_bench.errors import ManifestError
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.simulator.painter import Address, Field, Painter, Raster, top_scoring
from mmrs_bench.scenes.simulator.profiles import Profile


@dataclass(frozen=True, eq=False)
class Landscape:
    """The ground, before any sensor measures it.

    Attributes:
        classes: True class (height, width), 0..K-1, of every pixel, labelled or not.
        polygons: Polygon number (height, width) of every pixel.
        ground_truth: Labels (height, width): 0 is unlabelled, 1..K are classes.
        elevation: Height above ground (height, width) in m.
    """

    classes: Raster
    polygons: Raster
    ground_truth: NDArray[np.int64]
    elevation: Field


def _edge_distance(polygons: Raster, limit: int) -> NDArray[np.int32]:
    """Chessboard distance (height, width) to the edge of the polygon, 0 on the edge, at most ``limit``."""
    cross = ndimage.generate_binary_structure(2, 1)
    edge = ndimage.minimum_filter(polygons, footprint=cross) != ndimage.maximum_filter(polygons, footprint=cross)
    if not edge.any():
        return np.full(polygons.shape, limit, dtype=np.int32)
    return np.asarray(np.minimum(ndimage.distance_transform_cdt(~edge, metric="chessboard"), limit), dtype=np.int32)


def _ground_truth(painter: Painter) -> NDArray[np.int64]:
    layout = painter.layout
    rank = painter.generator("label").permutation(painter.next_polygon) / painter.next_polygon
    score = layout.polygon_weight * rank[painter.polygons] + painter.field(layout.label_length, "label-patch")
    score = score + 100.0 * (_edge_distance(painter.polygons, layout.edge_gap) >= layout.edge_gap)
    truth = np.zeros(painter.size, dtype=np.int64)
    for k, count in enumerate(painter.counts):
        truth[top_scoring(score, np.flatnonzero(painter.classes == k), count)] = k + 1
    return truth.reshape(painter.shape)


def _elevation(painter: Painter, gsd_m: float) -> Field:
    classes = painter.classes
    mean, spread, rough, _, pitch = np.array([p.height for p in painter.profiles], dtype=np.float32).T
    offset = painter.generator("height").standard_normal(painter.next_polygon).astype(np.float32)
    base = mean[classes] + spread[classes] * offset[painter.polygons]
    base = np.maximum(base, 0.3 * mean[classes])
    base += pitch[classes] * _edge_distance(painter.polygons, 5)
    crown = rough[classes] * painter.field(1.5 if gsd_m < 3 else 0.8, "crown")
    surface = np.maximum(base + crown, 0.0) + np.float32(0.1) * painter.field(12.0, "ground")
    # A laser footprint is slightly larger than a pixel, so heights mix at borders as spectra do.
    return np.asarray(ndimage.gaussian_filter(surface, 0.5, mode="nearest", truncate=2.0), dtype=np.float32)


def label_counts(manifest: Manifest) -> list[int]:
    """Labelled pixels per class: the manifest's count, or an equal share of 55 % of the raster without one."""
    share = max(1, int(0.55 * manifest.height * manifest.width / len(manifest.classes)))
    return [share if c.count is None else c.count for c in manifest.classes]


def build_landscape(manifest: Manifest, profiles: list[Profile], *, gsd_m: float, address: Address) -> Landscape:
    """Paint the class map, choose the labelled pixels and compute the elevation.

    ``address`` is the start of the address of the scene's random streams.

    Raises:
        ManifestError: If the sum of the class counts exceeds the number of pixels.
    """
    counts = label_counts(manifest)
    if sum(counts) > manifest.height * manifest.width:
        raise ManifestError(
            f"{manifest.path}: classes: counts add up to {sum(counts)} labelled pixels, the raster has "
            f"{manifest.height * manifest.width}; lower the counts or enlarge the raster"
        )
    painter = Painter(manifest, profiles, counts, address)
    paint = {"network": painter.network, "rectangle": painter.rectangles, "shadow": painter.shadows}
    order = ["lake", "network", "rectangle", "shadow"]
    order.insert(0 if painter.layout.blobs_first else len(order), "blob")
    for form in order:
        for k in sorted((k for k, p in enumerate(profiles) if p.form == form), key=lambda k: (-profiles[k].size, k)):
            paint.get(form, painter.blobs)(k)
    painter.parcels()
    painter.repair()
    return Landscape(painter.classes, painter.polygons, _ground_truth(painter), _elevation(painter, gsd_m))
