"""One cell from its protocol to its record, with a method that logs its calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from helpers.fake_suite import UnsavedMethod, fake_cards, fake_scene
from helpers.tiny import striped_map, tiny_scene

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import BenchError, ConfigError, DataError, TrainingError
from mmrs_bench.evaluation.cells import Cell, Suite, build_cells
from mmrs_bench.evaluation.results.records import save_record
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.runner import run_cell
from mmrs_bench.methods.base import MethodConfig, ParameterCounts
from mmrs_bench.scenes.scene import IntArray

TRUTH = striped_map(48, 60)


class SpyConfig(MethodConfig):
    answer: str = "class 0"


class Spy(UnsavedMethod):
    """Makes the prediction that its settings name, and logs its calls."""

    Config = SpyConfig
    events: ClassVar[list[str]] = []

    def pretrain(self, data: Any) -> None:
        self.events.append("pretrain")

    def fit(self, data: Any) -> None:
        self.events.append(f"fit {sorted(p.name for p in self.context.work_dir.iterdir())}")
        self.context.progress("epochs", 0.5)
        if self.config.answer == "log":
            (self.context.work_dir / "metrics.csv").write_text("loss")

    def predict(self, data: Any, pixels: IntArray) -> IntArray:
        self.events.append(f"predict {pixels.size}")
        return {
            "too few": np.zeros(pixels.size - 1, dtype=np.int64),
            "class 9": np.full(pixels.size, 9, dtype=np.int64),
            "probabilities": np.full(pixels.size, 0.5),
        }.get(self.config.answer, np.zeros(pixels.size, dtype=np.int64))

    def parameter_counts(self) -> ParameterCounts:
        return ParameterCounts(total=7, trainable=3)


@pytest.fixture
def loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A suite of one card and one scene; returns the log of scene loads."""
    answers = ("log", "too few", "class 9", "probabilities")
    card = {
        "name": "spy",
        "class_path": f"{__name__}:Spy",
        "selections": ["last", "paper-val"],
        "external_data": "ImageNet",
        "config": {"answer": "class 0"},
        "variants": {
            **{answer.replace(" ", "-"): {"config": {"answer": answer}} for answer in answers},
            "oracle": {"unranked": "uses the class sizes", "external_data": "CLIP"},
        },
    }
    Spy.events.clear()
    with (
        fake_cards(tmp_path / "cards", monkeypatch, card),
        fake_scene(tiny_scene(TRUTH), tmp_path / "tiny.yaml", monkeypatch) as loaded,
    ):
        yield loaded


def cells(tmp_path: Path, **options: Any) -> list[Cell]:
    suite = Suite(datasets=(str(tmp_path / "tiny.yaml"),), methods=("spy",), draws=1, window=5)
    return build_cells(replace(suite, **options))


def run(
    tmp_path: Path, cell: Cell, execution: ExecutionConfig | None = None, stages: list[Any] | None = None
) -> Record:
    reported = [] if stages is None else stages
    return run_cell(cell, execution or ExecutionConfig(), tmp_path / "results", lambda *stage: reported.append(stage))


def test_the_record_of_a_cell(loads: list[str], tmp_path: Path) -> None:
    (cell,) = cells(tmp_path)
    reported: list[tuple[str, float]] = []
    record = run(tmp_path, cell, ExecutionConfig(device="auto"), reported)
    labelled = int((TRUTH > 0).sum())
    assert (record.n_support, record.labels_used, record.n_query) == (8, 8, labelled - 8)
    assert np.array(record.confusion)[:, 1:].sum() == 0
    assert record.scores.aa == pytest.approx(0.25)
    assert record.execution.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert (record.parameters_total, record.parameters_trainable) == (7, 3)
    assert record.external_data == "ImageNet"
    assert record.modalities == {"hsi": 5, "lidar": 2}
    assert record.simulated
    assert record.unranked == ""
    assert 0 < record.leakage.centre_inside <= record.leakage.shared_window <= 1
    assert list(record.measured.seconds) == ["data", "pretrain", "fit", "predict", "score"]
    assert Spy.events == ["pretrain", "fit []", f"predict {record.n_query}"]
    stages = ["data", "pretrain", "fit", "predict", "score"]
    assert [stage for stage, done in reported if done == 1.0] == stages
    assert ("epochs", 0.5) in reported
    save_record(tmp_path / "results", record)  # refuses an inconsistent record


def test_the_scene_is_loaded_once_for_its_cells(loads: list[str], tmp_path: Path) -> None:
    for cell in cells(tmp_path, draws=3, shots=(1, 2)):
        run(tmp_path, cell)
    assert loads == ["tiny"]


def test_unranked_results_have_a_reason(loads: list[str], tmp_path: Path) -> None:
    (cell,) = cells(tmp_path, methods=("spy:oracle",))
    record = run(tmp_path, cell)
    assert (record.unranked, record.external_data) == ("uses the class sizes", "CLIP")
    (cell,) = cells(tmp_path, selection="paper-val")
    record = run(tmp_path, cell)
    assert record.labels_used == 208
    assert "paper-val" in record.unranked


@pytest.mark.parametrize(
    ("variant", "error"), [("too-few", DataError), ("class-9", TrainingError), ("probabilities", TrainingError)]
)
def test_invalid_predictions_are_refused(
    variant: str, error: type[BenchError], loads: list[str], tmp_path: Path
) -> None:
    (cell,) = cells(tmp_path, methods=(f"spy:{variant}",))
    with pytest.raises(error, match="prediction"):
        run(tmp_path, cell)


def test_the_work_folder_starts_empty_and_keeps_logs(loads: list[str], tmp_path: Path) -> None:
    (cell,) = cells(tmp_path, methods=("spy:log",))
    work_dir = tmp_path / "results" / "work" / cell.key
    work_dir.mkdir(parents=True)
    (work_dir / "left-by-a-killed-run.ckpt").write_text("")
    run(tmp_path, cell)
    assert "fit []" in Spy.events
    assert [path.name for path in work_dir.iterdir()] == ["metrics.csv"]
    (quiet,) = cells(tmp_path)
    run(tmp_path, quiet)
    assert not (work_dir.parent / quiet.key).exists()


@pytest.mark.parametrize("place", ["the folder", "a folder above it"])
@pytest.mark.parametrize("put", ["a file", "a symbolic link", "a broken link"])
def test_what_has_the_place_of_the_work_folder_is_named(loads: list[str], tmp_path: Path, put: str, place: str) -> None:
    (cell,) = cells(tmp_path)
    work = tmp_path / "results" / "work"
    taken = work / cell.key if place == "the folder" else work
    taken.parent.mkdir(parents=True)
    kept = tmp_path / "kept"
    if put != "a broken link":
        kept.mkdir()
    taken.write_text("") if put == "a file" else taken.symlink_to(kept)
    if (place, put) == ("a folder above it", "a symbolic link"):  # results may lie on another disk
        run(tmp_path, cell)
        return
    with pytest.raises(BenchError, match=r"(remove it|place), and run the command again") as caught:
        run(tmp_path, cell)
    assert str(taken) in str(caught.value)
    assert kept.exists() == (put != "a broken link")


def test_a_manifest_that_changes_during_a_run_is_refused(loads: list[str], tmp_path: Path) -> None:
    (cell,) = cells(tmp_path)
    manifest = tmp_path / "tiny.yaml"
    fields = yaml.safe_load(manifest.read_text())
    fields["generator"]["seed"] = 1
    manifest.write_text(yaml.safe_dump(fields))
    with pytest.raises(DataError, match=r"tiny\.yaml: the manifest or its files changed during the run"):
        run(tmp_path, cell)


def test_the_device_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = ((True, "auto", "cuda"), (True, "cuda", "cuda"), (True, "cpu", "cpu"), (False, "auto", "cpu"))
    for present, device, resolved in cases:
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
        assert ExecutionConfig.model_validate({"device": device}).resolved().device == resolved
    with pytest.raises(ConfigError, match=r"--device cuda: torch .* use --device cpu"):
        ExecutionConfig(device="cuda").resolved()
