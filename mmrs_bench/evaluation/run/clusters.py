"""Worker pools on clusters: Slurm (with submitit) and Ray. Both packages are optional dependencies.

The results folder must be on a file system that all nodes share.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Self

from mmrs_bench.errors import BenchError, ConfigError
from mmrs_bench.evaluation.run.jobs import Job, work
from mmrs_bench.evaluation.run.pool import Stage, environment, worker_environment

POLL_SECONDS = 2.0


def remote_work(job: Job, number: int, variables: Mapping[str, str]) -> None:
    """Main function of a worker on another machine; it reports no stages."""
    os.environ.update(variables)
    work(job, lambda key, stage, done: None, number)


class _ClusterPool:
    """Common parts of the pools. A `ConfigError` says which package is missing, or which option it refuses."""

    def __init__(self, job: Job, workers: int, options: Mapping[str, str]) -> None:
        self._job = job
        self._count = min(workers, len(job.cells))
        self._options: dict[str, Any] = dict(options)
        self._variables = worker_environment(job.execution.threads)
        self._tasks: list[Any] = []

    @property
    def alive(self) -> bool:
        """Whether any task runs or is queued."""
        return bool(self._tasks)

    def _check_last(self, kind: str, error: BaseException | None, log: object) -> None:
        """Raise the error of a task if it was the last one: then no worker is left for the remaining cells."""
        if error is not None and not self._tasks:
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BenchError(f"the last {kind} worker failed ({line}); see {log}") from error


class SlurmPool(_ClusterPool):
    """Workers as Slurm jobs.

    The options are those of submitit's ``update_parameters`` (``slurm_partition=gpu``, ``timeout_min=600``,
    ``gpus_per_node=1``); ``cluster=local`` runs submitit's local processes instead.
    """

    def __init__(self, job: Job, workers: int, options: Mapping[str, str]) -> None:
        super().__init__(job, workers, options)
        self._submitit = _import("submitit", "slurm")
        self._folder = job.results / "logs" / "submitit"

    def __enter__(self) -> Self:
        given = {name: int(value) if value.isdigit() else value for name, value in self._options.items()}
        parameters = {"timeout_min": 24 * 60, "cpus_per_task": self._job.execution.threads, **given}
        try:
            executor = self._submitit.AutoExecutor(folder=self._folder, cluster=parameters.pop("cluster", "slurm"))
            executor.update_parameters(**parameters)
            with environment(self._variables), executor.batch():
                for number in range(self._count):
                    self._tasks.append(executor.submit(remote_work, self._job, number, self._variables))
        except (NameError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(f"--executor slurm: {error}. Check --executor-options.") from error
        return self

    def __exit__(self, *error: object) -> None:
        for task in self._tasks:
            if not task.done():
                task.cancel()
        self._tasks.clear()

    def poll(self) -> list[Stage]:
        """Wait, then remove the tasks that ended."""
        time.sleep(POLL_SECONDS)
        for task in list(self._tasks):
            if task.done():
                self._tasks.remove(task)
                self._check_last("Slurm", task.exception(), self._folder)
        return []


class RayPool(_ClusterPool):
    """Workers as Ray tasks.

    The options are those of ``ray.init`` (``address=auto``), and ``num_gpus``, which each worker reserves.
    """

    def __init__(self, job: Job, workers: int, options: Mapping[str, str]) -> None:
        super().__init__(job, workers, options)
        self._ray = _import("ray", "ray")

    def __enter__(self) -> Self:
        gpus = float(self._options.pop("num_gpus", 0))
        try:
            self._ray.init(runtime_env={"env_vars": self._variables}, log_to_driver=False, **self._options)
        except (ConnectionError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(f"--executor ray: {error}. Check --executor-options.") from error
        # Without retries: if the machine of a worker dies, the other workers compute its cells.
        threads = self._job.execution.threads
        remote = self._ray.remote(remote_work).options(num_cpus=threads, num_gpus=gpus, max_retries=0)
        self._tasks = [remote.remote(self._job, number, self._variables) for number in range(self._count)]
        return self

    def __exit__(self, *error: object) -> None:
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        self._tasks.clear()
        self._ray.shutdown()

    def poll(self) -> list[Stage]:
        """Wait, then remove the tasks that ended."""
        ended, self._tasks = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=POLL_SECONDS)
        for task in ended:
            try:
                self._ray.get(task)
            except self._ray.exceptions.RayError as error:
                self._check_last("Ray", error, "Ray's logs")
        return []


def _import(package: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"--executor {extra} needs the package {package}, which is not installed: pip install 'mmrs-bench[{extra}]'"
        ) from error
