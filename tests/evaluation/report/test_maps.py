"""Class maps: panels, files, and refused input."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import striped_map, tiny_scene
from matplotlib.colors import to_rgb

from mmrs_bench.errors import BenchError, ConfigError, DataError
from mmrs_bench.evaluation.report.maps import map_figure, pseudo_colour, write_map
from mmrs_bench.scenes.scene import IntArray, Scene


@pytest.fixture
def scene() -> Scene:
    return tiny_scene(striped_map(24, 36, 3, field=8))


@pytest.fixture
def targets(scene: Scene) -> IntArray:
    """Correct except for the first 20 labelled pixels; unlabelled pixels are predicted as class 1."""
    targets = np.maximum(scene.labels - 1, 0)
    wrong = scene.labelled_pixels[:20]
    targets[wrong] = (targets[wrong] + 1) % 3
    return targets


def panels(scene: Scene, targets: IntArray, support: IntArray | None = None) -> dict[str, np.ndarray]:
    figure = map_figure(scene, targets, support=support)
    return {axes.get_title(loc="left"): np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes}


def test_class_colours_are_those_of_the_manifest(scene: Scene, targets: IntArray) -> None:
    images = panels(scene, targets)
    palette = np.array([to_rgb(entry.color) for entry in scene.manifest.classes])
    np.testing.assert_array_equal(images["class map"], palette[targets.reshape(24, 36)])
    truth, labelled = images["ground truth"], scene.ground_truth > 0
    np.testing.assert_array_equal(truth[labelled], palette[scene.ground_truth[labelled] - 1])
    assert (truth[~labelled] == 1).all()


@pytest.mark.parametrize("shots", [0, 5])
def test_errors_are_the_wrong_labelled_pixels_without_the_support(scene: Scene, targets: IntArray, shots: int) -> None:
    labelled = scene.labelled_pixels
    images = panels(scene, targets, labelled[:shots] if shots else None)
    image = images[f"errors ({100 * (20 - shots) / (labelled.size - shots):.1f} % of labelled pixels)"].reshape(-1, 3)
    np.testing.assert_array_equal(np.flatnonzero(image[:, 0] > image[:, 1] + 0.3), labelled[shots:20])


def test_maps_of_simulated_scenes_are_marked(scene: Scene, targets: IntArray) -> None:
    assert map_figure(scene, targets, title="x").get_suptitle() == f"SIMULATED: {scene.manifest.title} · x"


@pytest.mark.parametrize(("suffix", "head"), [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_figures_are_written(tmp_path: Path, scene: Scene, targets: IntArray, suffix: str, head: bytes) -> None:
    path = tmp_path / "deep" / f"map{suffix}"
    write_map(path, scene, targets, support=scene.labelled_pixels[:4])
    assert path.read_bytes().startswith(head)
    assert list(path.parent.iterdir()) == [path]


def test_pseudo_colour_uses_the_bands_nearest_to_red_green_and_blue() -> None:
    scene = tiny_scene(striped_map(20, 20, 2), bands={"hsi": 6})
    modality = scene.manifest.modalities[0].model_copy(update={"wavelengths_nm": (400, 475, 540, 660, 800, 900)})
    known = Scene(scene.manifest.model_copy(update={"modalities": (modality,)}), scene.images, scene.ground_truth)
    image, shown = pseudo_colour(known)
    assert shown == "hsi, 660 540 475 nm"
    red = scene.images["hsi"][:, :, 3]
    inside = (image[:, :, 0] > 0) & (image[:, :, 0] < 1)
    assert np.corrcoef(image[:, :, 0][inside], red[inside])[0, 1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("bands", "shown"), [(1, "band 1"), (3, "3 bands"), (6, "bands 6 4 2"), (144, "bands 121 73 25")]
)
def test_pseudo_colour_without_wavelengths_uses_evenly_spaced_bands(bands: int, shown: str) -> None:
    image, description = pseudo_colour(tiny_scene(striped_map(12, 12, 2, field=4), bands={"hsi": bands}))
    assert description == f"hsi, {shown}"
    assert image.shape == (12, 12, 3)
    assert 0 <= image.min() <= image.max() <= 1


def test_a_geotiff_contains_classes_colours_and_names(tmp_path: Path, scene: Scene, targets: IntArray) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
    path = tmp_path / "map.tif"
    write_map(path, scene, targets)
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
        write_map(tmp_path / "map.tif", replace(scene, crs=known, transform=transform), targets)
        with rasterio.open(tmp_path / "map.tif") as raster:
            assert tuple(raster.transform[:6]) == transform
            assert raster.crs == (crs if known else None)


def test_a_geotiff_without_rasterio_names_the_extra_to_install(
    tmp_path: Path, scene: Scene, targets: IntArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ConfigError, match=r"a \.png can.*rasterio is not installed; install it with: .*\bgeo\b"):
        write_map(tmp_path / "map.tif", scene, targets)
    assert not list(tmp_path.iterdir())


def test_unknown_formats_unfit_predictions_and_unwritable_paths_are_refused(
    tmp_path: Path, scene: Scene, targets: IntArray
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"\.jpg is not a map format; use one of \.png"):
        write_map(tmp_path / "map.jpg", scene, targets)
    with pytest.raises(DataError, match=r"shape \(863,\).*24 x 36 pixels"):
        write_map(tmp_path / "map.png", scene, targets[1:])
    with pytest.raises(DataError, match=r"span 1\.\.3; targets of tiny are 0\.\.2"):
        write_map(tmp_path / "map.png", scene, np.clip(targets + 1, 1, 3))
    with pytest.raises(BenchError, match="cannot write"):
        write_map(tmp_path / "file" / "map.png", scene, targets)


def test_a_map_of_a_real_scene(tmp_path: Path, shared_data: Path) -> None:
    from helpers.tiny import trento_labels

    scene = trento_labels(shared_data)
    write_map(tmp_path / "trento.png", scene, np.maximum(scene.labels - 1, 0))
    assert (tmp_path / "trento.png").stat().st_size > 10_000
    assert "errors (0.0 % of labelled pixels)" in panels(scene, np.maximum(scene.labels - 1, 0))
