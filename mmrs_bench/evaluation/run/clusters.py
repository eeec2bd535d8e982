"""Pools of workers on a cluster: Slurm through submitit, and Ray; both packages are extras."""

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


def _import(package: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"--executor {extra} needs the package {package}, which is not installed: pip install 'mmrs-bench[{extra}]'"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def remote_work(job: Job, number: int, variables: Mapping[str, str]) -> None:
    """Work on another machine; stages are not reported, outcomes appear in the shared results folder."""
    os.environ.update(variables)
    work(job, lambda key, stage, done: None, number)


class SlurmPool:
    """Workers as Slurm jobs (submitit). The results folder must be on a file system that all nodes share.

    ``options`` go to submitit's ``update_parameters`` (``slurm_partition=gpu``, ``timeout_min=600``,
    ``gpus_per_node=1``); ``cluster=local`` runs submitit's own local processes instead.

    Raises:
        ConfigError: If submitit is not installed or refuses an option.
    """

    def __init__(self, job: Job, workers: int, options: Mapping[str, str]) -> None:
        self._submitit = _import("submitit", "slurm")
        self._job = job
        self._folder = job.results / "logs" / "submitit"
        self._count = min(workers, len(job.cells))
        self._options = {name: int(value) if value.isdigit() else value for name, value in options.items()}
        self._tasks: list[Any] = []

    def __enter__(self) -> Self:
        """Submit the workers."""
        options: dict[str, Any] = {"timeout_min": 24 * 60, "cpus_per_task": self._job.execution.threads}
        options |= self._options
        cluster = options.pop("cluster", "slurm")
        variables = worker_environment(self._job.execution.threads)
        try:
            executor = self._submitit.AutoExecutor(folder=self._folder, cluster=cluster)
            executor.update_parameters(**options)
            with environment(variables), executor.batch():
                for number in range(self._count):
                    self._tasks.append(executor.submit(remote_work, self._job, number, variables))
        except (NameError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(f"--executor slurm: {error}. Check --executor-options.") from error
        return self

    def __exit__(self, *error: object) -> None:
        """Cancel what still runs."""
        for task in self._tasks:
            if not task.done():
                task.cancel()
        self._tasks.clear()

    def poll(self) -> list[Stage]:
        """Wait, then drop the tasks that ended; the outcomes say what they achieved."""
        time.sleep(POLL_SECONDS)
        for task in list(self._tasks):
            if task.done():
                self._tasks.remove(task)
                self._check(task)
        return []

    def _check(self, task: Any) -> None:
        error = task.exception()
        if error is not None and not self._tasks:
            raise BenchError(f"the last Slurm worker failed ({_first_line(error)}); see {self._folder}") from error

    @property
    def alive(self) -> bool:
        """Whether any task is queued or runs."""
        return bool(self._tasks)


class RayPool:
    """Workers as Ray tasks. The results folder must be on a file system that all nodes share.

    ``options`` go to ``ray.init`` (``address=auto``), but ``num_gpus``, which each worker reserves.

    Raises:
        ConfigError: If ray is not installed or refuses an option.
    """

    def __init__(self, job: Job, workers: int, options: Mapping[str, str]) -> None:
        self._ray = _import("ray", "ray")
        self._job = job
        self._count = min(workers, len(job.cells))
        self._options = dict(options)
        self._tasks: list[Any] = []

    def __enter__(self) -> Self:
        """Connect and submit the workers."""
        gpus = float(self._options.pop("num_gpus", 0))
        threads = self._job.execution.threads
        variables = worker_environment(threads)
        try:
            self._ray.init(runtime_env={"env_vars": variables}, log_to_driver=False, **self._options)
        except (ConnectionError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(f"--executor ray: {error}. Check --executor-options.") from error
        # Ray would start a task again whose machine died; the locks and claims of the job do that already.
        remote = self._ray.remote(remote_work).options(num_cpus=threads, num_gpus=gpus, max_retries=0)
        self._tasks = [remote.remote(self._job, number, variables) for number in range(self._count)]
        return self

    def __exit__(self, *error: object) -> None:
        """Cancel what still runs and disconnect."""
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        self._tasks.clear()
        self._ray.shutdown()

    def poll(self) -> list[Stage]:
        """Wait, then drop the tasks that ended; the outcomes say what they achieved."""
        ended, self._tasks = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=POLL_SECONDS)
        for task in ended:
            try:
                self._ray.get(task)
            except self._ray.exceptions.RayError as error:
                if not self._tasks:
                    raise BenchError(f"the last Ray worker failed ({_first_line(error)}); see Ray's logs") from error
        return []

    @property
    def alive(self) -> bool:
        """Whether any task is queued or runs."""
        return bool(self._tasks)
