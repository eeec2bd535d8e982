"""From the simulated landscape to its sensors: mixing, illumination, variation within classes, noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mmrs_bench.errors import ConfigError
from mmrs_bench.randomness import numpy_generator
from mmrs_bench.scenes.manifest import Modality
from mmrs_bench.scenes.simulator.landscape import Landscape
from mmrs_bench.scenes.simulator.materials import reflectance, transmission
from mmrs_bench.scenes.simulator.painter import Address, smooth_field
from mmrs_bench.scenes.simulator.profiles import Profile
from mmrs_bench.scenes.simulator.sensors import GaussianSensor, Pixels, Sensor, Values, WishartSensor

WIDE_BANDS = 160
#: Relative amplitudes of the three spectral modes of a class: brightness, tilt, step towards its variant material. Then
#: the shares of these amplitudes that vary smoothly and by polygon, and from pixel to pixel.
AMPLITUDES = (0.1, 0.06, 0.3)
SMOOTH_SHARE, PIXEL_SHARE = 0.35, 0.7
#: Other materials in single pixels, with the standard deviation of their fractions.
CLUTTER = ("foliage", "dry soil", "dry grass", "asphalt", "red tile")
CLUTTER_SHARE = 0.07
#: Noise of a band outside the atmosphere's absorption, in reflectance.
BAND_NOISE = 0.012
#: Numbers of channels that the simulator supports for the other sensors.
CHANNELS = {"lidar": (1, 2), "dsm": (1,), "sar": (4,)}
LOOKS = 4.0
SUN_ELEVATION_DEG = 50.0
LASER_NM = 1064.0
CROSS_PHASE_RAD = 0.5
TERRAIN_M = 5.0


@dataclass(frozen=True, eq=False)
class PixelState:
    """Everything that determines the distribution of the measurements at each pixel (flat index).

    Attributes:
        profiles: Appearance of the K classes.
        classes: True class (pixels,).
        abundances: Fraction of each class in a pixel after the sensor's point spread (pixels, K).
        fields: Smooth unit-variance fields (3, pixels) that vary spectra and backscatter within classes.
        light, shadow: Illumination by terrain, about 1, and whether a pixel lies in cast shadow (pixels,).
        elevation, terrain: Height above ground, and of the ground about its mean, in m (pixels,).
    """

    profiles: list[Profile]
    classes: NDArray[np.int32]
    abundances: Values
    fields: Values
    light: Values
    shadow: NDArray[np.bool_]
    elevation: Values
    terrain: Values


def wavelengths(modality: Modality) -> NDArray[np.float64]:
    """Band centres in nm (bands,): the manifest's, else evenly from 400 to 1000 nm (2400 nm from 160 bands on)."""
    if modality.wavelengths_nm is not None:
        return np.array(modality.wavelengths_nm, dtype=np.float64)
    return np.linspace(400.0, 1000.0 if modality.bands < WIDE_BANDS else 2400.0, modality.bands)


def _abundances(classes: NDArray[np.int32], count: int) -> Values:
    exact = (classes[..., None] == np.arange(count)).astype(np.float32)
    fractions = ndimage.gaussian_filter(exact, 0.7, mode="nearest", truncate=2.5, axes=(0, 1)).reshape(-1, count)
    fractions[fractions < 0.02] = 0.0
    return np.asarray(fractions / fractions.sum(axis=1, keepdims=True))


def _shadow(landscape: Landscape, profiles: list[Profile], gsd_m: float) -> NDArray[np.bool_]:
    """Pixels (pixels,) that a higher object shades, and all pixels of shadow classes."""
    elevation = landscape.elevation
    fall = gsd_m * np.tan(np.deg2rad(SUN_ELEVATION_DEG))
    shade = np.isin(landscape.classes, [k for k, p in enumerate(profiles) if p.form == "shadow"])
    for steps in range(1, 1 + int(min(float(elevation.max()) / fall, 30.0))):
        ceiling = elevation + np.float32(steps * fall + 0.5)
        rows, columns = round(0.8 * steps), round(0.6 * steps)
        shade[rows:, columns:] |= elevation[:-rows, :-columns] > ceiling[rows:, columns:]
    return shade.reshape(-1)


def pixel_state(landscape: Landscape, profiles: list[Profile], *, gsd_m: float, address: Address) -> PixelState:
    """Compute the state of every pixel; ``address`` is the start of the address of the scene's random streams."""
    shape = landscape.classes.shape
    polygons = landscape.polygons.reshape(-1)
    offsets = numpy_generator(*address, "polygon-offset").standard_normal((3, int(polygons.max()) + 1))
    near = np.stack([smooth_field(shape, 4.0, *address, "field", i).reshape(-1) for i in range(3)])
    fields = np.sqrt(0.6) * near + np.sqrt(0.4) * offsets.astype(np.float32)[:, polygons]
    return PixelState(
        profiles=profiles,
        classes=landscape.classes.reshape(-1),
        abundances=_abundances(landscape.classes, len(profiles)),
        fields=fields.astype(np.float32),
        light=1.0 + 0.05 * smooth_field(shape, 25.0, *address, "light").reshape(-1),
        shadow=_shadow(landscape, profiles, gsd_m),
        elevation=landscape.elevation.reshape(-1),
        terrain=np.float32(TERRAIN_M) * smooth_field(shape, 30.0, *address, "terrain").reshape(-1),
    )


def _spectral_modes(profile: Profile, nm: NDArray[np.float64]) -> Values:
    """Mean spectrum and the three modes of its variation (4, bands), after the atmosphere."""
    mean, variant = reflectance(profile.material, nm), reflectance(profile.variant, nm)
    tilt = mean * (nm - nm.mean()) / max(np.ptp(nm) / 2.0, 1.0)
    modes = [a * m for a, m in zip(AMPLITUDES, (mean, tilt, variant - mean), strict=True)]
    return np.asarray(np.stack([mean, *modes]) * transmission(nm), dtype=np.float32)


def hsi_sensor(state: PixelState, nm: NDArray[np.float64], scale: float) -> GaussianSensor:
    """Imaging spectrometer with bands at ``nm``; ``scale`` is a factor on what is independent from pixel to pixel."""
    basis = np.stack([_spectral_modes(profile, nm) for profile in state.profiles])
    # Shaded pixels receive light from the sky only, which is blue.
    skylight = (0.22 + 0.28 * np.exp(-(nm - 400.0) / 250.0)).astype(np.float32)

    def mean(pixels: Pixels) -> Values:
        out = np.zeros((pixels.size, nm.size), dtype=np.float32)
        weights = np.vstack([np.ones(pixels.size, np.float32), np.float32(SMOOTH_SHARE) * state.fields[:, pixels]])
        abundances = state.abundances[pixels]
        for k, spectra in enumerate(basis):
            rows = np.flatnonzero(abundances[:, k])
            out[rows] += np.einsum("jn,jc->nc", weights[:, rows] * abundances[rows, k], spectra)
        out *= state.light[pixels, None]
        out[state.shadow[pixels]] *= skylight
        return out

    clutter = np.stack([reflectance({name: 1.0}, nm) * transmission(nm) for name in CLUTTER])
    modes = np.concatenate([PIXEL_SHARE * basis[:, 1:], CLUTTER_SHARE * (clutter[None] - basis[:, :1])], axis=1)
    modes = modes.astype(np.float32) * np.float32(scale)
    noise = scale * BAND_NOISE * (1.0 + 2.0 * (1.0 - transmission(nm)))
    groups = 2 * len(basis)
    return GaussianSensor(
        mean=mean,
        group=2 * state.classes + state.shadow,
        modes=np.stack([modes, modes * skylight], axis=1).reshape(groups, -1, nm.size),
        std=np.tile(noise.astype(np.float32), (groups, 1)),
    )


def height_sensor(state: PixelState, channels: int, scale: float, *, surface: bool) -> GaussianSensor:
    """Laser scanner, or surface model with terrain: height in m and, as second channel, intensity in percent."""
    laser = np.array([LASER_NM])
    bright = np.array([100.0 * reflectance(p.material, laser)[0] for p in state.profiles], dtype=np.float32)
    scatter = np.array([p.height.scatter for p in state.profiles])
    # Every leaf reflects a part of the pulse, so intensities of tall plants scatter too.
    spread = 3.0 + bright * (0.18 + 0.05 * np.minimum(scatter, 2.0))
    std = (scale * np.stack([scatter, spread], axis=-1))[:, :channels]
    heights = state.elevation + state.terrain if surface else state.elevation

    def mean(pixels: Pixels) -> Values:
        intensity = np.einsum("nk,k->n", state.abundances[pixels], bright)
        intensity *= 1.0 + np.float32(0.1) * state.fields[0, pixels]
        return np.stack([heights[pixels], intensity], axis=-1)[:, :channels]

    no_modes = np.zeros((len(bright), 0, channels), dtype=np.float32)
    return GaussianSensor(mean=mean, group=state.classes, modes=no_modes, std=std.astype(np.float32))


def sar_sensor(state: PixelState, scale: float) -> WishartSensor:
    """SAR: class backscatter with smooth texture, mixed at borders, with ``1 + 3 / scale**2`` looks."""
    radar = np.array([p.radar for p in state.profiles])
    vv, vh = 10.0 ** (radar[:, 0] / 10.0), 10.0 ** (radar[:, 1] / 10.0)
    cross = radar[:, 2] * np.sqrt(vv * vh)
    matrix = np.stack([vv, vh, cross * np.cos(CROSS_PHASE_RAD), cross * np.sin(CROSS_PHASE_RAD)], axis=-1)

    def covariance(pixels: Pixels) -> NDArray[np.float64]:
        mixed = np.einsum("nk,kc->nc", state.abundances[pixels].astype(np.float64), matrix)
        return np.asarray(mixed * np.exp(0.3 * state.fields[0, pixels].astype(np.float64))[:, None])

    return WishartSensor(covariance=covariance, looks=1.0 + (LOOKS - 1.0) / scale**2)


def make_sensor(state: PixelState, modality: Modality, scale: float) -> Sensor:
    """The sensor of a modality.

    Raises:
        ConfigError: If the simulator does not support the modality's number of channels.
    """
    if modality.name == "hsi":
        return hsi_sensor(state, wavelengths(modality), scale)
    if modality.bands not in CHANNELS[modality.name]:
        supported = " or ".join(map(str, CHANNELS[modality.name]))
        raise ConfigError(
            f"the simulator supports {modality.name} with {supported} channels, but the manifest has "
            f"{modality.bands}; change modalities.bands"
        )
    if modality.name == "sar":
        return sar_sensor(state, scale)
    return height_sensor(state, modality.bands, scale, surface=modality.name == "dsm")
