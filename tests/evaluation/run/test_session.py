"""Runs from start to end: exit status and printed lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.fake_cells import log_lines, make_cells, run_fakes

from mmrs_bench.evaluation.results.records import failure_path, load_records


def test_workers_share_the_cells(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_fakes(tmp_path, make_cells(12), "slow") == 0
    assert len(load_records(tmp_path)) == 12
    assert [line.split()[0] for line in log_lines(tmp_path)] == ["once"] * 12
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 12
    assert lines[-1].startswith("[12/12] fake fake0-r1 random-v1 2-shot draw ")
    assert " OA " in lines[-1]


def test_a_failure_stops_the_run_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_fakes(tmp_path, make_cells(4), "fails_on_draw_1", workers=1) == 1
    assert capfd.readouterr().err.splitlines()[1:] == [
        "[2/4] FAILED fake fake0-r1 random-v1 2-shot draw 1: the loss is NaN; lower the learning rate",
        "1 of 4 cells are done, 1 failed; run the same command again to retry; add --keep-going to compute the others "
        "first",
    ]
    assert not list((tmp_path / "locks").glob("*.stop"))


def test_the_line_of_a_defect_contains_the_path_of_the_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cells = make_cells(2)
    assert run_fakes(tmp_path, cells, "defect_on_draw_1", workers=1) == 1
    line = capfd.readouterr().err.splitlines()[1]
    assert line.endswith(f"no such luck (traceback in {failure_path(tmp_path, cells[1].protocol)})")


def test_a_finished_run_computes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cells = make_cells(2)
    run_fakes(tmp_path, cells, "quick")
    capfd.readouterr()
    assert run_fakes(tmp_path, cells, "endless") == 0
    assert "all 2 cells are done" in capfd.readouterr().err
