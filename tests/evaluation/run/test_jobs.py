"""Locks, claims and outcomes: how workers share cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.fake_cells import EXECUTION, fake_record, log_lines, make_cells

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import failure_path, load_failures, load_records, record_path, save_record
from mmrs_bench.evaluation.run.jobs import Job, cell_lock, stale_outcomes, work


def make_job(results: Path, cells: list[Cell], compute: str = "quick", **options: bool) -> Job:
    job = Job(
        results=results,
        cells=tuple(cells),
        execution=EXECUTION,
        keep_going=options.get("keep_going", False),
        stale=stale_outcomes(results, cells, force=options.get("force", False)),
        compute=compute if ":" in compute else f"helpers.fake_cells:{compute}",
    )
    job.lock_dir.mkdir(parents=True, exist_ok=True)
    return job


def silent(key: str, stage: str, done: float) -> None:
    pass


def test_every_cell_is_computed_once(tmp_path: Path) -> None:
    cells = make_cells(5)
    work(make_job(tmp_path, cells), silent)
    assert {record.key for record in load_records(tmp_path)} == {cell.key for cell in cells}
    work(make_job(tmp_path, cells), silent)
    assert [line.split()[0] for line in log_lines(tmp_path)] == ["once"] * 5


def test_the_stages_of_a_cell_are_told(tmp_path: Path) -> None:
    told: list[tuple[str, str, float]] = []
    (cell,) = make_cells(1)
    work(make_job(tmp_path, [cell]), lambda *stage: told.append(stage))
    assert told == [(cell.key, "start", 0.0), (cell.key, "fit", 0.5)]


def test_a_worker_waits_for_cells_that_others_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other finishes the cell while this worker waits; nothing is computed twice."""
    cells = make_cells(2)
    job = make_job(tmp_path, cells)
    with cell_lock(job.lock_dir, cells[0].key) as free:
        assert free
        monkeypatch.setattr("time.sleep", lambda seconds: save_record(tmp_path, fake_record(cells[0])))
        work(job, silent)
    assert [line.split()[1] for line in log_lines(tmp_path)] == [cells[1].key]


def test_a_cell_that_would_wait_is_put_off(tmp_path: Path) -> None:
    """Others go first; it is computed once nothing else is left, and leaves no claim or failure behind meanwhile."""
    cells = make_cells(3)
    job = make_job(tmp_path, cells, compute="waits_on_draw_0")
    draws = {cell.key: cell.protocol.data.draw for cell in cells}
    told: list[tuple[int, str]] = []
    work(job, lambda key, stage, done: told.append((draws[key], stage)))
    assert [draw for draw, stage in told if stage == "start"] == [0, 1, 2, 0, 0]
    assert [draw for draw, stage in told if stage != "start"] == [0, 0, 0]
    assert {record.key for record in load_records(tmp_path)} == set(draws)
    assert not load_failures(tmp_path)
    assert not list(job.lock_dir.glob("*.claim"))


def test_a_lock_is_exclusive_and_ends_with_its_block(tmp_path: Path) -> None:
    with cell_lock(tmp_path, "a") as first, cell_lock(tmp_path, "a") as second, cell_lock(tmp_path, "b") as other:
        assert (first, second, other) == (True, False, True)
    with cell_lock(tmp_path, "a") as again:
        assert again


def test_a_record_that_appears_before_the_lock_is_won_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run may finish a cell between the look at its outcome and the lock: the holder looks again."""
    (cell,) = make_cells(1)
    job = make_job(tmp_path, [cell])
    looks = iter([None])
    original = Job.outcome

    def outcome(self: Job, asked: Cell) -> Path | None:
        for first in looks:
            save_record(tmp_path, fake_record(cell))
            return first
        return original(self, asked)

    monkeypatch.setattr(Job, "outcome", outcome)
    work(job, silent)
    assert log_lines(tmp_path) == []


def test_a_failure_stops_the_run_and_is_retried_by_the_next(tmp_path: Path) -> None:
    cells = make_cells(4)
    work(make_job(tmp_path, cells, "fails_on_draw_1"), silent)
    assert [record.protocol.data.draw for record in load_records(tmp_path)] == [0]
    (failure,) = load_failures(tmp_path)
    assert (failure.error, failure.message) == ("TrainingError", "the loss is NaN; lower the learning rate")

    (tmp_path / "mended").touch()
    work(make_job(tmp_path, cells, "fails_on_draw_1"), silent)
    assert len(load_records(tmp_path)) == 4
    assert load_failures(tmp_path) == []
    assert not failure_path(tmp_path, cells[1].protocol).exists()


def test_keep_going_computes_the_others_and_tries_a_failure_once(tmp_path: Path) -> None:
    cells = make_cells(4)
    job = make_job(tmp_path, cells, "defect_on_draw_1", keep_going=True)
    work(job, silent)
    work(job, silent)  # a second worker of the same run
    assert [record.protocol.data.draw for record in load_records(tmp_path)] == [0, 2, 3]
    (failure,) = load_failures(tmp_path)
    assert failure.error == "ZeroDivisionError"
    assert "defect_on_draw_1" in failure.traceback
    assert len(log_lines(tmp_path)) == 3


def test_a_stopped_job_takes_no_cell(tmp_path: Path) -> None:
    job = make_job(tmp_path, make_cells(2))
    job.stop()
    work(job, silent)
    assert log_lines(tmp_path) == []
    job.clean_up()
    assert not job.stopped


def test_force_replaces_records_once(tmp_path: Path) -> None:
    cells = make_cells(2)
    work(make_job(tmp_path, cells), silent)
    before = record_path(tmp_path, cells[0].protocol).stat().st_mtime_ns
    job = make_job(tmp_path, cells, force=True)
    work(job, silent)
    work(job, silent)
    assert record_path(tmp_path, cells[0].protocol).stat().st_mtime_ns != before
    assert len(log_lines(tmp_path)) == 4


def test_a_cell_on_which_a_fellow_worker_died_fails(tmp_path: Path) -> None:
    """The claim of one's own run under a free lock: trying again would kill one worker after the other."""
    (cell,) = make_cells(1)
    job = make_job(tmp_path, [cell], keep_going=True)
    (job.lock_dir / f"{cell.key}.claim").write_text(job.run_id)
    work(job, silent)
    (failure,) = load_failures(tmp_path)
    assert "lack of memory" in failure.message
    assert log_lines(tmp_path) == []


def test_a_cell_that_an_earlier_run_was_killed_in_is_computed(tmp_path: Path) -> None:
    (cell,) = make_cells(1)
    job = make_job(tmp_path, [cell])
    claim = job.lock_dir / f"{cell.key}.claim"
    claim.write_text("another run")
    work(job, silent)
    assert len(load_records(tmp_path)) == 1
    assert not claim.exists()


def test_workers_begin_with_different_scenes(tmp_path: Path) -> None:
    cells = make_cells(6, scenes=2)
    job = make_job(tmp_path, cells)
    work(job, silent, worker=1)
    order = [line.split()[1] for line in log_lines(tmp_path)]
    by_key = {cell.key: cell.protocol.scene for cell in cells}
    assert [by_key[key] for key in order] == ["fake1-r1"] * 3 + ["fake0-r1"] * 3


def test_an_unknown_cell_function_is_a_failure_in_words(tmp_path: Path) -> None:
    work(make_job(tmp_path, make_cells(1), "helpers.fake_cells:nothing"), silent)
    (failure,) = load_failures(tmp_path)
    assert failure.error == ConfigError.__name__


def test_records_are_json_with_the_key_in_the_name(tmp_path: Path) -> None:
    (cell,) = make_cells(1)
    work(make_job(tmp_path, [cell]), silent)
    path = record_path(tmp_path, cell.protocol)
    assert cell.key in path.name
    assert json.loads(path.read_text())["key"] == cell.key
