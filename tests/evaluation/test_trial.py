"""The expected cost of cells, measured by short trainings and the prediction of a sample of pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_cells import make_cells
from helpers.stored_scene import store_scene

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.evaluation import trial
from mmrs_bench.evaluation.cells import Suite, build_cells
from mmrs_bench.evaluation.trial import CellCosts, Measurement, cost_table, measure_costs, pretraining_to_do
from mmrs_bench.paths import CACHE_VARIABLE, cache_root
from mmrs_bench.scenes.scene import IntArray


@pytest.mark.parametrize("count", [3, 40, 41, 1000])
def test_a_prediction_costs_what_is_done_once_and_the_same_for_each_pixel(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, calls, predicted = 0.0, 0, set()

    def predict(pixels: IntArray) -> None:
        nonlocal now, calls
        assert predicted.isdisjoint(pixels.tolist())
        assert (np.diff(pixels) > 0).all()
        predicted.update(pixels.tolist())
        now += (5.0 if calls else 105.0) + 0.25 * len(pixels)
        calls += 1

    monkeypatch.setattr(trial, "perf_counter", lambda: now)
    seconds = trial._prediction_seconds(predict, np.arange(7, 7 + count), 10)
    assert seconds == pytest.approx(105.0 + 0.25 * count)
    assert len(predicted) == min(count, 40)


def test_a_pretraining_counts_once_and_not_if_the_cache_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    shared = Measurement(10.0, 4.0, {"a": 3600.0}, 500.0)
    costs = [
        CellCosts(tuple(make_cells(3)), shared),
        CellCosts(tuple(make_cells(2, method="other")), shared),
        CellCosts(tuple(make_cells(2, method="lacks")), None, "no weights"),
    ]
    assert list(pretraining_to_do(costs).values()) == [3600.0]
    table = cost_table(costs, 2)
    assert [(row["cells"], row.get("seconds"), row.get("pretraining_seconds")) for row in table.rows] == [
        (3, 10.0, 3600.0),
        (2, 10.0, 3600.0),
        (2, None, None),
    ]
    assert table.notes[0] == (
        "Total: 1.01 hours, 1.00 of them pretraining; divided by 2 workers: about 30 minutes. Memory: up to 500 MiB "
        "for each worker. Without 2 cells that were not measured."
    )
    assert table.notes[-1].endswith(": no weights")
    (cache_root() / "pretraining").mkdir()
    (cache_root() / "pretraining" / "a.safetensors").touch()
    assert not pretraining_to_do(costs)
    first, *others = make_cells(3)
    seeds = [
        replace(cell, protocol=cell.protocol.model_copy(update={"seed": seed})) for seed, cell in enumerate(others, 1)
    ]
    assert list(pretraining_to_do([CellCosts((first, *seeds), shared)]).values()) == [3600.0] * 2


def test_a_method_without_its_weights_is_named_and_not_measured() -> None:
    lines: list[str] = []
    cells = build_cells(Suite(methods=("unidiff",), draws=1, budget="paper"))
    (cost,) = measure_costs(cells, ExecutionConfig(), lines.append)
    assert cost.measurement is None
    assert "its checkpoint is not on this machine" in cost.fault
    assert lines == [f"[1/1] measuring {cells[0].title}"]


def test_files_of_a_scene_that_are_absent_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.delenv("MMRS_BENCH_DATA", raising=False)
    cells = build_cells(Suite(datasets=("muufl",), methods=("majority",), draws=1))
    (cost,) = measure_costs(cells, ExecutionConfig(), str)
    assert cost.fault == "files of muufl are not on this machine; run mmrs-bench data fetch muufl"


def test_plan_with_cost_measures_one_cell_of_each_kind_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Callable[..., str]
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    options = ("--datasets", store_scene(tmp_path / "scene"), "--methods", "diffclip-probe", "--draws", "3")
    text = printed("plan", "--cost", *options, "--budget", "smoke", "--results", tmp_path / "results")
    assert "3 cells, 0 done, 3 to do" in text
    row = next(line.split() for line in text.splitlines() if line.lstrip().startswith("diffclip-probe"))
    assert row[:5] == ["diffclip-probe", "stored-r1", "random-v1", "2", "3"]
    assert all(float(value) > 0 for value in row[5:])
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "cache" / "pretraining").exists()
