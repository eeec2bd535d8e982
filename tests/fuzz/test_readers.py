"""Damaged rasters of every format: an array or one error that names the file; the reading process stays small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from helpers.matlab_files import write_matlab5, write_matlab73
from helpers.mutations import check_message, mutated_bytes
from helpers.rasters import opaque, write_envi, write_tif
from hypothesis import strategies as st

from mmrs_bench.errors import BenchError
from mmrs_bench.scenes.files.decoders import guard
from mmrs_bench.scenes.files.formats import read_array

Fuzz = Any
SIZE = (6, 9)
#: Largest memory of the reading process.
MAX_BYTES = 2 << 30
IMAGE = np.arange(108, dtype=np.float32).reshape(*SIZE, 2)
BANDS = np.ascontiguousarray(IMAGE.transpose(2, 0, 1))
VALUES: dict[str, Any] = {"x": IMAGE, "cell": [np.eye(2)], "many": [{"z": np.eye(2)}, {"z": np.eye(3)}]}


def write_sparse(path: Path) -> None:
    scipy.io.savemat(path, {"x": scipy.sparse.csc_matrix(IMAGE[:, :, 0])})


def write_struct(path: Path) -> None:
    scipy.io.savemat(path, {"other": 1.0, "x": IMAGE[:, :, 0]})
    path.write_bytes(path.read_bytes() + opaque(b"names"))


def write_text(path: Path) -> None:
    path.write_text("; ROI npts: 2\n; ROI npts: 1\n1 2 1 7.5\n2 3 1 7.5\n\n1 1 2 7.5\n")


Write = Callable[[Path], Any]
FILES: dict[str, tuple[str, Write]] = {
    "compressed.mat": ("x", lambda path: write_matlab5(path, VALUES)),
    "list.mat": ("many[1].z", lambda path: write_matlab5(path, VALUES)),
    "plain.mat": ("x", write_struct),
    "sparse.mat": ("x", write_sparse),
    "four.mat": ("x", lambda path: scipy.io.savemat(path, {"x": IMAGE[:, :, 0]}, format="4")),
    "seven.mat": ("x", lambda path: write_matlab73(path, VALUES)),
    "seven-list.mat": ("many[1].z", lambda path: write_matlab73(path, VALUES)),
    "a.npy": ("", lambda path: np.save(path, IMAGE)),
    "a.npz": ("x", lambda path: np.savez(path, x=IMAGE)),
    "compressed.npz": ("x", lambda path: np.savez_compressed(path, x=IMAGE)),
    "a.tif": ("", lambda path: write_tif(path, BANDS, nodata=3, scale=(2.0, 1.0))),
    "tiled.tif": (
        "",
        lambda path: write_tif(path, BANDS, compress="deflate", tiled=True, blockxsize=16, blockysize=16),
    ),
    "a.txt": ("", write_text),
    "a.img": ("", lambda path: write_envi(path, path.with_suffix(".hdr"), BANDS, more="data ignore value = 3\n")),
    "a.hdr": ("", lambda path: write_envi(path.with_suffix(".img"), path, BANDS, more="data gain values = {1, 2}\n")),
}


@st.composite
def flipped(draw: st.DrawFn, valid: bytes) -> bytes:
    """A file with a few other bits, or a part of it twice."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 6))):
        content[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    if draw(st.booleans()):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, len(content)))
        content[end:end] = content[start:end]
    return bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_damaged_rasters(name: str, fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / name
    key, write = FILES[name]
    write(path)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            raster = read_array(path, key or None, SIZE)
        except BenchError as error:
            fault = error
        else:
            assert raster.array.dtype.kind in "buif"
            assert raster.nodata is None or raster.nodata.shape == raster.array.shape
            return
        check_message(fault, path.stem)
        assert "crashed" not in str(fault), fault
        assert peak_bytes() < MAX_BYTES

    valid = path.read_bytes()
    check(valid)
    fuzz(check, mutated_bytes(valid) | flipped(valid))


def peak_bytes() -> int:
    """Largest memory that the reading process had so far; 0 without one."""
    status = Path(f"/proc/{guard.child_pid()}/status")
    if not status.exists():
        return 0
    lines = status.read_text().splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), 0)  # 0 after its end
