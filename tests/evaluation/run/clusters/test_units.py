"""Pretrainings as jobs of their own, and detached runs, with a fake of submitit. Real Slurm: tests/clusters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import fake_cells
from helpers.fake_cells import EXECUTION, fake_record, make_job, no_stage, run_fakes
from helpers.fake_submitit import FakeExecutor, submitit

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError, TrainingError
from mmrs_bench.evaluation.cells import Cell, Suite, build_cells
from mmrs_bench.evaluation.results.records import load_failures, load_records
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.clusters import detached, queue
from mmrs_bench.evaluation.run.clusters.groups import make_groups
from mmrs_bench.evaluation.run.clusters.profile import SlurmNodes, SlurmProfile
from mmrs_bench.evaluation.run.clusters.remote import NothingLeftError, Task, remote_work
from mmrs_bench.evaluation.run.clusters.slurm import SlurmPool, SlurmWorker
from mmrs_bench.evaluation.run.display import watch
from mmrs_bench.evaluation.run.display.announcement import read_plan, run_ids
from mmrs_bench.evaluation.run.display.console import watch_console
from mmrs_bench.evaluation.run.executors import execute
from mmrs_bench.evaluation.run.jobs import Job, Worker
from mmrs_bench.evaluation.run.pool import worker_environment
from mmrs_bench.evaluation.run.session import run_cells

__all__ = ["submitit"]  # a fixture

Callback = Callable[..., None]
HERE = f"{__name__}:"
METHODS = ("majority", "diffclip")


def make_cells(draws: int = 3, **options: Any) -> list[Cell]:
    return build_cells(Suite.of({"methods": METHODS, "draws": draws, "budget": "smoke", **options}))


def pretrains_once(cell: Cell, execution: ExecutionConfig, results: Path, progress: Callback, wait: Callback) -> Record:
    """A cell of diffclip is only computed if the first one was, which pretrains."""
    trained = results / "trained"
    if cell.protocol.method == "diffclip" and not trained.exists():
        assert cell.protocol.data.draw == 0, "a cell started before its pretraining"
        progress("pretrain", 0.0)
        if (results / "faulty").exists():
            raise TrainingError("the loss is NaN")
        trained.touch()
    progress("fit", 0.0)
    if cell.protocol.method == "diffclip" and cell.protocol.data.draw == 0 and (results / "fit-faulty").exists():
        raise TrainingError("no fit")
    return fake_record(cell, execution)


def run(results: Path, cells: list[Cell], *, keep_going: bool = True, workers: int = 2, **options: Any) -> Job:
    results.mkdir(exist_ok=True)
    job = Job(results, tuple(cells), EXECUTION, keep_going=keep_going, compute=f"{HERE}pretrains_once")
    groups = make_groups(cells, [], "cpu")
    pool = SlurmPool(job, workers, {}, groups=groups, **options)
    execute(job, pool, on_stage=no_stage, on_outcome=lambda cell, path: None)
    return job


def dependencies(tasks: list[Any]) -> list[str]:
    return [task.parameters.get("slurm_dependency", "") for task in tasks]


def test_cells_that_share_a_pretraining_depend_on_the_job_that_trains_it(
    tmp_path: Path, submitit: type[FakeExecutor]
) -> None:
    cells = make_cells()
    run(tmp_path, cells)
    assert {record.key for record in load_records(tmp_path)} == {cell.key for cell in cells}
    assert dependencies(submitit.tasks) == ["", "", "", "afterok:7_2", "afterok:7_2"]
    assert submitit.tasks[3].parameters["slurm_additional_parameters"] == {"kill-on-invalid-dep": "yes"}


def test_several_pretrainings_are_an_array_and_each_place_depends_on_the_same_place(
    tmp_path: Path, submitit: type[FakeExecutor]
) -> None:
    cells = make_cells(datasets=("simulated", "trento"), methods=("diffclip",), draws=2)
    run(tmp_path, cells)
    assert dependencies(submitit.tasks) == ["", "", "aftercorr:7", "aftercorr:7"]
    assert [task.arguments[0].job.cells[0].dataset for task in submitit.tasks] == ["simulated", "trento"] * 2


def test_a_pretraining_that_is_killed_is_submitted_again_with_the_cells_that_wait_for_it(
    tmp_path: Path, submitit: type[FakeExecutor]
) -> None:
    submitit.states[:] = ["RUNNING", "RUNNING", "NODE_FAIL", "CANCELLED", "CANCELLED"]
    run(tmp_path, make_cells())
    assert len(load_records(tmp_path)) == 6
    assert dependencies(submitit.tasks)[5:] == ["", "afterok:7_5", "afterok:7_5"]
    assert [task.cancelled for task in submitit.tasks[3:5]] == [True, True]


def test_a_pretraining_that_fails_fails_the_cells_that_wait_for_it_and_no_others(
    tmp_path: Path, submitit: type[FakeExecutor]
) -> None:
    (tmp_path / "faulty").touch()
    submitit.states[:] = ["RUNNING"] * 3 + ["CANCELLED"] * 2
    run(tmp_path, make_cells())
    assert len(load_records(tmp_path)) == 3
    first, *others = [failure.message for failure in load_failures(tmp_path)]
    assert first == "the loss is NaN"
    expected = "diffclip simulated-r1 random-v1 2-shot draw 0, which pretrains for this cell, failed: the loss is NaN"
    assert others == [expected] * 2
    assert len(submitit.tasks) == 5, "nothing is submitted again"
    assert isinstance(submitit.tasks[2].exception(), NothingLeftError), "so that Slurm cancels the others"


def test_a_first_cell_that_fails_after_its_pretraining_fails_alone(
    tmp_path: Path, submitit: type[FakeExecutor]
) -> None:
    (tmp_path / "fit-faulty").touch()
    run(tmp_path, make_cells())
    assert len(load_records(tmp_path)) == 5
    assert [failure.message for failure in load_failures(tmp_path)] == ["no fit"]


def test_without_keep_going_a_failed_pretraining_stops_the_run(tmp_path: Path, submitit: type[FakeExecutor]) -> None:
    (tmp_path / "faulty").touch()
    submitit.states[:] = ["RUNNING"] * 3 + ["CANCELLED"] * 2
    run(tmp_path, make_cells(), keep_going=False)
    assert [failure.message for failure in load_failures(tmp_path)] == ["the loss is NaN"]
    assert len(submitit.tasks) == 5


def test_jobs_ask_for_what_their_group_needs_and_the_profile_says_where(
    tmp_path: Path, submitit: type[FakeExecutor]
) -> None:
    nodes = SlurmNodes(partition="fat", workers_per_job=2, memory_gb=3, hours=5, options={"slurm_nice": 5})
    profile = SlurmProfile(account="me", setup=("module load x",), cpu=nodes)
    cells = make_cells(methods=("majority",), draws=4)
    job = Job(tmp_path, tuple(cells), EXECUTION, compute=f"{HERE}pretrains_once")
    pool = SlurmPool(job, 4, {"slurm_nice": 7}, groups=make_groups(cells, [], "cpu", profile), profile=profile)
    job.open()
    pool.submit()
    expected = {"slurm_partition": "fat", "slurm_account": "me", "slurm_setup": ["module load x"], "slurm_nice": 7}
    expected |= {"mem_gb": 6, "cpus_per_task": 2, "slurm_array_parallelism": 2, "timeout_min": 16}
    assert [task.parameters for task in submitit.tasks] == [expected] * 2
    assert [task.arguments[0].processes for task in submitit.tasks] == [2, 2]


@pytest.fixture
def no_queue(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The answer of squeue, for the tests to change."""
    states: dict[str, str] = {}
    monkeypatch.setattr(queue, "read_states", lambda: states)
    return states


def detach(results: Path, cells: list[Cell], compute: str = "helpers.fake_cells:quick") -> int:
    arguments: dict[str, Any] = {"executor": "slurm", "detach": True, "progress": False, "keep_going": True}
    results.mkdir(exist_ok=True)
    return run_cells(cells, results, EXECUTION, workers=2, compute=compute, **arguments)


def finish_jobs(submitit: type[FakeExecutor], number: int) -> None:
    for task in submitit.tasks[:number]:
        assert task.paths.result_pickle.exists()
        assert task.exception() is None, task.exception()


def test_a_detached_run_ends_at_once_and_its_last_worker_removes_its_files(
    tmp_path: Path, submitit: type[FakeExecutor], no_queue: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    cells = make_cells()
    assert detach(tmp_path, cells) == 0
    assert load_records(tmp_path) == []
    (run_id,) = run_ids(tmp_path / "locks")
    plan = read_plan(tmp_path / "locks", run_id)
    assert plan is not None
    assert plan.jobs == ("7",)

    no_queue["7_0"] = "PENDING"
    assert watch.watch(tmp_path, watch_console(), once=True) == 0
    out = capsys.readouterr().out
    assert "0 of 6 done" in out
    assert "this run was submitted to Slurm with --detach, jobs 7" in " ".join(out.split())

    finish_jobs(submitit, 99)
    assert len(load_records(tmp_path)) == 6
    assert [path.name for path in (tmp_path / "locks").iterdir() if path.name.startswith(run_id)] == []


def test_a_detached_run_whose_pretraining_fails_leaves_no_files(
    tmp_path: Path, submitit: type[FakeExecutor], no_queue: dict[str, str]
) -> None:
    (tmp_path / "faulty").touch()
    submitit.states[:] = ["RUNNING"] * 3 + ["CANCELLED"] * 2
    assert detach(tmp_path, make_cells(), f"{HERE}pretrains_once") == 0
    (run_id,) = run_ids(tmp_path / "locks")
    for task in submitit.tasks:
        task.paths.result_pickle.exists()  # runs the job
    assert any(isinstance(task.exception(), NothingLeftError) for task in submitit.tasks)
    assert len(load_records(tmp_path)) + len(load_failures(tmp_path)) == 6
    assert [path.name for path in (tmp_path / "locks").iterdir() if path.name.startswith(run_id)] == []


def test_watch_says_that_the_jobs_of_a_detached_run_have_ended_and_the_next_run_resumes(
    tmp_path: Path, submitit: type[FakeExecutor], no_queue: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    cells = make_cells()
    detach(tmp_path, cells)
    no_queue["7_0"] = "FAILED"
    watch.watch(tmp_path, watch_console(), once=True)
    out = " ".join(capsys.readouterr().out.split())
    assert "the Slurm jobs 7 of this run have ended; run the same command again to continue" in out
    run_fakes(tmp_path, cells, "quick", executor="slurm", progress=False)
    assert len(load_records(tmp_path)) == 6
    assert run_ids(tmp_path / "locks") == []


def test_a_second_run_says_that_a_detached_one_goes_on(
    tmp_path: Path, submitit: type[FakeExecutor], no_queue: dict[str, str]
) -> None:
    detach(tmp_path, make_cells())
    locks = tmp_path / "locks"
    no_queue["7_1"] = "RUNNING"
    (line,) = detached.detached_notes(locks)
    assert line.startswith("an earlier run --detach goes on as Slurm jobs 7: this run shares the cells with them")
    no_queue["7_1"] = "COMPLETED"
    assert list(detached.detached_notes(locks)) == []
    assert run_ids(locks) == []


def test_a_refused_submission_leaves_no_run_behind(tmp_path: Path, submitit: type[FakeExecutor]) -> None:
    cells = make_cells()
    with pytest.raises(ConfigError, match="unknown argument nonsense"):
        run_fakes(
            tmp_path, cells, "quick", executor="slurm", detach=True, progress=False, executor_options={"nonsense": 1}
        )
    assert run_ids(tmp_path / "locks") == []
    assert list((tmp_path / "locks").glob("*.run")) == []


def test_a_packed_job_replaces_its_processes_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = worker_environment(1)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    job = make_job(tmp_path, fake_cells.make_cells(4), "dies_twice_on_draw_1")
    assert remote_work(Task(job, Worker("slurm-0"), variables, processes=2)) == ""
    assert len(load_records(tmp_path)) == 4
    assert len(list((tmp_path / "locks").glob("*slurm-0-*.end"))) == 2


def test_an_interrupted_packed_job_says_why_its_processes_end(tmp_path: Path) -> None:
    pytest.importorskip("submitit.helpers")
    worker, causes = Worker("slurm-0"), list[str]()
    worker.on_interruption = causes.append
    again = SlurmWorker().checkpoint(Task(make_job(tmp_path, fake_cells.make_cells(1)), worker, {}, processes=2))
    assert causes == ["its Slurm job reached its time limit or was preempted"]
    assert again.args[0].worker.on_interruption is None
