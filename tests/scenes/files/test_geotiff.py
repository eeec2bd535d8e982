"""GeoTIFF: what the header declares is obeyed, and no other file is opened."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from helpers.rasters import NORTH_UP, UTM_32, bands, write_tif

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.decoders.raster import Raster
from mmrs_bench.scenes.files.formats import read_array

SIZE = (6, 9)
LOWEST = float(np.finfo(np.float32).min)
rasterio = pytest.importorskip("rasterio", reason="GeoTIFF is the optional extra geo")


def read(path: Path) -> Raster:
    return read_array(path, None, SIZE)


@pytest.mark.parametrize(
    ("dtype", "value", "declared"),
    [
        ("f4", -9999.0, "-9999"),
        ("f4", LOWEST, repr(LOWEST)),
        ("f4", LOWEST, "-3.40282347e+38"),
        ("f4", LOWEST, "-1.79769313486232e+308"),  # beyond the type: GDAL writes its lowest number
        ("f4", np.nan, "nan"),
        ("f8", -9999.5, "-9999.5"),
        ("i2", -32768, "-32768"),
        ("u1", 0, "0"),
        ("u2", 65535, "65535"),
    ],
)
def test_a_declared_value_is_missing(tmp_path: Path, dtype: str, value: float, declared: str) -> None:
    image = bands(dtype) + np.asarray(1, dtype)
    image[1, 2, 3:7] = value
    path = write_tif(tmp_path / "a.tif", image, nodata=value)
    if dtype == "f4":  # rasterio writes a declaration in one form only
        write_tif(path, image, nodata=-1.2345678901234567e30)
        content = path.read_bytes()
        assert content.count(b"-1.2345678901234567e+30\0") == 1
        path.write_bytes(content.replace(b"-1.2345678901234567e+30", declared.encode().ljust(23, b"\0")))
    raster = read(path)
    np.testing.assert_array_equal(raster.array, image)
    assert raster.nodata is not None
    assert raster.nodata.sum(axis=(1, 2)).tolist() == [0, 4]
    assert raster.nodata[1, 2, 3:7].all()


@pytest.mark.parametrize("declared", [b"-99\0", b"1.5\0", b"nan\0", b"999\0"])
def test_a_value_that_the_type_cannot_hold_is_nowhere(tmp_path: Path, declared: bytes) -> None:
    path = write_tif(tmp_path / "a.tif", bands("u1"), nodata=255)
    content = path.read_bytes()
    assert content.count(b"255\0") == 1
    path.write_bytes(content.replace(b"255\0", declared))
    assert read(path).nodata is None


def test_a_mask_in_the_file_is_missing_data_but_alpha_is_a_band(tmp_path: Path) -> None:
    mask = np.full(SIZE, 255, np.uint8)
    mask[0, :4] = 0
    path = write_tif(tmp_path / "mask.tif", bands())
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    assert read(path).nodata.sum(axis=(1, 2)).tolist() == [4, 4]
    four = np.concatenate([bands("u1"), bands("u1")])
    raster = read(write_tif(tmp_path / "four.tif", four))
    np.testing.assert_array_equal(raster.array, four)
    assert raster.nodata is None


def test_scale_and_offset_are_applied_after_missing_values_were_found(tmp_path: Path) -> None:
    raster = read(write_tif(tmp_path / "a.tif", bands("i2"), scale=(0.1, -3.0), nodata=5))
    np.testing.assert_array_equal(raster.array, (bands("f8") * 0.1 - 3).astype(np.float32))
    assert np.argwhere(raster.nodata).tolist() == [[0, 0, 5]]


def test_the_georeference_is_read(tmp_path: Path) -> None:
    grid = read(write_tif(tmp_path / "a.tif", bands())).grid
    assert grid.transform == NORTH_UP
    assert rasterio.CRS.from_wkt(grid.crs) == rasterio.CRS.from_string(UTM_32)
    assert read(write_tif(tmp_path / "b.tif", bands(), crs=None, transform=None)).grid is None


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains complex numbers"):
        read(write_tif(tmp_path / "a.tif", bands("c8")))


def test_another_raster_or_address_is_not_opened(tmp_path: Path) -> None:
    target = write_tif(tmp_path / "other.tif", bands())
    source = "<SimpleSource><SourceFilename>{}</SourceFilename></SimpleSource>"
    for name in (str(target), "/vsicurl/http://127.0.0.1:9/a.tif"):
        band = f'<VRTRasterBand dataType="Float32" band="1">{source.format(name)}</VRTRasterBand>'
        text = f'<VRTDataset rasterXSize="9" rasterYSize="6">{band}</VRTDataset>'
        (tmp_path / "a.tif").write_text(text)
        with pytest.raises(DataError, match="it is not a TIFF file"):
            read(tmp_path / "a.tif")
    with pytest.raises(DataError, match="it is not a TIFF file"):
        read(write_tif(tmp_path / "b.tif", bands("u1")[:1], driver="PNG"))


def test_files_beside_a_raster_do_not_change_it(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", bands(), crs=None, transform=None)
    band = '<PAMRasterBand band="1"><NoDataValue>7</NoDataValue><Scale>2</Scale></PAMRasterBand>'
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>")
    (tmp_path / "a.tfw").write_text("2\n0\n0\n-2\n600001\n5099999\n")
    raster = read(path)
    np.testing.assert_array_equal(raster.array, bands())
    assert (raster.nodata, raster.grid) == (None, None)


def test_a_header_that_promises_gigabytes_is_refused(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", bands("u1"))
    content = path.read_bytes()
    for tag, old in ((256, SIZE[1]), (257, SIZE[0])):  # width and height, in the directory of the file
        entry = struct.pack("<HHIHH", tag, 3, 1, old, 0)
        assert content.count(entry) == 1
        content = content.replace(entry, struct.pack("<HHII", tag, 4, 1, 200_000))
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read(path)


def test_pages_are_no_bands(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    pages = [pillow.fromarray(band) for band in bands("f4")]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match="contains 2 pages, expected one raster with all bands"):
        read(tmp_path / "pages.tif")
