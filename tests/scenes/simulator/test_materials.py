"""Material spectra and the appearance of classes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from mmrs_bench.errors import ConfigError
from mmrs_bench.scenes.catalogue import load_manifest, shipped_names
from mmrs_bench.scenes.simulator.materials import MATERIALS, random_material, reflectance, transmission
from mmrs_bench.scenes.simulator.profiles import class_profiles

NM = np.linspace(400.0, 2400.0, 201)
SIMULATED = [name for name in shipped_names() if name.startswith("sim")]


@pytest.mark.parametrize("name", MATERIALS)
def test_reflectance_is_between_0_and_1(name: str) -> None:
    spectrum = reflectance({name: 1.0}, NM)
    assert spectrum.shape == NM.shape
    assert spectrum.min() >= 0.0
    assert spectrum.max() <= 0.8


@pytest.mark.parametrize(
    ("material", "measured"),
    [
        ("foliage", "LiveOakLeaves"),
        ("sparse foliage", "GrassByBuilding"),
        ("dry soil", "Dirt"),
        ("sand", "BeachSand"),
        ("asphalt", "Asphalt"),
        ("concrete", "Sidewalk"),
        ("dry grass", "DriedLeaves"),
        ("yellow paint", "YellowCurb"),
    ],
)
def test_spectra_resemble_field_measurements(shared_data: Path, material: str, measured: str) -> None:
    path = shared_data / "muufl" / "field_spectra.csv"
    if not path.is_file():
        pytest.skip("the measured field spectra are absent")
    head, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    nm = np.array([float(column.removesuffix("nm")) for column in head[3:]])
    inside = (nm >= 400) & (nm <= 1000)
    spectrum = next(np.array(row[3:], dtype=float) for row in rows if row[0] == measured and row[2] == "mean")
    simulated = reflectance({material: 1.0}, nm[inside])
    assert np.corrcoef(simulated, spectrum[inside])[0, 1] > 0.9
    # The test can fail: the spectrum of water does not correlate.
    assert np.corrcoef(reflectance({"water": 1.0}, nm[inside]), spectrum[inside])[0, 1] < 0.0


def test_foliage_and_atmosphere_have_their_absorption_bands() -> None:
    green, red, infrared, water, shoulder = MATERIALS["foliage"](np.array([552.0, 670.0, 860.0, 1450.0, 1270.0]))
    assert green > 1.5 * red
    assert infrared > 8 * red
    assert water < 0.5 * shoulder
    through = transmission(np.array([550.0, 1650.0, 761.0, 1380.0, 1880.0]))
    np.testing.assert_allclose(through[:2], 1, atol=0.02)
    assert (through[2:] < [0.6, 0.1, 0.1]).all()


def test_mixtures_are_linear_and_validated() -> None:
    half = reflectance({"sand": 0.5, "water": 0.5}, NM)
    assert half == pytest.approx((MATERIALS["sand"](NM) + MATERIALS["water"](NM)) / 2)
    with pytest.raises(ConfigError, match="sum to"):
        reflectance({"sand": 0.5}, NM)
    with pytest.raises(ConfigError, match="did you mean sand"):
        reflectance({"sandd": 1.0}, NM)


@pytest.mark.parametrize("dataset", SIMULATED)
def test_every_class_of_the_shipped_scenes_has_a_distinct_known_appearance(dataset: str) -> None:
    manifest = load_manifest(dataset)
    profiles = class_profiles(manifest.class_names, gsd_m=manifest.gsd_m or 1.0)
    for name, profile in zip(manifest.class_names, profiles, strict=True):
        assert not any(material.startswith("random:") for material in profile.material), name
    appearances = {(str(p.material), str(p.variant), p.height, p.radar) for p in profiles}
    assert len(appearances) == len(profiles)


@pytest.mark.parametrize(
    ("name", "material", "form"),
    [
        ("Synthetic grass", "artificial turf", "rectangle"),
        ("Woods", "foliage", "blob"),
        ("Building shadow", "asphalt", "shadow"),
        ("Railway", "gravel", "network"),
        ("Dirt & sand", "sand", "parcel"),
        ("Water", "water", "lake"),
    ],
)
def test_keywords_in_class_names_select_the_profile(name: str, material: str, form: str) -> None:
    (profile,) = class_profiles([name])
    assert material in profile.material
    assert profile.form == form


def test_coarse_scenes_have_mixed_residential_areas() -> None:
    fine, coarse = (class_profiles(["Residential"], gsd_m=gsd)[0] for gsd in (1.0, 30.0))
    assert (fine.form, coarse.form) == ("rectangle", "parcel")
    assert len(coarse.material) > len(fine.material)


def test_complementary_pairs_share_spectra_or_height() -> None:
    manifest = load_manifest("simulated")
    profiles = dict(zip(manifest.class_names, class_profiles(manifest.class_names), strict=True))
    for low, high in (("Meadow", "Woodland"), ("Parking lot", "Flat roof")):
        assert profiles[low].material == profiles[high].material
        assert profiles[low].variant == profiles[high].variant
        assert profiles[high].height.mean - profiles[low].height.mean > 3
    assert profiles["Road"].height == profiles["Bare soil"].height == profiles["Water"].height


def test_repeated_and_unknown_names_get_distinct_reproducible_materials() -> None:
    first, second, odd, other = class_profiles(["Parking lot 1", "Parking lot 2", "Xyzzy", "Plugh"])
    assert first.material != second.material
    assert sum(second.material.values()) == pytest.approx(1.0)
    assert odd.material == {"random:Xyzzy": 1.0}
    assert np.abs(reflectance(odd.material, NM) - reflectance(other.material, NM)).max() > 0.02
    assert np.array_equal(random_material("Xyzzy", NM), random_material("Xyzzy", NM))
