"""Local workers in real processes, and cluster pools with fakes of the packages submitit and ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
from helpers.fake_cells import EXECUTION, fake_record, log_lines, make_cells
from rich.console import Console

from mmrs_bench.cli import main
from mmrs_bench.errors import BenchError, ConfigError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import failure_path, load_failures, load_records, save_record
from mmrs_bench.evaluation.run.executors import EXECUTORS, execute, make_pool
from mmrs_bench.evaluation.run.jobs import Job, work
from mmrs_bench.evaluation.run.pool import Stage, usable_cores, worker_environment
from mmrs_bench.evaluation.run.progress import RunDisplay
from mmrs_bench.evaluation.run.session import run_cells


def run_fakes(results: Path, cells: list[Cell], compute: str, *, workers: int = 2, **options: Any) -> int:
    return run_cells(cells, results, EXECUTION, workers=workers, compute=f"helpers.fake_cells:{compute}", **options)


def make_job(results: Path, count: int) -> Job:
    return Job(results, tuple(make_cells(count)), EXECUTION, compute="helpers.fake_cells:quick")


def run_job(executor: str, job: Job, workers: int = 2, **options: str) -> list[str]:
    """Run a job; return the keys of its cells in the order of their outcomes."""
    keys: list[str] = []
    execute(
        job,
        make_pool(executor, job, workers, options),
        on_stage=lambda key, stage, done: None,
        on_outcome=lambda cell, path: keys.append(cell.key),
    )
    return keys


class InProcessPool:
    """An executor of one class: one worker, in this process."""

    def __init__(self, job: Job, workers: int, options: Mapping[str, str]) -> None:
        self._job = job
        self.alive = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def poll(self) -> list[Stage]:
        stages: list[Stage] = []
        work(self._job, lambda key, name, done: stages.append(Stage(key, name, done)))
        self.alive = False
        return stages


def test_an_executor_is_one_class_and_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(EXECUTORS, "in-process", f"{__name__}:InProcessPool")
    assert run_fakes(tmp_path, make_cells(3), "quick", executor="in-process") == 0
    assert len(load_records(tmp_path)) == 3
    assert {line.split()[2] for line in log_lines(tmp_path)} == {str(os.getpid())}
    parse = ["run", "--executor", "in-process", "--methods", "nothing"]
    assert main(parse) == 2
    assert "unknown method 'nothing'" in capsys.readouterr().err, "the command line does not know the executor"
    with pytest.raises(ConfigError, match="unknown executor 'in-procces': did you mean in-process"):
        make_pool("in-procces", make_job(tmp_path, 1), 1, {})


def test_local_workers_share_the_cells(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_fakes(tmp_path, make_cells(12), "slow") == 0
    assert len(load_records(tmp_path)) == 12
    assert [line.split()[0] for line in log_lines(tmp_path)] == ["once"] * 12
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 12
    assert lines[-1].startswith("[12/12] fake fake0-r1 random-v1 2-shot draw ")
    assert " OA " in lines[-1]


def test_the_first_worker_of_a_process_ignores_ctrl_c(tmp_path: Path) -> None:
    """multiprocessing starts its resource tracker with the first process, which unblocks the signal."""
    script = Path(__file__).parents[2] / "helpers" / "run_fake_job.py"
    subprocess.run([sys.executable, str(script), str(tmp_path), "1", "1", "reports_environment"], check=True)
    assert log_lines(tmp_path)[-1] == "SIGINT blocked: True"


def test_workers_start_with_the_right_environment_and_keep_the_terminal_clean(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ)
    assert run_fakes(tmp_path, make_cells(1), "reports_environment") == 0
    expected = " ".join(f"{name}={value}" for name, value in worker_environment(1).items())
    assert log_lines(tmp_path) == [expected, "SIGINT blocked: True"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert dict(os.environ) == before
    shown = capfd.readouterr()
    assert "prints something" not in shown.out + shown.err
    (log,) = (tmp_path / "logs").iterdir()
    assert log.read_text() == "a library prints something\n"


def test_a_killed_worker_fails_only_its_cell(tmp_path: Path) -> None:
    assert run_fakes(tmp_path, make_cells(6), "dies_on_draw_1", keep_going=True) == 1
    assert [record.protocol.data.draw for record in load_records(tmp_path)] == [0, 2, 3, 4, 5]
    (failure,) = load_failures(tmp_path)
    assert failure.protocol.data.draw == 1
    assert "died" in failure.message


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


def test_a_worker_that_cannot_write_ends_the_run_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("a file where a folder is needed")
    (tmp_path / "failures").write_text("a file where a folder is needed")
    with pytest.raises(BenchError, match="cannot write"):
        run_job("local", make_job(tmp_path, 2), 1)


def test_workers_that_die_before_their_first_cell_are_not_replaced_for_ever(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("workers cannot create their log folder and die")
    with pytest.raises(BenchError, match="die before they take a cell"):
        run_job("local", make_job(tmp_path, 2))


def test_the_display_shows_stages_on_a_terminal(tmp_path: Path) -> None:
    cells = make_cells(3)
    console = Console(force_terminal=True, width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file, RunDisplay({c.key: c for c in cells}, 1, tmp_path, console) as display:
        display.on_stage(cells[0].key, "fit", 0.25)
        assert [task.completed for task in display._bars.tasks] == [1, 25]
        display.on_outcome(cells[0], save_record(tmp_path, fake_record(cells[0])))
        display.on_stage(cells[0].key, "score", 1.0)
        assert [task.completed for task in display._bars.tasks] == [2]
        display.line("[not markup] stays")
    text = console.export_text()
    assert "[not markup] stays" in text
    assert "[2/3] fake fake0-r1" in text


def test_usable_cores_are_those_of_the_affinity() -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_a_missing_cluster_package_is_named_with_its_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=rf"pip install 'mmrs-bench\[{name}\]'"):
        make_pool(name, make_job(tmp_path, 1), 1, {})


def test_the_local_executor_refuses_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the local executor has none"):
        make_pool("local", make_job(tmp_path, 1), 1, {"partition": "gpu"})


class _Task:
    """A submitit job that runs when its state is read."""

    def __init__(self, function: Any, arguments: tuple[Any, ...]) -> None:
        self._call = (function, arguments)
        self._error: BaseException | None = None
        self.cancelled = False

    def done(self) -> bool:
        function, arguments = self._call
        try:
            function(*arguments)
        except RuntimeError as error:
            self._error = error
        return True

    def exception(self) -> BaseException | None:
        return self._error

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def _worker_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo the changes that workers in this process make to its environment."""
    for name, value in worker_environment(1).items():
        monkeypatch.setenv(name, value)


class _AutoExecutor:
    parameters: dict[str, Any]
    environment: str | None

    def __init__(self, folder: Path, cluster: str) -> None:
        type(self).parameters = {"cluster": cluster}

    def update_parameters(self, **parameters: Any) -> None:
        if "nonsense" in parameters:
            raise NameError("unknown argument nonsense")
        type(self).parameters |= parameters

    @contextmanager
    def batch(self) -> Iterator[None]:
        type(self).environment = os.environ.get("OMP_WAIT_POLICY")
        yield

    def submit(self, function: Any, *arguments: Any) -> _Task:
        return _Task(function, arguments)


@pytest.fixture
def submitit(monkeypatch: pytest.MonkeyPatch, _worker_environment: None) -> type[_AutoExecutor]:
    module = types.ModuleType("submitit")
    module.AutoExecutor = _AutoExecutor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "submitit", module)
    monkeypatch.setattr("mmrs_bench.evaluation.run.clusters.POLL_SECONDS", 0.0)
    return _AutoExecutor


def test_slurm_workers_are_submitted_with_the_options(tmp_path: Path, submitit: type[_AutoExecutor]) -> None:
    job = make_job(tmp_path, 3)
    keys = run_job("slurm", job, slurm_partition="gpu", gpus_per_node="1")
    assert keys == [cell.key for cell in job.cells]
    assert submitit.parameters == {
        "cluster": "slurm",
        "timeout_min": 1440,
        "cpus_per_task": 1,
        "slurm_partition": "gpu",
        "gpus_per_node": 1,
    }
    assert submitit.environment == "PASSIVE"


class _Ray(types.ModuleType):
    """The part of ray that the pool uses; a task runs when the pool waits for it."""

    class exceptions:  # noqa: N801 - the package's own name
        RayError = RuntimeError

    def __init__(self) -> None:
        super().__init__("ray")
        self.settings: dict[str, Any] = {}
        self.cancelled: list[Any] = []

    def init(self, **settings: Any) -> None:
        if "nonsense" in settings:
            raise RuntimeError("unknown keyword nonsense")
        self.settings = settings

    def remote(self, function: Any) -> Any:
        def options(**settings: Any) -> Any:
            self.settings |= settings
            return types.SimpleNamespace(remote=lambda *arguments: (function, arguments))

        return types.SimpleNamespace(options=options)

    def wait(self, tasks: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return tasks[:1], tasks[1:]

    def get(self, task: Any) -> None:
        function, arguments = task
        function(*arguments)

    def cancel(self, task: Any, force: bool) -> None:
        self.cancelled.append(task)

    def shutdown(self) -> None:
        self.settings["open"] = False


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch, _worker_environment: None) -> _Ray:
    module = _Ray()
    monkeypatch.setitem(sys.modules, "ray", module)
    return module


def test_ray_workers_share_the_cells(tmp_path: Path, ray: _Ray) -> None:
    job = make_job(tmp_path, 3)
    assert run_job("ray", job, address="auto", num_gpus="0.5") == [cell.key for cell in job.cells]
    assert ray.settings == {
        "address": "auto",
        "runtime_env": {"env_vars": worker_environment(1)},
        "log_to_driver": False,
        "num_cpus": 1,
        "num_gpus": 0.5,
        "max_retries": 0,
        "open": False,
    }
    assert len(ray.cancelled) == 1, "the second worker was not needed and must be ended"


@pytest.mark.parametrize("executor", ["slurm", "ray"])
def test_an_unknown_cluster_option_is_refused(
    executor: str, tmp_path: Path, submitit: type[_AutoExecutor], ray: _Ray
) -> None:
    with pytest.raises(ConfigError, match=rf"--executor {executor}: unknown .* nonsense\. Check --executor-options"):
        run_job(executor, make_job(tmp_path, 1), nonsense="1")


@pytest.mark.parametrize("executor", ["slurm", "ray"])
def test_the_error_of_the_last_cluster_worker_is_raised(
    executor: str, tmp_path: Path, submitit: type[_AutoExecutor], ray: _Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("node failure\nslurmstepd: ...")

    monkeypatch.setattr("mmrs_bench.evaluation.run.clusters.remote_work", broken)
    with pytest.raises(BenchError, match=rf"the last {executor.capitalize()} worker failed \(node failure\)"):
        run_job(executor, make_job(tmp_path, 2))


def test_the_real_submitit_on_its_local_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
    run_job("slurm", make_job(tmp_path, 3), 1, cluster="local", timeout_min="2")
    assert len(load_records(tmp_path)) == 3
