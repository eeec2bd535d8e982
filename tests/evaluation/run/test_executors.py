"""Local workers in real processes, and the cluster pools against stand-ins of their packages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_cells import EXECUTION, fake_record, log_lines, make_cells
from rich.console import Console

from mmrs_bench.errors import BenchError, ConfigError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import failure_path, load_failures, load_records, save_record
from mmrs_bench.evaluation.run.executors import execute, make_pool
from mmrs_bench.evaluation.run.jobs import Job
from mmrs_bench.evaluation.run.local import LocalPool
from mmrs_bench.evaluation.run.pool import usable_cores, worker_environment
from mmrs_bench.evaluation.run.progress import RunDisplay
from mmrs_bench.evaluation.run.session import run_cells


def run_fakes(results: Path, cells: list[Cell], compute: str, *, workers: int = 2, keep_going: bool = False) -> int:
    return run_cells(
        cells, results, EXECUTION, workers=workers, keep_going=keep_going, compute=f"helpers.fake_cells:{compute}"
    )


def make_job(results: Path, count: int, compute: str = "quick") -> Job:
    return Job(
        results=results, cells=tuple(make_cells(count)), execution=EXECUTION, compute=f"helpers.fake_cells:{compute}"
    )


def no_stage(key: str, stage: str, done: float) -> None:
    pass


def test_local_workers_share_the_cells(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_fakes(tmp_path, make_cells(12), "slow") == 0
    assert len(load_records(tmp_path)) == 12
    assert [line.split()[0] for line in log_lines(tmp_path)] == ["once"] * 12
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 12
    assert lines[-1].startswith("[12/12] fake fake0-r1 random-v1 2-shot draw ")
    assert " OA " in lines[-1]


def test_the_first_worker_of_a_process_is_shielded_from_ctrl_c_too(tmp_path: Path) -> None:
    """With it starts a helper of multiprocessing, which unblocks the signal on its way."""
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


def test_a_killed_worker_costs_its_cell_and_nothing_else(tmp_path: Path) -> None:
    assert run_fakes(tmp_path, make_cells(6), "dies_on_draw_1", keep_going=True) == 1
    assert [record.protocol.data.draw for record in load_records(tmp_path)] == [0, 2, 3, 4, 5]
    (failure,) = load_failures(tmp_path)
    assert failure.protocol.data.draw == 1
    assert "died" in failure.message


def test_a_failure_stops_the_run_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_fakes(tmp_path, make_cells(4), "fails_on_draw_1", workers=1) == 1
    assert capfd.readouterr().err.splitlines()[1:] == [
        "[2/4] FAILED fake fake0-r1 random-v1 2-shot draw 1: the loss is NaN; lower the learning rate",
        "1 of 4 cells are done, 1 failed; the same command tries again; --keep-going computes the others first",
    ]
    assert not list((tmp_path / "locks").glob("*.stop"))


def test_a_defect_points_to_its_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
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
    job = make_job(tmp_path, 2)
    with pytest.raises(BenchError, match="cannot write"):
        execute(job, LocalPool(job, 1), on_stage=no_stage, on_outcome=lambda cell, path: None)


def test_workers_that_die_at_once_end_the_run(tmp_path: Path) -> None:
    """A cell function's module that cannot even be unpickled or imported by the worker must not restart for ever."""
    job = make_job(tmp_path, 2)
    (tmp_path / "logs").write_text("workers cannot make their log folder and die")
    with pytest.raises(BenchError, match="die before they take a cell"):
        execute(job, LocalPool(job, 2), on_stage=no_stage, on_outcome=lambda cell, path: None)


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


def test_usable_cores_follows_the_affinity() -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_a_missing_cluster_package_is_named_with_its_extra(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=rf"pip install 'mmrs-bench\[{name}\]'"):
        make_pool(name, make_job(tmp_path, 1), 1, {})


def test_options_without_a_cluster_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the local executor has none"):
        make_pool("local", make_job(tmp_path, 1), 1, {"partition": "gpu"})


class _Task:
    """A submitit job that runs when it is first asked about."""

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
def submitit(monkeypatch: pytest.MonkeyPatch) -> type[_AutoExecutor]:
    module = types.ModuleType("submitit")
    module.AutoExecutor = _AutoExecutor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "submitit", module)
    monkeypatch.setattr("mmrs_bench.evaluation.run.clusters.POLL_SECONDS", 0.0)
    for name, value in worker_environment(1).items():
        monkeypatch.setenv(name, value)
    return _AutoExecutor


def test_slurm_workers_are_submitted_with_the_options(tmp_path: Path, submitit: type[_AutoExecutor]) -> None:
    job = make_job(tmp_path, 3)
    pool = make_pool("slurm", job, 2, {"slurm_partition": "gpu", "gpus_per_node": "1"})
    seen: list[str] = []
    execute(job, pool, on_stage=no_stage, on_outcome=lambda cell, path: seen.append(cell.key))
    assert seen == [cell.key for cell in job.cells]
    assert submitit.parameters == {
        "cluster": "slurm",
        "timeout_min": 1440,
        "cpus_per_task": 1,
        "slurm_partition": "gpu",
        "gpus_per_node": 1,
    }
    assert submitit.environment == "PASSIVE"


def test_a_wrong_slurm_option_is_one_line(tmp_path: Path, submitit: type[_AutoExecutor]) -> None:
    job = make_job(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"unknown argument nonsense\. Check --executor-options"):
        execute(
            job,
            make_pool("slurm", job, 1, {"nonsense": "1"}),
            on_stage=no_stage,
            on_outcome=lambda cell, path: None,
        )


def test_the_error_of_the_last_slurm_worker_is_raised(
    tmp_path: Path, submitit: type[_AutoExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("node failure\nslurmstepd: ...")

    monkeypatch.setattr("mmrs_bench.evaluation.run.clusters.remote_work", broken)
    job = make_job(tmp_path, 2)
    with pytest.raises(BenchError, match=r"the last Slurm worker failed \(node failure\)"):
        execute(job, make_pool("slurm", job, 2, {}), on_stage=no_stage, on_outcome=lambda cell, path: None)


class _Ray(types.ModuleType):
    """As much of ray as the pool uses; a task runs when it is waited for."""

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
def ray(monkeypatch: pytest.MonkeyPatch) -> _Ray:
    module = _Ray()
    monkeypatch.setitem(sys.modules, "ray", module)
    for name, value in worker_environment(1).items():
        monkeypatch.setenv(name, value)
    return module


def test_ray_workers_share_the_cells(tmp_path: Path, ray: _Ray) -> None:
    job = make_job(tmp_path, 3)
    seen: list[str] = []
    pool = make_pool("ray", job, 2, {"address": "auto", "num_gpus": "0.5"})
    execute(job, pool, on_stage=no_stage, on_outcome=lambda cell, path: seen.append(cell.key))
    assert seen == [cell.key for cell in job.cells]
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


def test_a_wrong_ray_option_is_one_line(tmp_path: Path, ray: _Ray) -> None:
    job = make_job(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"unknown keyword nonsense\. Check --executor-options"):
        execute(job, make_pool("ray", job, 1, {"nonsense": "1"}), on_stage=no_stage, on_outcome=lambda cell, path: None)


def test_the_error_of_the_last_ray_worker_is_raised(tmp_path: Path, ray: _Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("node died")

    monkeypatch.setattr("mmrs_bench.evaluation.run.clusters.remote_work", broken)
    job = make_job(tmp_path, 2)
    with pytest.raises(BenchError, match=r"the last Ray worker failed \(node died\)"):
        execute(job, make_pool("ray", job, 2, {}), on_stage=no_stage, on_outcome=lambda cell, path: None)


def test_submitit_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real package, on its local cluster, whose workers are new processes."""
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
    job = make_job(tmp_path, 3)
    pool = make_pool("slurm", job, 1, {"cluster": "local", "timeout_min": "2"})
    execute(job, pool, on_stage=no_stage, on_outcome=lambda cell, path: None)
    assert len(load_records(tmp_path)) == 3
