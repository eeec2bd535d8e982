"""Formats: each one gives the same array, and damaged files are errors that name the file."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.matlab_files import write_matlab5, write_matlab73
from helpers.rasters import write_tif
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.scenes.files.formats import companion, read_array

SIZE = (6, 9)
WRITERS = {
    "five.mat": lambda path, array: write_matlab5(path, {"x": array}),
    "seven.mat": lambda path, array: write_matlab73(path, {"x": array}),
    "a.npz": lambda path, array: np.savez_compressed(path, x=array),
    "a.npy": np.save,
}


@settings(max_examples=20, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=3).map(tuple), kind=st.sampled_from(["u1", "i2", "f4", "f8"])
)
def test_every_format_gives_the_same_array(tmp_path_factory: pytest.TempPathFactory, shape: Any, kind: str) -> None:
    array = np.random.default_rng(1).integers(0, 100, size=shape).astype(kind)
    folder = tmp_path_factory.mktemp("formats")
    for name, write in WRITERS.items():
        write(folder / name, array)
        np.testing.assert_array_equal(read_array(folder / name, "x", SIZE).array, array)


@pytest.mark.parametrize("name", ["a.mat", "a.npz", "a.npy", "a.tif"])
@pytest.mark.parametrize(
    "content", [b"", b"<html>sign in</html>" * 50, b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM\x0f\x00"]
)
def test_a_file_of_another_kind_is_an_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=str(tmp_path / name)):
        read_array(tmp_path / name, "x", SIZE)


@pytest.mark.parametrize("name", [*WRITERS, "a.tif"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_an_error(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    WRITERS.get(name, write_tif)(path, np.random.default_rng(0).normal(size=(30, 20, 10)).astype(np.float32))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match="cannot be read"):
        read_array(path, "x", SIZE)


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object))
    (tmp_path / "b.npy").write_bytes(pickle.dumps([1, 2]))
    for name in ("a.npz", "a.npy", "b.npy"):
        with pytest.raises(DataError, match=r"cannot be read|contains Python objects"):
            read_array(tmp_path / name, "x", SIZE)


def test_complex_numbers_absent_files_and_unknown_formats_are_errors(tmp_path: Path) -> None:
    np.savez(tmp_path / "complex.npz", z=np.ones(3, dtype=complex))
    with pytest.raises(DataError, match="contains complex numbers, expected real numbers"):
        read_array(tmp_path / "complex.npz", "z", SIZE)
    with pytest.raises(DataError, match="the file is absent"):
        read_array(tmp_path / "a.mat", "x", SIZE)
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(ConfigError, match=r"unknown format '\.csv'; use one of \.mat"):
        read_array(tmp_path / "a.csv", None, SIZE)
    assert companion(tmp_path / "a.csv") is None


def test_geotiff_without_rasterio_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tif").write_bytes(b"any")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ConfigError, match=r"GeoTIFF cannot be read: .*rasterio is not installed; .*\bgeo\b"):
        read_array(tmp_path / "a.tif", None, SIZE)
