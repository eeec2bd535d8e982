"""Reflectance of surface materials as functions of wavelength, for the simulated scene.

Parametric curves, not measurements: continua (`_line`, `_rise`) with Gaussian absorption features
(`_absorb`) and, for plants, the red edge. All take wavelengths in nm (bands,) and return reflectance in [0, 1] as
float64 (bands,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.randomness import numpy_generator

Spectrum = NDArray[np.float64]

#: Centres (nm), widths (nm) and relative strengths of liquid water's absorption features.
LIQUID_WATER = ((970.0, 25.0, 0.12), (1200.0, 40.0, 0.25), (1450.0, 60.0, 0.8), (1940.0, 90.0, 1.0))

#: Centres (nm), widths (nm) and depths of the atmosphere's bands: oxygen A and water vapour.
ATMOSPHERE = ((761.0, 6.0, 0.5), (940.0, 16.0, 0.4), (1130.0, 25.0, 0.45), (1380.0, 55.0, 0.95), (1880.0, 70.0, 0.97))


def _bell(nm: Spectrum, centre: float, width: float) -> Spectrum:
    return np.exp(-0.5 * ((nm - centre) / width) ** 2)


def _line(nm: Spectrum, *points: tuple[float, float]) -> Spectrum:
    """A continuum through (wavelength, reflectance) points: straight lines between them, level outside."""
    return np.interp(nm, [p[0] for p in points], [p[1] for p in points])


def _rise(nm: Spectrum, edge: float, width: float) -> Spectrum:
    return np.asarray(1.0 / (1.0 + np.exp(-(nm - edge) / width)))


def _absorb(spectrum: Spectrum, nm: Spectrum, *features: tuple[float, float, float]) -> Spectrum:
    for centre, width, depth in features:
        spectrum = spectrum * (1.0 - depth * _bell(nm, centre, width))
    return spectrum


def _plant(nm: Spectrum, *, green: float, plateau: float, edge: float, moisture: float, red: float) -> Spectrum:
    """Leaves: chlorophyll absorption with a green peak, red edge, near-infrared plateau, liquid water."""
    visible = 0.03 + green * _bell(nm, 552.0, 34.0) + red * _rise(nm, 600.0, 18.0)
    infrared = plateau * _line(nm, (700.0, 0.94), (900.0, 1.0), (1300.0, 0.95), (1600.0, 0.7), (2400.0, 0.42))
    leaf = visible + (infrared - visible) * _rise(nm, edge, 13.0)
    return _absorb(leaf, nm, *((c, w, d * moisture) for c, w, d in LIQUID_WATER))


def _foliage(nm: Spectrum) -> Spectrum:
    return _plant(nm, green=0.065, plateau=0.46, edge=716.0, moisture=0.85, red=0.0)


def _sparse_foliage(nm: Spectrum) -> Spectrum:
    return _plant(nm, green=0.085, plateau=0.36, edge=708.0, moisture=0.6, red=0.035)


def _dry_grass(nm: Spectrum) -> Spectrum:
    straw = _line(nm, (400.0, 0.06), (550.0, 0.13), (680.0, 0.2), (800.0, 0.3), (1300.0, 0.42), (2400.0, 0.3))
    return _absorb(straw, nm, (1450.0, 50.0, 0.2), (1940.0, 70.0, 0.3), (2100.0, 60.0, 0.15), (678.0, 18.0, 0.12))


def _dry_soil(nm: Spectrum) -> Spectrum:
    base = _line(nm, (400.0, 0.07), (550.0, 0.14), (700.0, 0.22), (1000.0, 0.31), (1700.0, 0.4), (2400.0, 0.37))
    return _absorb(base, nm, (900.0, 70.0, 0.05), (1410.0, 35.0, 0.1), (1930.0, 50.0, 0.18), (2205.0, 35.0, 0.15))


def _wet_soil(nm: Spectrum) -> Spectrum:
    return _absorb(0.55 * _dry_soil(nm), nm, *((c, w, 0.7 * d) for c, w, d in LIQUID_WATER))


def _sand(nm: Spectrum) -> Spectrum:
    base = _line(nm, (400.0, 0.16), (550.0, 0.3), (700.0, 0.38), (1000.0, 0.46), (1700.0, 0.54), (2400.0, 0.5))
    return _absorb(base, nm, (1410.0, 30.0, 0.06), (1930.0, 45.0, 0.12), (2205.0, 35.0, 0.06))


def _water(nm: Spectrum) -> Spectrum:
    return 0.004 + 0.055 * _bell(nm, 520.0, 90.0) * (1.0 - 0.9 * _rise(nm, 700.0, 25.0))


def _asphalt(nm: Spectrum) -> Spectrum:
    base = _line(nm, (400.0, 0.085), (550.0, 0.11), (800.0, 0.135), (1300.0, 0.165), (2400.0, 0.18))
    return _absorb(base, nm, (1730.0, 30.0, 0.03), (2310.0, 40.0, 0.08))


def _concrete(nm: Spectrum) -> Spectrum:
    base = _line(nm, (400.0, 0.16), (500.0, 0.22), (600.0, 0.27), (1000.0, 0.33), (1700.0, 0.38), (2400.0, 0.34))
    return _absorb(base, nm, (1440.0, 40.0, 0.08), (1935.0, 55.0, 0.2), (2340.0, 40.0, 0.12))


def _red_tile(nm: Spectrum) -> Spectrum:
    base = 0.06 + 0.2 * _rise(nm, 585.0, 22.0) + _line(nm, (400.0, 0.0), (1000.0, 0.1), (1700.0, 0.2), (2400.0, 0.18))
    return _absorb(base, nm, (870.0, 60.0, 0.12), (1930.0, 50.0, 0.1), (2205.0, 35.0, 0.08))


def _metal(nm: Spectrum) -> Spectrum:
    base = _line(nm, (400.0, 0.3), (700.0, 0.36), (1000.0, 0.33), (1700.0, 0.38), (2400.0, 0.3))
    return _absorb(base, nm, (1020.0, 60.0, 0.12))


def _gravel(nm: Spectrum) -> Spectrum:
    return _line(nm, (400.0, 0.1), (600.0, 0.15), (1000.0, 0.19), (1700.0, 0.22), (2400.0, 0.2))


def _turf(nm: Spectrum) -> Spectrum:
    base = 0.04 + 0.07 * _bell(nm, 525.0, 30.0) + 0.3 * _rise(nm, 760.0, 25.0) * _line(nm, (800.0, 1.0), (2400.0, 0.6))
    return _absorb(base, nm, (1210.0, 25.0, 0.15), (1730.0, 30.0, 0.3), (2310.0, 40.0, 0.35))


def _paint(nm: Spectrum, *bells: tuple[float, float, float], infrared: float) -> Spectrum:
    colour = sum((height * _bell(nm, centre, width) for centre, width, height in bells), np.full(nm.shape, 0.05))
    coat = colour + infrared * _rise(nm, 780.0, 40.0) * _line(nm, (800.0, 1.0), (1600.0, 0.85), (2400.0, 0.5))
    return _absorb(coat, nm, (1730.0, 25.0, 0.2), (2310.0, 40.0, 0.3))


def _green_paint(nm: Spectrum) -> Spectrum:
    return _paint(nm, (530.0, 40.0, 0.1), infrared=0.2)


def _blue_paint(nm: Spectrum) -> Spectrum:
    return _paint(nm, (460.0, 45.0, 0.22), infrared=0.35)


def _red_rubber(nm: Spectrum) -> Spectrum:
    return _paint(nm, (680.0, 70.0, 0.25), infrared=0.28)


def _yellow_paint(nm: Spectrum) -> Spectrum:
    edge = 0.07 + 0.36 * _rise(nm, 515.0, 16.0) + _line(nm, (600.0, 0.0), (1000.0, 0.08), (2400.0, 0.0))
    return _absorb(edge, nm, (1730.0, 25.0, 0.1), (2310.0, 40.0, 0.2))


MATERIALS: Mapping[str, Callable[[Spectrum], Spectrum]] = {
    "foliage": _foliage,
    "sparse foliage": _sparse_foliage,
    "dry grass": _dry_grass,
    "dry soil": _dry_soil,
    "wet soil": _wet_soil,
    "sand": _sand,
    "water": _water,
    "asphalt": _asphalt,
    "concrete": _concrete,
    "red tile": _red_tile,
    "metal": _metal,
    "gravel": _gravel,
    "artificial turf": _turf,
    "green paint": _green_paint,
    "blue paint": _blue_paint,
    "yellow paint": _yellow_paint,
    "red rubber": _red_rubber,
}


def random_material(name: str, nm: Spectrum) -> Spectrum:
    """A smooth spectrum for a name without a known material: the same for a name always, another for each name."""
    draw = numpy_generator("simulated-material", name)
    base = draw.uniform(0.1, 0.3) + draw.uniform(-0.05, 0.1) * (nm - 1000.0) / 1000.0
    for centre in draw.uniform(420.0, 2300.0, size=6):
        base = base + draw.uniform(-0.08, 0.2) * _bell(nm, float(centre), float(draw.uniform(40.0, 160.0)))
    return np.clip(base, 0.02, 0.8)


def reflectance(mixture: Mapping[str, float], nm: Spectrum) -> Spectrum:
    """Reflectance (bands,) of a linear mixture of materials.

    Args:
        mixture: Fractions by material name, summing to 1; ``"random:NAME"`` names a `random_material`.
        nm: Wavelengths in nm (bands,).

    Raises:
        ConfigError: If a material is unknown or the fractions do not sum to 1.
    """
    if abs(sum(mixture.values()) - 1.0) > 1e-9:
        raise ConfigError(f"material fractions {dict(mixture)} sum to {sum(mixture.values())}; make them sum to 1")
    total = np.zeros(nm.shape)
    for name, fraction in mixture.items():
        if name.startswith("random:"):
            total += fraction * random_material(name.removeprefix("random:"), nm)
        elif name in MATERIALS:
            total += fraction * MATERIALS[name](nm)
        else:
            raise unknown_name("material", name, MATERIALS)
    return total


def transmission(nm: Spectrum) -> Spectrum:
    """Share of the signal (bands,), in (0, 1], that the atmosphere's absorption bands leave."""
    return _absorb(np.ones(nm.shape), nm, *ATMOSPHERE)
