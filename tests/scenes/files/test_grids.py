"""Scenes from georeferenced rasters: one pixel grid, no missing values, and the scene keeps its place on the earth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.rasters import NORTH_UP, UTM_32, write_envi, write_tif
from helpers.small_release import BANDS, HEIGHT, manifest_fields, modality, small_arrays, small_manifest

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.readers import read_scene
from mmrs_bench.scenes.scene import Scene

CHANNELS = {"hsi": BANDS, "lidar": 2}
SOUTH_UP = (2.0, 0.0, 600000.0, 0.0, 2.0, 5100000.0 - 2 * HEIGHT)


def bands(name: str) -> np.ndarray:
    array = small_arrays()[name]
    return np.ascontiguousarray(np.atleast_3d(array).transpose(2, 0, 1))


def scene_from(folder: Path, lidar: dict[str, Any] | None = None, gt: dict[str, Any] | None = None) -> Scene:
    """A scene of three GeoTIFFs; ``lidar`` and ``gt`` change the profile or the values (``image``) of one."""
    for name, changes in (("hsi", {}), ("lidar", lidar or {}), ("gt", gt or {})):
        image = changes.pop("image", bands(name))
        write_tif(folder / f"{name}.tif", image, **changes)
    return read_scene(tif_manifest(folder), folder)


def tif_manifest(folder: Path, lidar: str = "lidar.tif", sources: tuple[str, ...] = ("lidar.tif",)) -> Any:
    return small_manifest(
        folder,
        modalities=[
            modality("hsi", BANDS, {"file": "hsi.tif", "axes": "chw"}),
            modality("lidar", 2, {"file": lidar, "axes": "chw"}),
        ],
        ground_truth={"parts": [{"file": "gt.tif", "axes": "chw"}]},
        sources=[{"file": file} for file in ("hsi.tif", "gt.tif", *sources)],
    )


def test_the_scene_has_the_crs_and_transform_of_its_files(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    scene = scene_from(tmp_path)
    assert scene.transform == NORTH_UP
    assert rasterio.CRS.from_wkt(scene.crs) == rasterio.CRS.from_string(UTM_32)
    np.testing.assert_array_equal(scene.images["lidar"], small_arrays()["lidar"])
    np.testing.assert_array_equal(scene.ground_truth, small_arrays()["gt"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crs": "EPSG:4326"}, "the CRS is WGS 84 / UTM zone 32N and WGS 84"),
        ({"crs": "EPSG:32633"}, "the CRS is WGS 84 / UTM zone 32N and WGS 84 / UTM zone 33N"),
        ({"transform": SOUTH_UP}, r"one is stored north-up and the other south-up \(pixel heights -2 and 2\)"),
        ({"transform": (-2.0, *NORTH_UP[1:])}, "their columns run in opposite directions"),
        ({"transform": (2.0, 0.0, 600012.0, *NORTH_UP[3:])}, "the second is shifted by 6 columns and 0 rows"),
        ({"transform": (2.0, 0.0, 600000.04, *NORTH_UP[3:])}, "shifted by 0.02"),
        ({"transform": (1.0, 0.0, 600000.0, 0.0, -1.0, 5100000.0)}, r"the pixels measure \(2, -2\) and \(1, -1\)"),
        ({"transform": (2.0, 0.1, *NORTH_UP[2:])}, r"grids: the rotation terms are \(0, 0\) and \(0\.1, 0\); warp"),
    ],
)
@pytest.mark.parametrize("file", ["lidar", "gt"])
def test_another_grid_is_refused_and_both_files_are_named(
    tmp_path: Path, changes: dict[str, Any], message: str, file: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        scene_from(tmp_path, **{file: dict(changes)})
    assert f"hsi.tif and {file}.tif lie on different pixel grids" in str(error.value)
    assert str(error.value).startswith("small-r1: ")


def test_rounding_and_rasters_without_georeference_are_no_difference(tmp_path: Path) -> None:
    scene = scene_from(
        tmp_path,
        lidar={"transform": (2.0, 0.0, 600000.0 + 1e-9, 0.0, -2.0, 5100000.0)},
        gt={"transform": None, "crs": None},
    )
    assert scene.transform == NORTH_UP


@pytest.mark.parametrize("value", [-9999.0, float(np.finfo(np.float32).min), np.nan])
def test_missing_values_of_an_image_are_counted(tmp_path: Path, value: float) -> None:
    image = bands("lidar")
    image[1, :2, 3] = value
    with pytest.raises(DataError, match=r"lidar\.tif: missing values in 1 of 2 bands \(band 1: 2 pixels are ") as error:
        scene_from(tmp_path, lidar={"image": image, "nodata": value})
    assert f"{value:.0f}" in str(error.value) or repr(value) in str(error.value)
    assert "fill them, or correct the declaration" in str(error.value)


def test_missing_values_of_the_ground_truth_are_unlabelled(tmp_path: Path) -> None:
    gt = bands("gt")
    scene = scene_from(tmp_path, gt={"image": np.where(gt == 0, 255, gt).astype(np.uint8), "nodata": 255})
    np.testing.assert_array_equal(scene.ground_truth, small_arrays()["gt"])


@pytest.mark.parametrize("named", ["lidar.img", "lidar.hdr"])
def test_an_envi_raster_shares_the_grid_of_a_geotiff_and_both_its_files_are_sources(tmp_path: Path, named: str) -> None:
    scene_from(tmp_path)
    more = "map info = {UTM, 1, 1, 600000, 5100000, 2, 2, 32, North, WGS-84}\n"
    write_envi(tmp_path / "lidar.img", tmp_path / "lidar.hdr", bands("lidar"), more=more)
    scene = read_scene(tif_manifest(tmp_path, named, ("lidar.img", "lidar.hdr")), tmp_path)
    np.testing.assert_array_equal(scene.images["lidar"], small_arrays()["lidar"])
    other = {"lidar.img": "lidar.hdr", "lidar.hdr": "lidar.img"}[named]
    with pytest.raises(DataError, match=f"{named}: is read together with {other}, which no source provides; add it"):
        read_scene(tif_manifest(tmp_path, named, (named,)), tmp_path)
    write_envi(tmp_path / "lidar.img", tmp_path / "lidar.hdr", bands("lidar"), more=more.replace("600000", "600002"))
    with pytest.raises(DataError, match=r"hsi\.tif and lidar.* shifted by 1 columns"):
        read_scene(tif_manifest(tmp_path, named, ("lidar.img", "lidar.hdr")), tmp_path)


def test_a_colour_with_a_channel_of_the_declared_value_is_a_label(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [170, 120, 60]], np.uint8)
    gt = small_arrays()["gt"].astype(np.int64)
    write_tif(tmp_path / "gt.tif", colours[gt].transpose(2, 0, 1), nodata=0)
    np.savez(tmp_path / "scene.npz", **{name: small_arrays()[name] for name in ("hsi", "lidar")})
    values = [["#ff0000"], ["#00ff00"], ["#aa783c"]]
    manifest = small_manifest(
        tmp_path,
        classes=[c | {"values": of} for c, of in zip(manifest_fields()["classes"], values, strict=True)],
        ground_truth={"encoding": "rgb", "parts": [{"file": "gt.tif", "axes": "chw"}]},
        sources=[{"file": file} for file in ("scene.npz", "gt.tif")],
    )
    np.testing.assert_array_equal(read_scene(manifest, tmp_path).ground_truth, gt)


def test_the_georeference_of_a_transposed_raster_is_transposed(tmp_path: Path) -> None:
    for name in ("hsi", "lidar", "gt"):
        write_tif(tmp_path / f"{name}.tif", bands(name).transpose(0, 2, 1).copy())
    manifest = small_manifest(
        tmp_path,
        modalities=[modality(name, count, {"file": f"{name}.tif", "axes": "cwh"}) for name, count in CHANNELS.items()],
        ground_truth={"parts": [{"file": "gt.tif", "axes": "cwh"}]},
        sources=[{"file": f"{name}.tif"} for name in ("hsi", "lidar", "gt")],
    )
    scene = read_scene(manifest, tmp_path)
    np.testing.assert_array_equal(scene.images["hsi"], small_arrays()["hsi"])
    a, b, c, d, e, f = scene.transform or NORTH_UP
    width, _, left, _, height, top = NORTH_UP
    row, column = 2, 5  # in the file: row 5, column 2
    assert (a * column + b * row + c, d * column + e * row + f) == (left + width * row, top + height * column)
