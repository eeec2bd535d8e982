"""Layers of the simulated map: lines, rectangles, shadows, blobs and parcels, each with an exact number of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial import cKDTree

from mmrs_bench.randomness import numpy_generator
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.simulator.profiles import ClassProfile

FREE = -1
#: Pixels per label that a class other than a parcel covers at most.
MOST_AREA = 20
Mask = NDArray[np.bool_]
Raster = NDArray[np.int32]
Field = NDArray[np.float32]
Address = tuple[str | int, ...]


@dataclass(frozen=True)
class Layout:
    """How a scene is cut up.

    Attributes:
        parcel: Mean parcel size in pixels.
        stretch: Length of parcels over their width.
        blob: Factor on the correlation length of blobs (large: few big ones).
        patch: Correlation length in pixels of what is labelled inside polygons.
        whole: How strongly labels prefer to fill whole polygons (0: patches everywhere).
        woods_first: Whether woods are there before roads and houses, in one piece (else trees fill what is left).
        gap: Pixels at a polygon's edge that stay unlabelled as long as the class's count allows.
    """

    parcel: float
    stretch: float = 2.0
    blob: float = 1.0
    patch: float = 10.0
    whole: float = 4.0
    gap: int = 1
    woods_first: bool = False


LAYOUTS: dict[str, Layout] = {
    "default": Layout(parcel=550),
    "trento": Layout(parcel=2600, stretch=2.5, blob=9.0, patch=60.0, whole=8.0, woods_first=True),
    "houston2013": Layout(parcel=900, patch=4.0, whole=0.0),
    "muufl": Layout(parcel=500, blob=1.4),
    "augsburg": Layout(parcel=450, stretch=1.4, blob=1.5, patch=12.0, whole=8.0, gap=0),
    "berlin": Layout(parcel=1200, stretch=1.4, blob=2.0, patch=15.0, whole=8.0, gap=0),
}
LAYOUTS["houston2013-original"] = LAYOUTS["houston2013"]


def smooth_field(shape: tuple[int, int], length: float, *address: str | int) -> Field:
    """A stationary Gaussian random field (height, width) float32: mean 0, variance 1, Gaussian correlation.

    Args:
        shape: Raster size.
        length: Deviation in pixels of the Gaussian that white noise is smoothed with, on a torus.
        address: Where in the random streams it lives.
    """
    noise = fft.rfft2(numpy_generator(*address).standard_normal(shape))
    rows, columns = (np.exp(-2.0 * (np.pi * length * fft.fftfreq(n)) ** 2) for n in shape)
    # The variance that smoothing leaves on the torus, by Parseval's theorem.
    variance = np.mean(rows**2) * np.mean(columns**2)
    half = columns[: noise.shape[1]]
    return np.asarray(fft.irfft2(noise * rows[:, None] * half, s=shape) / np.sqrt(variance), dtype=np.float32)


def top(score: NDArray[np.floating], candidates: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """The ``count`` candidates with the highest score; ties by position."""
    order = np.argsort(-score.reshape(-1)[candidates], kind="stable")
    return candidates[order[:count]]


def shifted(mask: Mask, steps: int) -> Mask:
    """A mask moved ``steps`` pixels away from the sun (down and to the right), False where nothing moves in."""
    rows, columns = round(0.8 * steps), round(0.6 * steps)
    out = np.zeros_like(mask)
    if rows < mask.shape[0] and columns < mask.shape[1]:
        out[rows:, columns:] = mask[: mask.shape[0] - rows, : mask.shape[1] - columns]
    return out


class Painter:
    """The map while its layers are painted.

    Attributes:
        classes: Class (height, width) of every pixel, `FREE` where not painted yet.
        polygons: Polygon (height, width) of every pixel, below ``next_polygon``.
        along, across: Coordinates (height, width) in pixels along and across the streets.
        counts: Labelled pixels per class.
        target: Pixels that every class's layer is to cover; parcels take what is left.
        area: Pixels that every class covers so far.
    """

    def __init__(self, manifest: Manifest, profiles: list[ClassProfile], counts: list[int], address: Address):
        self.shape = (manifest.height, manifest.width)
        self.size = manifest.height * manifest.width
        self.profiles, self.counts = profiles, counts
        self.layout = LAYOUTS[manifest.generator.layout if manifest.generator else "default"]
        self.address = address
        # Area follows the labels; where few pixels are labelled, the rest of the ground is open land.
        self.target = [
            round(min(self.size * count / sum(counts), (MOST_AREA if p.form != "parcel" else np.inf) * count))
            for count, p in zip(counts, profiles, strict=True)
        ]
        self.area: NDArray[np.int64] = np.zeros(len(counts), dtype=np.int64)
        self.classes: Raster = np.full(self.shape, FREE, dtype=np.int32)
        self.polygons: Raster = np.zeros(self.shape, dtype=np.int32)
        self.next_polygon = 1
        angle = self.draw("angle").uniform(0.2, 0.6)
        rows, columns = np.mgrid[: self.shape[0], : self.shape[1]].astype(np.float32)
        self.angle = float(angle)
        self.along: Field = columns * np.float32(np.cos(angle)) + rows * np.float32(np.sin(angle))
        self.across: Field = rows * np.float32(np.cos(angle)) - columns * np.float32(np.sin(angle))

    def draw(self, *purpose: str | int) -> np.random.Generator:
        """The random generator for a purpose."""
        return numpy_generator(*self.address, *purpose)

    def smooth(self, length: float, *purpose: str | int) -> Field:
        """A `smooth_field` for a purpose, of at most a quarter of the raster's longer side."""
        return smooth_field(self.shape, min(length, max(self.shape) / 4), *self.address, *purpose)

    def missing(self, k: int) -> int:
        """Pixels that class ``k`` lacks to its target area."""
        return self.target[k] - int(self.area[k])

    def paint(self, k: int, pixels: NDArray[np.intp]) -> None:
        """Give pixels (n,) to class ``k`` as one new polygon."""
        before = self.classes.reshape(-1)[pixels]
        self.area -= np.bincount(before[before != FREE], minlength=self.area.size)
        self.area[k] += pixels.size
        self.classes.reshape(-1)[pixels] = k
        self.polygons.reshape(-1)[pixels] = self.next_polygon
        self.next_polygon += 1

    def separate(self, k: int) -> None:
        """Make every connected piece of a class a polygon of its own."""
        pieces, count = ndimage.label(self.classes == k)
        own = pieces > 0
        self.polygons[own] = self.next_polygon + pieces[own] - 1
        self.next_polygon += count

    def network(self, k: int) -> None:
        """Lines along and across the streets until the class has its pixels; the last one ends dead."""
        draw = self.draw("network", k)
        size = self.profiles[k].size
        for line in range(10_000):
            missing = self.missing(k)
            if missing <= 0:
                return
            u, v = (self.along, self.across) if (line + k) % 3 else (self.across, self.along)
            bend = draw.uniform(0.0, 0.02) * max(self.shape)
            wave = np.float32(bend) * np.sin(u / np.float32(0.15 * max(self.shape)) + np.float32(draw.uniform(0, 6)))
            offset = np.float32(draw.uniform(float(v.min()), float(v.max())))
            on_line = np.flatnonzero((np.abs(v - offset - wave) <= size / 2) & (self.classes == FREE))
            self.paint(k, top(u, on_line, missing))

    def rectangles(self, k: int) -> None:
        """Rectangles on a lattice along the streets, densest in the town, until the class has its pixels."""
        draw = self.draw("rectangles", k)
        town = self.smooth(max(self.shape) / 8, "town")
        for shrink in (1.0, 0.75, 0.5):
            short = max(2.0, self.profiles[k].size * shrink)
            pitch_u, pitch_v = 1.5 * short + 4, short + 4
            us = np.arange(float(self.along.min()), float(self.along.max()), pitch_u)
            vs = np.arange(float(self.across.min()), float(self.across.max()), pitch_v)
            lots = np.stack(np.meshgrid(us, vs), axis=-1).reshape(-1, 2)
            lots = lots + draw.uniform(-1.5, 1.5, size=lots.shape)
            rows = np.rint(lots[:, 0] * np.sin(self.angle) + lots[:, 1] * np.cos(self.angle)).astype(int)
            columns = np.rint(lots[:, 0] * np.cos(self.angle) - lots[:, 1] * np.sin(self.angle)).astype(int)
            inside = (rows >= 0) & (rows < self.shape[0]) & (columns >= 0) & (columns < self.shape[1])
            lots, rows, columns = lots[inside], rows[inside], columns[inside]
            wish = town[rows, columns] + draw.normal(0.0, 0.7, size=rows.size)
            sides = draw.uniform(0.8, 1.2, size=(rows.size, 2)) * (1.5 * short, short) / 2
            reach = int(2 * short) + 2
            for lot in np.argsort(-wish, kind="stable"):
                missing = self.missing(k)
                if missing <= 0:
                    return
                box = (
                    slice(max(rows[lot] - reach, 0), rows[lot] + reach),
                    slice(max(columns[lot] - reach, 0), columns[lot] + reach),
                )
                inner = (np.abs(self.along[box] - lots[lot, 0]) <= sides[lot, 0]) & (
                    np.abs(self.across[box] - lots[lot, 1]) <= sides[lot, 1]
                )
                if not inner.any() or (self.classes[box][inner] != FREE).any():
                    continue
                r, c = np.nonzero(inner)
                pixels = (r + box[0].start) * self.shape[1] + c + box[1].start
                self.paint(k, pixels[:missing])

    def shadows(self, k: int) -> None:
        """The free pixels beside rectangles, away from the sun, nearest first."""
        solid = np.isin(
            self.classes, [j for j, p in enumerate(self.profiles) if p.height.mean > 2 and p.form == "rectangle"]
        )
        shade = np.zeros(self.shape, dtype=bool)
        for step in range(1, max(self.shape)):
            missing = self.missing(k)
            if missing <= 0:
                break
            shade = shade | shifted(solid, step)
            self.paint(k, np.flatnonzero(shade & (self.classes == FREE))[:missing])
        self.separate(k)

    def blobs(self, k: int) -> None:
        """The free pixels with the highest values of a smooth field."""
        surface = self.smooth(self.profiles[k].size * self.layout.blob, "blob", k)
        self.paint(k, top(surface, np.flatnonzero(self.classes == FREE), self.missing(k)))
        self.separate(k)

    def parcels(self) -> None:
        """Voronoi cells, stretched along the streets, each to the class that lacks most pixels."""
        draw = self.draw("parcels")
        free = np.flatnonzero(self.classes == FREE)
        if not free.size:
            return
        stretch = np.sqrt(self.layout.stretch)
        points = np.stack([self.along.reshape(-1) / stretch, self.across.reshape(-1) * stretch], axis=-1)
        count = max(len(self.profiles), round(self.size / self.layout.parcel))
        sites = points[draw.choice(self.size, size=min(count, self.size), replace=False)]
        cell = cKDTree(sites).query(points[free])[1]
        sizes = np.bincount(cell, minlength=len(sites))
        known = [k for k, p in enumerate(self.profiles) if p.form == "parcel"] or list(range(len(self.profiles)))
        missing = np.array([self.missing(k) for k in known])
        owner = np.zeros(len(sites), dtype=np.int32)
        for site in np.argsort(-sizes, kind="stable"):
            best = int(np.argmax(missing))
            owner[site] = known[best]
            missing[best] -= sizes[site]
        self.classes.reshape(-1)[free] = owner[cell]
        self.area += np.bincount(owner[cell], minlength=self.area.size)
        self.polygons.reshape(-1)[free] = self.next_polygon + cell
        self.next_polygon += len(sites)

    def repair(self) -> None:
        """Give classes that got fewer pixels than labels the nearest pixels of the class with most to spare."""
        flat = self.classes.reshape(-1)
        while True:
            spare = self.area - self.counts
            k, donor = int(np.argmin(spare)), int(np.argmax(spare))
            if spare[k] >= 0:
                return
            own = self.classes == k
            if not own.any():
                own.reshape(-1)[self.draw("repair", k).integers(self.size)] = True
            distance = ndimage.distance_transform_edt(~own)
            taken = top(-distance, np.flatnonzero(flat == donor), int(min(-spare[k], spare[donor])))
            self.paint(k, taken)
