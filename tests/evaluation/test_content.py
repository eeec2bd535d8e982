"""What a key covers: the content of files without a hash, and of files that a setting names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.small_release import manifest_fields, sha256, small_arrays, write_manifest

from mmrs_bench.cli import main
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import DataError
from mmrs_bench.evaluation.cells import Cell, Suite, build_cells
from mmrs_bench.evaluation.results.records import load_records
from mmrs_bench.evaluation.run.runner import fit_cell
from mmrs_bench.methods.catalogue import read_method_card
from mmrs_bench.methods.classical.method import NearestPrototype, NearestPrototypeConfig
from mmrs_bench.methods.setting_files import usable_config
from mmrs_bench.paths import REPOSITORY
from mmrs_bench.scenes.catalogue import read_manifest
from mmrs_bench.scenes.datamodule import SceneDataModule
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


def cell_of(manifest: Path, method: str = "nearest-prototype") -> Cell:
    (cell,) = build_cells(Suite(datasets=(str(manifest),), draws=1, window=3, budget="smoke", methods=(method,)))
    return cell


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
    before, state = cell_of(manifest).key, (tmp_path / "scene.npz").stat()
    assert cell_of(manifest).key == before
    write_scene(tmp_path, **({"hsi": small_arrays()["hsi"] * 2} if change == "image" else {"gt": other_labels()}))
    if change == "same size and time":
        assert (tmp_path / "scene.npz").stat().st_size == state.st_size
        os.utime(tmp_path / "scene.npz", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert cell_of(manifest).key != before
    write_scene(tmp_path)
    assert cell_of(manifest).key == before


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
    assert cell_of(manifest).key
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
    cell = cell_of(manifest)
    write_scene(tmp_path, gt=other_labels())
    with pytest.raises(DataError, match=r"small\.yaml: the manifest or its files changed during the run"):
        fit_cell(cell, ExecutionConfig(), tmp_path / "results", lambda stage, done: None)


CARD = {
    "name": "my-method",
    "version": 1,
    "class_path": "helpers.file_method:FileMethod",
    "title": "Reads a file",
    "reference": "none",
    "config": {"text": "precomputed:vectors/text.yaml", "weights": "vectors/weights.bin", "mode": "plain.mode"},
}


def write_card(folder: Path, **changes: Any) -> Path:
    """A card beside the files that its settings name."""
    vectors = folder / "vectors"
    vectors.mkdir(parents=True, exist_ok=True)
    (vectors / "text.yaml").write_text("vectors: v.npy\nnames: n.json\nclasses: {Road: dirt}\n")
    for name in ("v.npy", "n.json", "weights.bin"):
        (vectors / name).write_text(name)
    card = folder / "my-method.yaml"
    card.write_text(yaml.safe_dump(CARD | changes))
    return card


def card_key(card: Path) -> str:
    (cell,) = build_cells(Suite(draws=1, methods=(str(card),)))
    return cell.key


@pytest.mark.parametrize("file", ["text.yaml", "v.npy", "n.json", "weights.bin"])
def test_a_key_covers_the_files_that_a_setting_names(tmp_path: Path, file: str) -> None:
    card = write_card(tmp_path)
    before = card_key(card)
    assert card_key(card) == before
    path = tmp_path / "vectors" / file
    path.write_text(path.read_text().replace("dirt", "car") + "\n")
    changed = card_key(card)
    path.unlink()
    assert len({before, changed, card_key(card)}) == 3


def test_a_key_covers_the_card_but_not_its_place_and_description(tmp_path: Path) -> None:
    card = write_card(tmp_path / "a")
    (tmp_path / "b").mkdir()
    assert card_key(card) == card_key(write_card(tmp_path / "b", title="Other")) == card_key(write_card(tmp_path / "a"))
    assert card_key(card) != card_key(write_card(tmp_path / "c", class_path="helpers.file_method:Other"))


def test_paths_in_a_card_start_at_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = write_card(tmp_path / "cards")
    monkeypatch.chdir(tmp_path)
    (cell,) = build_cells(Suite(draws=1, methods=("cards/my-method.yaml",)))
    monkeypatch.chdir("/")
    vectors = card.parent / "vectors"
    assert usable_config(cell.protocol.method_config, cell.card_path) == {
        "text": f"precomputed:{vectors / 'text.yaml'}",
        "weights": str(vectors / "weights.bin"),
        "mode": "plain.mode",
    }


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("open_clip:ViT-B-32/openai", None),
        ("open_clip:ViT-B-32/sub/clip.pt", "open_clip:ViT-B-32/{}/sub/clip.pt"),
        ("open_clip:ViT-B-32/clip.pt", "open_clip:ViT-B-32/{}/clip.pt"),
        ("open_clip:ViT-B-32//data/clip.pt", "open_clip:ViT-B-32//data/clip.pt"),
        ("precomputed:/data/text.yaml", "precomputed:/data/text.yaml"),
        ("precomputed:../text.yaml", "precomputed:{}/../text.yaml"),
        ("no/such/file.bin", None),
        ("scratch", None),
        ("open_clip:", None),
        ("precomputed:", None),
        ("x" * 5000 + ".y", None),
        ("a\0b.c", None),
    ],
)
def test_settings_that_name_a_file_are_recognised(tmp_path: Path, text: str, path: str | None) -> None:
    card = write_card(tmp_path, config={"text": text, "list": [text], "nested": {"deep": text}})
    expected = text if path is None else path.format(tmp_path)
    found = usable_config({"text": text, "list": [text], "nested": {"deep": text}}, str(card))
    assert found == {"text": expected, "list": [expected], "nested": {"deep": expected}}


def write_extension(folder: Path, base: str, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "other.yaml"
    path.write_text(yaml.safe_dump({"extends": base, "name": "other", **changes}))
    return path


def test_inherited_paths_start_at_the_folder_of_the_card_that_contains_them(tmp_path: Path) -> None:
    """Also over two steps, and in settings of budgets and variants."""
    text = {"text": "precomputed:vectors/text.yaml"}
    base = write_card(tmp_path / "base", budgets={"quick": text}, variants={"v": {"config": text}})
    middle = write_extension(tmp_path / "middle", "../base/my-method")
    last = write_extension(tmp_path / "a/b", "../../middle/other", config={"own": "precomputed:own.yaml"})
    vectors = base.parent / "vectors"
    files = {"text": f"precomputed:{vectors / 'text.yaml'}", "weights": str(vectors / "weights.bin")}
    for card, own in ((middle, {}), (last, {"own": f"precomputed:{tmp_path / 'a/b/own.yaml'}"})):
        fields = read_method_card(card)
        found = usable_config(fields.config, str(card))
        assert {name: os.path.normpath(value) for name, value in found.items()} == {
            **files,
            **own,
            "mode": "plain.mode",
        }
        for settings in (fields.budgets["quick"], fields.variants["v"].config):
            assert os.path.normpath(usable_config(settings, str(card))["text"]) == files["text"]
    before = card_key(last)
    (vectors / "weights.bin").write_text("other")
    assert card_key(last) != before


@pytest.mark.parametrize(
    "text", ["precomputed:/data/text.yaml", "precomputed:~/text.yaml", "open_clip:ViT-B-32/openai"]
)
def test_inherited_settings_without_relative_paths_are_unchanged(tmp_path: Path, text: str) -> None:
    write_card(tmp_path / "base", config={"text": text})
    assert read_method_card(write_extension(tmp_path / "new", "../base/my-method")).config == {"text": text}


def test_paths_of_a_shipped_card_that_is_extended_do_not_depend_on_the_place_of_the_card(tmp_path: Path) -> None:
    cards = [write_extension(tmp_path / name, "diffclip") for name in ("a", "b")]
    configs = [read_method_card(card).variants["clip-vectors"].config for card in cards]
    assert configs[0] == configs[1]
    file = REPOSITORY / "docs/examples/coco-stuff-text.yaml"
    assert [usable_config(configs[0], str(card)) for card in cards] == [{"text": f"precomputed:{file}"}] * 2


class ReadsWeightsConfig(NearestPrototypeConfig):
    weights: str


class ReadsWeights(NearestPrototype):
    """Reads a file that a setting names."""

    Config = ReadsWeightsConfig

    def fit(self, data: SceneDataModule) -> None:
        super().fit(data)
        assert Path(self.config.weights).read_text() == "weights.bin"


def test_the_conformance_check_finds_files_beside_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"features": {"kind": "pixel"}, "weights": "vectors/weights.bin"}
    write_card(tmp_path / "cards", class_path=f"{__name__}:ReadsWeights", config=config)
    monkeypatch.chdir(tmp_path)
    assert main(["check", "cards/my-method.yaml"]) == 0


def test_settings_without_files_leave_keys_and_records_as_they_were() -> None:
    (cell,) = build_cells(Suite(draws=1, methods=("cnn",)))
    assert cell.protocol.files == {}
    assert "files" not in cell.protocol.model_dump(mode="json")
    assert "files" in cell.protocol.model_copy(update={"files": {"text": "0" * 64}}).model_dump(mode="json")


def test_a_shipped_card_finds_its_files_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (cell,) = build_cells(Suite(draws=1, methods=("diffclip:clip-vectors",)))
    file = REPOSITORY / "docs/examples/coco-stuff-text.yaml"
    assert usable_config(cell.protocol.method_config, "diffclip")["text"] == f"precomputed:{file}"
    assert set(cell.protocol.files) == {"text"}


def test_a_setting_file_that_changes_during_a_run_is_refused(tmp_path: Path) -> None:
    card, manifest = write_card(tmp_path / "cards"), write_scene(tmp_path)
    cell = cell_of(manifest, str(card))
    (tmp_path / "cards/vectors/v.npy").write_text("other")
    with pytest.raises(DataError, match="files of text changed during the run; run the command again"):
        fit_cell(cell, ExecutionConfig(), tmp_path / "results", lambda stage, done: None)
