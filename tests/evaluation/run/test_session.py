"""Runs from start to end: exit status and printed lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.fake_cells import make_cells, run_fakes

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.evaluation.results.records import failure_path
from mmrs_bench.evaluation.run import session
from mmrs_bench.evaluation.run.session import free_core_notes, worker_count


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


@pytest.mark.parametrize(
    ("workers", "threads", "device", "expected"),
    [
        (1, 1, "cpu", "--threads 8 "),
        (3, 1, "cpu", "--threads 2 "),
        (1, 8, "cpu", ""),
        (5, 1, "cpu", ""),
        (1, 1, "cuda", ""),
    ],
)
def test_free_cores_are_named_with_the_option_that_uses_them(
    monkeypatch: pytest.MonkeyPatch, workers: int, threads: int, device: str, expected: str
) -> None:
    monkeypatch.setattr(session, "usable_cores", lambda: 8)
    lines = free_core_notes(workers, ExecutionConfig(device=device, threads=threads))
    assert len(lines) == bool(expected)
    assert expected in "".join(lines)


def test_a_long_run_of_fewer_cells_than_workers_says_how_to_use_all_cores(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "usable_cores", lambda: 8)
    for seconds, folder, workers, printed in ((200.0, "a", 2, True), (100.0, "b", 2, False), (200.0, "c", 1, False)):
        monkeypatch.setattr(session, "expected_seconds", lambda cells, records, seconds=seconds: [seconds])
        assert run_fakes(tmp_path / folder, make_cells(1), "quick", workers=workers) == 0
        assert ("--threads 8 uses them" in capfd.readouterr().err) is printed
