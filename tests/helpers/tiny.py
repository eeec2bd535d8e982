"""Tiny scenes in memory, without simulator and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.io

from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.scene import IntArray, Scene

#: Default bands by modality.
DEFAULT_BANDS = {"hsi": 5, "lidar": 2}


def tiny_manifest(height: int, width: int, classes: int, bands: Mapping[str, int], scene_id: str = "tiny") -> Manifest:
    """A manifest with a generator block, so that it needs no files."""
    return Manifest.model_validate(
        {
            "schema": 1,
            "id": scene_id,
            "revision": "r1",
            "title": "Tiny scene of a test",
            "height": height,
            "width": width,
            "modalities": [{"name": name, "sensor": "none", "bands": count} for name, count in bands.items()],
            "classes": [{"id": k, "name": f"class {k}", "color": f"#{k:06x}"} for k in range(1, classes + 1)],
            "generator": {"layout": "tiny"},
            "terms": "none",
            "citation": "none",
        }
    )


def tiny_scene(
    ground_truth: npt.ArrayLike,
    *,
    bands: Mapping[str, int] | None = None,
    classes: int | None = None,
    official: tuple[IntArray, IntArray] | None = None,
    scene_id: str = "tiny",
    seed: int = 0,
) -> Scene:
    """A scene with a given class map; images are class means plus noise, the same for the same arguments.

    Args:
        ground_truth: Class map (height, width), 0 unlabelled.
        bands: Channels by modality name; hsi 5 and lidar 2 by default.
        classes: K; the largest class of the map by default.
        official: Flat (train, test) pixels.
        scene_id: The manifest's id.
        seed: Seed of the images.
    """
    truth = np.asarray(ground_truth, dtype=np.int64)
    bands = dict(bands or DEFAULT_BANDS)
    manifest = tiny_manifest(*truth.shape, classes or int(truth.max()), bands, scene_id)
    rng = np.random.default_rng(seed)
    images = {}
    for name, count in bands.items():
        means = rng.normal(size=(manifest.classes[-1].id + 1, count)) * 3
        images[name] = (means[truth] + rng.normal(size=(*truth.shape, count))).astype(np.float32)
    return Scene(manifest, images, truth, official)


def with_colours(scene: Scene) -> Scene:
    """The scene with ``rgb_bands`` in its manifest."""
    modalities = tuple(
        modality.model_copy(update={"rgb_bands": (2, 1, 0)}) if modality.name == "hsi" else modality
        for modality in scene.manifest.modalities
    )
    return replace(scene, manifest=scene.manifest.model_copy(update={"modalities": modalities}))


def striped_map(height: int, width: int, classes: int = 4, *, field: int = 12, margin: int = 1) -> IntArray:
    """A class map of square fields in diagonal order, with unlabelled borders of ``margin`` pixels."""
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    truth = (rows // field + columns // field) % classes + 1
    border = (rows % field < margin) | (columns % field < margin)
    return np.where(border, 0, truth).astype(np.int64)


def every_other_pixel(truth: IntArray) -> tuple[IntArray, IntArray]:
    """Official train and test pixels of a class map: its labelled pixels in turn."""
    pixels = np.flatnonzero(truth)
    return pixels[::2], pixels[1::2]


def trento_labels(shared_data: Path) -> Scene:
    """Trento's official ground truth and split under images of the tiny scene (its HSI is not available)."""
    truth = scipy.io.loadmat(shared_data / "trento" / "allgrd.mat")["mask_test"]
    train = scipy.io.loadmat(shared_data / "trento" / "TRLabel.mat")["TRLabel"]
    test = scipy.io.loadmat(shared_data / "trento" / "TSLabel.mat")["TSLabel"]
    return tiny_scene(truth, official=(np.flatnonzero(train), np.flatnonzero(test)), scene_id="trento")


def muufl_labels(shared_data: Path) -> Scene:
    """MUUFL's ground truth under images of the tiny scene."""
    with np.load(shared_data / "muufl_lite.npz", allow_pickle=False) as members:
        truth = members["gt"].astype(np.int64)
    return tiny_scene(np.where(truth < 0, 0, truth), scene_id="muufl-labels")
