"""Cache of features of frozen networks, shared by all cells: every row is computed once.

A row is an item that the method numbers (a pixel, a tile). Files in ``<cache>/features/<key>``:

- ``<checksum>.h5``: a segment with the features of some rows; never changed once written;
- ``about.json``: readable description of the entry; never read by the suite.

Beside the folder lies the lock that the computing process holds; reading needs none. Segments are built in memory and
written at once, because an HDF5 file that grows is damaged if the process is killed or the disk is full. Every row is
one HDF5 chunk with a checksum, so reading a row reads and checks nothing else.
"""

from __future__ import annotations

import hashlib
import io
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmrs_bench.errors import BenchError, DataError, TrainingError
from mmrs_bench.io import atomic_write, content_hash, write_json
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit.pretraining_cache import exclusive_lock, execution_fields
from mmrs_bench.paths import CACHE_VARIABLE, cache_root
from mmrs_bench.scenes.scene import IntArray

#: Version of the segments' layout; part of the key.
FORMAT = 2
STAGE = "features"
WAITING = "features from another process"

#: Exceptions of h5py on damaged or foreign files.
_UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError)
_SEAL_BYTES = 32

Shapes = Mapping[str, tuple[int, ...]]
Compute = Callable[[IntArray], Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class _Segment:
    path: Path
    rows: IntArray  # (n,)
    seals: NDArray[np.uint8]  # (n, 32), the checksum of each row


class FeatureStore:
    """Read access to the features that `load_or_extract` was called for.

    Keeps no file open, so it can be used by several threads, and pickled if there is no ``compute``.

    Args:
        segments: All segments of the entry.
        shapes: By level, the shape of the features of one row.
        rows: The rows (n,) to read.
        compute: Computes rows that are in no segment whenever they are read; None if there are no such rows.
    """

    def __init__(
        self, segments: Sequence[_Segment], shapes: Shapes, rows: IntArray, compute: Compute | None = None
    ) -> None:
        where = _places(segments)
        self._shapes = shapes
        self._rows = frozenset(rows.tolist())
        self._where = {row: where[row] for row in self._rows if row in where}
        self._compute = compute

    def read(self, rows: IntArray) -> dict[str, Tensor]:
        """Read the features of some rows.

        Args:
            rows: (n,) integers, repeats allowed.

        Returns:
            By level, (n, *shape) float16 on the CPU.

        Raises:
            ValueError: If ``rows`` is not a one-dimensional array of integers.
            DataError: If `load_or_extract` was not called for a row, or a segment is missing or damaged.
            TrainingError: If a computed feature is not finite in half precision.
        """
        rows = _integers(rows)
        out = {name: np.empty((len(rows), 2 * math.prod(shape)), np.uint8) for name, shape in self._shapes.items()}
        wanted: dict[_Segment, list[tuple[int, int]]] = {}
        absent = []
        for target, row in enumerate(rows.tolist()):
            if row not in self._rows:
                raise DataError(
                    f"features of row {row} were not extracted, only those of {len(self._rows)} other rows; pass "
                    "every row that will be read to load_or_extract()"
                )
            if row not in self._where:
                absent.append(target)
                continue
            segment, place = self._where[row]
            wanted.setdefault(segment, []).append((place, target))
        for segment, pairs in wanted.items():
            _read(segment, pairs, out)
        if absent:
            _compute(rows, np.array(absent), self._shapes, cast(Compute, self._compute), out)
        return {
            name: torch.from_numpy(out[name].view(np.float16).reshape(len(rows), *shape))
            for name, shape in self._shapes.items()
        }


def load_or_extract(
    address: Mapping[str, Any],
    rows: IntArray,
    shapes: Shapes,
    compute: Compute,
    context: RunContext,
    *,
    segment: int = 512,
    store: bool = True,
) -> FeatureStore:
    """Compute the features of rows that are missing in the cache, and give access to the features of all rows.

    The features of a row must not depend on the cell or on the other rows of a call (so noise has to be addressed by
    row). Missing rows are computed in ascending order, one segment at a time; an interruption loses only the current
    segment.

    Args:
        address: JSON values that the features depend on: hashes of weights and images, timesteps, seed of the noise.
            Shapes, layout, device type, precision and version of the suite are added here; the seed of the cell is
            not, because the hash of the weights covers it.
        rows: (n,) distinct non-negative integers.
        shapes: By level, the shape of the features of one row.
        compute: Maps rows (b,), b <= ``segment``, to floating-point tensors (b, *shape) by level, on any device.
        context: Context of the cell. Its progress receives the size and, after the first segment, the total time; its
            ``wait`` is called with `WAITING` if another process computes.
        segment: Largest number of rows per file; not part of the key.
        store: Whether to compute and store missing rows now. False writes nothing: `FeatureStore.read` computes them
            whenever they are read, with equal values, so that neither disk nor memory limits the number of rows.

    Raises:
        ValueError: If an argument, or the result of ``compute``, is not as described.
        DataError: If a segment is damaged or belongs to another key.
        TrainingError: If a feature is not finite in half precision.
        BenchError: If the missing rows do not fit on the disk, or it cannot be written; finished segments are kept.
        Deferred: If the worker computes another cell instead of waiting.
    """
    rows = _integers(rows)
    if len(np.unique(rows)) != len(rows) or (rows < 0).any():
        raise ValueError("rows must be distinct and not negative")
    if segment < 1:
        raise ValueError(f"segment must be at least 1, not {segment}")
    if not shapes or any("/" in name or name in {"", "."} for name in shapes):
        raise ValueError(f"levels need names, without a slash; found {[*shapes]}")
    if any(size < 1 for shape in shapes.values() for size in shape):
        raise ValueError(f"sizes of features must be at least 1; found {dict(shapes)}")
    shapes = {name: tuple(shapes[name]) for name in sorted(shapes)}
    fields = {
        "what": dict(address),
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "format": FORMAT,
        **execution_fields(context),
    }
    key = content_hash(fields)
    folder = cache_root() / "features" / key
    if not store:
        return FeatureStore(_segments(folder), shapes, rows, compute)
    if _missing(rows, _segments(folder)).size:
        with exclusive_lock(folder.with_suffix(".lock"), context, WAITING):
            for part in folder.glob(".*.tmp"):  # left by killed processes
                part.unlink()
            missing = _missing(rows, _segments(folder))
            if missing.size:
                _check_free_space(folder.parent, missing, shapes)
                with _with_advice():
                    write_json(folder / "about.json", {"key": key, **fields})
                _extract(folder, missing, shapes, compute, context, segment)
    return FeatureStore(_segments(folder), shapes, rows)


def _extract(folder: Path, rows: IntArray, shapes: Shapes, compute: Compute, context: RunContext, segment: int) -> None:
    """Compute rows and write them to a folder, one segment at a time."""
    stage = f"{STAGE}: {_size_text(len(rows) * _row_bytes(shapes))}"
    context.progress(stage, 0.0)
    begin = time.perf_counter()
    for start in range(0, len(rows), segment):
        part = rows[start : start + segment]
        # A copy, in case `compute` changes its argument. The features have no name, so that their memory is free
        # when the next segment is computed.
        _write(folder, part, _half_precision(compute(part.copy()), part, shapes))
        done = (start + len(part)) / len(rows)
        if start == 0 and done < 1:
            stage += f", about {math.ceil((time.perf_counter() - begin) / done / 60)} min"
        context.progress(stage, done)


def _compute(
    rows: IntArray, targets: IntArray, shapes: Shapes, compute: Compute, out: Mapping[str, NDArray[np.uint8]]
) -> None:
    """Compute the rows at some places of ``rows`` into the same places of ``out`` (bytes by level)."""
    distinct, places = np.unique(rows[targets], return_inverse=True)
    for name, array in _half_precision(compute(distinct.copy()), distinct, shapes).items():
        out[name][targets] = array.reshape(len(distinct), -1).view(np.uint8)[places]


def _half_precision(features: Mapping[str, Tensor], rows: IntArray, shapes: Shapes) -> dict[str, NDArray[np.float16]]:
    """The result of ``compute`` in half precision, in the order of ``shapes``, after checking it."""
    found = {name: (tuple(tensor.shape), tensor.is_floating_point()) for name, tensor in features.items()}
    expected = {name: ((len(rows), *shape), True) for name, shape in shapes.items()}
    if found != expected:
        kinds = {name: f"{features[name].dtype} {[*features[name].shape]}" for name in sorted(features)}
        wanted = {name: [len(rows), *shape] for name, shape in shapes.items()}
        raise ValueError(f"compute returned {kinds}, expected floating-point tensors {wanted}")
    arrays = {}
    for name in shapes:
        tensor = features[name].detach()
        half = tensor.to("cpu", torch.float16).contiguous()
        bad = ~half.isfinite().reshape(len(rows), -1).all(dim=1)
        if bad.any():
            wrong = "beyond ±65504, the range of half precision" if tensor.isfinite().all() else "NaN or infinite"
            raise TrainingError(
                f"features: level {name!r} has values that are {wrong}, first in row {rows[bad.numpy()][0]}; they are "
                "not stored. Check the training of the network, and the images for extreme values."
            )
        arrays[name] = half.numpy()
    return arrays


def _write(folder: Path, rows: IntArray, features: Mapping[str, NDArray[np.float16]]) -> None:
    """Write a segment to a folder."""
    seals = np.empty((len(rows), _SEAL_BYTES), np.uint8)
    for place in range(len(rows)):
        digest = hashlib.sha256()
        for array in features.values():
            digest.update(array[place].data)
        seals[place] = np.frombuffer(digest.digest(), np.uint8)
    image = io.BytesIO()
    # The format of HDF5 1.10 has checksums for HDF5's own data, except for the heap of variable-length strings, where a
    # flipped bit can cause an endless loop. So the key is a string of fixed length.
    with h5py.File(image, "w", libver="v110") as file:
        file.attrs["key"] = np.bytes_(folder.name)
        file["rows"] = rows
        file["seals"] = seals
        for name, array in features.items():
            file.create_dataset(f"levels/{name}", data=array, chunks=(1, *array.shape[1:]))
    with _with_advice():
        atomic_write(folder / f"{_seal(folder.name, rows, seals)}.h5", lambda out: out.write(image.getbuffer()))


def _read(segment: _Segment, pairs: Sequence[tuple[int, int]], out: Mapping[str, NDArray[np.uint8]]) -> None:
    """Read rows into ``out`` (bytes by level) for pairs (place in the segment, place in ``out``)."""
    with _opened(segment.path) as file:
        levels = [(file[f"levels/{name}"], array) for name, array in out.items()]
        # Raw chunks: h5py's selections take 6 to 40 times as long.
        chunks = [(dataset.id, (0,) * (dataset.ndim - 1), array) for dataset, array in levels]
        for place, target in pairs:
            digest = hashlib.sha256()
            for dataset, origin, array in chunks:
                dataset.read_direct_chunk((place, *origin), out=array[target])
                digest.update(array[target].data)
            if digest.digest() != segment.seals[place].tobytes():
                raise _damaged(segment.path, f"row {segment.rows[place]} was changed after it was written")


def _segments(folder: Path) -> list[_Segment]:
    """All segments of a folder; their features are not checked yet."""
    return [_segment(path) for path in sorted(folder.glob("*.h5"))]


def _segment(path: Path) -> _Segment:
    with _opened(path) as file:
        key = file.attrs["key"].decode()
        if key != path.parent.name:
            raise _damaged(path, "its features belong to another network, scene or setting than the folder")
        rows = file["rows"][()].astype(np.int64)
        seals = file["seals"][()].astype(np.uint8).reshape(len(rows), _SEAL_BYTES)
    if _seal(key, rows, seals) != path.stem:
        raise _damaged(path, "the content does not match the file name")
    return _Segment(path, rows, seals)


def _places(segments: Sequence[_Segment]) -> dict[int, tuple[_Segment, int]]:
    """Segment and place within it, by row."""
    where: dict[int, tuple[_Segment, int]] = {}
    for segment in segments:
        for place, row in enumerate(segment.rows.tolist()):
            if row in where:
                raise _damaged(segment.path, f"row {row} is also in {where[row][0].path.name}")
            where[row] = segment, place
    return where


def _missing(rows: IntArray, segments: Sequence[_Segment]) -> IntArray:
    """The rows that are in no segment, ascending."""
    where = _places(segments)
    return np.array(sorted(row for row in rows.tolist() if row not in where), np.int64)


def _seal(key: str, rows: IntArray, seals: NDArray[np.uint8]) -> str:
    """Checksum of a segment, its file name; covers the features through the checksums of the rows."""
    digest = hashlib.sha256(key.encode())
    digest.update(rows.astype("<i8").tobytes())
    digest.update(seals.tobytes())
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open segment; errors of h5py become a DataError."""
    if not path.is_file():  # opening a FIFO would wait for ever
        raise _damaged(path, "is missing or not a regular file")
    try:
        with h5py.File(path, "r", locking=False) as file:  # the file never changes, and not every disk has locks
            yield file
    except _UNREADABLE as error:
        raise _damaged(path, f"cannot be read ({' '.join(str(error).split())})") from error


def _damaged(path: Path, fault: str) -> DataError:
    return DataError(f"{path}: {fault}; remove this file to extract its rows again")


def _check_free_space(folder: Path, rows: IntArray, shapes: Shapes) -> None:
    needed, free = len(rows) * _row_bytes(shapes), shutil.disk_usage(folder).free
    if needed > free:
        raise BenchError(
            f"features of {len(rows)} rows take {_size_text(needed)}, but {folder} has {_size_text(free)} free. Free "
            f"some space, or set {CACHE_VARIABLE} to a folder on a larger disk, and run the command again."
        )


@contextmanager
def _with_advice() -> Iterator[None]:
    """Add advice to the error of a file that cannot be written."""
    try:
        yield
    except BenchError as error:
        raise BenchError(f"{error} Finished segments are kept; {CACHE_VARIABLE} sets the cache's folder.") from error


def _integers(rows: IntArray) -> IntArray:
    rows = np.asarray(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(f"rows must be a one-dimensional array of integers, not {rows.dtype} {[*rows.shape]}")
    return rows.astype(np.int64)


def _row_bytes(shapes: Shapes) -> int:
    return sum(2 * math.prod(shape) for shape in shapes.values())


def _size_text(size: int) -> str:
    """``1.2 GB`` or ``34.5 MB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
