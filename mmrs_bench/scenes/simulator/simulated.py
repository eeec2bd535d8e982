"""The embedded simulated scene and the simulated twins of real scenes; see ``docs/simulated-scene.md``."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.randomness import numpy_generator
from mmrs_bench.reading import validated
from mmrs_bench.scenes.manifest import Generator, Manifest
from mmrs_bench.scenes.scene import FloatArray, Scene
from mmrs_bench.scenes.simulator.landscape import build_landscape
from mmrs_bench.scenes.simulator.painter import LAYOUTS, Address
from mmrs_bench.scenes.simulator.pixel_bayes import pixel_bounds
from mmrs_bench.scenes.simulator.profiles import class_profiles
from mmrs_bench.scenes.simulator.radiometry import make_sensor, pixel_state
from mmrs_bench.scenes.simulator.sensors import Sensor

DOMINATED_NOISE = 8.0
_BLOCK_ROWS = 64
_CACHED_SCENES = 2
_cache: dict[str, Scene] = {}


class SimulationOptions(BaseModel):
    """Settings under ``generator.options`` of a simulated manifest.

    Attributes:
        noise: Factor on everything that is independent from pixel to pixel; SAR has ``1 + 3 / noise**2`` looks.
        dominant: Modality that keeps its noise, while all others get `DOMINATED_NOISE` times theirs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    noise: float = Field(default=1.0, gt=0.0, le=100.0)
    dominant: Literal["hsi", "lidar", "sar", "dsm"] | None = None

    def scale(self, modality: str) -> float:
        """Noise factor of a modality."""
        return self.noise * (DOMINATED_NOISE if self.dominant not in (None, modality) else 1.0)


def _simulate(manifest: Manifest, generator: Generator) -> Scene:
    if generator.layout not in LAYOUTS:
        raise unknown_name("layout of the simulated scene", generator.layout, LAYOUTS)
    where = f"{manifest.path}: generator.options"
    options = validated(SimulationOptions, generator.options, where=where, error=ConfigError)
    if options.dominant is not None and options.dominant not in manifest.modality_names:
        raise ConfigError(
            f"{where}.dominant: the scene has no modality {options.dominant!r}; "
            f"use one of {', '.join(manifest.modality_names)}"
        )
    gsd_m = manifest.gsd_m or 1.0
    address: Address = ("simulated", generator.layout, generator.seed)
    profiles = class_profiles(manifest.class_names, gsd_m=gsd_m)
    landscape = build_landscape(manifest, profiles, gsd_m=gsd_m, address=address)
    state = pixel_state(landscape, profiles, gsd_m=gsd_m, address=address)
    sensors: dict[str, Sensor] = {m.name: make_sensor(state, m, options.scale(m.name)) for m in manifest.modalities}
    truth = landscape.ground_truth
    step = _BLOCK_ROWS * manifest.width  # measured in blocks of rows, to save memory
    blocks = np.split(np.arange(truth.size), range(step, truth.size, step))
    images: dict[str, FloatArray] = {}
    for modality in manifest.modalities:
        rng = numpy_generator(*address, "noise", modality.name)
        image = np.empty((truth.size, modality.bands), dtype=np.float32)
        for pixels in blocks:
            image[pixels] = sensors[modality.name].sample(pixels, rng)
        image.flags.writeable = False
        images[modality.name] = image.reshape(*truth.shape, modality.bands)
    bounds = pixel_bounds(sensors, truth.reshape(-1), numpy_generator(*address, "bounds"))
    truth.flags.writeable = False
    return Scene(manifest=manifest, images=images, ground_truth=truth, pixel_bounds=bounds)


def simulate(manifest: Manifest) -> Scene:
    """The simulated scene of a manifest with a ``generator``.

    Equal manifests give equal bytes, in any process and with any number of threads. The last two scenes stay in
    memory, so the arrays are read-only.

    Returns:
        A scene with as many labelled pixels as the manifest's counts, and with ``pixel_bounds``: the Bayes-optimal
        pixelwise accuracy of every single modality and, if there are several, of all of them together.

    Raises:
        ConfigError: If the manifest has no generator, the layout or an option is unknown, or the simulator does not
            support the number of channels of a modality.
        ManifestError: If the sum of the class counts exceeds the number of pixels.
    """
    if manifest.generator is None:
        raise ConfigError(f"{manifest.id} is a real scene without a generator; use load_scene")
    scene = _cache.pop(manifest.fingerprint, None) or _simulate(manifest, manifest.generator)
    _cache[manifest.fingerprint] = scene
    if len(_cache) > _CACHED_SCENES:
        del _cache[next(iter(_cache))]
    return replace(scene, manifest=manifest)
