"""Reflectance spectra (bands,) of surface materials at wavelengths in nm (bands,).

Parametric curves, not measurements: a continuum with Gaussian absorption features and, for plants, the red edge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.randomness import numpy_generator

Spectrum = NDArray[np.float64]
Feature = tuple[float, float, float]

#: Centres (nm), widths (nm) and relative depths of the absorption by liquid water.
LIQUID_WATER = ((970, 25, 0.12), (1200, 40, 0.25), (1450, 60, 0.8), (1940, 90, 1))

#: Centres (nm), widths (nm) and depths of the absorption by the atmosphere: oxygen A and water vapour.
ATMOSPHERE = ((761, 6, 0.5), (940, 16, 0.4), (1130, 25, 0.45), (1380, 55, 0.95), (1880, 70, 0.97))


def _gaussian(nm: Spectrum, centre: float, width: float) -> Spectrum:
    return np.exp(-0.5 * ((nm - centre) / width) ** 2)


def _line(nm: Spectrum, *points: tuple[float, float]) -> Spectrum:
    return np.interp(nm, [p[0] for p in points], [p[1] for p in points])


def _step(nm: Spectrum, edge: float, width: float) -> Spectrum:
    return np.asarray(1.0 / (1.0 + np.exp(-(nm - edge) / width)))


def _absorb(spectrum: Spectrum, nm: Spectrum, *features: Feature) -> Spectrum:
    for centre, width, depth in features:
        spectrum = spectrum * (1.0 - depth * _gaussian(nm, centre, width))
    return spectrum


def _absorb_water(spectrum: Spectrum, nm: Spectrum, moisture: float) -> Spectrum:
    return _absorb(spectrum, nm, *((centre, width, depth * moisture) for centre, width, depth in LIQUID_WATER))


def _plant(nm: Spectrum, *, green: float, plateau: float, edge: float, moisture: float, red: float) -> Spectrum:
    """Leaves: chlorophyll absorption with a green peak, red edge, near-infrared plateau, liquid water."""
    visible = 0.03 + green * _gaussian(nm, 552, 34) + red * _step(nm, 600, 18)
    infrared = plateau * _line(nm, (700, 0.94), (900, 1), (1300, 0.95), (1600, 0.7), (2400, 0.42))
    return _absorb_water(visible + (infrared - visible) * _step(nm, edge, 13), nm, moisture)


def _dry_grass(nm: Spectrum) -> Spectrum:
    straw = _line(nm, (400, 0.06), (550, 0.13), (680, 0.2), (800, 0.3), (1300, 0.42), (2400, 0.3))
    return _absorb(straw, nm, (1450, 50, 0.2), (1940, 70, 0.3), (2100, 60, 0.15), (678, 18, 0.12))


def _dry_soil(nm: Spectrum) -> Spectrum:
    base = _line(nm, (400, 0.07), (550, 0.14), (700, 0.22), (1000, 0.31), (1700, 0.4), (2400, 0.37))
    return _absorb(base, nm, (900, 70, 0.05), (1410, 35, 0.1), (1930, 50, 0.18), (2205, 35, 0.15))


def _sand(nm: Spectrum) -> Spectrum:
    base = _line(nm, (400, 0.16), (550, 0.3), (700, 0.38), (1000, 0.46), (1700, 0.54), (2400, 0.5))
    return _absorb(base, nm, (1410, 30, 0.06), (1930, 45, 0.12), (2205, 35, 0.06))


def _water(nm: Spectrum) -> Spectrum:
    return 0.004 + 0.055 * _gaussian(nm, 520, 90) * (1.0 - 0.9 * _step(nm, 700, 25))


def _asphalt(nm: Spectrum) -> Spectrum:
    base = _line(nm, (400, 0.085), (550, 0.11), (800, 0.135), (1300, 0.165), (2400, 0.18))
    return _absorb(base, nm, (1730, 30, 0.03), (2310, 40, 0.08))


def _concrete(nm: Spectrum) -> Spectrum:
    base = _line(nm, (400, 0.16), (500, 0.22), (600, 0.27), (1000, 0.33), (1700, 0.38), (2400, 0.34))
    return _absorb(base, nm, (1440, 40, 0.08), (1935, 55, 0.2), (2340, 40, 0.12))


def _red_tile(nm: Spectrum) -> Spectrum:
    base = 0.06 + 0.2 * _step(nm, 585, 22) + _line(nm, (400, 0), (1000, 0.1), (1700, 0.2), (2400, 0.18))
    return _absorb(base, nm, (870, 60, 0.12), (1930, 50, 0.1), (2205, 35, 0.08))


def _metal(nm: Spectrum) -> Spectrum:
    base = _line(nm, (400, 0.3), (700, 0.36), (1000, 0.33), (1700, 0.38), (2400, 0.3))
    return _absorb(base, nm, (1020, 60, 0.12))


def _turf(nm: Spectrum) -> Spectrum:
    base = 0.04 + 0.07 * _gaussian(nm, 525, 30) + 0.3 * _step(nm, 760, 25) * _line(nm, (800, 1), (2400, 0.6))
    return _absorb(base, nm, (1210, 25, 0.15), (1730, 30, 0.3), (2310, 40, 0.35))


def _paint(nm: Spectrum, *, colour: Feature, infrared: float) -> Spectrum:
    """Paint or rubber: a Gaussian reflectance peak (centre, width, height) as its colour, bright in the infrared."""
    centre, width, height = colour
    coat = 0.05 + height * _gaussian(nm, centre, width)
    coat = coat + infrared * _step(nm, 780, 40) * _line(nm, (800, 1), (1600, 0.85), (2400, 0.5))
    return _absorb(coat, nm, (1730, 25, 0.2), (2310, 40, 0.3))


def _yellow_paint(nm: Spectrum) -> Spectrum:
    edge = 0.07 + 0.36 * _step(nm, 515, 16) + _line(nm, (600, 0), (1000, 0.08), (2400, 0))
    return _absorb(edge, nm, (1730, 25, 0.1), (2310, 40, 0.2))


#: Reflectance as a function of wavelength, by name of the material.
MATERIALS: Mapping[str, Callable[[Spectrum], Spectrum]] = {
    "foliage": partial(_plant, green=0.065, plateau=0.46, edge=716, moisture=0.85, red=0),
    "sparse foliage": partial(_plant, green=0.085, plateau=0.36, edge=708, moisture=0.6, red=0.035),
    "dry grass": _dry_grass,
    "dry soil": _dry_soil,
    "wet soil": lambda nm: _absorb_water(0.55 * _dry_soil(nm), nm, 0.7),
    "sand": _sand,
    "water": _water,
    "asphalt": _asphalt,
    "concrete": _concrete,
    "red tile": _red_tile,
    "metal": _metal,
    "gravel": lambda nm: _line(nm, (400, 0.1), (600, 0.15), (1000, 0.19), (1700, 0.22), (2400, 0.2)),
    "artificial turf": _turf,
    "green paint": partial(_paint, colour=(530, 40, 0.1), infrared=0.2),
    "blue paint": partial(_paint, colour=(460, 45, 0.22), infrared=0.35),
    "yellow paint": _yellow_paint,
    "red rubber": partial(_paint, colour=(680, 70, 0.25), infrared=0.28),
}


def random_material(name: str, nm: Spectrum) -> Spectrum:
    """A smooth random spectrum (bands,) that depends only on the name, for classes without a known material."""
    rng = numpy_generator("simulated-material", name)
    base = rng.uniform(0.1, 0.3) + rng.uniform(-0.05, 0.1) * (nm - 1000.0) / 1000.0
    for centre in rng.uniform(420.0, 2300.0, size=6):
        base = base + rng.uniform(-0.08, 0.2) * _gaussian(nm, float(centre), float(rng.uniform(40.0, 160.0)))
    return np.clip(base, 0.02, 0.8)


def reflectance(mixture: Mapping[str, float], nm: Spectrum) -> Spectrum:
    """Reflectance (bands,) of a linear mixture: fractions by material; ``"random:NAME"`` is a `random_material`.

    Raises:
        ConfigError: If a material is unknown or the sum of the fractions is not 1.
    """
    if abs(sum(mixture.values()) - 1.0) > 1e-9:
        raise ConfigError(f"material fractions {dict(mixture)} sum to {sum(mixture.values())}; make them sum to 1")
    total = np.zeros(nm.shape)
    for name, fraction in mixture.items():
        if name not in MATERIALS and not name.startswith("random:"):
            raise unknown_name("material", name, MATERIALS)
        curve = MATERIALS.get(name) or partial(random_material, name.removeprefix("random:"))
        total += fraction * curve(nm)
    return total


def transmission(nm: Spectrum) -> Spectrum:
    """Transmission of the atmosphere (bands,), in (0, 1]."""
    return _absorb(np.ones(nm.shape), nm, *ATMOSPHERE)
