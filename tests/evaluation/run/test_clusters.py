"""Cluster pools, with fakes of the packages submitit and ray."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_cells import make_cells, make_job, run_job

from mmrs_bench.errors import BenchError, ConfigError
from mmrs_bench.evaluation.results.records import load_records
from mmrs_bench.evaluation.run.executors import make_pool
from mmrs_bench.evaluation.run.pool import worker_environment


@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_a_missing_cluster_package_is_named_with_its_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=rf"pip install 'mmrs-bench\[{name}\]'"):
        make_pool(name, make_job(tmp_path, make_cells(1)), 1, {})


class _Task:
    """A submitit job that runs when its state is read."""

    def __init__(self, function: Any, arguments: tuple[Any, ...]) -> None:
        self._call = (function, arguments)
        self._error: BaseException | None = None

    def done(self) -> bool:
        function, arguments = self._call
        try:
            function(*arguments)
        except RuntimeError as error:
            self._error = error
        return True

    def exception(self) -> BaseException | None:
        return self._error


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
    job = make_job(tmp_path, make_cells(3))
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
    job = make_job(tmp_path, make_cells(3))
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
        run_job(executor, make_job(tmp_path, make_cells(1)), nonsense="1")


@pytest.mark.parametrize("executor", ["slurm", "ray"])
def test_the_error_of_the_last_cluster_worker_is_raised(
    executor: str, tmp_path: Path, submitit: type[_AutoExecutor], ray: _Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("node failure\nslurmstepd: ...")

    monkeypatch.setattr("mmrs_bench.evaluation.run.clusters.remote_work", broken)
    with pytest.raises(BenchError, match=rf"the last {executor.capitalize()} worker failed \(node failure\)"):
        run_job(executor, make_job(tmp_path, make_cells(2)))


def test_the_real_submitit_on_its_local_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
    run_job("slurm", make_job(tmp_path, make_cells(3)), 1, cluster="local", timeout_min="2")
    assert len(load_records(tmp_path)) == 3
