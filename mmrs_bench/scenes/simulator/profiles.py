"""What a class of the simulated scene looks like to each sensor, found by keywords in its name.

The first row of `PROFILES` (at 10 m and coarser: of `COARSE_PROFILES` before it) whose pattern occurs in the class's
name is taken. Several rows share a material on purpose: those pairs can only be told apart by height, texture or
backscatter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from mmrs_bench.randomness import derive_seed
from mmrs_bench.scenes.simulator.materials import MATERIALS

Form = Literal["parcel", "lake", "blob", "network", "rectangle", "shadow"]

#: Ground sampling (m) from which classes are mixtures of many objects instead of single ones.
COARSE_GSD_M = 10.0


class Height(NamedTuple):
    """Height above ground in m.

    ``mean`` of the class; ``spread``, deviation between polygons; ``rough``, deviation of the spatially correlated
    texture (crowns, roof parts); ``scatter``, deviation of single measurements, independent from pixel to pixel;
    ``pitch``, rise of a roof per pixel towards its ridge.
    """

    mean: float = 0.0
    spread: float = 0.0
    rough: float = 0.0
    scatter: float = 0.15
    pitch: float = 0.0


class Radar(NamedTuple):
    """Mean backscatter in dB in VV and VH, and the modulus in [0, 1) of the correlation of the two."""

    vv: float = -13.0
    vh: float = -20.0
    coherence: float = 0.1


_LEVEL, _DULL = Height(), Radar()


@dataclass(frozen=True)
class ClassProfile:
    """Appearance of one class.

    Attributes:
        pattern: Regular expression that is searched in the lower-case class name.
        material: Mean material (fractions of `mmrs_bench.scenes.simulator.materials.MATERIALS`).
        variant: The material towards which single pixels and polygons vary.
        form: Shape in the map: agricultural ``parcel``, ``lake``, ``blob`` of trees, ``network`` of lines,
            ``rectangle`` along the streets, or ``shadow`` beside rectangles.
        size: Typical extent in pixels (line width, shorter side of a rectangle, correlation length of a blob).
        height: Heights in m.
        radar: Backscatter.
    """

    pattern: str
    material: Mapping[str, float]
    variant: Mapping[str, float]
    form: Form = "parcel"
    size: float = 4.0
    height: Height = _LEVEL
    radar: Radar = _DULL


_GREEN = {"foliage": 1.0}
_SPARSE = {"sparse foliage": 1.0}
_DRY = {"dry grass": 0.35, "foliage": 0.65}
_ROWS = {"foliage": 0.75, "dry soil": 0.25}
_STONE = {"concrete": 1.0}
_TAR = {"asphalt": 1.0}
_OLD_TAR = {"asphalt": 0.6, "concrete": 0.4}
_SOIL = {"dry soil": 1.0}
_COURT = {"green paint": 0.8, "concrete": 0.2}
_RED = {"red rubber": 1.0}
_TOWN = {"red tile": 0.3, "asphalt": 0.25, "concrete": 0.15, "foliage": 0.3}
_WORKS = {"concrete": 0.4, "metal": 0.2, "asphalt": 0.3, "foliage": 0.1}
_HUTS = {"foliage": 0.7, "dry soil": 0.2, "red tile": 0.1}
_MIXED = {"foliage": 0.4, "dry soil": 0.4, "asphalt": 0.2}

_TREES = ClassProfile(
    r"tree|wood|forest|\boaks?\b", _GREEN, _SPARSE, "blob", 5, Height(7, 2, 1.8, 2.5), Radar(-10, -14.5, 0.05)
)
_WATER = ClassProfile(
    r"water|lake|river|pond|\bsea\b",
    {"water": 1.0},
    {"water": 0.8, "wet soil": 0.2},
    "lake",
    14,
    radar=Radar(-19, -27, 0.3),
)

PROFILES: tuple[ClassProfile, ...] = (
    ClassProfile(r"shadow", {"asphalt": 0.6, "foliage": 0.4}, _GREEN, "shadow", 4),
    ClassProfile(r"curb", {"yellow paint": 0.7, "concrete": 0.3}, _STONE, "network", 2, Height(0.15)),
    ClassProfile(r"cloth|panel|tarp", {"blue paint": 0.8, "concrete": 0.2}, _RED, "rectangle", 5, Height(0.1)),
    ClassProfile(r"synthetic|artificial", {"artificial turf": 1.0}, {"green paint": 1.0}, "rectangle", 14),
    ClassProfile(r"stress|dry grass|stubble", _DRY, {"dry grass": 1.0}, height=Height(0.1), radar=Radar(-14)),
    ClassProfile(r"tennis", _COURT, _STONE, "rectangle", 11, radar=Radar(-16, -24)),
    ClassProfile(
        r"rail|train", {"gravel": 0.8, "metal": 0.2}, _OLD_TAR, "network", 5, Height(0.5, 0.1), Radar(-8, -18, 0.4)
    ),
    ClassProfile(r"highway|thoroughfare|motorway", _TAR, _OLD_TAR, "network", 9, Height(2, 1, 0, 0.5), Radar(-15, -24)),
    ClassProfile(r"running|track", _RED, {"red tile": 1.0}, "rectangle", 9, radar=Radar(-16, -22)),
    ClassProfile(r"park(ing)?\b", _STONE, _TAR, "rectangle", 14, Height(0.5, 0.2, 0.2, 0.8), Radar(-9, -19, 0.3)),
    ClassProfile(
        r"sidewalk|footpath|crosswalk", _STONE, {"concrete": 0.6, "dry soil": 0.4}, "network", 3, radar=Radar(-14, -23)
    ),
    ClassProfile(r"bridge", _TAR, _OLD_TAR, "network", 6, Height(5, 1, 0, 0.4), Radar(-8, -20, 0.4)),
    ClassProfile(r"road|street", _TAR, _OLD_TAR, "network", 5, radar=Radar(-16, -25)),
    ClassProfile(r"flat roof|commercial", _STONE, _TAR, "rectangle", 12, Height(4, 1, 0.2, 1), Radar(-4, -14, 0.4)),
    ClassProfile(
        r"tile|residential", {"red tile": 1.0}, _OLD_TAR, "rectangle", 8, Height(4, 1, 0.4, 1, 0.3), Radar(-5, -14, 0.4)
    ),
    ClassProfile(
        r"industr", {"metal": 0.6, "concrete": 0.4}, _TAR, "rectangle", 20, Height(8, 2, 0.3, 1), Radar(-2, -15, 0.4)
    ),
    ClassProfile(
        r"building|roof|house",
        {"red tile": 0.5, "concrete": 0.5},
        _STONE,
        "rectangle",
        10,
        Height(5, 1.5, 0.4, 1, 0.2),
        Radar(-4, -14, 0.4),
    ),
    ClassProfile(
        r"apple|orchard|fruit", _ROWS, _GREEN, height=Height(2.8, 0.4, 0.6, 0.8), radar=Radar(-11, -16), size=4
    ),
    ClassProfile(r"vine", _ROWS, _GREEN, height=Height(1.6, 0.2, 0.3, 0.6), radar=Radar(-12, -18)),
    ClassProfile(r"allotment|garden", _HUTS, _SPARSE, height=Height(1.5, 0.3, 0.8, 0.6)),
    ClassProfile(r"mixed", _MIXED, {"foliage": 0.8, "dry soil": 0.2}, height=Height(0.2)),
    _TREES,
    ClassProfile(r"meadow|grass|lawn|plant|crop|vegetation", _GREEN, _SPARSE, height=Height(0.2, 0.1)),
    ClassProfile(r"sand|beach", {"dry soil": 0.5, "sand": 0.5}, {"sand": 1.0}, radar=Radar(-15, -25)),
    ClassProfile(r"soil|dirt|earth|ground|bare", _SOIL, {"wet soil": 1.0}, radar=Radar(-14, -24)),
    _WATER,
)

COARSE_PROFILES: tuple[ClassProfile, ...] = (
    ClassProfile(
        r"residential",
        _TOWN,
        {"foliage": 0.7, "red tile": 0.3},
        height=Height(6, 1.5, 1, 2),
        radar=Radar(-6, -14, 0.2),
    ),
    ClassProfile(r"commercial", _WORKS, _TOWN, height=Height(9, 2.5, 1.5, 2), radar=Radar(-3, -12, 0.3)),
    ClassProfile(r"industr", _WORKS, _STONE, height=Height(7, 2, 1.5, 2), radar=Radar(-3, -15, 0.4)),
    ClassProfile(r"allotment", _HUTS, _GREEN, height=Height(2, 0.5, 0.5, 0.8), radar=Radar(-10, -17)),
    replace(_TREES, height=Height(12, 3, 1, 3)),
    replace(_WATER, size=6.0),
)


def _search(name: str, coarse: bool) -> ClassProfile | None:
    rows = (*COARSE_PROFILES, *PROFILES) if coarse else PROFILES
    return next((row for row in rows if re.search(row.pattern, name.lower())), None)


def _distinct(profile: ClassProfile, name: str) -> ClassProfile:
    """The profile with a quarter of another material, chosen by the name."""
    others = sorted(set(MATERIALS) - set(profile.material) - {"water"})
    other = others[derive_seed("simulated-distinct", name) % len(others)]
    mixture = {material: 0.75 * fraction for material, fraction in profile.material.items()}
    return replace(profile, material={**mixture, other: 0.25})


def class_profiles(names: Sequence[str], *, gsd_m: float = 1.0) -> list[ClassProfile]:
    """The appearance of every class of a scene, in the order of the names.

    A name without a keyword gets a material of its own, derived from the name. The second and further classes of
    one scene that fall into the same row get a quarter of another material, so that no two classes are the same.

    Args:
        names: Class names.
        gsd_m: Ground sampling distance in m; from 10 m on `COARSE_PROFILES` comes first.
    """
    profiles: list[ClassProfile] = []
    taken: set[str] = set()
    for name in names:
        found = _search(name, gsd_m >= COARSE_GSD_M)
        if found is None:
            material = f"random:{name}"
            found = ClassProfile(re.escape(name.lower()), {material: 1.0}, {material: 0.7, "dry soil": 0.3})
        elif found.pattern in taken:
            found = _distinct(found, name)
        taken.add(found.pattern)
        profiles.append(found)
    return profiles
