"""Reads regions of interest that ENVI exported as text."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.errors import DataError

Point = tuple[int, int]

#: Other line separators, such as the ellipsis of some encodings, occur in comments.
_LINE_END = re.compile("\r\n|\r|\n")
_MAX_BYTES = 1 << 30
_POINT = re.compile(r"\s*([+-]?\d{1,12})\s+([+-]?\d{1,12})\s+([+-]?\d{1,12})(\s|$)", re.ASCII)


def read_roi_text(path: Path, size: tuple[int, int]) -> NDArray[np.int64]:
    """Read a text export of regions of interest as a raster.

    Header lines start with ``;`` and declare the number of points of each region (``; ROI npts: 198``). Other lines are
    ``ID X Y ...`` with column X and row Y from 1; ID starts at 1 in each region. The text is UTF-8, UTF-16 with a byte
    order mark, or Latin-1.

    Returns:
        int64 raster of ``size`` (height, width): the region's number in the header, from 1; 0 outside all regions.

    Raises:
        DataError: If lines have another form, points are missing or outside the raster, or two regions share a pixel.
    """
    declared: list[int] = []
    regions: list[list[Point]] = []
    for number, line in enumerate(_LINE_END.split(_text(path)), start=1):
        if line.lstrip().startswith(";"):
            if found := re.search(r"ROI npts:\s*(\d{1,12})", line, re.ASCII):
                declared.append(int(found[1]))
        elif line.strip():
            identifier, point = _read_point(line, number, size)
            if identifier == 1:
                regions.append([])
            if not regions:
                raise DataError(f"line {number} has ID {identifier}, expected a region that starts with ID 1")
            regions[-1].append(point)
    lengths = [len(points) for points in regions]
    expected = [count for count in declared if count] if declared else lengths
    if not regions or lengths != expected:
        raise DataError(
            f"contains regions of {_short(lengths)} points, its header declares {_short(expected)}; fetch it again"
        )
    numbers = [number for number, count in enumerate(declared or lengths, start=1) if count]
    return _rasterise(dict(zip(numbers, regions, strict=True)), size)


def _text(path: Path) -> str:
    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"has {path.stat().st_size:,} bytes, expected at most {_MAX_BYTES:,}; it is no ENVI text")
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _short(counts: list[int]) -> str:
    return f"[{', '.join(map(str, counts[:20]))}{', ...' if len(counts) > 20 else ''}]"


def _read_point(line: str, number: int, size: tuple[int, int]) -> tuple[int, Point]:
    found = _POINT.match(line)
    if found is None:
        raise DataError(f"line {number} is {line.strip()[:40]!r}, expected integers 'ID X Y'")
    identifier, column, row = (int(found[i]) for i in (1, 2, 3))
    if not (1 <= row <= size[0] and 1 <= column <= size[1]):
        raise DataError(
            f"line {number} has column {column}, row {row}, outside {size[0]} rows x {size[1]} columns; it belongs to "
            "another raster"
        )
    return identifier, (row - 1, column - 1)


def _rasterise(regions: dict[int, list[Point]], size: tuple[int, int]) -> NDArray[np.int64]:
    raster = np.zeros(size, dtype=np.int64)
    for number, points in regions.items():
        rows, columns = np.asarray(points).T
        taken = raster[rows, columns]
        shared = (taken != 0) & (taken != number)
        if shared.any():
            other = int(taken[shared][0])
            raise DataError(f"{int(shared.sum())} pixels of region {number} also belong to region {other}; remove one")
        raster[rows, columns] = number
    return raster
