"""Runs from start to end: exit status and printed lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.fake_cells import make_cells, run_fakes

from mmrs_bench.evaluation.results.records import failure_path
from mmrs_bench.evaluation.run import session
from mmrs_bench.evaluation.run.session import worker_count


def test_a_failure_stops_the_run_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_fakes(tmp_path, make_cells(4), "fails_on_draw_1", workers=1) == 1
    assert capfd.readouterr().err.splitlines()[2:] == [
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
    line = capfd.readouterr().err.splitlines()[2]
    assert line.endswith(f"no such luck (traceback in {failure_path(tmp_path, cells[1].protocol)})")


def test_by_default_workers_times_threads_is_the_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "usable_cores", lambda: 8)
    assert [worker_count(None, "cpu", cores) for cores in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]
    assert worker_count(3, "cpu", 8) == 3
    assert worker_count(None, "cuda", 1) == 1
