"""What a key covers: the content of files without a hash, and of files that a setting names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.small_release import manifest_fields, sha256, small_arrays, write_manifest

from mmrs_bench.cli import main
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import DataError
from mmrs_bench.evaluation.cells import Suite, build_cells
from mmrs_bench.evaluation.results.records import load_records
from mmrs_bench.evaluation.run.runner import fit_cell
from mmrs_bench.scenes.catalogue import read_manifest
from mmrs_bench.scenes.files.fingerprint import depends_on_files, scene_fingerprint


def write_scene(folder: Path, **arrays: np.ndarray) -> Path:
    """The small scene beside its manifest, without a hash; returns the manifest."""
    folder.mkdir(exist_ok=True)
    np.savez(folder / "scene.npz", **(small_arrays() | arrays))
    classes = [{k: v for k, v in c.items() if k != "count"} for c in manifest_fields()["classes"]]
    return write_manifest(folder, manifest_fields(classes=classes, data_dir="."))


def other_labels() -> np.ndarray:
    gt = small_arrays()["gt"]
    return np.where(gt == 2, 3, np.where(gt == 3, 2, gt)).astype(gt.dtype)


def keys(manifest: Path) -> list[str]:
    suite = Suite(datasets=(str(manifest),), draws=1, window=3, budget="smoke", methods=("nearest-prototype",))
    return [cell.key for cell in build_cells(suite)]


def test_a_corrected_file_makes_new_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--datasets", str(tmp_path / "small.yaml"), "--draws", "1", "--window", "3", "--budget", "smoke"]
    options += ["--results", str(tmp_path / "results"), "--workers", "1", "--methods"]
    write_scene(tmp_path)
    assert main(["run", *options, "nearest-prototype"]) == 0
    write_scene(tmp_path, gt=other_labels())
    assert main(["plan", *options[:-3], "--methods", "nearest-prototype"]) == 0
    assert "1 cells, 0 done, 1 to do" in capsys.readouterr().out
    assert main(["run", *options, "nearest-prototype", "majority"]) == 0
    records = load_records(tmp_path / "results")
    assert len(records) == 3
    assert main(["compare", "nearest-prototype", "majority", "--results", str(tmp_path / "results")]) == 0
    assert len({record.protocol.scene_fingerprint for record in records}) == 2


@pytest.mark.parametrize("change", ["image", "labels", "same size and time"])
def test_the_fingerprint_covers_the_content_of_files_without_a_hash(tmp_path: Path, change: str) -> None:
    manifest = write_scene(tmp_path)
    before, state = keys(manifest), (tmp_path / "scene.npz").stat()
    assert keys(manifest) == before
    write_scene(tmp_path, **({"hsi": small_arrays()["hsi"] * 2} if change == "image" else {"gt": other_labels()}))
    if change == "same size and time":
        assert (tmp_path / "scene.npz").stat().st_size == state.st_size
        os.utime(tmp_path / "scene.npz", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert keys(manifest) != before
    write_scene(tmp_path)
    assert keys(manifest) == before


def test_a_hash_in_the_manifest_keeps_the_fingerprint_of_the_manifest(tmp_path: Path) -> None:
    write_scene(tmp_path)
    sources = [{"file": "scene.npz", "sha256": sha256((tmp_path / "scene.npz").read_bytes())}]
    manifest = read_manifest(write_manifest(tmp_path, manifest_fields(sources=sources, data_dir=".")))
    assert not depends_on_files(manifest)
    assert scene_fingerprint(manifest) == manifest.fingerprint


def test_absent_files_do_not_prevent_a_plan(tmp_path: Path) -> None:
    manifest = write_scene(tmp_path)
    (tmp_path / "scene.npz").unlink()
    assert read_manifest(manifest).fingerprint == scene_fingerprint(read_manifest(manifest))
    assert len(keys(manifest)) == 1
    with pytest.raises(DataError, match=r"scene\.npz could not be fetched"):
        build_cells(Suite(datasets=(str(manifest),), draws=1, window=3), fetch=lambda _line: None)


def test_both_files_of_an_envi_raster_count(tmp_path: Path) -> None:
    modalities = manifest_fields()["modalities"]
    modalities[0]["parts"] = [{"file": "scene.hdr"}]
    sources = [{"file": "scene.npz"}, {"file": "scene.hdr"}]
    path = write_manifest(tmp_path, manifest_fields(modalities=modalities, sources=sources, data_dir="."))
    manifest, found = read_manifest(path), set()
    for name in ("scene.hdr", "scene.img"):
        for content in (b"a", b"b"):
            (tmp_path / name).write_bytes(content)
            found.add(scene_fingerprint(manifest))
    assert len(found) == 4


def test_a_file_that_changes_during_a_run_is_refused(tmp_path: Path) -> None:
    manifest = write_scene(tmp_path)
    (cell,) = build_cells(
        Suite(datasets=(str(manifest),), draws=1, window=3, budget="smoke", methods=("nearest-prototype",))
    )
    write_scene(tmp_path, gt=other_labels())
    progress: Callable[[str, float], None] = lambda stage, done: None  # noqa: E731
    with pytest.raises(DataError, match=r"small\.yaml: the manifest or its files changed during the run"):
        fit_cell(cell, ExecutionConfig(), tmp_path / "results", progress)
