"""A missing modality from end to end: one training, other predictions, records and tables of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.stored_scene import store_scene

from mmrs_bench.cli import main
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.evaluation.prediction import predict_scene
from mmrs_bench.evaluation.results.models import model_folder
from mmrs_bench.evaluation.results.records import load_records
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.scenes.datamodule import SceneDataModule


def by_protocol(results: Path) -> dict[tuple[str, tuple[str, ...]], Record]:
    return {(record.protocol.method, record.protocol.data.drop): record for record in load_records(results)}


def test_a_run_with_drop_shares_the_training_and_has_its_own_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, results = store_scene(tmp_path / "scene"), tmp_path / "results"
    options = ["--datasets", str(manifest), "--draws", "1", "--budget", "smoke", "--results", str(results)]
    options += ["--methods", "nearest-prototype", "diffclip-probe"]
    run = ["run", *options, "--workers", "1", "--save-models"]
    assert main(run) == main([*run, "--drop", "lidar"]) == 0
    records = by_protocol(results)
    assert set(records) == {(m, d) for m in ("nearest-prototype", "diffclip-probe") for d in ((), ("lidar",))}
    cache = list((tmp_path / "cache-root" / "pretraining").glob("*.safetensors"))
    assert len(cache) == 1, "stage 1 of both protocols is the same"
    shown = capsys.readouterr().out
    assert "predicted without lidar, 2 shots" in shown
    assert main(["leaderboard", "--results", str(results)]) == 0
    assert "what a missing modality costs" in capsys.readouterr().out
    assert main(["plan", *options, "--drop", "lidar"]) == 0
    assert "random-v1 without lidar" in capsys.readouterr().out
    for method in ("nearest-prototype", "diffclip-probe"):
        whole, dropped = records[method, ()], records[method, ("lidar",)]
        assert dropped.modalities == whole.modalities, "it was trained with both"
        assert "|drop:lidar|" in dropped.signature
        assert "drop" not in whole.model_dump(mode="json")["protocol"]["data"]
        assert dropped.confusion != whole.confusion
        targets = {}
        for record in (whole, dropped):
            model = model_folder(results, record.protocol)
            (shown,) = predict_scene(model, None, ExecutionConfig(), lambda _stage, _share: None).maps
            targets[record.key] = shown.targets
            data = SceneDataModule(str(manifest), record.protocol.data)
            confusion = np.zeros((3, 3), dtype=int)
            np.add.at(confusion, (data.query_targets, targets[record.key][data.query]), 1)
            assert confusion.tolist() == [list(row) for row in record.confusion]
        assert not np.array_equal(*targets.values())


def test_a_model_classifies_scenes_that_lack_a_modality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both, hsi = store_scene(tmp_path / "both"), store_scene(tmp_path / "hsi", bands={"hsi": 6}, labelled=False)
    run = ["run", "--datasets", str(both), "--draws", "1", "--budget", "smoke", "--results", str(tmp_path / "results")]
    assert main([*run, "--methods", "nearest-prototype", "--workers", "1", "--save-models"]) == 0
    (model,) = (tmp_path / "results").glob("models/*/*/*")

    def classes(*options: str) -> np.ndarray:
        assert main(["predict", str(model), *options, "--out", str(tmp_path / "map.npy")]) == 0
        return np.load(tmp_path / "map.npy")

    whole, dropped = classes(), classes("--drop", "lidar")
    assert (whole != dropped).any()
    # The images of a scene of the conformance tests depend on its modalities.
    with np.load(tmp_path / "both" / "scene.npz") as arrays:
        np.savez(tmp_path / "hsi" / "scene.npz", **{name: arrays[name] for name in ("hsi", "gt")})
    np.testing.assert_array_equal(classes("--scene", str(hsi), "--drop", "lidar"), dropped)
    capsys.readouterr()
    for options, message in (
        (["--scene", str(hsi)], "or predict without lidar (--drop lidar)"),
        (["--drop", "hsi", "lidar"], "methods see hsi and lidar only, so nothing would be left"),
        (["--drop", "sar"], "drop sar: methods see hsi and lidar; drop one of these"),
        (["--drop", "hsi", "--scene", str(hsi)], "was trained on hsi 6, lidar 1, but stored-r1 has hsi 6"),
    ):
        assert main(["predict", str(model), *options, "--out", str(tmp_path / "map.npy")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
