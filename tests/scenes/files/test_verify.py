"""Status and verification of a scene's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.small_release import manifest_fields, npz_bytes, plain_source, sha256, small_arrays, small_manifest

from mmrs_bench.scenes.catalogue import load_manifest
from mmrs_bench.scenes.files.fetch import fetch, scene_folder
from mmrs_bench.scenes.files.verify import SceneStatus, status, verify
from mmrs_bench.scenes.manifest import Manifest

GOOD = npz_bytes(**small_arrays())


def placed(tmp_path: Path, content: bytes, **changes: Any) -> Manifest:
    manifest = small_manifest(tmp_path, sources=[plain_source(content)], **changes)
    scene_folder(manifest).mkdir(parents=True, exist_ok=True)
    (scene_folder(manifest) / "scene.npz").write_bytes(content)
    return manifest


def test_absent_present_and_wrong_files_are_distinguished(tmp_path: Path) -> None:
    manifest = placed(tmp_path, GOOD)
    file = scene_folder(manifest) / "scene.npz"
    assert status(manifest) == SceneStatus("present", missing=())
    rows = verify(manifest)
    assert [row.file for row in rows] == ["scene.npz", "hsi", "lidar", "ground truth"]
    assert all(row.ok for row in rows)
    file.write_bytes(b"other")
    assert [(row.expected, row.found, row.ok) for row in verify(manifest)] == [(sha256(GOOD), sha256(b"other"), False)]
    assert list(file.parent.iterdir()) == [file], "verify must not move files"
    file.unlink()
    assert status(manifest) == SceneStatus("absent", missing=("scene.npz",))
    assert [(row.file, row.found, row.ok) for row in verify(manifest)] == [("scene.npz", "absent", False)]


def test_a_simulated_scene_needs_no_files() -> None:
    manifest = load_manifest("sim-trento")
    lines: list[str] = []
    fetch(manifest, progress=lines.append)
    assert lines == ["sim-trento-r1: simulated, no files to fetch"]
    assert status(manifest).state == "simulated"
    assert verify(manifest) == []


def remedies(manifest: Manifest) -> list[str]:
    return [row.remedy for row in verify(manifest) if not row.ok]


def test_each_fault_has_its_own_remedy(tmp_path: Path) -> None:
    address = plain_source(GOOD, "https://example.org/scene.npz")
    fetched = small_manifest(tmp_path, sources=[address])
    assert remedies(fetched) == [f"run: mmrs-bench data fetch {fetched.path}"]
    by_hand = small_manifest(tmp_path, sources=[plain_source(GOOD, manual="Ask for it.")])
    assert "put scene.npz" in remedies(by_hand)[0]
    assert remedies(by_hand)[0].endswith("Ask for it.")
    in_place = small_manifest(tmp_path, sources=[address], data_dir="mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/scene.npz").write_bytes(b"other")
    assert remedies(in_place)[0].startswith("replace the file, or correct the hash in ")


def test_contents_are_read_and_fetching_is_no_remedy_for_wrong_ones_with_the_right_hash(
    tmp_path: Path, printed: Callable[..., str]
) -> None:
    arrays = small_arrays()
    arrays["gt"][0, 0] = 1
    manifest = placed(tmp_path, npz_bytes(**arrays))
    output = printed("data", "verify", manifest.path, status=1)
    assert "Grass has 13 pixels, expected 12; it is another version of the file" in output
    assert "expected 6x9" not in output, "the size is right"
    assert "1 of 2 checks failed in" in output
    assert "data fetch" not in output


def test_a_class_without_pixels_fails(tmp_path: Path, printed: Callable[..., str]) -> None:
    classes = [{name: c[name] for name in c if name != "count"} for c in manifest_fields()["classes"]]
    arrays = small_arrays()
    arrays["gt"][arrays["gt"] == 3] = 0
    manifest = placed(tmp_path, npz_bytes(**arrays), classes=classes)
    output = " ".join(printed("data", "verify", manifest.path, status=1).split())
    assert "no pixel is of class Water" in output
    assert "if the file counts them from 0, [0] for the first one" in output


def test_the_range_of_values_is_shown_and_usual_marks_of_missing_values_are_named(tmp_path: Path) -> None:
    arrays = small_arrays()
    arrays["lidar"] = arrays["lidar"].astype("f4")
    found = {row.file: row.found for row in verify(placed(tmp_path, npz_bytes(**arrays)))}
    low, high = arrays["lidar"].min(), arrays["lidar"].max()
    assert found["lidar"] == f"6x9x2, finite, no constant band; {low:g} to {high:g}"
    arrays["lidar"][0, :4, 1] = -9999
    found = {row.file: row.found for row in verify(placed(tmp_path, npz_bytes(**arrays)))}
    assert "-9999 to" in found["lidar"]
    assert "(4 values are -9999; if they mean no value, fill them)" in found["lidar"]


def test_a_file_without_a_hash_is_fetched_again_after_it_was_deleted(tmp_path: Path) -> None:
    address = {"file": "scene.npz", "urls": ["https://example.org/scene.npz"]}
    manifest = small_manifest(tmp_path, sources=[address])
    scene_folder(manifest).mkdir(parents=True)
    (scene_folder(manifest) / "scene.npz").write_bytes(b"<html>please sign in</html>")
    assert remedies(manifest) == ["a file without sha256 is fetched again only after you delete it"]
