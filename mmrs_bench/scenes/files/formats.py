"""Arrays out of files: MATLAB v5 and v7.3, NumPy, GeoTIFF, ENVI ROI text. Knows nothing of scenes."""

from __future__ import annotations

import re
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.errors import ConfigError, DataError

AnyArray = NDArray[Any]

_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*|\[\d+\])*")
_STEP = re.compile(r"\.?([A-Za-z_]\w*)|\[(\d+)\]")

#: What the libraries raise on files that are cut off, corrupt or of another kind.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


def read_array(path: Path, key: str | None, size: tuple[int, int]) -> AnyArray:
    """Read one numeric array in its file's own axis order.

    Args:
        path: The file; its ending names the format (``.mat .npy .npz .tif .tiff .txt``).
        key: Variable name, for structs and lists with fields and positions (``hsi.Lidar[0].z``, counted from 0).
        size: (height, width) of the scene, needed for ENVI ROI text, which lists pixels.

    Returns:
        The array. MATLAB files of both generations come back in MATLAB's order of axes, GeoTIFF as (bands, height,
        width), ENVI ROI text as an int64 raster (height, width) of ROI numbers 1..n with 0 elsewhere.

    Raises:
        DataError: If the file is absent, unreadable, or does not hold a numeric array under ``key``.
        ConfigError: If the format needs an extra that is not installed, or is not known.
    """
    if not path.is_file():
        raise DataError(f"{path}: the file is absent; run: mmrs-bench data fetch")
    suffix = path.suffix.lower()
    if suffix == ".mat":
        array = _read_matlab(path, key)
    elif suffix in (".npy", ".npz"):
        array = _read_numpy(path, key)
    elif suffix in (".tif", ".tiff"):
        array = _read_geotiff(path)
    elif suffix == ".txt":
        array = read_roi_text(path, size)
    else:
        raise ConfigError(f"{path}: format {suffix!r} is not known; use .mat, .npy, .npz, .tif or .txt (ENVI ROI)")
    if array.dtype.kind not in "buif":
        raise DataError(f"{_place(path, key)}: holds {array.dtype}, expected real numbers; correct the key")
    return array


def _place(path: Path, key: str | None) -> str:
    return f"{path}[{key}]" if key else str(path)


def _broken(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path}: cannot be read ({reason}); it is cut off or not a {path.suffix} file, so fetch it again")


def _no_such(path: Path, key: str, missing: str, present: list[str]) -> DataError:
    return DataError(
        f"{_place(path, key)}: there is no {missing!r}; present: {', '.join(sorted(present)) or 'nothing'}"
    )


def _steps(path: Path, key: str | None) -> list[str | int]:
    if key is None or not _KEY.fullmatch(key):
        raise DataError(f"{path}: key {key!r} is not a variable name such as 'data' or 'hsi.Lidar[0].z'; correct it")
    return [name if name else int(position) for name, position in _STEP.findall(key)]


def _read_numpy(path: Path, key: str | None) -> AnyArray:
    try:
        if path.suffix.lower() == ".npy":
            array: AnyArray = np.load(path, mmap_mode="r", allow_pickle=False)
            return array
        # Opened here, for np.load leaves a file that is no archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if key in archive.files:
                member: AnyArray = archive[key]
                return member
            names = list(archive.files)
    except (*_UNREADABLE, AttributeError) as error:
        raise _broken(path, error) from error
    raise _no_such(path, str(key), str(key), names)


def _read_matlab(path: Path, key: str | None) -> AnyArray:
    import h5py

    steps = _steps(path, key)
    return _read_matlab73(path, str(key), steps) if h5py.is_hdf5(path) else _read_matlab5(path, str(key), steps)


def _read_matlab5(path: Path, key: str, steps: list[str | int]) -> AnyArray:
    import scipy.io

    root = str(steps[0])
    try:
        names = [name for name, _, _ in scipy.io.whosmat(path)]
        if root not in names:
            raise _no_such(path, key, root, names)
        node = scipy.io.loadmat(path, variable_names=[root])[root]
    except (*_UNREADABLE, NotImplementedError, scipy.io.matlab.MatReadError) as error:
        raise _broken(path, error) from error
    for step in steps[1:]:
        node = _step_matlab5(path, key, node, step)
    if not isinstance(node, np.ndarray) or node.dtype.names or node.dtype == object:
        fields = getattr(getattr(node, "dtype", None), "names", None)
        what = f"a struct with {', '.join(fields)}" if fields else f"{type(node).__name__} of several items"
        raise DataError(f"{_place(path, key)}: is {what}; name a numeric field or an item such as [0]")
    return node


def _step_matlab5(path: Path, key: str, node: Any, step: str | int) -> Any:
    """One field or position further into a struct as ``scipy.io.loadmat`` returns it."""
    if isinstance(step, int):
        if not isinstance(node, np.ndarray) or step >= node.size:
            raise DataError(f"{_place(path, key)}: position [{step}] is outside a list of {np.size(node)}")
        return node.reshape(-1, order="F")[step]
    names = list(getattr(node, "dtype", np.dtype(float)).names or ())
    if step not in names:
        raise _no_such(path, key, step, names)
    if isinstance(node, np.ndarray):
        if node.size != 1:
            raise DataError(
                f"{_place(path, key)}: {step!r} belongs to a list of {node.size} structs; add [0] before it"
            )
        node = node.reshape(-1)[0]
    return node[step]


def _read_matlab73(path: Path, key: str, steps: list[str | int]) -> AnyArray:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            node = _walk_matlab73(path, key, file, steps)
            if not isinstance(node, h5py.Dataset) or h5py.check_ref_dtype(node.dtype):
                what = "a list; add [0]" if isinstance(node, h5py.Dataset) else f"a struct with {', '.join(node)}"
                raise DataError(f"{_place(path, key)}: is {what}; name a numeric field")
            # HDF5 keeps MATLAB's column-major arrays with their axes reversed.
            array: AnyArray = np.asarray(node[()]).T
            return array
    except _UNREADABLE as error:
        raise _broken(path, error) from error


def _walk_matlab73(path: Path, key: str, file: Any, steps: list[str | int]) -> Any:
    """The HDF5 object at the end of a key; a list of structs keeps each field as a list of references."""
    import h5py

    node: Any = file
    position: int | None = None
    for step in steps:
        if isinstance(step, int):
            if isinstance(node, h5py.Dataset):
                node = _dereference(path, key, file, node, step)
            else:
                position = step
            continue
        if not isinstance(node, h5py.Group) or step not in node:
            present = [name for name in node if not name.startswith("#")] if isinstance(node, h5py.Group) else []
            raise _no_such(path, key, step, present)
        node = node[step]
        if position is not None:
            is_list = isinstance(node, h5py.Dataset) and h5py.check_ref_dtype(node.dtype)
            if is_list:
                node = _dereference(path, key, file, node, position)
            elif position > 0:
                raise DataError(f"{_place(path, key)}: position [{position}] is outside a list of 1")
            position = None
    return node


def _dereference(path: Path, key: str, file: Any, node: Any, position: int) -> Any:
    import h5py

    if not h5py.check_ref_dtype(node.dtype) or position >= node.size:
        raise DataError(f"{_place(path, key)}: position [{position}] is outside a list of {node.size}")
    return file[node[()].reshape(-1)[position]]


def _read_geotiff(path: Path) -> AnyArray:
    try:
        import rasterio
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{path}: GeoTIFF needs rasterio, which is not installed; run: pip install 'mmrs-bench[geo]'"
        ) from error
    with warnings.catch_warnings():
        # The rasters of a scene share one pixel grid; where on Earth it lies is not used.
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            with rasterio.open(path) as raster:
                array: AnyArray = raster.read()
                return array
        except rasterio.errors.RasterioError as error:
            raise _broken(path, error) from error


def read_roi_text(path: Path, size: tuple[int, int]) -> NDArray[np.int64]:
    """Read an ENVI export of regions of interest as text.

    Lines that begin with ``;`` name the regions and their numbers of points (``; ROI npts: 198``); every other line
    is ``ID X Y ...`` with column X and row Y counted from 1. ID starts again at 1 where the next region begins;
    regions without points have no lines. The number of a region is its place in the file.

    Args:
        path: The text file.
        size: (height, width) of the raster.

    Returns:
        int64 raster of ``size``: region numbers 1..n, 0 outside.

    Raises:
        DataError: If a line is not of that form, a point is outside the raster, a region has other than its declared
            number of points, or a pixel belongs to two regions.
    """
    declared: list[int] = []
    regions: list[list[tuple[int, int]]] = []
    try:
        lines = path.read_text(encoding="utf-8", errors="strict").splitlines()
    except UnicodeDecodeError as error:
        raise _broken(path, error) from error
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if line.lstrip().startswith(";"):
            found = re.search(r"ROI npts:\s*(\d+)", line)
            declared += [int(found[1])] if found else []
        elif fields:
            try:
                point, column, row = (int(field) for field in fields[:3])
            except ValueError as error:
                raise DataError(
                    f"{path}: line {number} is {line.strip()[:40]!r}, expected whole numbers 'ID X Y'; "
                    "export the regions as text from ENVI again"
                ) from error
            if point == 1:
                regions.append([])
            if not regions or not (1 <= row <= size[0] and 1 <= column <= size[1]):
                raise DataError(
                    f"{path}: line {number} names column {column}, row {row}; expected a region that starts with ID 1 "
                    f"inside {size[0]} rows x {size[1]} columns. It belongs to another raster"
                )
            regions[-1].append((row - 1, column - 1))
    return _rasterise(path, regions, declared, size)


def _rasterise(
    path: Path, regions: list[list[tuple[int, int]]], declared: list[int], size: tuple[int, int]
) -> NDArray[np.int64]:
    expected = [count for count in declared if count] if declared else [len(points) for points in regions]
    if not regions or [len(points) for points in regions] != expected:
        raise DataError(
            f"{path}: holds regions of {[len(points) for points in regions]} points, its header declares {expected}; "
            "the file is cut off or edited, so fetch it again"
        )
    numbers = [number for number, count in enumerate(declared or expected, start=1) if count]
    raster = np.zeros(size, dtype=np.int64)
    for number, points in zip(numbers, regions, strict=True):
        rows, columns = np.asarray(points).T
        taken = raster[rows, columns]
        clash = (taken != 0) & (taken != number)
        if clash.any():
            raise DataError(
                f"{path}: {int(clash.sum())} pixels of region {number} belong to region {int(taken[clash][0])} too; "
                "a pixel has one class, so remove one of them"
            )
        raster[rows, columns] = number
    return raster
