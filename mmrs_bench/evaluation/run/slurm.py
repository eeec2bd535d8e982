"""Workers as Slurm jobs, with the package submitit."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from typing import Any, Self

from mmrs_bench.errors import BenchError, ConfigError
from mmrs_bench.evaluation.run import clusters
from mmrs_bench.evaluation.run.jobs import Job, Worker
from mmrs_bench.evaluation.run.pool import Replacements, Stage, environment
from mmrs_bench.evaluation.run.stage_files import last_stage, new_stages
from mmrs_bench.plugins import import_optional

POLL_SECONDS = 2.0
#: Least number of seconds between two questions to Slurm.
STATE_SECONDS = 5.0
#: Seconds that a new job may be unknown to ``squeue``.
UNKNOWN_SECONDS = 30.0
COMMAND_SECONDS = 60.0

#: What is known when a job ends without a result, by its state.
CAUSES = {
    "CANCELLED": "its Slurm job was cancelled",
    "PREEMPTED": "its Slurm job was preempted",
    "TIMEOUT": "its Slurm job reached its time limit",
    "DEADLINE": "its Slurm job reached its deadline",
    "NODE_FAIL": "its Slurm job lost its node",
    "BOOT_FAIL": "its Slurm job lost its node",
    "OUT_OF_MEMORY": "its Slurm job ran out of memory, as Slurm reports",
    "FAILED": "its process was killed or failed, as Slurm reports",
    "COMPLETED": "its process ended without a result",
}
GONE = "its Slurm job is no longer in the queue"


class SlurmWorker:
    """The callable that submitit starts on a node. Like `submitit.helpers.Checkpointable`, it can be started again.

    Before a time limit or a preemption, submitit calls `checkpoint` and puts the job back into the queue. The cell goes
    back to the pool; a training stage that saves its progress continues from there.
    """

    def __call__(self, job: Job, worker: Worker, variables: Mapping[str, str]) -> str:
        """Compute cells (see `mmrs_bench.evaluation.run.clusters.remote_work`)."""
        return clusters.remote_work(job, worker, variables)

    def checkpoint(self, job: Job, worker: Worker, variables: Mapping[str, str]) -> Any:
        """Save in the cell's claim why it was interrupted, and return the same call for the next start."""
        from submitit.helpers import DelayedSubmission

        worker.interrupted("its Slurm job reached its time limit or was preempted")
        return DelayedSubmission(self, job, Worker(worker.name, worker.number), variables)


class SlurmPool:
    """Workers as Slurm jobs.

    The options are those of submitit's ``update_parameters`` (``slurm_partition=gpu``, ``timeout_min=600``,
    ``gpus_per_node=1``); ``cluster=local`` runs submitit's local processes instead. Jobs that end without a result are
    replaced. If this process is killed, the jobs go on; the next run shares the cells with them.
    """

    def __init__(self, job: Job, workers: int, options: clusters.Options) -> None:
        self._job = clusters.shared_job(job)
        self._count = min(workers, len(job.cells))
        self._submitit = import_optional("submitit", "--executor slurm")
        self._folder = self._job.results / "logs" / "submitit"
        self._variables = clusters.worker_variables(job)
        # A cell fails after a few interruptions, which also limits the time-outs of a job.
        defaults = {
            "timeout_min": 24 * 60,
            "cpus_per_task": job.execution.threads,
            "slurm_max_num_timeout": 3 * len(job.cells),
        }
        self._parameters = {**defaults, **options}
        self._cluster = str(self._parameters.pop("cluster", "slurm"))
        if self._cluster != "slurm":
            self._parameters.pop("slurm_max_num_timeout")
        self._executor: Any = None
        self._tasks: dict[str, tuple[Any, float]] = {}
        self._next = 0
        self._replacements = Replacements("Slurm", self._folder)
        self._stages: dict[str, Stage] = {}
        self._states: dict[str, str] | None = None
        self._asked = 0.0

    @property
    def alive(self) -> bool:
        """Whether any job runs or is queued."""
        return bool(self._tasks)

    def __enter__(self) -> Self:
        try:
            # Its limit of time-outs is an argument of the constructor.
            own = {name: self._parameters.pop(name) for name in ("slurm_max_num_timeout",) if name in self._parameters}
            self._executor = self._submitit.AutoExecutor(folder=self._folder, cluster=self._cluster, **own)
            self._executor.update_parameters(**self._parameters)
            with self._executor.batch():
                started = [self._submit() for _ in range(self._count)]
        except (NameError, RuntimeError, TypeError, ValueError, OSError, AssertionError) as error:
            raise ConfigError(f"--executor slurm: {_reason(error)}. Check --executor-options.") from error
        self._tasks = {name: (task, time.monotonic()) for name, task in started}
        return self

    def _submit(self) -> tuple[str, Any]:
        number, self._next = self._next, self._next + 1
        name = f"slurm-{number}"
        with environment(self._variables):
            task = self._executor.submit(SlurmWorker(), self._job, Worker(name, number), self._variables)
        return name, task

    def __exit__(self, *error: object) -> None:
        for task, _ in self._tasks.values():
            try:
                if not task.paths.result_pickle.exists():
                    task.cancel(check=False)
            except OSError:  # scancel cannot run; the jobs end when they see that the run has ended
                break
        self._tasks.clear()

    def poll(self) -> list[Stage]:
        """Wait, report stages, and replace the jobs that ended without a result."""
        time.sleep(POLL_SECONDS)
        stages = new_stages(self._job, self._tasks, self._stages)
        for name, (task, submitted) in list(self._tasks.items()):
            cause = self._end_of(task, submitted)
            if cause is None:
                continue
            del self._tasks[name]
            if cause:
                self._replace(name, cause)
        return stages

    def _replace(self, name: str, cause: str) -> None:
        self._job.report_end(name, cause)
        took_a_cell = last_stage(self._job, name) is not None
        killed = cause in CAUSES.values()
        if self._replacements.allowed(cause, killed=killed, took_a_cell=took_a_cell, others=self.alive):
            try:
                started, task = self._submit()
            except (RuntimeError, OSError) as error:
                raise BenchError(f"a Slurm job ended ({cause}), and cannot be replaced: {_reason(error)}") from error
            self._tasks[started] = (task, time.monotonic())

    def _end_of(self, task: Any, submitted: float) -> str | None:
        """None while a job runs or waits, "" after its worker has ended well, else why it ended.

        Raises:
            BenchError: The error of the worker, if the results folder cannot be used.
        """
        if task.paths.result_pickle.exists():
            error = task.exception()
            if error is not None:
                return clusters.last_line(error)
            if message := task.result():
                raise BenchError(message)
            return ""
        if self._cluster != "slurm":
            return GONE if task.done() else None
        states = self._slurm_states()
        if states is None:
            return None
        state = states.get(task.job_id)
        if state is None:
            return GONE if time.monotonic() - submitted > UNKNOWN_SECONDS else None
        if state == "COMPLETED" and time.monotonic() - self._asked < POLL_SECONDS:
            return None  # its result may need a moment to arrive on a shared file system
        return CAUSES.get(state)

    def _slurm_states(self) -> dict[str, str] | None:
        """States of this user's jobs by id. None if Slurm gives none now."""
        if time.monotonic() - self._asked > STATE_SECONDS:
            self._states = read_states()
            self._asked = time.monotonic()
        return self._states


def read_states() -> dict[str, str] | None:
    """States of all jobs of this user that Slurm still has in memory, by id; None if Slurm does not answer.

    It asks ``squeue``, which every cluster has; ``sacct`` needs accounting. Slurm keeps ended jobs for some minutes
    (``MinJobAge``).
    """
    command = ["squeue", "--noheader", "--array", "--states=all", "--user", str(os.getuid()), "--format=%i|%T"]
    try:
        shown = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    pairs = (line.strip().partition("|") for line in shown.splitlines())
    return {job: state for job, _, state in pairs}


def _reason(error: BaseException) -> str:
    """What a failed submission says; sbatch writes it to standard error, which submitit appends."""
    cause = error.__cause__
    text = cause.stderr if isinstance(cause, subprocess.CalledProcessError) and cause.stderr else None
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return " ".join((text or clusters.one_line(error)).split()).rstrip(".")
