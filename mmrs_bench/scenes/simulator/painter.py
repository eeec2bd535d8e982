"""Paints the class map of a simulated scene: lines, rectangles, shadows, blobs and parcels with exact pixel counts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial import cKDTree

from mmrs_bench.randomness import numpy_generator
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.simulator.profiles import Profile

UNASSIGNED = -1
#: Largest area of a class that is no parcel, in pixels per labelled pixel.
MAX_AREA_PER_LABEL = 20
MAX_LINES = 10_000
Mask = NDArray[np.bool_]
Pixels = NDArray[np.intp]
Raster = NDArray[np.int32]
Field = NDArray[np.float32]
Address = tuple[str | int, ...]


class Layout(NamedTuple):
    """Sizes of the objects in a scene.

    Attributes:
        parcel_area: Mean area of parcels in pixels.
        parcel_aspect: Length of parcels divided by their width.
        blob_scale: Factor on the correlation length of blobs; a large factor gives few large blobs.
        label_length: Correlation length in pixels of labelled patches.
        polygon_weight: How strongly labels fill whole polygons; 0 gives patches everywhere.
        edge_gap: Width in pixels of the unlabelled edge of a polygon, if the class count permits.
        blobs_first: Whether trees are painted before roads and houses and so stay in one piece.
    """

    parcel_area: float
    parcel_aspect: float = 2.0
    blob_scale: float = 1.0
    label_length: float = 10.0
    polygon_weight: float = 4.0
    edge_gap: int = 1
    blobs_first: bool = False


LAYOUTS: dict[str, Layout] = {
    "default": Layout(550),
    "trento": Layout(2600, 2.5, blob_scale=9.0, label_length=60.0, polygon_weight=8.0, blobs_first=True),
    "houston2013": Layout(900, label_length=4.0, polygon_weight=0.0),
    "muufl": Layout(500, blob_scale=1.4),
    "augsburg": Layout(450, 1.4, blob_scale=1.5, label_length=12.0, polygon_weight=8.0, edge_gap=0),
    "berlin": Layout(1200, 1.4, blob_scale=2.0, label_length=15.0, polygon_weight=8.0, edge_gap=0),
}
LAYOUTS["houston2013-original"] = LAYOUTS["houston2013"]


def smooth_field(shape: tuple[int, int], length: float, *address: str | int) -> Field:
    """Periodic white noise after a Gaussian filter of standard deviation ``length``, scaled to variance 1 (float32)."""
    noise = fft.rfft2(numpy_generator(*address).standard_normal(shape))
    rows, columns = (np.exp(-2.0 * (np.pi * length * fft.fftfreq(n)) ** 2) for n in shape)
    variance = np.mean(rows**2) * np.mean(columns**2)  # Parseval's theorem
    half = columns[: noise.shape[1]]
    return np.asarray(fft.irfft2(noise * rows[:, None] * half, s=shape) / np.sqrt(variance), dtype=np.float32)


def top_scoring(score: NDArray[np.floating], candidates: Pixels, count: int) -> Pixels:
    """The ``count`` candidates with the highest score; the first of equal ones."""
    order = np.argsort(-score.reshape(-1)[candidates], kind="stable")
    return candidates[order[:count]]


class Painter:
    """The map while its layers are painted.

    Attributes:
        classes, polygons: Class and polygon number (height, width) of every pixel.
        along, across: Coordinates (height, width) in pixels along and across the streets.
        counts, target, area: Labelled pixels, planned pixels and present pixels of every class.
    """

    def __init__(self, manifest: Manifest, profiles: list[Profile], counts: list[int], address: Address):
        self.shape = (manifest.height, manifest.width)
        self.size = manifest.height * manifest.width
        self.profiles, self.counts, self.address = profiles, counts, address
        self.layout = LAYOUTS[manifest.generator.layout if manifest.generator else "default"]
        # Areas are proportional to the labels, up to the limit; the rest of the map is open land.
        self.target = [
            round(min(self.size * count / sum(counts), (MAX_AREA_PER_LABEL if p.form != "parcel" else np.inf) * count))
            for count, p in zip(counts, profiles, strict=True)
        ]
        self.area: NDArray[np.int64] = np.zeros(len(counts), dtype=np.int64)
        self.classes: Raster = np.full(self.shape, UNASSIGNED, dtype=np.int32)
        self.polygons: Raster = np.zeros(self.shape, dtype=np.int32)
        self.next_polygon = 1
        self.angle = self.generator("angle").uniform(0.2, 0.6)
        cosine, sine = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        rows, columns = np.mgrid[: self.shape[0], : self.shape[1]].astype(np.float32)
        self.along: Field = columns * cosine + rows * sine
        self.across: Field = rows * cosine - columns * sine

    def generator(self, *purpose: str | int) -> np.random.Generator:
        """The random generator for a purpose."""
        return numpy_generator(*self.address, *purpose)

    def field(self, length: float, *purpose: str | int) -> Field:
        """A `smooth_field` for a purpose; its length is at most a quarter of the longer side of the raster."""
        return smooth_field(self.shape, min(length, max(self.shape) / 4), *self.address, *purpose)

    def missing(self, k: int) -> int:
        """Pixels that class ``k`` still needs."""
        return self.target[k] - int(self.area[k])

    def unassigned(self, mask: Mask | bool = True) -> Pixels:
        """Flat indices (n,) of the pixels without a class, inside a mask (height, width)."""
        return np.flatnonzero(mask & (self.classes == UNASSIGNED))

    def assign(self, k: int, pixels: Pixels) -> None:
        """Assign pixels (n,) to class ``k``, as one new polygon."""
        before = self.classes.reshape(-1)[pixels]
        self.area -= np.bincount(before[before != UNASSIGNED], minlength=self.area.size)
        self.area[k] += pixels.size
        self.classes.reshape(-1)[pixels] = k
        self.polygons.reshape(-1)[pixels] = self.next_polygon
        self.next_polygon += 1

    def separate(self, k: int) -> None:
        """Make every connected component of class ``k`` a polygon."""
        components, count = ndimage.label(self.classes == k)
        inside = components > 0
        self.polygons[inside] = self.next_polygon + components[inside] - 1
        self.next_polygon += count

    def network(self, k: int) -> None:
        """Paint lines along and across the streets until the class has its area; the last line may be shorter."""
        rng = self.generator("network", k)
        size, side = self.profiles[k].size, max(self.shape)
        for line in range(MAX_LINES):
            if (missing := self.missing(k)) <= 0:
                return
            u, v = (self.along, self.across) if (line + k) % 3 else (self.across, self.along)
            bend = rng.uniform(0.0, 0.02) * side
            wave = np.float32(bend) * np.sin(u / np.float32(0.15 * side) + np.float32(rng.uniform(0, 6)))
            offset = np.float32(rng.uniform(float(v.min()), float(v.max())))
            self.assign(k, top_scoring(u, self.unassigned(np.abs(v - offset - wave) <= size / 2), missing))

    def rectangles(self, k: int) -> None:
        """Paint rectangles on a lattice along the streets, densest in towns, until the class has its area."""
        rng = self.generator("rectangles", k)
        town = self.field(max(self.shape) / 8, "town")
        for shrink in (1.0, 0.75, 0.5):
            short = max(2.0, self.profiles[k].size * shrink)
            us = np.arange(float(self.along.min()), float(self.along.max()), 1.5 * short + 4)
            vs = np.arange(float(self.across.min()), float(self.across.max()), short + 4)
            lots = np.stack(np.meshgrid(us, vs), axis=-1).reshape(-1, 2)
            lots = lots + rng.uniform(-1.5, 1.5, size=lots.shape)
            rows = np.rint(lots[:, 0] * np.sin(self.angle) + lots[:, 1] * np.cos(self.angle)).astype(int)
            columns = np.rint(lots[:, 0] * np.cos(self.angle) - lots[:, 1] * np.sin(self.angle)).astype(int)
            inside = (rows >= 0) & (rows < self.shape[0]) & (columns >= 0) & (columns < self.shape[1])
            lots, rows, columns = lots[inside], rows[inside], columns[inside]
            priority = town[rows, columns] + rng.normal(0.0, 0.7, size=rows.size)
            half_sides = rng.uniform(0.8, 1.2, size=(rows.size, 2)) * (1.5 * short, short) / 2
            reach = int(2 * short) + 2
            for lot in np.argsort(-priority, kind="stable"):
                if (missing := self.missing(k)) <= 0:
                    return
                top, left = max(rows[lot] - reach, 0), max(columns[lot] - reach, 0)
                box = slice(top, rows[lot] + reach), slice(left, columns[lot] + reach)
                u, v = np.abs(self.along[box] - lots[lot, 0]), np.abs(self.across[box] - lots[lot, 1])
                inner = (u <= half_sides[lot, 0]) & (v <= half_sides[lot, 1])
                if inner.any() and (self.classes[box][inner] == UNASSIGNED).all():
                    r, c = np.nonzero(inner)
                    self.assign(k, ((r + top) * self.shape[1] + c + left)[:missing])

    def shadows(self, k: int) -> None:
        """Paint the unassigned pixels beside high rectangles, away from the sun, the nearest ones first."""
        high = [j for j, p in enumerate(self.profiles) if p.height.mean > 2 and p.form == "rectangle"]
        solid = np.isin(self.classes, high)
        shade = np.zeros(self.shape, dtype=bool)
        for step in range(1, max(self.shape)):
            if (missing := self.missing(k)) <= 0:
                break
            rows, columns = round(0.8 * step), round(0.6 * step)  # down and to the right
            shade[rows:, columns:] |= solid[:-rows, :-columns]
            self.assign(k, self.unassigned(shade)[:missing])
        self.separate(k)

    def blobs(self, k: int) -> None:
        """Paint the unassigned pixels with the highest values of a smooth random field."""
        field = self.field(self.profiles[k].size * self.layout.blob_scale, "blob", k)
        self.assign(k, top_scoring(field, self.unassigned(), self.missing(k)))
        self.separate(k)

    def parcels(self) -> None:
        """Fill the rest with Voronoi cells, stretched along the streets; each goes to the class that needs most."""
        free = self.unassigned()
        if not free.size:
            return
        stretch = np.sqrt(self.layout.parcel_aspect)
        points = np.stack([self.along.reshape(-1) / stretch, self.across.reshape(-1) * stretch], axis=-1)
        count = min(max(len(self.profiles), round(self.size / self.layout.parcel_area)), self.size)
        sites = points[self.generator("parcels").choice(self.size, size=count, replace=False)]
        cell = cKDTree(sites).query(points[free])[1]
        sizes = np.bincount(cell, minlength=len(sites))
        candidates = [k for k, p in enumerate(self.profiles) if p.form == "parcel"] or list(range(len(self.profiles)))
        missing = np.array([self.missing(k) for k in candidates])
        owner = np.zeros(len(sites), dtype=np.int32)
        for site in np.argsort(-sizes, kind="stable"):
            best = int(np.argmax(missing))
            owner[site] = candidates[best]
            missing[best] -= sizes[site]
        self.classes.reshape(-1)[free] = owner[cell]
        self.area += np.bincount(owner[cell], minlength=self.area.size)
        self.polygons.reshape(-1)[free] = self.next_polygon + cell
        self.next_polygon += len(sites)

    def repair(self) -> None:
        """Give each class with fewer pixels than labels the nearest pixels of the class with the largest surplus."""
        flat = self.classes.reshape(-1)
        while True:
            surplus = self.area - self.counts
            k, donor = int(np.argmin(surplus)), int(np.argmax(surplus))
            if surplus[k] >= 0:
                return
            own = self.classes == k
            if not own.any():
                own.reshape(-1)[self.generator("repair", k).integers(self.size)] = True
            distance = ndimage.distance_transform_edt(~own)
            count = int(min(-surplus[k], surplus[donor]))
            self.assign(k, top_scoring(-distance, np.flatnonzero(flat == donor), count))
