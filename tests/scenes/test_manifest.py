"""Manifests: the shipped ones are complete and say what the field knows; broken ones name file, field and fix."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers.small_release import manifest_fields, official_fields, write_manifest

from mmrs_bench.errors import ConfigError, ManifestError
from mmrs_bench.paths import REPOSITORY
from mmrs_bench.scenes import catalogue
from mmrs_bench.scenes import manifest as manifest_module
from mmrs_bench.scenes.catalogue import load_manifest, read_manifest, shipped_names
from mmrs_bench.scenes.manifest import Manifest

REAL = ("trento", "houston2013", "houston2013-original", "muufl", "augsburg", "berlin")
EXAMPLES = ("docs/examples/trento-lite.yaml", "docs/examples/muufl-lite.yaml")

#: Raster, bands by modality, classes, labelled pixels, and official train and test pixels as the literature has them.
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
def test_sizes_and_counts_are_those_of_the_literature(name: str) -> None:
    manifest = load(name)
    raster, bands, classes, labelled, official = FACTS[name]
    assert (manifest.height, manifest.width) == raster
    assert {m.name: m.bands for m in manifest.modalities} == bands
    assert len(manifest.classes) == classes
    assert sum(c.count or 0 for c in manifest.classes) == labelled
    split = manifest.official_split
    assert (None if split is None else (sum(split.train_counts or ()), sum(split.test_counts or ()))) == official


@pytest.mark.parametrize("name", FACTS)
def test_official_parts_make_up_the_classes(name: str) -> None:
    manifest = load(name)
    if manifest.official_split is None:
        return
    train, test = manifest.official_split.train_counts, manifest.official_split.test_counts
    assert train is not None
    assert test is not None
    assert [a + b for a, b in zip(train, test, strict=True)] == [c.count for c in manifest.classes]


@pytest.mark.parametrize("name", REAL)
def test_shipped_manifest_is_complete(name: str) -> None:
    manifest = load(name)
    assert manifest.id == name
    for source in manifest.sources:
        assert source.sha256, source.file
        assert source.urls, source.file
        assert all(member.sha256 for member in source.files)
    for modality in manifest.modalities:
        assert modality.sensor
        assert modality.wavelengths_nm or modality.wavelengths_note or modality.name != "hsi"
    assert re.search(r"^@\w+\{\w+,", manifest.citation)
    assert manifest.citation.count("{") == manifest.citation.count("}")
    assert manifest.notes
    assert manifest.variants


def test_wavelengths_only_where_they_are_known() -> None:
    known = {name for name in REAL if load(name).modalities[0].wavelengths_nm}
    assert known == {"houston2013", "houston2013-original"}
    centres = load("houston2013").modalities[0].wavelengths_nm
    assert centres is not None
    assert (centres[0], centres[-1]) == (364.0, 1046.1)
    assert all(4.5 < b - a < 5.0 for a, b in pairwise(centres))


@pytest.mark.parametrize("name", FACTS)
def test_colors_can_be_told_apart(name: str) -> None:
    colors = [[int(c.color[i : i + 2], 16) for i in (1, 3, 5)] for c in load(name).classes]
    for i, one in enumerate(colors):
        assert sum(one) < 3 * 250, "near white, which maps use for unlabelled"
        for other in colors[:i]:
            assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) >= 60, (one, other)


@pytest.mark.parametrize("name", EXAMPLES)
def test_lite_scenes_say_that_their_hsi_is_reduced(name: str) -> None:
    manifest = load(name)
    assert "reduced HSI" in manifest.title
    assert "reduced HSI" in manifest.notes
    assert manifest.sources[0].urls == ()
    assert manifest.sources[0].manual


def test_names_and_twins() -> None:
    names = shipped_names()
    assert set(REAL) <= set(names)
    assert {f"sim-{name}" for name in REAL if "-" not in name} <= set(names)
    assert "sim-houston2013-original" not in names
    for name in REAL:
        if "-" not in name:
            twin, real = load_manifest(f"sim-{name}"), load_manifest(name)
            assert twin.simulated
            assert not real.simulated
            assert (twin.height, twin.width, twin.classes) == (real.height, real.width, real.classes)
            assert twin.fingerprint != real.fingerprint
    with pytest.raises(ConfigError, match="did you mean trento"):
        load_manifest("trentoo")
    with pytest.raises(ManifestError, match="cannot be read"):
        load_manifest("nowhere/scene.yaml")


def test_fingerprint_follows_what_changes_numbers(tmp_path: Path) -> None:
    def fingerprint(**changes: Any) -> str:
        return read_manifest(write_manifest(tmp_path, manifest_fields(**changes))).fingerprint

    base = fingerprint()
    assert fingerprint(title="Other", notes="other", citation="other", terms="other", variants=["one"]) == base
    assert fingerprint(sources=[{"file": "scene.npz", "urls": ["https://example.org/scene.npz"]}]) == base
    assert fingerprint(sources=[{"file": "scene.npz", "sha256": "0" * 64}]) != base
    assert fingerprint(revision="r2") != base
    assert fingerprint(official_split=official_fields()) != base
    modalities = manifest_fields()["modalities"]
    modalities[0]["rgb_bands"] = [2, 1, 0]
    assert fingerprint(modalities=modalities) != base


def test_a_scene_without_rgb_bands_is_hashed_as_before_there_were_any(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[dict[str, Any]] = []
    monkeypatch.setattr(manifest_module, "content_hash", lambda fields: hashed.append(fields) or "hash")
    assert read_manifest(catalogue.MANIFEST_DIR / "houston2013.yaml").fingerprint == "hash"
    (fields,) = hashed
    assert [set(modality) for modality in fields["modalities"]] == [
        {"name", "sensor", "bands", "channel_names", "wavelengths_nm", "wavelengths_note", "parts"}
    ] * 2


def test_rgb_bands_are_kept_in_the_order_red_green_blue(tmp_path: Path) -> None:
    fields = manifest_fields()
    assert read_manifest(write_manifest(tmp_path, fields)).modalities[0].rgb_bands is None
    fields["modalities"][0]["rgb_bands"] = [3, 0, 1]
    assert read_manifest(write_manifest(tmp_path, fields)).modalities[0].rgb_bands == (3, 0, 1)


Spoil = Callable[[dict[str, Any]], None]


def put(*path: str | int, value: Any) -> Spoil:
    def spoil(fields: dict[str, Any]) -> None:
        place: Any = fields
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return spoil


def drop(*path: str | int) -> Spoil:
    def spoil(fields: dict[str, Any]) -> None:
        place: Any = fields
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]

    return spoil


ARCHIVE = {"file": "a.zip", "members": [{"path": "scene.npz"}]}

BROKEN: dict[str, tuple[Spoil, str]] = {
    "no title": (drop("title"), "title: is missing; add it"),
    "no terms": (drop("terms"), "terms: is missing; add it"),
    "no citation": (put("citation", value=""), "citation: String should have at least 1 character"),
    "no band count": (drop("modalities", 0, "bands"), r"modalities\.0\.bands: is missing; add it"),
    "misspelt field": (put("heigth", value=6), "heigth: is not a field of a manifest; remove it or correct"),
    "misspelt inner field": (put("classes", 0, "colour", value="#000000"), r"classes\.0\.colour: is not a field"),
    "other schema": (put("schema", value=2), r"schema: Input should be 1 \(found 2\)"),
    "bad id": (put("id", value="Small Scene"), r"id: .*pattern.*found 'Small Scene'"),
    "bad revision": (put("revision", value="v1"), r"revision: .*found 'v1'"),
    "no height": (put("height", value=0), r"height: .*greater than 0 \(found 0\)"),
    "text for a number": (put("width", value="wide"), r"width: .*integer.*found 'wide'"),
    "unknown modality": (put("modalities", 0, "name", value="thermal"), r"modalities\.0\.name: .*found 'thermal'"),
    "modality twice": (put("modalities", 1, "name", value="hsi"), "modality names repeat: hsi; each must be unique"),
    "no modalities": (put("modalities", value=[]), "modalities: .*at least 1"),
    "no parts": (put("modalities", 0, "parts", value=[]), "modality 'hsi' has no parts; name the file that holds it"),
    "too few names": (put("modalities", 1, "channel_names", value=["a"]), "has 1 names for 2 bands; give one per band"),
    "too few wavelengths": (put("modalities", 1, "wavelengths_nm", value=[1.0]), "has 1 values for 2 bands"),
    "no wavelength": (put("modalities", 1, "wavelengths_nm", value=[400, float("nan")]), r"wavelengths_nm\.1: .*nan"),
    "colours of heights": (put("modalities", 1, "rgb_bands", value=[0, 1, 1]), "rgb_bands is given for lidar.*move it"),
    "two colours": (put("modalities", 0, "rgb_bands", value=[0, 1]), r"rgb_bands\.2: "),
    "colour twice": (put("modalities", 0, "rgb_bands", value=[0, 1, 1]), "give three different bands of 0..3: red"),
    "no such band": (put("modalities", 0, "rgb_bands", value=[4, 1, 0]), r"rgb_bands is \[4, 1, 0\]; give three"),
    "band before 0": (put("modalities", 0, "rgb_bands", value=[-1, 1, 0]), r"rgb_bands\.0: .*found -1"),
    "bad axes": (put("modalities", 0, "parts", 0, "axes", value="bip"), r"parts\.0\.axes: .*found 'bip'"),
    "no ground truth": (drop("ground_truth"), "ground_truth.parts is empty; name the file that holds the labels"),
    "one class": (put("classes", value=manifest_fields()["classes"][:1]), "classes: .*at least 2"),
    "class ids": (put("classes", 1, "id", value=5), r"classes are numbered \[1, 5, 3\]; number them 1\.\.3 in order"),
    "class 0": (put("classes", 0, "id", value=0), r"classes\.0\.id: .*found 0"),
    "class names": (put("classes", 1, "name", value="Grass"), "class names repeat: Grass"),
    "class colours": (put("classes", 1, "color", value="#00FF00"), "class colors repeat: #00ff00"),
    "colour name": (put("classes", 1, "color", value="red"), r"classes\.1\.color: .*found 'red'"),
    "class count": (put("classes", 1, "count", value=0), r"classes\.1\.count: .*found 0"),
    "unknown file": (put("modalities", 0, "parts", 0, "file", value="x.npz"), r"'x\.npz' is used but no source"),
    "file twice": (put("sources", value=[{"file": "scene.npz"}] * 2), r"files of the sources repeat: scene\.npz"),
    "no sources": (put("sources", value=[]), "give either sources .* or generator"),
    "both": (put("generator", value={"layout": "default"}), "give either sources .* or generator"),
    "absolute": (put("sources", 0, "file", value="/etc/passwd"), "must be a relative path without"),
    "climbing": (put("sources", value=[ARCHIVE | {"members": [{"path": "../a"}]}]), "must be a relative path without"),
    "backslash": (put("sources", 0, "file", value="a\\scene.npz"), "must be a relative path"),
    "short hash": (put("sources", 0, "sha256", value="abc"), r"sources\.0\.sha256: .*found 'abc'"),
    "no size": (put("sources", 0, "bytes", value=0), r"sources\.0\.bytes: .*found 0"),
    "address": (put("sources", 0, "urls", value=["ftp://x/y"]), "'ftp://x/y' must begin with https:// or http://"),
    "other archive": (
        put("sources", value=[ARCHIVE | {"file": "a.tar"}]),
        r"'a\.tar' lists members but is not a \.zip",
    ),
    "optional image": (put("sources", 0, "optional", value=True), "its source is optional; remove optional: true"),
    "official counts": (
        put("official_split", value=official_fields(train_counts=[1, 2])),
        "official_split.train_counts has 2 values for 3 classes; give one per class",
    ),
    "official file": (
        put("official_split", value=official_fields(train={"file": "tr.npz"})),
        "'tr.npz' is used but no source provides it",
    ),
    "index base": (put("official_split", value=official_fields(index_base=2)), r"index_base: .*found 2"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_manifest_names_file_field_and_fix(tmp_path: Path, case: str) -> None:
    spoil, message = BROKEN[case]
    fields = manifest_fields()
    spoil(fields)
    path = write_manifest(tmp_path, fields)
    with pytest.raises(ManifestError, match=message) as error:
        read_manifest(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_the_unspoilt_manifest_is_fine(tmp_path: Path) -> None:
    assert read_manifest(write_manifest(tmp_path, manifest_fields())).tag == "small-r1"


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, manifest_fields(height=-1, width=0))
    with pytest.raises(ManifestError, match=r"height: .*; width: "):
        read_manifest(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "is not valid YAML"),
        ("- 1\n- 2\n", "holds list, expected a mapping of fields"),
        ("", "holds NoneType, expected a mapping"),
        ("schema: 1\nid: a\nid: b\n", r"key 'id' is given twice; keep one.*line 3"),
        ("schema: 1\nclasses:\n  - {id: 1, name: a, name: b}\n", "key 'name' is given twice"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
    ],
)
def test_files_that_are_no_manifest(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scene.yaml"
    path.write_text(text)
    with pytest.raises(ManifestError, match=message) as error:
        read_manifest(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "scene.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path / "scene.yaml")


def test_the_manifest_in_the_documentation_is_valid(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "adding-a-scene.md").read_text(encoding="utf-8")
    example = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    (tmp_path / "town.yaml").write_text(example[1])
    assert read_manifest(tmp_path / "town.yaml").tag == "my-town-r1"


def test_an_installed_scene_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_manifest(tmp_path, manifest_fields())
    monkeypatch.setattr(catalogue, "entry_point_scenes", lambda: {"my-town": path})
    assert "my-town" in shipped_names()
    assert load_manifest("my-town").path == path
    with pytest.raises(ConfigError, match="did you mean my-town"):
        load_manifest("my-tow")


def test_an_installed_scene_may_not_take_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_manifest(tmp_path, manifest_fields())
    monkeypatch.setattr(catalogue, "entry_point_scenes", lambda: {"trento": path})
    with pytest.raises(ManifestError, match="registers 'trento', a shipped scene; rename it"):
        load_manifest("trento")
