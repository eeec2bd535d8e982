"""Checks that the rasters of a scene lie on one pixel grid."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.decoders.guard import same_crs
from mmrs_bench.scenes.files.decoders.raster import Grid

#: Pixels by which a corner of two rasters may differ.
TOLERANCE = 1e-2

_FIX = "warp one of them onto the grid of the other (gdalwarp), or correct its georeference"


@dataclass
class Grids:
    """The georeferenced files that were read so far; the others are not compared."""

    known: dict[str, Grid] = field(default_factory=dict)

    @property
    def first(self) -> Grid | None:
        """The grid of the scene: a grid with a CRS if there is one; None without any grid."""
        return next((grid for grid in self.known.values() if grid.crs), next(iter(self.known.values()), None))

    def add(self, file: str, grid: Grid, size: tuple[int, int]) -> None:
        """Add a file.

        Args:
            file: Its name, for messages.
            grid: Its grid.
            size: (height, width) of the raster.

        Raises:
            DataError: If an earlier file has another CRS or transform; the message names both files.
        """
        for other, known in self.known.items():
            if fault := _difference(known, grid, size):
                raise DataError(f"{other} and {file} lie on different pixel grids: {fault}; {_FIX}")
        self.known[file] = grid


def _difference(one: Grid, two: Grid, size: tuple[int, int]) -> str:
    """What differs between two grids; empty if nothing does."""
    if one.crs and two.crs and one.crs != two.crs and not same_crs(one.crs, two.crs):
        return f"the CRS is {_name(one.crs)} and {_name(two.crs)}"
    height, width = size
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    shifts = [_shift(one, two, *corner) for corner in corners]
    if all(abs(x) <= TOLERANCE and abs(y) <= TOLERANCE for x, y in shifts):
        return ""
    a, b, c, d, e, f = one.transform
    other_a, other_b, other_c, other_d, other_e, other_f = two.transform
    if e * other_e < 0:
        return f"one is stored north-up and the other south-up (pixel heights {e:g} and {other_e:g})"
    if a * other_a < 0:
        return f"their columns run in opposite directions (pixel widths {a:g} and {other_a:g})"
    x, y = shifts[0]
    if all(abs(x - other_x) < TOLERANCE and abs(y - other_y) < TOLERANCE for other_x, other_y in shifts):
        return f"the second is shifted by {round(x, 6) + 0:g} columns and {round(y, 6) + 0:g} rows"
    terms = [
        ("the upper left corners are", _pair(c, f), _pair(other_c, other_f)),
        ("the pixels measure", _pair(a, e), _pair(other_a, other_e)),
        ("the rotation terms are", _pair(b, d), _pair(other_b, other_d)),
    ]
    different = [term for term in terms if term[1] != term[2]]
    return ", ".join(f"{name} {first} and {second}" for name, first, second in different or terms)


def _shift(one: Grid, two: Grid, column: float, row: float) -> tuple[float, float]:
    """Columns and rows, in pixels of ``one``, from a place in ``one`` to the same pixel in ``two``."""
    a, b, c, d, e, f = one.transform
    other_a, other_b, other_c, other_d, other_e, other_f = two.transform
    x = (other_a - a) * column + (other_b - b) * row + (other_c - c)
    y = (other_d - d) * column + (other_e - e) * row + (other_f - f)
    scale = a * e - b * d
    return (e * x - b * y) / scale, (a * y - d * x) / scale


def _pair(x: float, y: float) -> str:
    return f"({x:.12g}, {y:.12g})"


def _name(crs: str) -> str:
    """The name of a CRS in its WKT."""
    parts = crs.split('"')
    return "".join(c for c in parts[1] if c.isprintable())[:60] if len(parts) > 1 else "unnamed"
