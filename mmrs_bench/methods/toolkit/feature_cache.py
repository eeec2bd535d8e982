"""Features of frozen networks on file: every row is computed once, for all shots, draws and methods that ask for it.

A row is whatever a method numbers (a pixel's window, a tile). In ``<cache>/features/<key>`` lie

- ``<seal>.h5``: a segment, features of some rows. Written whole, then never changed; its name is a hash of its content;
- ``about.json``: what the key stands for; for people, never read;

and beside the folder the lock under which one process extracts. Those that only read need none.

Many small files rather than one that grows: HDF5 leaves a file damaged if it is killed, or finds the disk full, while
it writes. So a segment is made in memory and reaches the disk as bytes, under a temporary name until it is whole. One
row is one chunk: reading a row touches no other, and the seal of each row is checked each time it is read.
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
from typing import Any

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

#: Version of the segments' layout; part of the key, so a suite of another layout neither reads nor trips over them.
FORMAT = 2
STAGE = "features"
WAITING = "features from another process"

#: What h5py raises on files that are damaged or not its own.
_UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError)
_SEAL_BYTES = 32

Shapes = Mapping[str, tuple[int, ...]]
Compute = Callable[[IntArray], Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class _Segment:
    path: Path
    rows: IntArray  # (n,)
    seals: NDArray[np.uint8]  # (n, 32), one a row


class FeatureStore:
    """Features of the rows that were asked for; made by `load_or_extract`.

    No file stays open between reads, so a store can be used by several threads and sent to other processes.
    """

    def __init__(self, segments: Sequence[_Segment], shapes: Shapes, rows: IntArray) -> None:
        where = _places(segments)
        self._shapes = shapes
        self._where = {row: where[row] for row in rows.tolist()}

    def read(self, rows: IntArray) -> dict[str, Tensor]:
        """Features of rows, by level: (n, *shape) float16 on the CPU, in the order of ``rows``.

        Reads these rows and no others; holds nothing.

        Args:
            rows: (n,) integers, repeats allowed.

        Raises:
            ValueError: If ``rows`` are not integers in one dimension.
            DataError: If a row was not asked for in `load_or_extract`, or a segment is gone or damaged.
        """
        rows = _integers(rows)
        out = {name: np.empty((len(rows), 2 * math.prod(shape)), np.uint8) for name, shape in self._shapes.items()}
        wanted: dict[_Segment, list[tuple[int, int]]] = {}
        for target, row in enumerate(rows.tolist()):
            if row not in self._where:
                raise DataError(
                    f"features of row {row} were not extracted, only those of {len(self._where)} other rows; name "
                    "every row that will be read in the call of load_or_extract()"
                )
            segment, place = self._where[row]
            wanted.setdefault(segment, []).append((place, target))
        for segment, pairs in wanted.items():
            _read(segment, pairs, out)
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
) -> FeatureStore:
    """Features of rows, read from the cache as far as they are there, computed and kept there where not.

    A row's features must not depend on the cell, nor on which other rows are computed with it (noise has to be
    addressed by row), for they are kept for all. Missing rows are computed in ascending order, a segment at a time, so
    memory holds one segment: as ``compute`` returns it, and twice in half precision. An interruption loses the segment
    under way and nothing else.

    Args:
        address: JSON values that decide the features: hash of the network's weights, of the images, timesteps, seed of
            the noise, scene. Shapes, layout, device type, precision and the suite's version are added here. The cell's
            seed is not: what it decides is in the weights' hash, and a network that no seed has touched serves all.
        rows: (n,) distinct non-negative integers; no others are ever computed.
        shapes: By level, the shape of one row's features.
        compute: From rows (b,), b <= ``segment``, to floating-point tensors (b, *shape) by level, on any device.
        context: The cell's. Its progress hears the size, after the first segment also the time that all segments are
            going to take, and `WAITING` once if another process is extracting.
        segment: Most rows of one file. Not part of the key: it may change from call to call.

    Returns:
        The store of these rows.

    Raises:
        ValueError: If rows, shapes or ``segment`` are not as above, or ``compute`` returns other levels or shapes.
        DataError: If a segment is damaged or of another key; it is neither used nor replaced.
        TrainingError: If a feature is not finite in half precision; nothing of its segment is kept.
        BenchError: If the missing rows do not fit on the disk, or it cannot be written; finished segments are kept.
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
    if _missing(rows, _segments(folder)).size:
        with exclusive_lock(folder.with_suffix(".lock"), context, WAITING):
            for part in folder.glob(".*.tmp"):  # of processes that were killed: who writes holds the lock
                part.unlink()
            missing = _missing(rows, _segments(folder))
            if missing.size:
                _check_free_space(folder.parent, missing, shapes)
                with _with_advice():
                    write_json(folder / "about.json", {"key": key, **fields})
                _extract(folder, missing, shapes, compute, context, segment)
    return FeatureStore(_segments(folder), shapes, rows)


def _extract(folder: Path, rows: IntArray, shapes: Shapes, compute: Compute, context: RunContext, segment: int) -> None:
    """Compute rows and add them to a folder, a segment at a time."""
    stage = f"{STAGE}: {_size_text(len(rows) * _row_bytes(shapes))}"
    context.progress(stage, 0.0)
    begin = time.perf_counter()
    for start in range(0, len(rows), segment):
        part = rows[start : start + segment]
        # A copy: a `compute` that works in place must not change which rows are written. No name for the features,
        # which would keep them while the next are computed.
        _write(folder, part, _halved(compute(part.copy()), part, shapes))
        done = (start + len(part)) / len(rows)
        if start == 0 and done < 1:
            stage += f", about {math.ceil((time.perf_counter() - begin) / done / 60)} min"
        context.progress(stage, done)


def _halved(features: Mapping[str, Tensor], rows: IntArray, shapes: Shapes) -> dict[str, NDArray[np.float16]]:
    """What `compute` gave, by level in order, in half precision; refuses what is not as announced."""
    found = {name: (tuple(tensor.shape), tensor.is_floating_point()) for name, tensor in features.items()}
    expected = {name: ((len(rows), *shape), True) for name, shape in shapes.items()}
    if found != expected:
        kinds = {name: f"{features[name].dtype} {[*features[name].shape]}" for name in sorted(features)}
        wanted = {name: [len(rows), *shape] for name, shape in shapes.items()}
        raise ValueError(f"compute returned {kinds}, expected floating-point tensors {wanted}")
    halved = {}
    for name in shapes:
        tensor = features[name].detach()
        half = tensor.to("cpu", torch.float16).contiguous()
        bad = ~half.isfinite().reshape(len(rows), -1).all(dim=1)
        if bad.any():
            wrong = "beyond ±65504, the range of half precision" if tensor.isfinite().all() else "NaN or infinite"
            raise TrainingError(
                f"features: level {name!r} has values that are {wrong}, first in row {rows[bad.numpy()][0]}; nothing "
                "of this segment was kept. Check the network's training, and the images for values far outside the "
                "range of the rest."
            )
        halved[name] = half.numpy()
    return halved


def _write(folder: Path, rows: IntArray, features: Mapping[str, NDArray[np.float16]]) -> None:
    """Add a segment to a folder."""
    seals = np.empty((len(rows), _SEAL_BYTES), np.uint8)
    for place in range(len(rows)):
        digest = hashlib.sha256()
        for array in features.values():
            digest.update(array[place].data)
        seals[place] = np.frombuffer(digest.digest(), np.uint8)
    image = io.BytesIO()
    # The format since HDF5 1.10 seals what HDF5 itself writes, which the older one does not; all but its heap of texts
    # of any length, on which a flipped bit can keep the library busy forever. So the key is a text of fixed length.
    with h5py.File(image, "w", libver="v110") as file:
        file.attrs["key"] = np.bytes_(folder.name)
        file["rows"] = rows
        file["seals"] = seals
        for name, array in features.items():
            file.create_dataset(f"levels/{name}", data=array, chunks=(1, *array.shape[1:]))
    with _with_advice():
        atomic_write(folder / f"{_seal(folder.name, rows, seals)}.h5", lambda out: out.write(image.getbuffer()))


def _read(segment: _Segment, pairs: Sequence[tuple[int, int]], out: Mapping[str, NDArray[np.uint8]]) -> None:
    """Fill rows of ``out`` (bytes, by level in order) for (place in the segment, place in ``out``)."""
    with _opened(segment.path) as file:
        levels = [(file[f"levels/{name}"], array) for name, array in out.items()]
        # Chunks as they lie on the disk: h5py's selections take 6 (rows one by one) to 40 (lists) times as long.
        chunks = [(dataset.id, (0,) * (dataset.ndim - 1), array) for dataset, array in levels]
        for place, target in pairs:
            digest = hashlib.sha256()
            for dataset, origin, array in chunks:
                dataset.read_direct_chunk((place, *origin), out=array[target])
                digest.update(array[target].data)
            if digest.digest() != segment.seals[place].tobytes():
                raise _refused(segment.path, f"row {segment.rows[place]} is not what was written")


def _segments(folder: Path) -> list[_Segment]:
    """All segments of a folder, after checking all but their features."""
    return [_segment(path) for path in sorted(folder.glob("*.h5"))]


def _segment(path: Path) -> _Segment:
    with _opened(path) as file:
        key = file.attrs["key"].decode()
        if key != path.parent.name:
            raise _refused(path, "holds features of another network, scene or setting than its folder says")
        rows = file["rows"][()].astype(np.int64)
        seals = file["seals"][()].astype(np.uint8).reshape(len(rows), _SEAL_BYTES)
    if _seal(key, rows, seals) != path.stem:
        raise _refused(path, "the content is not what its name says")
    return _Segment(path, rows, seals)


def _places(segments: Sequence[_Segment]) -> dict[int, tuple[_Segment, int]]:
    """Where each row lies: its segment, and its place therein."""
    where: dict[int, tuple[_Segment, int]] = {}
    for segment in segments:
        for place, row in enumerate(segment.rows.tolist()):
            if row in where:
                raise _refused(segment.path, f"row {row} is also in {where[row][0].path.name}")
            where[row] = segment, place
    return where


def _missing(rows: IntArray, segments: Sequence[_Segment]) -> IntArray:
    """Those of ``rows`` that no segment has, ascending."""
    where = _places(segments)
    return np.array(sorted(row for row in rows.tolist() if row not in where), np.int64)


def _seal(key: str, rows: IntArray, seals: NDArray[np.uint8]) -> str:
    """The name of a segment; through the rows' seals it stands for all of the content."""
    digest = hashlib.sha256(key.encode())
    digest.update(rows.astype("<i8").tobytes())
    digest.update(seals.tobytes())
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A segment's file; whatever h5py then says against it becomes one line."""
    try:
        with h5py.File(path, "r", locking=False) as file:  # nobody writes to it, and not every disk has locks
            yield file
    except _UNREADABLE as error:
        raise _refused(path, f"cannot be read ({' '.join(str(error).split())})") from error


def _refused(path: Path, fault: str) -> DataError:
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
    """Let what cannot be written say how to go on."""
    try:
        yield
    except BenchError as error:
        raise BenchError(f"{error} Finished segments are kept; {CACHE_VARIABLE} sets the cache's folder.") from error


def _integers(rows: IntArray) -> IntArray:
    rows = np.asarray(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(f"rows must be integers in one dimension, not {rows.dtype} {[*rows.shape]}")
    return rows.astype(np.int64)


def _row_bytes(shapes: Shapes) -> int:
    return sum(2 * math.prod(shape) for shape in shapes.values())


def _size_text(size: int) -> str:
    """``1.2 GB`` or ``34.5 MB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
