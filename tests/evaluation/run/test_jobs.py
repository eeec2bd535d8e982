"""Workers share the cells of a job through locks, claims and outcomes."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.fake_cells import fake_record, log_lines, make_cells, make_job, no_stage

from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import failure_path, load_failures, load_records, record_path, save_record
from mmrs_bench.evaluation.run.claims import Claim, cell_lock, read_claim
from mmrs_bench.evaluation.run.jobs import DEFERRED, Job, Worker, order_of_worker, work


def test_every_cell_is_computed_once(tmp_path: Path) -> None:
    cells = make_cells(5)
    work(make_job(tmp_path, cells), no_stage)
    assert {record.key for record in load_records(tmp_path)} == {cell.key for cell in cells}
    work(make_job(tmp_path, cells), no_stage)
    assert [line.split()[0] for line in log_lines(tmp_path)] == ["once"] * 5


def test_a_worker_waits_for_a_locked_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has the lock of the first cell, and saves its record while this worker sleeps."""
    cells = make_cells(2)
    job = make_job(tmp_path, cells)
    with cell_lock(job.lock_dir, cells[0].key) as free:
        assert free
        monkeypatch.setattr("time.sleep", lambda seconds: save_record(tmp_path, fake_record(cells[0])))
        work(job, no_stage)
    assert [line.split()[1] for line in log_lines(tmp_path)] == [cells[1].key]


def test_a_cell_that_would_wait_is_deferred_until_no_other_cell_is_left(tmp_path: Path) -> None:
    cells = make_cells(3)
    job = make_job(tmp_path, cells, compute="waits_on_draw_0")
    draws = {cell.key: cell.protocol.data.draw for cell in cells}
    stages: list[tuple[int, str]] = []
    work(job, lambda key, stage, done: stages.append((draws[key], stage)))
    assert [draw for draw, stage in stages if stage == "start"] == [0, 1, 2, 0, 0]
    others = [(draw, stage) for draw, stage in stages if stage != "start"]
    assert others == [(0, DEFERRED), (0, DEFERRED), (0, "waiting for another")]
    assert {record.key for record in load_records(tmp_path)} == set(draws)
    assert not load_failures(tmp_path)
    assert not list(job.lock_dir.glob("*.claim"))


def test_a_lock_is_exclusive_and_ends_with_its_block(tmp_path: Path) -> None:
    with cell_lock(tmp_path, "a") as first, cell_lock(tmp_path, "a") as second, cell_lock(tmp_path, "b") as other:
        assert (first, second, other) == (True, False, True)
    with cell_lock(tmp_path, "a") as again:
        assert again


def test_a_record_that_appears_before_the_lock_is_acquired_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run finishes the cell after the first check of its outcome: the outcome is checked again."""
    (cell,) = make_cells(1)
    job = make_job(tmp_path, [cell])
    checks = iter([None])
    original = Job.outcome

    def outcome(self: Job, checked: Cell) -> Path | None:
        for first in checks:
            save_record(tmp_path, fake_record(cell))
            return first
        return original(self, checked)

    monkeypatch.setattr(Job, "outcome", outcome)
    work(job, no_stage)
    assert log_lines(tmp_path) == []


def test_a_failure_stops_the_run_and_the_next_run_retries_it(tmp_path: Path) -> None:
    cells = make_cells(4)
    work(make_job(tmp_path, cells, "fails_on_draw_1"), no_stage)
    assert [record.protocol.data.draw for record in load_records(tmp_path)] == [0]
    (failure,) = load_failures(tmp_path)
    assert (failure.error, failure.message) == ("TrainingError", "the loss is NaN; lower the learning rate")

    (tmp_path / "repaired").touch()
    work(make_job(tmp_path, cells, "fails_on_draw_1"), no_stage)
    assert len(load_records(tmp_path)) == 4
    assert not failure_path(tmp_path, cells[1].protocol).exists()


def test_keep_going_computes_the_other_cells_and_a_failed_cell_once(tmp_path: Path) -> None:
    job = make_job(tmp_path, make_cells(4), "defect_on_draw_1", keep_going=True)
    work(job, no_stage)
    work(job, no_stage)  # a second worker of the same run
    assert [record.protocol.data.draw for record in load_records(tmp_path)] == [0, 2, 3]
    (failure,) = load_failures(tmp_path)
    assert failure.error == "ZeroDivisionError"
    assert "defect_on_draw_1" in failure.traceback
    assert len(log_lines(tmp_path)) == 3


def test_workers_of_a_stopped_job_take_no_cell(tmp_path: Path) -> None:
    job = make_job(tmp_path, make_cells(2))
    job.stop()
    work(job, no_stage)
    assert log_lines(tmp_path) == []
    job.clean_up()
    assert list(job.lock_dir.iterdir()) == []


def test_force_replaces_records_once(tmp_path: Path) -> None:
    cells = make_cells(2)
    work(make_job(tmp_path, cells), no_stage)
    before = record_path(tmp_path, cells[0].protocol).stat().st_mtime_ns
    job = make_job(tmp_path, cells, force=True)
    work(job, no_stage)
    work(job, no_stage)
    assert record_path(tmp_path, cells[0].protocol).stat().st_mtime_ns != before
    assert len(log_lines(tmp_path)) == 4


@pytest.mark.parametrize(("run", "attempts", "fails"), [("this", 2, False), ("this", 3, True), ("another", 3, False)])
def test_a_cell_fails_after_three_workers_of_one_run_died_on_it(
    tmp_path: Path, run: str, attempts: int, fails: bool
) -> None:
    (cell,) = make_cells(1)
    job = make_job(tmp_path, [cell], keep_going=True)
    claim = Claim(job.lock_dir / f"{cell.key}.claim")
    for number in range(attempts):
        claim = claim.started(job.run_id if run == "this" else run, f"w{number}")
        job.report_end(f"w{number}", f"killed by signal {number}")
    work(job, no_stage)
    causes = "ended 3 times before the cell was finished: killed by signal 0; killed by signal 1; killed by signal 2."
    assert [causes in failure.message for failure in load_failures(tmp_path)] == [True] * fails
    assert len(load_records(tmp_path)) == len(log_lines(tmp_path)) == (not fails)
    assert not claim.path.exists()


def test_a_worker_without_a_known_cause_is_waited_for_before_its_cell_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = make_cells(1)
    job = make_job(tmp_path, [cell])
    claim = Claim(job.lock_dir / f"{cell.key}.claim")
    for _ in range(3):
        claim = claim.started(job.run_id, "w")
    monkeypatch.setattr("time.sleep", lambda seconds: job.report_end("w", "its Ray node was lost"))
    work(job, no_stage)
    (failure,) = load_failures(tmp_path)
    assert "its Ray node was lost" in failure.message
    assert "out of memory" not in failure.message


def test_an_interrupted_cell_has_no_failure_record_and_its_claim_has_the_cause(tmp_path: Path) -> None:
    """submitit raises an error in the cell if a job may not be put back into the queue."""
    (cell,) = make_cells(1)
    job = make_job(tmp_path, [cell])
    worker = Worker("w")

    def interrupt(key: str, stage: str, done: float) -> None:
        if stage == "fit":
            worker.interrupted("time limit")
            raise RuntimeError("not requeued")

    with pytest.raises(RuntimeError, match="not requeued"):
        work(job, interrupt, worker)
    assert load_failures(tmp_path) == []
    (attempt,) = read_claim(job.lock_dir / f"{cell.key}.claim").attempts
    assert (attempt.run, attempt.worker, attempt.cause) == (job.run_id, "w", "time limit")


@pytest.mark.parametrize("content", ["", "run 7", "[1]", '[{"run": 1}]', "[" * 10_000])
def test_a_claim_with_other_content_is_written_again(tmp_path: Path, content: str) -> None:
    (cell,) = make_cells(1)
    job = make_job(tmp_path, [cell])
    (job.lock_dir / f"{cell.key}.claim").write_text(content)
    work(job, no_stage)
    assert len(load_records(tmp_path)) == 1


def test_workers_start_with_different_scenes(tmp_path: Path) -> None:
    cells = make_cells(6, scenes=2)
    work(make_job(tmp_path, cells), no_stage, worker=Worker("one", 1))
    scenes = {cell.key: cell.protocol.scene for cell in cells}
    assert [scenes[line.split()[1]] for line in log_lines(tmp_path)] == ["fake1-r1"] * 3 + ["fake0-r1"] * 3


def test_odd_workers_begin_each_draw_with_its_last_cell_and_try_every_cell_once() -> None:
    cells = [cell for pair in zip(make_cells(3), make_cells(3, method="slow"), strict=True) for cell in pair]
    orders = {
        number: [(c.protocol.data.draw, c.method_label) for c in order_of_worker(cells, number)] for number in (0, 1)
    }
    assert orders[0] == [(draw, method) for draw in range(3) for method in ("fake", "slow")]
    assert orders[1] == [(draw, method) for draw in range(3) for method in ("slow", "fake")]


def test_an_unknown_cell_function_is_a_failure(tmp_path: Path) -> None:
    work(make_job(tmp_path, make_cells(1), "nothing"), no_stage)
    (failure,) = load_failures(tmp_path)
    assert (failure.error, "fake_cells:nothing does not exist" in failure.message) == ("ConfigError", True)
