"""The shipped manifests are complete and agree with the literature; a wrong manifest names file, field and fix."""

from __future__ import annotations

import re
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_release import manifest_fields, official_fields, small_manifest, write_manifest
from scipy.spatial.distance import pdist

from mmrs_bench.errors import ManifestError
from mmrs_bench.paths import REPOSITORY
from mmrs_bench.scenes.catalogue import load_manifest, read_manifest
from mmrs_bench.scenes.manifest import Manifest

REAL = ("trento", "houston2013", "houston2013-original", "muufl", "augsburg", "berlin")

#: Raster, bands by modality, classes, labelled pixels, and official train and test pixels in the literature.
FACTS: dict[str, tuple[tuple[int, int], dict[str, int], int, int, tuple[int, int] | None]] = {
    "trento": ((166, 600), {"hsi": 63, "lidar": 2}, 6, 30_214, (819, 29_395)),
    "houston2013": ((349, 1905), {"hsi": 144, "lidar": 1}, 15, 15_029, (2_832, 12_197)),
    "houston2013-original": ((349, 1905), {"hsi": 144, "lidar": 1}, 15, 15_029, (2_832, 12_197)),
    "muufl": ((325, 220), {"hsi": 64, "lidar": 2}, 11, 53_687, None),
    "augsburg": ((332, 485), {"hsi": 180, "sar": 4}, 7, 78_294, (761, 77_533)),
    "berlin": ((1723, 476), {"hsi": 244, "sar": 4}, 8, 464_671, (2_820, 461_851)),
    "docs/examples/trento-lite.yaml": ((166, 600), {"hsi": 3, "lidar": 2}, 6, 30_214, (819, 29_395)),
    "docs/examples/muufl-lite.yaml": ((325, 220), {"hsi": 3, "lidar": 2}, 11, 53_687, None),
}


def load(name: str) -> Manifest:
    return load_manifest(str(REPOSITORY / name) if name.endswith(".yaml") else name)


@pytest.mark.parametrize("name", FACTS)
def test_sizes_and_counts_agree_with_the_literature(name: str) -> None:
    manifest = load(name)
    raster, bands, classes, labelled, official = FACTS[name]
    assert (manifest.height, manifest.width) == raster
    assert {m.name: m.bands for m in manifest.modalities} == bands
    assert len(manifest.classes) == classes
    assert sum(c.count or 0 for c in manifest.classes) == labelled
    split = manifest.official_split
    assert (split is None) == (official is None)
    if split is not None:
        assert (sum(split.train_counts), sum(split.test_counts)) == official
        parts = zip(split.train_counts, split.test_counts, strict=True)
        assert [a + b for a, b in parts] == [c.count for c in manifest.classes]


@pytest.mark.parametrize("name", REAL)
def test_shipped_manifest_is_complete(name: str) -> None:
    manifest = load(name)
    assert manifest.id == name
    for source in manifest.sources:
        assert source.urls, source.file
        assert all(file.sha256 for file in (source, *source.files)), source.file
    for modality in manifest.modalities:
        assert modality.sensor
        assert modality.wavelengths_nm or modality.wavelengths_note or modality.name != "hsi"
    assert re.search(r"^@\w+\{\w+,", manifest.citation)
    assert manifest.citation.count("{") == manifest.citation.count("}")
    assert all((manifest.notes, manifest.variants))


def test_only_houston_has_published_wavelengths() -> None:
    known = {name: load(name).modalities[0].wavelengths_nm for name in REAL if load(name).modalities[0].wavelengths_nm}
    assert known.keys() == {"houston2013", "houston2013-original"}
    np.testing.assert_allclose(known["houston2013"], np.linspace(364.0, 1046.1, 144), atol=1.0)


@pytest.mark.parametrize("name", FACTS)
def test_class_colors_differ_from_each_other_and_from_white(name: str) -> None:
    """White is the colour of unlabelled pixels in maps."""
    colors = np.array([tuple(bytes.fromhex(c.color[1:])) for c in load(name).classes], dtype=int)
    assert colors.sum(axis=1).max() < 3 * 250
    assert pdist(colors, "cityblock").min() >= 60


def test_the_fingerprint_changes_with_what_can_change_a_number(tmp_path: Path) -> None:
    def fingerprint(**changes: Any) -> str:
        return small_manifest(tmp_path, **changes).fingerprint

    base = fingerprint()
    assert fingerprint(title="Other", notes="other", citation="other", terms="other", variants=["one"]) == base
    assert fingerprint(sources=[{"file": "scene.npz", "urls": ["https://example.org/scene.npz"]}]) == base
    assert fingerprint(sources=[{"file": "scene.npz", "sha256": "0" * 64}]) != base
    assert fingerprint(revision="r2") != base
    assert fingerprint(official_split=official_fields()) != base
    name = manifest_fields()["classes"][0]["name"]
    assert fingerprint(text={}) == base
    assert fingerprint(text={name: "grass"}) == fingerprint(text={name: ["grass"]}) != base
    modalities = manifest_fields()["modalities"]
    modalities[0]["rgb_bands"] = [2, 1, 0]
    assert fingerprint(modalities=modalities) != base


FINGERPRINTS = {
    "houston2013": "93eccfc801e61df3bda240cf5eedc394609ff075d23b54c03304e85383eaa2d7",
    "augsburg": "a1503231b6dbe83616f999e879ed2ba49aae43c8820e90e56b274bff4d85d868",
}


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_fingerprints_of_published_results_do_not_change(name: str) -> None:
    """One scene without ``rgb_bands`` and one with them."""
    assert load(name).fingerprint == FINGERPRINTS[name]


REMOVED = object()
ARCHIVE = {"file": "a.zip", "members": [{"path": "scene.npz"}]}

#: Path of a field, its wrong value, and the message.
BROKEN: dict[str, tuple[str, Any, str]] = {
    "no title": ("title", REMOVED, "title is missing; add it"),
    "misspelt field": ("heigth", 6, "heigth is not a known field; did you mean height.* Known fields: schema, id"),
    "name in Python": ("schema_version", 1, r"schema_version .*did you mean schema\? Known fields: schema, id"),
    "bad id": ("id", "Small Scene", "'Small Scene' is no id; use lower-case .*, for example small-scene"),
    "number as id": ("id", 2013, r'2013 is no id; .*, for example "2013"'),
    "number as revision": ("revision", 1, "revision: 1 is no revision; write r and a number, for example r1"),
    "short hash": ("sources.0.sha256", "AB12", "'AB12' is no SHA-256; give the 64 hexadecimal digits that sha256sum"),
    "text for a number": ("width", "wide", r"width: .*integer.*found 'wide'"),
    "modality twice": ("modalities.1.name", "hsi", "modality names repeat: hsi; each must be unique"),
    "no parts": ("modalities.0.parts", [], "modality 'hsi' has no parts; name the file"),
    "too few wavelengths": ("modalities.1.wavelengths_nm", [1.0], "wavelengths_nm has 1 values for 2 bands"),
    "no wavelength": ("modalities.1.wavelengths_nm", [400, float("nan")], "nan is not a finite number"),
    "colours of heights": ("modalities.1.rgb_bands", [0, 1, 1], "rgb_bands is given for lidar.*move it"),
    "colour twice": ("modalities.0.rgb_bands", [0, 1, 1], "give three different bands of 0..3"),
    "text of no class": ("text", {"Gras": ["grass"]}, "'Gras', which is no class; .*Classes: "),
    "text without names": ("text", {"grass": []}, r"text: \[\] of 'grass' is no list of names; give one or more"),
    "text with a number": ("text", {"grass": ["a", 5]}, "'grass' is no list of names"),
    "text twice": ("text", {"grass": ["a", "a"]}, "'grass' has a more than once; give each name once"),
    "text without classes": ("text", ["grass"], "is no mapping; give names by class, for example text: "),
    "one class": ("classes", manifest_fields()["classes"][:1], "classes has 1 entries.*at least 2"),
    "class ids": ("classes.1.id", 5, r"classes are numbered \[1, 5, 3\]; number them 1\.\.3 in order"),
    "class colours": ("classes.1.color", "#00FF00", "class colors repeat: #00ff00"),
    "unknown file": ("modalities.0.parts.0.file", "x.npz", r"'x\.npz' is used but no source"),
    "file twice": ("sources", [{"file": "scene.npz"}] * 2, r"files of the sources repeat: scene\.npz"),
    "no sources": ("sources", [], "give either sources .* or generator"),
    "both": ("generator", {"layout": "default"}, "give either sources .* or generator"),
    "absolute": ("sources.0.file", "/etc/passwd", "must be a relative path without"),
    "climbing": ("sources", [ARCHIVE | {"members": [{"path": "../a"}]}], "must be a relative path without"),
    "backslash": ("sources.0.file", "a\\scene.npz", "must be a relative path"),
    "address": ("sources.0.urls", ["ftp://x/y"], "'ftp://x/y' must begin with https:// or http://"),
    "other archive": ("sources", [ARCHIVE | {"file": "a.iso"}], r"'a\.iso' lists members but is no \.zip \.tar"),
    "optional image": ("sources.0.optional", True, "its source is optional; remove optional: true"),
    "official counts": ("official_split", official_fields(train_counts=[1, 2]), "train_counts has 2 values for 3"),
    "official file": ("official_split", official_fields(train={"file": "tr.npz"}), "'tr.npz' is used but no source"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_wrong_manifest_names_file_field_and_fix(tmp_path: Path, case: str) -> None:
    field, value, message = BROKEN[case]
    fields = manifest_fields()
    *parents, last = (int(step) if step.isdigit() else step for step in field.split("."))
    parent = reduce(getitem, parents, fields)
    parent[last] = value
    if value is REMOVED:
        del parent[last]
    path = write_manifest(tmp_path, fields)
    with pytest.raises(ManifestError, match=message) as error:
        read_manifest(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_hash_in_upper_case_is_accepted(tmp_path: Path) -> None:
    source = small_manifest(tmp_path, sources=[{"file": "scene.npz", "sha256": "AB" * 32}]).sources[0]
    assert source.sha256 == "ab" * 32


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    assert small_manifest(tmp_path).tag == "small-r1"
    with pytest.raises(ManifestError, match=r"height: .*; width: "):
        small_manifest(tmp_path, height=-1, width=0)
