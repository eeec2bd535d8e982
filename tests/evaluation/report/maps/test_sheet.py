"""Sheets of class maps: panels, table, layout, files, and refused input."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import striped_map, tiny_scene
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mmrs_bench.errors import BenchError, ConfigError, DataError
from mmrs_bench.evaluation.report.maps.colours import CORRECT, error_colour
from mmrs_bench.evaluation.report.maps.panels import MethodMap, class_rows, pixel_size, scale_bar
from mmrs_bench.evaluation.report.maps.sheet import MapSheet, best_grid
from mmrs_bench.scenes.manifest import SceneClass
from mmrs_bench.scenes.scene import IntArray, Scene

SHOTS = 5


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


def sheet(scene: Scene, *maps: IntArray | MethodMap, support: int = SHOTS, title: str = "") -> MapSheet:
    """A sheet whose support are the first labelled pixels, and the query all others."""
    shown = tuple(
        each if isinstance(each, MethodMap) else MethodMap(f"method {n}", each) for n, each in enumerate(maps)
    )
    pixels = scene.labelled_pixels
    return MapSheet(scene, shown, pixels[support:], pixels[:support], title)


def panels(figure: Figure) -> dict[str, np.ndarray]:
    """The images by their titles."""
    return {
        axes.get_title(loc="left"): np.asarray(axes.get_images()[0].get_array())
        for axes in figure.axes
        if axes.get_images()
    }


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_class_colours_are_those_of_the_manifest(scene: Scene, targets: IntArray) -> None:
    images = panels(sheet(scene, targets).figure())
    palette = np.array([to_rgb(entry.color) for entry in scene.manifest.classes])
    np.testing.assert_allclose(images["method 0"], palette[targets.reshape(24, 36)])
    truth, labelled = images["ground truth"], scene.ground_truth > 0
    np.testing.assert_allclose(truth[labelled], palette[scene.ground_truth[labelled] - 1])
    assert (truth[~labelled] == 1).all()


@pytest.mark.parametrize("support", [0, SHOTS])
def test_errors_are_the_wrong_query_pixels(scene: Scene, targets: IntArray, support: int) -> None:
    labelled = scene.labelled_pixels
    images = panels(sheet(scene, targets, support=support).figure())
    image = images[f"errors: {100 * (20 - support) / (labelled.size - support):.1f} %"].reshape(-1, 3)
    wrong = np.isclose(image, to_rgb(error_colour(scene.manifest.classes))).all(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(wrong), labelled[support:20])
    correct = np.isclose(image, to_rgb(CORRECT)).all(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(correct), labelled[20:])


def test_pixels_outside_the_query_are_not_scored(scene: Scene, targets: IntArray) -> None:
    part = replace(sheet(scene, targets), scored=scene.labelled_pixels[10:40])
    image = panels(part.figure())["errors: 33.3 %"].reshape(-1, 3)
    assert (image[scene.labelled_pixels[40:]] == 1).all()


def test_every_method_has_its_map_errors_and_confidence_beside_both_sensors(scene: Scene, targets: IntArray) -> None:
    confidence = np.linspace(0.5, 1, targets.size).astype(np.float32)
    right = np.maximum(scene.labels - 1, 0)
    figure = sheet(scene, MethodMap("one", targets, confidence), MethodMap("two", right)).figure()
    images = panels(figure)
    assert [*images] == [
        "hsi, bands 5 3 2",
        "lidar, band 1",
        "ground truth",
        "one",
        f"errors: {100 * 15 / (scene.labelled_pixels.size - SHOTS):.1f} %",
        "confidence, mean 75 %",
        "two",
        "errors: 0.0 %",
    ]
    np.testing.assert_allclose(images["confidence, mean 75 %"].reshape(-1), 100 * confidence, rtol=1e-6)
    assert "no class\nprobabilities" in texts(figure)


def test_the_table_has_share_and_recall_of_every_class(scene: Scene, targets: IntArray) -> None:
    maps = [MethodMap("one", targets), MethodMap("two", np.maximum(scene.labels - 1, 0))]
    scored = scene.labelled_pixels[SHOTS:]
    rows = class_rows(scene, maps, scored)
    assert [row.name for row in rows] == ["class 1", "class 2", "class 3", "OA", "AA"]
    assert sum(row.share for row in rows if row.share is not None) == pytest.approx(100)
    for k in range(3):
        of_class = scored[scene.labels[scored] == k + 1]
        share, recall = rows[k].methods[0]
        assert share == pytest.approx(100 * (targets == k).mean())
        assert recall == pytest.approx(100 * (targets[of_class] == k).mean())
        assert rows[k].methods[1][1] == 100
    assert rows[3].methods[0][1] == pytest.approx(100 * (targets[scored] == scene.labels[scored] - 1).mean())
    written = texts(sheet(scene, *maps).figure())
    for expected in ("class 2", "one", "two", "labels %", "map %", "recall %", "OA", "support (5 pixels)"):
        assert expected in written
    assert f"{rows[0].methods[0][1]:.1f}" in written


def test_a_scene_without_labels_has_maps_and_confidence_only(scene: Scene, targets: IntArray) -> None:
    unlabelled = replace(scene, ground_truth=np.zeros_like(scene.ground_truth))
    confidence = np.ones(targets.size, np.float32)
    one = MapSheet(unlabelled, (MethodMap("m", targets, confidence),), targets[:0], None, "")
    figure = one.figure()
    assert [*panels(figure)] == ["hsi, bands 5 3 2", "lidar, band 1", "m", "confidence, mean 100 %"]
    written = texts(figure)
    assert "recall %" not in written
    assert "labels %" not in written
    assert "wrong" not in written


def test_colours_that_look_alike_are_named_on_the_sheet(scene: Scene, targets: IntArray) -> None:
    """The colours of the tiny scene are three blacks."""
    found = sheet(scene, targets)
    assert len(found.warnings) == 3
    assert any("class 1 (#000001) and class 2 (#000002)" in text for text in texts(found.figure()))
    colours = ("#d7301f", "#1b7837", "#7b3294")
    classes = tuple(SceneClass(id=k, name=f"c{k}", color=colour) for k, colour in enumerate(colours, 1))
    distinct = replace(scene, manifest=scene.manifest.model_copy(update={"classes": classes}))
    assert sheet(distinct, targets).warnings == []
    assert not any("look alike" in text for text in texts(sheet(distinct, targets).figure()))


def test_a_scale_bar_is_drawn_where_the_pixel_size_is_known(scene: Scene, targets: IntArray) -> None:
    assert scale_bar(scene) is None
    assert any("No scale bar" in text for text in texts(sheet(scene, targets).figure()))
    for size, pixels, text in ((1.0, 10, "10 m"), (30.0, 200 / 30, "200 m"), (200.0, 10, "2 km"), (0.5, 10, "5 m")):
        sized = replace(scene, manifest=scene.manifest.model_copy(update={"gsd_m": size}))
        bar = scale_bar(sized)
        assert bar is not None
        assert (bar.pixels, bar.text) == (pytest.approx(pixels), text)
    assert "5 m" in texts(sheet(sized, targets).figure())


@pytest.mark.parametrize(("epsg", "size"), [(32632, 2.5), (2263, 2.5 * 0.3048006096), (4326, None)])
def test_the_pixel_size_is_that_of_the_files_if_the_manifest_has_none(
    scene: Scene, epsg: int, size: float | None
) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
    for version in ("WKT1_GDAL", "WKT2_2019"):
        crs = rasterio.CRS.from_epsg(epsg).to_wkt(version=version)
        placed = replace(scene, crs=crs, transform=(1.5, 0.0, 6e5, 2.0, -2.5, 5e6))
        assert pixel_size(placed) == (None if size is None else pytest.approx(size, rel=1e-6))
    assert pixel_size(replace(placed, crs=None)) is None


def test_maps_of_simulated_scenes_are_marked(scene: Scene, targets: IntArray) -> None:
    (heading,) = (text.get_text() for text in sheet(scene, targets, title="2 shots").figure().texts)
    assert heading == f"SIMULATED: {scene.manifest.title} · 2 shots"


def test_names_with_formulas_and_controls_are_shown_as_they_are(scene: Scene, targets: IntArray) -> None:
    classes = (SceneClass(id=1, name="$x^2$ \x1b[31m", color="#d7301f"), *scene.manifest.classes[1:])
    odd = replace(scene, manifest=scene.manifest.model_copy(update={"classes": classes}))
    figure = sheet(odd, MethodMap("$\\frac$", targets)).figure()
    assert r"\$x^2\$ \x1b[31m" in texts(figure)
    figure.canvas.draw()


def inches(figure: Figure) -> list[tuple[float, float, float, float]]:
    """Left, lower, right and upper edge of all axes with their texts, in inches."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = (axes.get_tightbbox(canvas.get_renderer()) for axes in figure.axes)
    return [
        (box.x0 / figure.dpi, box.y0 / figure.dpi, box.x1 / figure.dpi, box.y1 / figure.dpi) for box in boxes if box
    ]


@pytest.mark.parametrize("methods", [1, 3, 8])
@pytest.mark.parametrize("size", [(20, 24), (12, 60), (60, 12)])
def test_nothing_overlaps_whatever_the_scene_and_the_number_of_methods(size: tuple[int, int], methods: int) -> None:
    scene = tiny_scene(striped_map(*size, 3, field=4))
    targets = np.maximum(scene.labels - 1, 0)
    confidence = np.ones(targets.size, np.float32)
    names = ["a-long-method-name:and-variant", *(f"m{n}" for n in range(1, methods))]
    figure = sheet(scene, *(MethodMap(name, targets, confidence) for name in names)).figure()
    boxes = inches(figure)
    width, height = figure.get_size_inches()
    assert width <= 20
    for n, (left, lower, right, upper) in enumerate(boxes):
        assert 0 <= left < right <= width
        assert 0 <= lower < upper <= height
        for other in boxes[n + 1 :]:
            apart = right <= other[0] or other[2] <= left or upper <= other[1] or other[3] <= lower
            assert apart, (boxes[n], other)


def test_the_layout_has_the_shape_of_a_page() -> None:
    assert best_grid(2, (3, 3), 1.25)[:2] == (3, 3)
    assert best_grid(1, (3, 3), 3.6)[:2] == (3, 2)  # a wide scene: a method is a column
    assert best_grid(4, (3, 3), 3.6)[:2] == (5, 3)
    assert best_grid(2, (3, 3), 0.28)[:2] == (1, 9)  # a tall scene: all in one row


@pytest.mark.parametrize(("suffix", "head"), [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_figures_are_written(tmp_path: Path, scene: Scene, targets: IntArray, suffix: str, head: bytes) -> None:
    path = tmp_path / "deep" / f"map{suffix}"
    assert sheet(scene, targets).write(path) == [path]
    assert path.read_bytes().startswith(head)
    assert list(path.parent.iterdir()) == [path]


def test_unknown_formats_unfit_predictions_and_unwritable_paths_are_refused(
    tmp_path: Path, scene: Scene, targets: IntArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"\.jpg is not a map format; use one of \.png"):
        sheet(scene, targets).write(tmp_path / "map.jpg")
    with pytest.raises(ConfigError, match=r"a \.npy file has the classes of one method, not of 2"):
        sheet(scene, targets, targets).write(tmp_path / "map.npy")
    with pytest.raises(DataError, match=r"shape \(863,\).*24 x 36 pixels"):
        sheet(scene, targets[1:]).write(tmp_path / "map.png")
    with pytest.raises(BenchError, match="cannot write"):
        sheet(scene, targets).write(tmp_path / "file" / "map.png")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ConfigError, match="rasterio is not installed"):
        sheet(scene, targets).write(tmp_path / "map.tif")


def test_a_map_of_a_real_scene(tmp_path: Path, shared_data: Path) -> None:
    from helpers.tiny import trento_labels

    scene = trento_labels(shared_data)
    found = sheet(scene, np.maximum(scene.labels - 1, 0))
    found.write(tmp_path / "trento.png")
    assert (tmp_path / "trento.png").stat().st_size > 10_000
    assert "errors: 0.0 %" in panels(found.figure())
