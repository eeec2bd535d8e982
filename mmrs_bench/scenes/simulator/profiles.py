"""Appearance of each class of the simulated scene, found by keywords in the class name.

Several rows share a material on purpose: only height, texture or backscatter can separate those classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from mmrs_bench.randomness import derive_seed
from mmrs_bench.scenes.simulator.materials import MATERIALS

Form = Literal["parcel", "lake", "blob", "network", "rectangle", "shadow"]

#: Ground sampling distance (m) from which a pixel of a class is a mixture of many objects.
COARSE_GSD_M = 10.0


class Height(NamedTuple):
    """Height above ground in m.

    ``spread``, ``rough`` and ``scatter`` are standard deviations: between polygons, of the spatially correlated texture
    (tree crowns, parts of roofs), and from pixel to pixel. ``pitch`` is the rise of a roof towards its ridge per pixel.
    """

    mean: float = 0.0
    spread: float = 0.0
    rough: float = 0.0
    scatter: float = 0.15
    pitch: float = 0.0


class Radar(NamedTuple):
    """Mean backscatter in dB in VV and VH, and the modulus in [0, 1) of their correlation."""

    vv: float = -13.0
    vh: float = -20.0
    coherence: float = 0.1


class Profile(NamedTuple):
    """Appearance of one class.

    Attributes:
        pattern: Regular expression, searched in the lower-case class name.
        material, variant: Fractions of materials: the mean, and the one towards which pixels and polygons vary.
        form: Shape in the map; a ``network`` consists of lines, a ``shadow`` lies beside rectangles.
        size: Typical extent in pixels: line width, shorter side of a rectangle, correlation length of a blob.
    """

    pattern: str
    material: Mapping[str, float]
    variant: Mapping[str, float]
    form: Form = "parcel"
    size: float = 4.0
    height: Height = Height()
    radar: Radar = Radar()


_GREEN = {"foliage": 1.0}
_SPARSE = {"sparse foliage": 1.0}
_DRY = {"dry grass": 0.35, "foliage": 0.65}
_ROWS = {"foliage": 0.75, "dry soil": 0.25}
_CONCRETE = {"concrete": 1.0}
_ASPHALT = {"asphalt": 1.0}
_WORN = {"asphalt": 0.6, "concrete": 0.4}
_RED = {"red rubber": 1.0}
_TILE = {"red tile": 1.0}
_ROOF = {"red tile": 0.5, "concrete": 0.5}
_HALL = {"metal": 0.6, "concrete": 0.4}
_PATH = {"concrete": 0.6, "dry soil": 0.4}
_TOWN = {"red tile": 0.3, "asphalt": 0.25, "concrete": 0.15, "foliage": 0.3}
_SUBURB = {"foliage": 0.7, "red tile": 0.3}
_INDUSTRY = {"concrete": 0.4, "metal": 0.2, "asphalt": 0.3, "foliage": 0.1}
_GARDEN = {"foliage": 0.7, "dry soil": 0.2, "red tile": 0.1}
_MIXED = {"foliage": 0.4, "dry soil": 0.4, "asphalt": 0.2}
_POND = {"water": 0.8, "wet soil": 0.2}

_TREE_NAMES = r"tree|wood|forest|\boaks?\b"
_TREES = Profile(_TREE_NAMES, _GREEN, _SPARSE, "blob", 5, Height(7, 2, 1.8, 2.5), Radar(-10, -14.5, 0.05))
_WATER = Profile(r"water|lake|river|pond|\bsea\b", {"water": 1.0}, _POND, "lake", 14, radar=Radar(-19, -27, 0.3))

PROFILES: tuple[Profile, ...] = (
    Profile(r"shadow", {"asphalt": 0.6, "foliage": 0.4}, _GREEN, "shadow", 4),
    Profile(r"curb", {"yellow paint": 0.7, "concrete": 0.3}, _CONCRETE, "network", 2, Height(0.15)),
    Profile(r"cloth|panel|tarp", {"blue paint": 0.8, "concrete": 0.2}, _RED, "rectangle", 5, Height(0.1)),
    Profile(r"synthetic|artificial", {"artificial turf": 1.0}, {"green paint": 1.0}, "rectangle", 14),
    Profile(r"stress|dry grass|stubble", _DRY, {"dry grass": 1.0}, height=Height(0.1), radar=Radar(-14)),
    Profile(r"tennis", {"green paint": 0.8, "concrete": 0.2}, _CONCRETE, "rectangle", 11, radar=Radar(-16, -24)),
    Profile(r"rail|train", {"gravel": 0.8, "metal": 0.2}, _WORN, "network", 5, Height(0.5, 0.1), Radar(-8, -18, 0.4)),
    Profile(r"highway|thoroughfare|motorway", _ASPHALT, _WORN, "network", 9, Height(2, 1, 0, 0.5), Radar(-15, -24)),
    Profile(r"running|track", _RED, _TILE, "rectangle", 9, radar=Radar(-16, -22)),
    Profile(r"park(ing)?\b", _CONCRETE, _ASPHALT, "rectangle", 14, Height(0.5, 0.2, 0.2, 0.8), Radar(-9, -19, 0.3)),
    Profile(r"sidewalk|footpath|crosswalk", _CONCRETE, _PATH, "network", 3, radar=Radar(-14, -23)),
    Profile(r"bridge", _ASPHALT, _WORN, "network", 6, Height(5, 1, 0, 0.4), Radar(-8, -20, 0.4)),
    Profile(r"road|street", _ASPHALT, _WORN, "network", 5, radar=Radar(-16, -25)),
    Profile(r"flat roof|commercial", _CONCRETE, _ASPHALT, "rectangle", 12, Height(4, 1, 0.2, 1), Radar(-4, -14, 0.4)),
    Profile(r"tile|residential", _TILE, _WORN, "rectangle", 8, Height(4, 1, 0.4, 1, 0.3), Radar(-5, -14, 0.4)),
    Profile(r"industr", _HALL, _ASPHALT, "rectangle", 20, Height(8, 2, 0.3, 1), Radar(-2, -15, 0.4)),
    Profile(
        r"building|roof|house", _ROOF, _CONCRETE, "rectangle", 10, Height(5, 1.5, 0.4, 1, 0.2), Radar(-4, -14, 0.4)
    ),
    Profile(r"apple|orchard|fruit", _ROWS, _GREEN, height=Height(2.8, 0.4, 0.6, 0.8), radar=Radar(-11, -16)),
    Profile(r"vine", _ROWS, _GREEN, height=Height(1.6, 0.2, 0.3, 0.6), radar=Radar(-12, -18)),
    Profile(r"allotment|garden", _GARDEN, _SPARSE, height=Height(1.5, 0.3, 0.8, 0.6)),
    Profile(r"mixed", _MIXED, {"foliage": 0.8, "dry soil": 0.2}, height=Height(0.2)),
    _TREES,
    Profile(r"meadow|grass|lawn|plant|crop|vegetation", _GREEN, _SPARSE, height=Height(0.2, 0.1)),
    Profile(r"sand|beach", {"dry soil": 0.5, "sand": 0.5}, {"sand": 1.0}, radar=Radar(-15, -25)),
    Profile(r"soil|dirt|earth|ground|bare", {"dry soil": 1.0}, {"wet soil": 1.0}, radar=Radar(-14, -24)),
    _WATER,
)

COARSE_PROFILES: tuple[Profile, ...] = (
    Profile(r"residential", _TOWN, _SUBURB, height=Height(6, 1.5, 1, 2), radar=Radar(-6, -14, 0.2)),
    Profile(r"commercial", _INDUSTRY, _TOWN, height=Height(9, 2.5, 1.5, 2), radar=Radar(-3, -12, 0.3)),
    Profile(r"industr", _INDUSTRY, _CONCRETE, height=Height(7, 2, 1.5, 2), radar=Radar(-3, -15, 0.4)),
    Profile(r"allotment", _GARDEN, _GREEN, height=Height(2, 0.5, 0.5, 0.8), radar=Radar(-10, -17)),
    _TREES._replace(height=Height(12, 3, 1, 3)),
    _WATER._replace(size=6.0),
)


def class_profiles(names: Sequence[str], *, gsd_m: float = 1.0) -> list[Profile]:
    """The appearance of every class of a scene.

    The first row whose pattern occurs in the name applies; a name without one gets a random material that depends on
    the name. If several classes match one row, each class after the first gets a quarter of another material. From a
    ground sampling distance of 10 m on, `COARSE_PROFILES` come before `PROFILES`.
    """
    rows = (*COARSE_PROFILES, *PROFILES) if gsd_m >= COARSE_GSD_M else PROFILES
    profiles: list[Profile] = []
    for name in names:
        found = next((row for row in rows if re.search(row.pattern, name.lower())), None)
        if found is None:
            material = f"random:{name}"
            found = Profile(re.escape(name.lower()), {material: 1.0}, {material: 0.7, "dry soil": 0.3})
        elif any(found.pattern == profile.pattern for profile in profiles):
            others = sorted(set(MATERIALS) - set(found.material) - {"water"})
            other = others[derive_seed("simulated-distinct", name) % len(others)]
            mixture = {material: 0.75 * fraction for material, fraction in found.material.items()}
            found = found._replace(material={**mixture, other: 0.25})
        profiles.append(found)
    return profiles
