"""Class maps: what they show, in which file, and what they refuse."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import striped_map, tiny_scene

from mmrs_bench.errors import BenchError, ConfigError, DataError
from mmrs_bench.evaluation.report.maps import map_figure, pseudo_colour, write_map
from mmrs_bench.scenes.scene import IntArray, Scene


@pytest.fixture
def scene() -> Scene:
    return tiny_scene(striped_map(24, 36, 3, field=8))


@pytest.fixture
def targets(scene: Scene) -> IntArray:
    """Right everywhere but in the first labelled row of pixels; unlabelled pixels are taken for class 1."""
    targets = np.maximum(scene.labels - 1, 0)
    wrong = scene.labelled_pixels[:20]
    targets[wrong] = (targets[wrong] + 1) % 3
    return targets


def panels(scene: Scene, targets: IntArray, support: IntArray | None = None) -> dict[str, np.ndarray]:
    figure = map_figure(scene, targets, support=support, title="a method")
    return {axes.get_title(loc="left"): np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes}


def test_colours_are_those_of_the_manifest(scene: Scene, targets: IntArray) -> None:
    from matplotlib.colors import to_rgb

    images = panels(scene, targets)
    palette = np.array([to_rgb(entry.color) for entry in scene.manifest.classes])
    np.testing.assert_array_equal(images["class map"], palette[targets.reshape(24, 36)])
    truth = images["ground truth"]
    labelled = scene.ground_truth > 0
    np.testing.assert_array_equal(truth[labelled], palette[scene.ground_truth[labelled] - 1])
    assert (truth[~labelled] == 1).all()


def test_errors_are_the_wrong_labelled_pixels_and_leave_out_the_support(scene: Scene, targets: IntArray) -> None:
    labelled = scene.labelled_pixels
    (title,) = [name for name in panels(scene, targets) if name.startswith("errors")]
    assert title == f"errors ({100 * 20 / labelled.size:.1f} % of labelled pixels)"
    image = panels(scene, targets)[title].reshape(-1, 3)
    red = np.flatnonzero(image[:, 0] > image[:, 1] + 0.3)
    np.testing.assert_array_equal(red, labelled[:20])

    support = labelled[:5]
    (title,) = [name for name in panels(scene, targets, support) if name.startswith("errors")]
    assert title == f"errors ({100 * 15 / (labelled.size - 5):.1f} % of labelled pixels)"


def test_simulated_maps_say_so(scene: Scene, targets: IntArray) -> None:
    assert map_figure(scene, targets, title="x").get_suptitle().startswith("SIMULATED: ")


@pytest.mark.parametrize(("suffix", "head"), [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_figures_on_disk(tmp_path: Path, scene: Scene, targets: IntArray, suffix: str, head: bytes) -> None:
    path = tmp_path / "deep" / f"map{suffix}"
    write_map(path, scene, targets, support=scene.labelled_pixels[:4])
    assert path.read_bytes().startswith(head)
    assert list(path.parent.iterdir()) == [path]


def test_pseudo_colour_takes_the_bands_nearest_to_red_green_and_blue() -> None:
    scene = tiny_scene(striped_map(20, 20, 2), bands={"hsi": 6})
    modality = scene.manifest.modalities[0].model_copy(update={"wavelengths_nm": (400, 475, 540, 660, 800, 900)})
    known = Scene(scene.manifest.model_copy(update={"modalities": (modality,)}), scene.images, scene.ground_truth)
    image, words = pseudo_colour(known)
    assert words == "hsi, 660 540 475 nm"
    red = scene.images["hsi"][:, :, 3]
    middle = (image[:, :, 0] > 0) & (image[:, :, 0] < 1)
    assert np.corrcoef(image[:, :, 0][middle], red[middle])[0, 1] == pytest.approx(1.0)
    assert pseudo_colour(scene)[1] == "hsi, bands 6 4 2"


@pytest.mark.parametrize(("bands", "words"), [(3, "hsi, 3 bands"), (1, "hsi, band 1"), (144, "hsi, bands 121 73 25")])
def test_pseudo_colour_of_other_band_counts(bands: int, words: str) -> None:
    image, said = pseudo_colour(tiny_scene(striped_map(12, 12, 2, field=4), bands={"hsi": bands}))
    assert said == words
    assert image.shape == (12, 12, 3)
    assert 0 <= image.min() <= image.max() <= 1


def test_a_constant_image_does_not_divide_by_zero() -> None:
    scene = tiny_scene(striped_map(12, 12, 2, field=4))
    flat = Scene(scene.manifest, {"hsi": np.ones((12, 12, 5), np.float32)}, scene.ground_truth)
    assert np.isfinite(pseudo_colour(flat)[0]).all()


def test_geotiff_comes_back_with_classes_colours_and_names(tmp_path: Path, scene: Scene, targets: IntArray) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
    path = tmp_path / "map.tif"
    write_map(path, scene, targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as raster:
            np.testing.assert_array_equal(raster.read(1), targets.reshape(24, 36) + 1)
            assert raster.nodata == 0
            assert raster.crs is None
            assert raster.colormap(1)[2][:3] == tuple(bytes.fromhex(scene.manifest.classes[1].color[1:]))
            assert raster.tags(1)["CLASS_3"] == "class 3"


def test_a_geotiff_without_the_extra_says_what_to_install(
    tmp_path: Path, scene: Scene, targets: IntArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ConfigError, match=r"pip install 'mmrs-bench\[geo\]'"):
        write_map(tmp_path / "map.tif", scene, targets)
    assert not list(tmp_path.iterdir())


def test_refusals(tmp_path: Path, scene: Scene, targets: IntArray) -> None:
    with pytest.raises(ConfigError, match=r"\.jpg is no map format; use one of \.png"):
        write_map(tmp_path / "map.jpg", scene, targets)
    with pytest.raises(DataError, match=r"shape \(863,\).*24 x 36 pixels"):
        write_map(tmp_path / "map.png", scene, targets[1:])
    with pytest.raises(DataError, match=r"span 1\.\.3; targets of tiny are 0\.\.2"):
        write_map(tmp_path / "map.png", scene, np.clip(targets + 1, 1, 3))
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="cannot write"):
        write_map(tmp_path / "file" / "map.png", scene, targets)


def test_a_real_scene(tmp_path: Path, shared_data: Path) -> None:
    from helpers.tiny import trento_labels

    scene = trento_labels(shared_data)
    path = tmp_path / "trento.png"
    write_map(path, scene, np.maximum(scene.labels - 1, 0), title="the truth itself")
    figure = map_figure(scene, np.maximum(scene.labels - 1, 0))
    assert figure.axes[3].get_title(loc="left") == "errors (0.0 % of labelled pixels)"
    assert path.stat().st_size > 10_000
