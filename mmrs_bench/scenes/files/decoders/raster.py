"""What a file contains: an array, its missing values, and where it lies on the earth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

AnyArray = NDArray[Any]


class Grid(NamedTuple):
    """Georeference of a raster.

    Attributes:
        crs: Coordinate reference system as WKT; empty if the file has none.
        transform: (a, b, c, d, e, f) with x = a column + b row + c and y = d column + e row + f, in units of the CRS.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]

    def transposed(self) -> Grid:
        """The georeference of the raster with rows and columns exchanged."""
        a, b, c, d, e, f = self.transform
        return self._replace(transform=(b, a, c, e, d, f))


@dataclass(frozen=True, eq=False)
class Raster:
    """An array as its file describes it.

    Attributes:
        array: The values, with the file's scale and offset applied.
        nodata: True where the file declares a value as missing, in the shape of ``array``; None if no value is missing.
        nodata_values: The declared value of each band (None without one); empty if the format declares none.
        grid: The georeference; None if the file has none.
    """

    array: AnyArray
    nodata: NDArray[np.bool_] | None = None
    nodata_values: tuple[float | None, ...] = ()
    grid: Grid | None = None
