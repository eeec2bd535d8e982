"""ENVI rasters: every layout gives the same array, the header is obeyed, and a wrong header is explained."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.rasters import bands, write_envi

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.scenes.files.formats import companion, read_array

SIZE = (6, 9)
MAP_INFO = "map info = {UTM, 1, 1, 600000, 5100000, 2, 2, 32, North, WGS-84}\n"
pytest.importorskip("rasterio", reason="ENVI rasters are part of the optional extra geo")


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
@pytest.mark.parametrize("big_endian", [False, True])
def test_every_layout_gives_the_same_array(tmp_path: Path, interleave: str, big_endian: bool) -> None:
    for dtype in ("u1", "i2", "i4", "f4", "f8", "u2", "u4", "i8", "u8"):
        data, header = tmp_path / f"{dtype}.dat", tmp_path / f"{dtype}.hdr"
        write_envi(data, header, bands(dtype), interleave=interleave, big_endian=big_endian)
        for path in (data, header):
            raster = read_array(path, None, SIZE)
            assert raster.array.dtype == dtype
            np.testing.assert_array_equal(raster.array, bands(dtype))
            assert (raster.nodata, raster.grid) == (None, None)


@pytest.mark.parametrize(
    ("data", "header"),
    [
        ("a", "a.hdr"),
        ("a.img", "a.hdr"),
        ("a.raw", "a.raw.hdr"),
        ("a.bsq", "a.hdr"),
        ("A.DAT", "A.HDR"),
        ("town.2013", "town.hdr"),
    ],
)
def test_either_file_may_be_named(tmp_path: Path, data: str, header: str) -> None:
    write_envi(tmp_path / data, tmp_path / header, bands("i2"))
    assert companion(tmp_path / data) == tmp_path / header
    np.testing.assert_array_equal(read_array(tmp_path / data, None, SIZE).array, bands("i2"))
    if data != "town.2013":
        assert companion(tmp_path / header) == tmp_path / data
        np.testing.assert_array_equal(read_array(tmp_path / header, None, SIZE).array, bands("i2"))


def test_values_are_scaled_after_missing_ones_were_found(tmp_path: Path) -> None:
    more = "data ignore value = 5\nreflectance scale factor = 10000\n" + MAP_INFO
    raster = read_array(write_envi(tmp_path / "a.img", tmp_path / "a.hdr", bands("i2"), more=more), None, SIZE)
    np.testing.assert_array_equal(raster.array, (bands("f8") / 10000).astype("f4"))
    assert np.argwhere(raster.nodata).tolist() == [[0, 0, 5]]
    assert raster.grid.transform == (2, 0, 600000, 0, -2, 5100000)
    more = "data gain values = {0.5,\n 2}\nData Offset Values = {1, -1}\ndata ignore value = nan\n"
    image = bands("f4")
    image[1, 0, 0] = np.nan
    raster = read_array(write_envi(tmp_path / "b.img", tmp_path / "b.hdr", image, more=more), None, SIZE)
    np.testing.assert_array_equal(raster.array, np.stack([image[0] * 0.5 + 1, image[1] * 2 - 1]))
    assert np.argwhere(raster.nodata).tolist() == [[1, 0, 0]]


def test_pixel_numbers_are_no_georeference(tmp_path: Path) -> None:
    more = "map info = {Arbitrary, 1, 1, 0, 0, 1, 1, 0, units=Pixels}\n"
    assert read_array(write_envi(tmp_path / "a", tmp_path / "a.hdr", bands("i2"), more=more), None, SIZE).grid is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lines   = 6", "lines   = 7", r"a.img has 216 bytes, its header a.hdr declares 252"),
        ("lines   = 6", "", "lines = '', expected an integer of at least 1"),
        ("lines   = 6", "lines = 6\nLines = 6", "contains 'lines' twice"),
        ("header offset = 0", "header offset = 4", "declares 220"),
        ("data type = 2", "data type = 7", "data type 7, expected one of 1, 2"),
        ("interleave = bsq", "interleave = tiled", "interleave 'tiled', expected bsq, bil or bip"),
        ("byte order = 0", "file compression = 1", "declares a compressed file"),
        ("byte order = 0", "data ignore value = none", "data ignore value = 'none', expected a number"),
        ("byte order = 0", "reflectance scale factor = 0", "declares the scale 0"),
        ("byte order = 0", "data gain values = {1}", "expected 2 numbers"),
        ("data type = 2", "data type = 6", "a.img has 216 bytes"),
        ("ENVI\n", "BYTEORDER I\n", "a.hdr is not an ENVI header"),
    ],
)
def test_a_wrong_header_is_explained(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write_envi(tmp_path / "a.img", tmp_path / "a.hdr", bands("i2"))
    header = tmp_path / "a.hdr"
    header.write_bytes(header.read_bytes().replace(old.encode(), new.encode(), 1))
    with pytest.raises(DataError, match=message) as error:
        read_array(path, None, SIZE)
    assert str(error.value).startswith(f"{path}: ")


def test_a_missing_or_ambiguous_partner_is_named(tmp_path: Path) -> None:
    write_envi(tmp_path / "a.img", tmp_path / "a.hdr", bands("i2"))
    (tmp_path / "a.dat").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.dat and a\.img may be the data file of this ENVI header"):
        read_array(tmp_path / "a.hdr", None, SIZE)
    (tmp_path / "b.img").write_bytes(b"")
    with pytest.raises(DataError, match=r"the ENVI header of this file is absent, expected b\.img\.hdr or b\.hdr"):
        read_array(tmp_path / "b.img", None, SIZE)


def test_without_rasterio_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_envi(tmp_path / "a.img", tmp_path / "a.hdr", bands("i2"))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ConfigError, match=r"ENVI cannot be read: .*rasterio is not installed; .*\bgeo\b"):
        read_array(path, None, SIZE)
