"""Fitted models outside the runner: saved by it, classified with, exported, damaged."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.new_process import run_python
from helpers.stored_scene import BANDS, store_scene

from mmrs_bench.config import ExecutionConfig, ProtocolConfig
from mmrs_bench.errors import ConfigError, DataError, SplitError
from mmrs_bench.evaluation.cells import Cell, Suite, build_cells
from mmrs_bench.evaluation.prediction import export_model, predict_scene
from mmrs_bench.evaluation.results.models import has_model, model_folder, read_model
from mmrs_bench.evaluation.results.records import load_records, record_path, save_record
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.runner import run_and_save, run_cell
from mmrs_bench.io import content_hash
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.scenes.catalogue import load_manifest
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray

#: One method of each class that saves itself in its own way.
SHIPPED = (
    "majority",
    "nearest-prototype",
    "svm-emp",
    "rf",
    "label-propagation",
    "cnn",
    "msfmamba",
    "mft",
    "exvit",
    "clip",
    "diffclip",
    "bdgf",
    "unidiff-tiny",
    "geodiffnet-f-tiny",
)


def silent(stage: str, done: float) -> None:
    pass


def one_cell(manifest: Path, method: str, **options: Any) -> Cell:
    values = {"datasets": (str(manifest),), "methods": (method,), "draws": 1, "budget": "smoke", **options}
    (cell,) = build_cells(Suite.of(values))
    return cell


def saved(folder: Path, manifest: Path, method: str, **options: Any) -> tuple[Path, Record]:
    """Compute a cell; return the folder of its model, and its record."""
    cell = one_cell(manifest, method, **options)
    record = run_and_save(cell, ExecutionConfig(), folder, silent)
    save_record(folder, record)
    return model_folder(folder, cell.protocol), record


def classes(model: Path, manifest: Path | None = None) -> IntArray:
    return predict_scene(model, None if manifest is None else str(manifest), ExecutionConfig(), silent).maps[0].targets


@pytest.mark.parametrize("method", SHIPPED)
@pytest.mark.slow
def test_a_saved_model_has_the_scores_of_its_record(tmp_path: Path, method: str) -> None:
    model, record = saved(tmp_path / "results", store_scene(tmp_path / "scene"), method)
    targets = classes(model)
    data = SceneDataModule(str(tmp_path / "scene" / "stored.yaml"), record.protocol.data)
    confusion = np.zeros((3, 3), dtype=int)
    np.add.at(confusion, (data.query_targets, targets[data.query]), 1)
    assert confusion.tolist() == [list(row) for row in record.confusion]
    # The same images without labels: own statistics, and stored directions of components, are those of the training.
    unlabelled = store_scene(tmp_path / "other", labelled=False)
    if method in ("svm-emp", "unidiff-tiny"):
        with pytest.raises(ConfigError, match="principal components of one scene, so it classifies stored-r1 only"):
            classes(model, unlabelled)
    else:
        assert (classes(model, unlabelled) == targets).mean() > 0.99
    if method in ("majority", "nearest-prototype", "svm-emp", "rf", "label-propagation"):
        with pytest.raises(ConfigError, match=f"{method} has no LightningModule"):
            export_model(model, tmp_path / "model.ckpt", silent)
        return
    module, _, name = export_model(model, tmp_path / "model.ckpt", silent).partition(":")
    loaded = getattr(importlib.import_module(module), name).load_from_checkpoint(tmp_path / "model.ckpt")
    assert loaded.hparams["num_classes"] == 3
    if "diff" in method and "clip" not in method:
        return  # a head of pixel features
    components = resolve_config(method_card(method), "default", "smoke").get("components")
    batches = data.with_components(components).scene_dataloader()
    if "hsi" in loaded.channels and loaded.channels == {"hsi": 6, "lidar": 1}:
        found = np.concatenate([loaded.eval()(batch["windows"]).argmax(dim=1).numpy() for batch in batches])
        assert (found == targets).mean() > 0.99


def test_components_of_the_protocol_have_the_directions_of_the_training_scene(tmp_path: Path) -> None:
    model, _ = saved(tmp_path / "results", store_scene(tmp_path / "scene"), "cnn", pca=3)
    same_images = store_scene(tmp_path / "other", labelled=False)
    assert (classes(model, same_images) == classes(model)).mean() > 0.99


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of ``nearest-prototype``."""
    folder = tmp_path_factory.mktemp("prototype")
    return saved(folder / "results", store_scene(folder / "scene"), "nearest-prototype")[0]


def described(manifest: Path, name: str, **fields: Any) -> Path:
    """A copy of a manifest with more fields of one modality."""
    content = yaml.safe_load(manifest.read_text())
    for modality in content["modalities"]:
        modality |= fields if modality["name"] == name else {}
    path = manifest.with_name(f"described-{len([*manifest.parent.iterdir()])}.yaml")
    path.write_text(yaml.safe_dump(content))
    return path


def test_bands_in_another_order_or_of_another_sensor_are_refused(tmp_path: Path) -> None:
    manifest = store_scene(tmp_path / "scene")
    names, centres = [*"abcdef"], [400.0, 500.0, 600.0, 700.0, 800.0, 900.0]
    named, measured = (
        saved(tmp_path / field, described(manifest, "hsi", **{field: values}), "nearest-prototype")[0]
        for field, values in (("channel_names", names), ("wavelengths_nm", centres))
    )
    with pytest.raises(ConfigError, match="the channels a, b, c, d, e, f, but the scene has f, e, d"):
        classes(named, described(manifest, "hsi", channel_names=names[::-1]))
    with pytest.raises(ConfigError, match="band centres of hsi differ from those of the training by up to 500 nm"):
        classes(measured, described(manifest, "hsi", wavelengths_nm=centres[::-1]))
    shifted = described(manifest, "hsi", wavelengths_nm=[centre + 2 for centre in centres], channel_names=names)
    for model in (named, measured):
        assert classes(model, shifted).shape == classes(model, manifest).shape, "undescribed bands are accepted"


def test_what_cannot_be_classified_is_refused_in_one_line(tmp_path: Path, model: Path) -> None:
    other = store_scene(tmp_path / "other", bands={"hsi": 7, "lidar": 1})
    with pytest.raises(ConfigError, match="was trained on hsi 6, lidar 1, but stored-r1 has hsi 7, lidar 1"):
        classes(model, other)
    unlabelled = store_scene(tmp_path / "unlabelled", labelled=False)
    manifest = store_scene(tmp_path / "scene")
    support, _ = saved(tmp_path / "results", manifest, "nearest-prototype", normalisation_scope="support")
    assert classes(support).shape == (440,)
    with pytest.raises(ConfigError, match="normalisation_scope support takes pixels of the split"):
        classes(support, unlabelled)
    with pytest.raises(ConfigError, match="has no ground truth: mmrs-bench predict classifies it"):
        one_cell(unlabelled, "cnn")
    with pytest.raises(SplitError, match="has no ground truth, so it has no split"):
        SceneDataModule(str(unlabelled)).setup()


def test_the_record_of_the_cell_names_its_model(tmp_path: Path) -> None:
    manifest = store_scene(tmp_path / "scene")
    model, record = saved(tmp_path, manifest, "majority")
    path = record_path(tmp_path, record.protocol)
    assert read_model(path)[0] == read_model(model)[0] == model
    (model / "model.json").unlink()
    with pytest.raises(ConfigError, match="this cell has no model; add --save-models"):
        read_model(path)
    with pytest.raises(ConfigError, match=r"has no model\.json; give a folder below RESULTS/models"):
        read_model(model)


def test_a_record_may_be_given_from_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, record = saved(tmp_path, store_scene(tmp_path / "scene"), "majority")
    path = record_path(tmp_path, record.protocol)
    monkeypatch.chdir(path.parent)
    assert read_model(Path(path.name))[0] == model


def test_a_new_record_leaves_no_model_of_an_earlier_training(tmp_path: Path) -> None:
    manifest = store_scene(tmp_path / "scene")
    model, record = saved(tmp_path, manifest, "majority")
    cell = one_cell(manifest, "majority")
    assert has_model(tmp_path, cell.protocol)
    save_record(tmp_path, run_cell(cell, ExecutionConfig(), tmp_path, silent))
    assert not has_model(tmp_path, cell.protocol)
    with pytest.raises(ConfigError, match="this cell has no model; add --save-models"):
        read_model(record_path(tmp_path, record.protocol))
    saved(tmp_path, manifest, "majority")
    assert read_model(model)[0] == model


def test_saving_a_model_changes_neither_key_nor_record(tmp_path: Path) -> None:
    cell = one_cell(store_scene(tmp_path / "scene"), "cnn")
    with_model = run_and_save(cell, ExecutionConfig(), tmp_path / "one", silent)
    assert with_model.body() == run_cell(cell, ExecutionConfig(), tmp_path / "two", silent).body()
    assert not (tmp_path / "two" / "models").exists()


def edited(path: Path) -> None:
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "dataset": "trento"}))


def of_another_version(path: Path) -> None:
    fields = json.loads(path.read_text())
    del fields["sha256"]
    fields["protocol"]["method_version"] += 1
    fields["key"] = ProtocolConfig.model_validate(fields["protocol"]).key
    path.write_text(json.dumps({**fields, "sha256": content_hash(fields)}))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("arrays.npz", lambda path: path.write_bytes(path.read_bytes()[:-9]), "is damaged or was changed"),
        ("arrays.npz", Path.unlink, "is missing"),
        ("extra.npz", Path.touch, "is not a file of this model"),
        ("model.json", lambda path: path.write_text(path.read_text()[:200]), "is not valid JSON"),
        ("model.json", lambda path: path.write_text("[]"), "model.json: "),
        ("model.json", edited, "was edited after it was written"),
        ("model.json", of_another_version, r"is a model of version \d+ of nearest-prototype"),
    ],
)
def test_a_damaged_model_is_refused(
    tmp_path: Path, model: Path, name: str, damage: Callable[[Path], Any], message: str
) -> None:
    copy = tmp_path / "model"
    copy.mkdir()
    for path in model.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    damage(copy / name)
    with pytest.raises((DataError, ConfigError), match=message):
        classes(copy)


KILLED = """
import os, sys
from pathlib import Path
from mmrs_bench.evaluation.results.models import read_model, save_model

folder, card = read_model(Path(sys.argv[1]))

def write(folder):
    (folder / "arrays.npz").write_bytes(b"half")
    os._exit(9)

save_model(folder, card, write, {})
"""


def test_a_process_that_is_killed_while_it_saves_leaves_no_model(tmp_path: Path) -> None:
    model, record = saved(tmp_path, store_scene(tmp_path / "scene"), "nearest-prototype")
    assert has_model(tmp_path, record.protocol)
    assert run_python("-c", KILLED, str(model)).returncode == 9
    assert (model / "arrays.npz").read_bytes() == b"half"
    assert not has_model(tmp_path, record.protocol)


@pytest.mark.slow
def test_commands_from_training_to_maps(
    tmp_path: Path, printed: Callable[..., str], refused: Callable[..., str]
) -> None:
    manifest, results = store_scene(tmp_path / "scene"), tmp_path / "results"
    run = ("run", "--dataset", manifest, "--draws", 1, "--budget", "smoke", "--workers", 1, "--results", results)
    methods = ("--methods", "cnn", "svm-emp")
    printed(*run, *methods)
    before = {record.key: record.body() for record in load_records(results)}
    printed(*run, *methods, "--save-models")
    records = load_records(results)
    assert {record.key: record.body() for record in records} == before
    models = {record.protocol.method: model_folder(results, record.protocol) for record in records}
    written = {path: path.stat().st_mtime_ns for path in (results / "models").rglob("*.json")}
    printed(*run, *methods, "--save-models")
    assert {path: path.stat().st_mtime_ns for path in (results / "models").rglob("*.json")} == written
    for method, model in models.items():
        out = tmp_path / "maps" / f"{method}.npy"
        assert printed("predict", model, "--out", out).strip() == str(out)
        assert (np.load(out).shape, np.load(out).min() >= 1) == ((20, 22), True)
    printed("predict", models["svm-emp"], "--out", tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "CnnModule.load_from_checkpoint" in printed("export", models["cnn"], "--out", tmp_path / "cnn.ckpt")
    assert "svm-emp has no LightningModule" in refused("export", models["svm-emp"], "--out", tmp_path / "x.ckpt")
    assert ".jpg is not a map format" in refused("predict", models["cnn"], "--out", "map.jpg")
    assert "does not exist" in refused("predict", "nowhere", "--out", "map.npy")


def test_a_geotiff_lies_where_the_scene_does(tmp_path: Path, printed: Callable[..., str]) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
    model, _ = saved(tmp_path / "results", store_scene(tmp_path / "scene"), "cnn")
    other = store_scene(tmp_path / "other", labelled=False, geotiff="EPSG:32632")
    out = tmp_path / "map.tif"
    assert printed("predict", model, "--scene", other, "--out", out) == f"{out}\n{tmp_path / 'map.qml'}\n"
    with rasterio.open(tmp_path / "map.tif") as raster:
        assert raster.crs.to_epsg() == 32632
        assert tuple(raster.transform[:6]) == (2.5, 0, 600000, 0, -2.5, 5100000)
        assert (raster.nodata, raster.dtypes) == (0, ("uint8",))
        assert raster.tags(1)["CLASS_2"] == "Trees"
        np.testing.assert_array_equal(raster.read(1).reshape(-1), classes(model) + 1)


def test_a_manifest_without_ground_truth_needs_no_classes(tmp_path: Path) -> None:
    manifest = load_manifest(str(store_scene(tmp_path / "scene", labelled=False)))
    assert (manifest.labelled, manifest.classes) == (False, ())
    assert {m.name: m.bands for m in manifest.modalities} == BANDS
