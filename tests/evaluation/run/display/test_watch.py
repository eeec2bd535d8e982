"""Watching runs of other processes through their results folder."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from clusters.processes import wait_until
from helpers.fake_cells import fake_record, make_cells, make_job
from rich.console import Console

from mmrs_bench.errors import TrainingError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import save_failure, save_record
from mmrs_bench.evaluation.run.claims import cell_lock, read_claim
from mmrs_bench.evaluation.run.display import watch as module
from mmrs_bench.evaluation.run.display.announcement import announced, plan_of, read_plan, run_ids
from mmrs_bench.evaluation.run.display.watch import State, Watched, watch
from mmrs_bench.evaluation.run.jobs import Job
from mmrs_bench.evaluation.run.stage_files import StageFile

SCRIPT = Path(__file__).parents[3] / "helpers" / "run_fake_job.py"


def start(results: Path, compute: str = "endless", cells: int = 4) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(SCRIPT), str(results), str(cells), "2", compute]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)


@contextmanager
def run_of(results: Path, cells: Sequence[Cell], *, force: bool = False, workers: int = 1) -> Iterator[Job]:
    """An announced run, without workers."""
    job = make_job(results, cells, force=force)
    with announced(job, plan_of(job, cells, [], dict.fromkeys((c.key for c in cells), 60.0), workers)):
        yield job
        job.clean_up()


def begin(job: Job, cell: Cell) -> None:
    read_claim(job.lock_dir / f"{cell.key}.claim").started(job.run_id, "w")


def watched(results: Path) -> Watched:
    plans = {run: read_plan(results / "locks", run) for run in run_ids(results / "locks")}
    return Watched(results, {run: plan for run, plan in plans.items() if plan})


def shown(results: Path, status: int = 0, *, once: bool = True) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    assert watch(results, console, once=once) == status
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def files(results: Path) -> dict[str, tuple[int, bytes]]:
    paths = [path for path in results.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def stages(results: Path) -> str:
    return "".join(path.read_text() for path in (results / "locks").glob("*.stage"))


def test_another_process_sees_what_the_workers_of_a_run_do_until_it_is_killed(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        try:
            wait_until(lambda: stages(tmp_path).count('"fit"') == 2)
            one = watched(tmp_path)
            one.look()
            assert one.state() is State.ON
            assert sorted((e.cell.title, e.stage, e.share) for e in one.board.running.values()) == [
                (f"fake fake0-r1 random-v1 2-shot draw {draw}", "fit", 0.5) for draw in (0, 1)
            ]
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    wait_until(lambda: one.state() is State.KILLED)
    lines = shown(tmp_path)
    assert lines[0] == "0 of 4 done, 0 running, 0 failed"
    assert lines[-1] == "the run was killed; run the same command again to continue"


def test_one_look_prints_the_state_and_changes_nothing(tmp_path: Path) -> None:
    cells = make_cells(4)
    with run_of(tmp_path, cells) as job:
        save_record(tmp_path, fake_record(cells[0]))
        save_failure(tmp_path, cells[1].protocol, TrainingError("the loss is NaN"))
        begin(job, cells[2])
        StageFile(job, "w")(cells[2].key, "pretrain", 0.25)
        before = files(tmp_path)
        summary, running, head, row, failure = shown(tmp_path)
        assert files(tmp_path) == before
    assert summary.startswith("1 of 4 done, 1 running, 1 failed; 0 s, about ")
    assert running.split()[:5] == ["fake", "draw", "2", "pretrain", "25"]
    assert head.split() == ["method", "done", "running", "failed", "OA", "%"]
    assert row.split() == ["fake", "1/4", "1", "1", f"{100 * fake_record(cells[0]).scores.oa:.1f}"]
    assert failure == "FAILED fake fake0-r1 random-v1 2-shot draw 1: the loss is NaN"


@pytest.mark.parametrize(("compute", "status", "end"), [
    ("slow", 0, "all 30 cells are done"),
    ("fails_on_draw_1", 1, "cells are done, 1 failed"),
])  # fmt: skip
def test_watching_ends_with_the_run_and_lists_its_cells(tmp_path: Path, compute: str, status: int, end: str) -> None:
    with start(tmp_path, compute, 30) as process:
        wait_until(lambda: run_ids(tmp_path / "locks") or process.poll() is not None)
        lines = shown(tmp_path, status, once=False)
    assert lines[-1].endswith(end)
    assert all(line.startswith(("[", "FAILED")) for line in lines[:-1])
    assert shown(tmp_path, status)[0].startswith(f"{tmp_path}: no run is on; ")


def test_a_record_is_read_once_and_a_finished_cell_is_not_looked_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = make_cells(5)
    read: list[str] = []
    load = module.load_record
    monkeypatch.setattr(
        module, "load_record", lambda path, **options: (read.append(path.name), load(path, **options))[1]
    )
    for cell in cells[:3]:
        save_record(tmp_path, fake_record(cell))
    with run_of(tmp_path, cells):
        one = watched(tmp_path)
        one.score_later(one.look())
        for _ in range(3):
            one.read_scores(10.0)
            assert one.look() == []
        save_record(tmp_path, fake_record(cells[3]))
        (outcome,) = one.look()
        assert "draw 3: OA " in one.line_of(outcome)
        assert one.look() == []
    assert len(read) == len(set(read)) == 4
    assert one.board.rows()[0].total.mean_oa is not None


def test_outcomes_of_earlier_runs_that_are_computed_again_do_not_count(tmp_path: Path) -> None:
    cells = make_cells(2)
    save_record(tmp_path, fake_record(cells[0]))
    save_failure(tmp_path, cells[1].protocol, TrainingError("no"))
    with run_of(tmp_path, cells, force=True):
        one = watched(tmp_path)
        assert one.look() == []
        save_failure(tmp_path, cells[1].protocol, TrainingError("no"))
        assert [outcome.failed for outcome in one.look()] == [True]


def test_cells_that_a_run_does_not_compute_count_as_done_with_their_scores(tmp_path: Path) -> None:
    cells = make_cells(3)
    record = fake_record(cells[0])
    job = make_job(tmp_path, cells[1:])
    with announced(job, plan_of(job, cells, [record], {cell.key: None for cell in cells[1:]}, 1)):
        one = watched(tmp_path)
        assert one.look() == []
    assert (one.board.done, one.board.total) == (1, 3)
    assert one.board.rows()[0].total.mean_oa == pytest.approx(record.scores.oa, abs=1e-4)


def test_workers_that_outlive_the_process_of_their_run_are_shown(tmp_path: Path) -> None:
    (cell,) = make_cells(1)
    with run_of(tmp_path, [cell]) as job:
        plan = (job.lock_dir / f"{job.run_id}.plan").read_bytes()
    (job.lock_dir / f"{job.run_id}.plan").write_bytes(plan)  # as after kill -9
    begin(job, cell)
    with cell_lock(job.lock_dir, cell.key):
        lines = shown(tmp_path)
        assert lines[0].startswith("0 of 1 done, 1 running, 0 failed; ")
        assert lines[-1] == "the process that started this run has ended; its workers go on"
    assert shown(tmp_path)[-1].startswith("the run was killed")
    with run_of(tmp_path, [cell]) as job:
        assert run_ids(tmp_path / "locks") == [job.run_id], "the next run removes what a killed one left"


def test_two_runs_of_one_folder_are_one_table(tmp_path: Path) -> None:
    cells = make_cells(5)
    with ExitStack() as stack:
        for chosen in (cells[:3], cells[2:]):
            stack.enter_context(run_of(tmp_path, chosen, workers=2))
        summary = shown(tmp_path)[0]
    assert summary == "0 of 5 done, 0 running, 0 failed; 0 s, about 80 seconds left"  # 5 cells of 60 s on 4 workers


def test_a_dead_worker_of_a_cluster_is_not_shown(tmp_path: Path) -> None:
    cells = make_cells(2)
    with run_of(tmp_path, cells) as job:
        begin(job, cells[0])
        StageFile(job, "slurm-0")(cells[0].key, "fit", 0.5)
        job.report_end("slurm-0", "its Slurm job was cancelled")
        one = watched(tmp_path)
        one.look()
    assert [entry.stage for entry in one.board.running.values()] == [""]


def test_the_command_line_names_what_is_wrong(
    tmp_path: Path, refused: Callable[..., str], printed: Callable[..., str]
) -> None:
    assert "nowhere: there is no such folder" in refused("watch", tmp_path / "nowhere")
    assert printed("watch", tmp_path) == f"{tmp_path}: no run is on; 0 records, 0 failed cells\n"
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "ab.plan").write_text('{"started": 1, "cells": [], "of another version": 1}')
    line = refused("watch", tmp_path, "--once")
    assert "ab.plan" in line
    assert "watch the run with the version that started it" in line
