"""Class ids in files: GeoTIFF with a QGIS style, and arrays."""

from __future__ import annotations

import sys
import warnings
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import striped_map, tiny_scene

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.evaluation.report.maps.rasters import qgis_style, write_raster
from mmrs_bench.scenes.manifest import SceneClass
from mmrs_bench.scenes.scene import IntArray, Scene


@pytest.fixture
def scene() -> Scene:
    return tiny_scene(striped_map(24, 36, 3, field=8))


@pytest.fixture
def targets(scene: Scene) -> IntArray:
    return np.maximum(scene.labels - 1, 0)


def test_a_geotiff_contains_classes_colours_and_names(tmp_path: Path, scene: Scene, targets: IntArray) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
    path = tmp_path / "map.tif"
    assert write_raster(path, scene, targets) == [path, tmp_path / "map.qml"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as raster:
            np.testing.assert_array_equal(raster.read(1), targets.reshape(24, 36) + 1)
            assert (raster.nodata, raster.crs) == (0, None)
            assert raster.colormap(1)[2][:3] == tuple(bytes.fromhex(scene.manifest.classes[1].color[1:]))
            assert raster.tags(1)["CLASS_3"] == "class 3"


def test_a_geotiff_has_the_place_of_the_scene(tmp_path: Path, scene: Scene, targets: IntArray) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
    transform = (2.5, 0.0, 600000.0, 0.0, -2.5, 5100000.0)
    crs = rasterio.CRS.from_epsg(32632)
    for known in (crs.to_wkt(), None):
        write_raster(tmp_path / "map.tif", replace(scene, crs=known, transform=transform), targets)
        with rasterio.open(tmp_path / "map.tif") as raster:
            assert tuple(raster.transform[:6]) == transform
            assert raster.crs == (crs if known else None)


def test_the_style_has_the_value_colour_and_name_of_every_class(scene: Scene) -> None:
    text = qgis_style(scene)
    assert text.startswith(b"<!DOCTYPE qgis ")
    root = ET.fromstring(text)  # noqa: S314 - written by us
    assert root.tag == "qgis"
    renderer = root.find("./pipe/rasterrenderer")
    assert renderer is not None
    assert (renderer.get("type"), renderer.get("band"), renderer.get("opacity")) == ("paletted", "1", "1")
    entries = renderer.findall("./colorPalette/paletteEntry")
    assert [(e.get("value"), e.get("color"), e.get("label"), e.get("alpha")) for e in entries] == [
        (str(entry.id), entry.color, entry.name, "255") for entry in scene.manifest.classes
    ]


def test_names_are_inert_in_a_style(scene: Scene) -> None:
    name = 'A & B <b attr="1">\x1b[31m\x00'
    classes = (SceneClass(id=1, name=name, color="#112233"), *scene.manifest.classes[1:])
    odd = replace(scene, manifest=scene.manifest.model_copy(update={"classes": classes}))
    entry = ET.fromstring(qgis_style(odd)).find(".//paletteEntry")  # noqa: S314
    assert entry is not None
    assert entry.get("label") == 'A & B <b attr="1">\\x1b[31m\\x00'
    assert len(entry) == 0


def test_an_array_has_the_class_ids(tmp_path: Path, scene: Scene, targets: IntArray) -> None:
    path = tmp_path / "deep" / "map.npy"
    assert write_raster(path, scene, targets) == [path]
    np.testing.assert_array_equal(np.load(path), targets.reshape(24, 36) + 1)
    assert list(path.parent.iterdir()) == [path]


def test_a_geotiff_without_rasterio_names_the_extra_to_install(
    tmp_path: Path, scene: Scene, targets: IntArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ConfigError, match=r"a \.png can.*rasterio is not installed; install it with: .*\bgeo\b"):
        write_raster(tmp_path / "map.tif", scene, targets)
    assert not list(tmp_path.iterdir())


def test_predictions_that_do_not_fit_the_scene_are_refused(tmp_path: Path, scene: Scene, targets: IntArray) -> None:
    with pytest.raises(DataError, match=r"shape \(863,\).*24 x 36 pixels"):
        write_raster(tmp_path / "map.npy", scene, targets[1:])
    with pytest.raises(DataError, match=r"span 1\.\.3; targets of tiny are 0\.\.2"):
        write_raster(tmp_path / "map.npy", scene, np.clip(targets + 1, 1, 3))
