"""The pictures of a sheet of class maps, as arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.accuracy import ClassCounts, average_accuracy, class_counts, overall_accuracy, recalls
from mmrs_bench.evaluation.report.maps.colours import CORRECT, SUPPORT, UNLABELLED, error_colour, rgb
from mmrs_bench.evaluation.report.maps.rasters import class_raster
from mmrs_bench.evaluation.results.metrics import confusion_matrix
from mmrs_bench.scenes.pictures.display import pseudo_colour, second_sensor
from mmrs_bench.scenes.scene import FloatArray, IntArray, Scene

Image = NDArray[np.floating]


class MethodMap(NamedTuple):
    """A method's classes of a whole scene.

    Attributes:
        label: Name of the method.
        targets: Predicted target in 0..K-1 of each pixel (height * width,).
        confidence: Largest class probability of each pixel (height * width,); None if the method has none.
    """

    label: str
    targets: IntArray
    confidence: FloatArray | None = None


class Panel(NamedTuple):
    """One picture of a sheet.

    Attributes:
        title: What it shows.
        image: Colours (height, width, 3), or confidences (height, width) in [0, 1]; None if there is nothing to show.
        kind: ``image``, ``classes``, ``errors`` or ``confidence``.
    """

    title: str
    image: Image | None
    kind: str


def scene_panels(scene: Scene) -> list[Panel]:
    """Pictures of the first two sensors, and the ground truth if the scene has one."""
    panels = [
        Panel(picture.shown, picture.image, "image")
        for picture in (pseudo_colour(scene), second_sensor(scene))
        if picture
    ]
    if scene.ground_truth.any():
        panels.append(Panel("ground truth", _palette(scene)[scene.ground_truth], "classes"))
    return panels


def method_panels(scene: Scene, shown: MethodMap, scored: IntArray, support: IntArray | None) -> list[Panel]:
    """A method's map, its errors if there are scored pixels, and its confidence.

    Args:
        scene: The scene.
        shown: The method's classes.
        scored: Flat indices of the pixels that errors are counted on.
        support: Flat indices of the support pixels; None without a split.
    """
    classes = class_raster(scene, shown.targets)
    panels = [Panel(shown.label, _palette(scene)[classes], "classes")]
    if scored.size:
        wrong = scored[classes.flat[scored] != scene.labels[scored]]
        image = np.tile(rgb(UNLABELLED), (scene.labels.size, 1))
        image[scored] = rgb(CORRECT)
        image[wrong] = rgb(error_colour(scene.manifest.classes))
        if support is not None:
            image[support] = rgb(SUPPORT)
        title = f"errors: {100 * wrong.size / scored.size:.1f} %"
        panels.append(Panel(title, image.reshape(*classes.shape, 3), "errors"))
    if shown.confidence is None:
        return [*panels, Panel("confidence: none", None, "confidence")]
    title = f"confidence, mean {100 * float(shown.confidence.mean()):.0f} %"
    return [*panels, Panel(title, shown.confidence.reshape(classes.shape), "confidence")]


class ClassRow(NamedTuple):
    """A row of the table of classes, in percent; None where it is not defined.

    Attributes:
        name: The class; OA and AA have rows, too.
        colour: Its colour; None for a row that is no class.
        share: Share of the labelled pixels.
        methods: Share of the map and recall, for each method.
    """

    name: str
    colour: str | None
    share: float | None
    methods: tuple[tuple[float | None, float | None], ...]


def class_rows(scene: Scene, maps: Sequence[MethodMap], scored: IntArray) -> list[ClassRow]:
    """Share and recall of every class, then OA and AA over the scored pixels if there are any."""
    truth = scene.class_counts
    shares = [np.bincount(shown.targets, minlength=scene.num_classes) / shown.targets.size for shown in maps]
    counts: list[ClassCounts] = []
    if scored.size:
        counts = [
            class_counts(confusion_matrix(scene.labels[scored] - 1, shown.targets[scored], scene.num_classes))
            for shown in maps
        ]
    found = [recalls(each) for each in counts] or [(None,) * scene.num_classes for _ in maps]
    rows = [
        ClassRow(
            entry.name,
            entry.color,
            100 * float(truth[k]) / int(truth.sum()) if truth.any() else None,
            tuple((100 * float(share[k]), _percent(recall[k])) for share, recall in zip(shares, found, strict=True)),
        )
        for k, entry in enumerate(scene.manifest.classes)
    ]
    for name, score in (("OA", overall_accuracy), ("AA", average_accuracy)) if counts else ():
        rows.append(ClassRow(name, None, None, tuple((None, 100 * score(each)) for each in counts)))
    return rows


class ScaleBar(NamedTuple):
    """A length in pixels, and how it is written."""

    pixels: float
    text: str


def scale_bar(scene: Scene) -> ScaleBar | None:
    """A round length of at most a third of the scene's width; None if the size of a pixel is unknown."""
    size = pixel_size(scene)
    if size is None:
        return None
    largest = scene.width * size / 3
    unit = 10.0 ** math.floor(math.log10(largest))
    metres = max(factor * unit for factor in (1, 2, 5) if factor * unit <= largest)
    text = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
    return ScaleBar(metres / size, text)


def pixel_size(scene: Scene) -> float | None:
    """Width of a pixel in metres: ``gsd_m`` of the manifest, else that of the files; None if both do not state it.

    A CRS with geographic coordinates does not, as a degree has another length at each latitude.
    """
    if scene.manifest.gsd_m is not None or scene.transform is None or not scene.crs:
        return scene.manifest.gsd_m
    if not scene.crs.startswith(("PROJCS[", "PROJCRS[")):
        return None
    units = re.findall(r'\b(?:LENGTH)?UNIT\["[^"]*",\s*([0-9.eE+-]+)', scene.crs)  # the last one is that of the axes
    a, _, _, d, _, _ = scene.transform
    return math.hypot(a, d) * float(units[-1]) if units else None


def _palette(scene: Scene) -> NDArray[np.float64]:
    """Colours (K + 1, 3) by class id."""
    return np.stack([rgb(UNLABELLED), *(rgb(entry.color) for entry in scene.manifest.classes)])


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
