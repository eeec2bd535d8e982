"""From the simulated ground to its sensors: mixing, light, variation within classes, and each sensor's law."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mmrs_bench.errors import ConfigError
from mmrs_bench.randomness import numpy_generator
from mmrs_bench.scenes.manifest import Modality
from mmrs_bench.scenes.simulator.landscape import Ground
from mmrs_bench.scenes.simulator.materials import reflectance, transmission
from mmrs_bench.scenes.simulator.painter import smooth_field
from mmrs_bench.scenes.simulator.profiles import ClassProfile
from mmrs_bench.scenes.simulator.sensors import GaussianSensor, Sensor, WishartSensor

Pixels = NDArray[np.intp]
Values = NDArray[np.float32]

#: Bands without given wavelengths: visible and near infrared below so many, the whole solar range from there on.
WIDE_BANDS = 160
#: Relative amplitude of a class's spectral modes: brightness, tilt, step towards its variant material.
AMPLITUDE = (0.1, 0.06, 0.3)
#: Shares of that amplitude that vary smoothly and by polygon (known to the bound), and from pixel to pixel.
SMOOTH, WHITE = 0.35, 0.7
#: Foreign matter inside single pixels: materials, and the deviation of each one's share.
CLUTTER = ("foliage", "dry soil", "dry grass", "asphalt", "red tile")
CLUTTER_SHARE = 0.07
#: Noise of a band outside the atmosphere's absorption, in reflectance.
BAND_NOISE = 0.012
#: Channels that the simulator can give each other sensor.
CHANNELS = {"lidar": (1, 2), "dsm": (1,), "sar": (4,)}
LOOKS = 4.0
SUN_ELEVATION_DEG = 50.0
LASER_NM = 1064.0
CROSS_PHASE_RAD = 0.5
TERRAIN_M = 5.0


@dataclass(frozen=True, eq=False)
class Context:
    """Everything that sensors see of a scene, per pixel (flat index).

    Attributes:
        profiles: Appearance of the K classes.
        classes: True class (pixels,).
        abundances: Share of each class in a pixel after the sensor's point spread (pixels, K), rows summing to 1.
        fields: Smooth unit-variance fields (3, pixels) that move spectra and backscatter within classes.
        light: Illumination by terrain (pixels,), about 1.
        shadow: Whether a pixel lies in cast shadow (pixels,).
        elevation: Height above ground in m (pixels,).
        terrain: Height of the ground itself about its mean in m (pixels,); only a surface model shows it.
    """

    profiles: list[ClassProfile]
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


def _abundances(ground: Ground, classes: int) -> Values:
    shares = np.empty((ground.classes.size, classes), dtype=np.float32)
    for k in range(classes):
        spread = ndimage.gaussian_filter((ground.classes == k).astype(np.float32), 0.7, mode="nearest", truncate=2.5)
        shares[:, k] = spread.reshape(-1)
    shares[shares < 0.02] = 0.0
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def _shadow(ground: Ground, profiles: list[ClassProfile], gsd_m: float) -> NDArray[np.bool_]:
    """Pixels that something higher towards the sun shades, and the pixels of classes that are shadow by name."""
    fall = gsd_m * np.tan(np.deg2rad(SUN_ELEVATION_DEG))
    shade = np.isin(ground.classes, [k for k, p in enumerate(profiles) if p.form == "shadow"])
    for steps in range(1, 1 + int(min(float(ground.elevation.max()) / fall, 30.0))):
        ceiling = ground.elevation + np.float32(steps * fall + 0.5)
        rows, columns = round(0.8 * steps), round(0.6 * steps)
        higher = ground.elevation[: -rows or None, : -columns or None] > ceiling[rows:, columns:]
        shade[rows:, columns:] |= higher
    return shade.reshape(-1)


def build_context(
    ground: Ground, profiles: list[ClassProfile], *, gsd_m: float, address: tuple[str | int, ...]
) -> Context:
    """Mix, light and vary the ground as a sensor sees it; ``address`` names the scene's random streams."""
    shape = ground.classes.shape
    polygons = ground.polygons.reshape(-1)
    offsets = numpy_generator(*address, "polygon-offset").standard_normal((3, int(polygons.max()) + 1))
    fields = np.empty((3, polygons.size), dtype=np.float32)
    for i in range(3):
        near = smooth_field(shape, 4.0, *address, "field", i).reshape(-1)
        fields[i] = np.sqrt(0.6) * near + np.sqrt(0.4) * offsets[i].astype(np.float32)[polygons]
    light = 1.0 + 0.05 * smooth_field(shape, 25.0, *address, "light").reshape(-1)
    return Context(
        profiles=profiles,
        classes=ground.classes.reshape(-1),
        abundances=_abundances(ground, len(profiles)),
        fields=fields,
        light=light.astype(np.float32),
        shadow=_shadow(ground, profiles, gsd_m),
        elevation=ground.elevation.reshape(-1),
        terrain=np.float32(TERRAIN_M) * smooth_field(shape, 30.0, *address, "terrain").reshape(-1),
    )


def _spectral_modes(profile: ClassProfile, nm: NDArray[np.float64]) -> Values:
    """Mean spectrum and the three modes of its variation (4, bands), as the sensor sees them."""
    mean, variant = reflectance(profile.material, nm), reflectance(profile.variant, nm)
    tilt = mean * (nm - nm.mean()) / max(np.ptp(nm) / 2.0, 1.0)
    modes = [a * m for a, m in zip(AMPLITUDE, (mean, tilt, variant - mean), strict=True)]
    return np.asarray(np.stack([mean, *modes]) * transmission(nm), dtype=np.float32)


def hsi_sensor(context: Context, nm: NDArray[np.float64], scale: float) -> GaussianSensor:
    """The imaging spectrometer: linear mixing, illumination, shadow, class texture and band noise.

    Args:
        context: The scene.
        nm: Band centres in nm (bands,).
        scale: Factor on all that is independent from pixel to pixel.
    """
    basis = np.stack([_spectral_modes(profile, nm) for profile in context.profiles])
    # Shade is lit by the sky, which is blue.
    skylight = (0.22 + 0.28 * np.exp(-(nm - 400.0) / 250.0)).astype(np.float32)
    smooth = np.array([SMOOTH] * 3, dtype=np.float32)

    def centre(pixels: Pixels) -> Values:
        out = np.zeros((pixels.size, nm.size), dtype=np.float32)
        weights = np.concatenate([np.ones((1, pixels.size), np.float32), smooth[:, None] * context.fields[:, pixels]])
        abundances = context.abundances[pixels]
        for k in range(len(basis)):
            rows = np.flatnonzero(abundances[:, k])
            if rows.size:
                out[rows] += np.einsum("jn,jc->nc", weights[:, rows] * abundances[rows, k], basis[k])
        out *= context.light[pixels, None]
        shaded = context.shadow[pixels]
        out[shaded] *= skylight
        return out

    clutter = np.stack([reflectance({name: 1.0}, nm) * transmission(nm) for name in CLUTTER])
    foreign = CLUTTER_SHARE * (clutter[None] - basis[:, :1])
    texture = np.concatenate([WHITE * basis[:, 1:], foreign], axis=1).astype(np.float32) * np.float32(scale)
    noise = scale * BAND_NOISE * (1.0 + 2.0 * (1.0 - transmission(nm)))
    groups = 2 * len(basis)
    return GaussianSensor(
        centre=centre,
        group=2 * context.classes + context.shadow,
        modes=np.stack([texture, texture * skylight], axis=1).reshape(groups, -1, nm.size),
        deviation=np.tile(noise.astype(np.float32), (groups, 1)),
    )


def height_sensor(context: Context, channels: int, scale: float, *, surface: bool) -> GaussianSensor:
    """Laser scanner or surface model: height in m and, with two channels, intensity in percent.

    Args:
        context: The scene.
        channels: 1 (height) or 2 (height, intensity).
        scale: Factor on all that is independent from pixel to pixel.
        surface: Whether heights include the terrain, as in a surface model, instead of counting from the ground.
    """
    laser = np.array([LASER_NM])
    bright = np.array([100.0 * reflectance(p.material, laser)[0] for p in context.profiles], dtype=np.float32)
    scatter = np.array([p.height.scatter for p in context.profiles])
    # Leaves return part of a pulse each, so tall plants scatter in intensity too.
    spread = 3.0 + bright * (0.18 + 0.05 * np.minimum(scatter, 2.0))
    deviation = (scale * np.stack([scatter, spread], axis=-1))[:, :channels]
    heights = context.elevation + context.terrain if surface else context.elevation

    def centre(pixels: Pixels) -> Values:
        intensity = np.einsum("nk,k->n", context.abundances[pixels], bright)
        intensity *= 1.0 + np.float32(0.1) * context.fields[0, pixels]
        return np.stack([heights[pixels], intensity], axis=-1)[:, :channels]

    return GaussianSensor(
        centre=centre,
        group=context.classes,
        modes=np.zeros((len(bright), 0, channels), dtype=np.float32),
        deviation=deviation.astype(np.float32),
    )


def sar_sensor(context: Context, scale: float) -> WishartSensor:
    """The radar: class backscatter with smooth texture, mixed at borders, under ``1 + 3 / scale**2`` looks."""
    vv = 10.0 ** (np.array([p.radar.vv for p in context.profiles]) / 10.0)
    vh = 10.0 ** (np.array([p.radar.vh for p in context.profiles]) / 10.0)
    cross = np.array([p.radar.coherence for p in context.profiles]) * np.sqrt(vv * vh)
    matrix = np.stack([vv, vh, cross * np.cos(CROSS_PHASE_RAD), cross * np.sin(CROSS_PHASE_RAD)], axis=-1)

    def covariance(pixels: Pixels) -> NDArray[np.float64]:
        mixed = np.einsum("nk,kc->nc", context.abundances[pixels].astype(np.float64), matrix)
        return np.asarray(mixed * np.exp(0.3 * context.fields[0, pixels].astype(np.float64))[:, None])

    return WishartSensor(covariance=covariance, looks=1.0 + (LOOKS - 1.0) / scale**2)


def make_sensor(context: Context, modality: Modality, scale: float) -> Sensor:
    """The sensor of a manifest's modality.

    Raises:
        ConfigError: If the simulator cannot give the modality so many channels.
    """
    if modality.name == "hsi":
        return hsi_sensor(context, wavelengths(modality), scale)
    if modality.bands not in CHANNELS[modality.name]:
        offered = " or ".join(map(str, CHANNELS[modality.name]))
        raise ConfigError(
            f"the simulator offers {modality.name} with {offered} channels, the manifest asks for {modality.bands}; "
            "change modalities.bands"
        )
    if modality.name == "sar":
        return sar_sensor(context, scale)
    return height_sensor(context, modality.bands, scale, surface=modality.name == "dsm")
