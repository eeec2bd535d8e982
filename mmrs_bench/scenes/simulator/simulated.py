"""The embedded simulated scene and the simulated twins of the real ones.

Everything about the model, with formulas and measured figures, is in ``docs/simulated-scene.md``.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.randomness import numpy_generator
from mmrs_bench.reading import validated
from mmrs_bench.scenes.manifest import Generator, Manifest
from mmrs_bench.scenes.scene import FloatArray, Scene
from mmrs_bench.scenes.simulator.landscape import build_ground
from mmrs_bench.scenes.simulator.painter import LAYOUTS, Address
from mmrs_bench.scenes.simulator.pixel_bayes import pixel_bounds
from mmrs_bench.scenes.simulator.profiles import class_profiles
from mmrs_bench.scenes.simulator.radiometry import build_context, make_sensor
from mmrs_bench.scenes.simulator.sensors import Sensor

#: Noise of a modality that another one dominates, as a multiple of its own.
DOMINATED = 8.0
_ROWS = 64
_CACHED_SCENES = 2
_cache: OrderedDict[str, Scene] = OrderedDict()


class SimulationOptions(BaseModel):
    """Settings under ``generator.options`` of a simulated manifest.

    Attributes:
        noise: Factor on everything that varies independently from pixel to pixel (speckle: looks become
            ``1 + 3 / noise**2``); smaller is easier.
        dominant: A modality that keeps its noise while all others get `DOMINATED` times theirs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    noise: float = Field(default=1.0, gt=0.0, le=100.0)
    dominant: Literal["hsi", "lidar", "sar", "dsm"] | None = None

    def scale(self, modality: str) -> float:
        """Noise factor of a modality."""
        return self.noise * (DOMINATED if self.dominant not in (None, modality) else 1.0)


def _options(manifest: Manifest, generator: Generator) -> SimulationOptions:
    where = f"{manifest.path}: generator.options"
    options = validated(SimulationOptions, generator.options, where=where, error=ConfigError)
    if options.dominant is not None and options.dominant not in manifest.modality_names:
        raise ConfigError(
            f"{manifest.path}: generator.options.dominant: the scene has no {options.dominant!r}; "
            f"name one of {', '.join(manifest.modality_names)}"
        )
    return options


def _observe(sensor: Sensor, height: int, width: int, rng: np.random.Generator) -> FloatArray:
    """The whole image (height, width, channels), made by blocks of rows so that little more than it is in memory."""
    image = np.empty((height * width, sensor.channels), dtype=np.float32)
    for start in range(0, height * width, _ROWS * width):
        pixels = np.arange(start, min(start + _ROWS * width, height * width))
        image[start : start + pixels.size] = sensor.draw(pixels, rng)
    return image.reshape(height, width, sensor.channels)


def _simulate(manifest: Manifest, generator: Generator) -> Scene:
    if generator.layout not in LAYOUTS:
        raise unknown_name("layout of the simulated scene", generator.layout, LAYOUTS)
    options = _options(manifest, generator)
    gsd_m = manifest.gsd_m or 1.0
    address: Address = ("simulated", generator.layout, generator.seed)
    profiles = class_profiles(manifest.class_names, gsd_m=gsd_m)
    ground = build_ground(manifest, profiles, gsd_m=gsd_m, address=address)
    context = build_context(ground, profiles, gsd_m=gsd_m, address=address)
    sensors: dict[str, Sensor] = {m.name: make_sensor(context, m, options.scale(m.name)) for m in manifest.modalities}
    images: dict[str, FloatArray] = {
        name: _observe(sensor, manifest.height, manifest.width, numpy_generator(*address, "noise", name))
        for name, sensor in sensors.items()
    }
    bounds = pixel_bounds(sensors, ground.ground_truth.reshape(-1), numpy_generator(*address, "bounds"))
    for image in images.values():
        image.flags.writeable = False
    ground.ground_truth.flags.writeable = False
    return Scene(manifest=manifest, images=images, ground_truth=ground.ground_truth, pixel_bounds=bounds)


def simulate(manifest: Manifest) -> Scene:
    """The simulated scene of a manifest with a ``generator``.

    The same manifest gives the same bytes, in any process and with any number of threads. The last scenes are kept
    in memory by fingerprint; their arrays are therefore read-only.

    Args:
        manifest: Raster size, modalities, classes (with counts: exactly so many labelled pixels each) and generator.

    Returns:
        A scene whose ``pixel_bounds`` hold the Bayes-optimal pixelwise accuracy of every modality alone and, where
        there are several, of all together.

    Raises:
        ConfigError: If the manifest has no generator, the layout or an option is unknown, or a modality has channels
            that the simulator does not offer.
        ManifestError: If the class counts exceed the raster.
    """
    if manifest.generator is None:
        raise ConfigError(f"{manifest.id} is a real scene without a generator; load it with load_scene")
    scene = _cache.pop(manifest.fingerprint, None) or _simulate(manifest, manifest.generator)
    _cache[manifest.fingerprint] = scene
    while len(_cache) > _CACHED_SCENES:
        _cache.popitem(last=False)
    return replace(scene, manifest=manifest)
