"""Small simulated scenes and their parts."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from mmrs_bench.scenes.catalogue import load_manifest
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.scene import Scene
from mmrs_bench.scenes.simulator.landscape import Landscape, build_landscape
from mmrs_bench.scenes.simulator.profiles import class_profiles
from mmrs_bench.scenes.simulator.radiometry import PixelState, pixel_state


def small(side: int = 40, *, dataset: str = "simulated", seed: int = 0, **options: Any) -> Manifest:
    """A shipped simulated scene with a raster of about ``side`` squared and class counts in proportion."""
    manifest = load_manifest(dataset)
    assert manifest.generator is not None
    shrink = side / np.sqrt(manifest.height * manifest.width)
    height, width = (max(8, round(n * shrink)) for n in (manifest.height, manifest.width))
    share = 0.98 * height * width / (manifest.height * manifest.width)
    classes = tuple(c.model_copy(update={"count": max(2, int((c.count or 2) * share))}) for c in manifest.classes)
    generator = manifest.generator.model_copy(update={"seed": seed, "options": options})
    return manifest.model_copy(update={"height": height, "width": width, "classes": classes, "generator": generator})


def digest(scene: Scene) -> str:
    """SHA-256 of images, ground truth and bounds."""
    sha = hashlib.sha256(repr(scene.pixel_bounds).encode())
    for array in (*scene.images.values(), scene.ground_truth):
        sha.update(array.tobytes())
    return sha.hexdigest()


def landscape_of(manifest: Manifest, seed: int = 0) -> Landscape:
    """The landscape of a manifest, with random streams of its own."""
    gsd_m = manifest.gsd_m or 1.0
    profiles = class_profiles(manifest.class_names, gsd_m=gsd_m)
    return build_landscape(manifest, profiles, gsd_m=gsd_m, address=("test", seed))


def landscape_and_state(manifest: Manifest) -> tuple[Landscape, PixelState]:
    """The landscape of a manifest and the state of its pixels."""
    landscape = landscape_of(manifest)
    return landscape, pixel_state(landscape, class_profiles(manifest.class_names), gsd_m=1.0, address=("test",))
