"""Workers as Slurm jobs, with the package submitit."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

from mmrs_bench.errors import BenchError, ConfigError
from mmrs_bench.evaluation.run.clusters.crew import Crew, FollowUp, Start
from mmrs_bench.evaluation.run.clusters.groups import Group, make_batches
from mmrs_bench.evaluation.run.clusters.profile import SlurmProfile
from mmrs_bench.evaluation.run.clusters.queue import read_states
from mmrs_bench.evaluation.run.clusters.remote import (
    Options,
    Task,
    last_line,
    one_line,
    remote_work,
    shared_job,
    worker_variables,
)
from mmrs_bench.evaluation.run.jobs import Job, Worker
from mmrs_bench.evaluation.run.needs import Needs, worker_hours
from mmrs_bench.evaluation.run.pool import Replacements, Stage, environment
from mmrs_bench.evaluation.run.stage_files import last_stages, new_stages
from mmrs_bench.plugins import import_optional

POLL_SECONDS = 2.0
#: Least number of seconds between two questions to Slurm.
STATE_SECONDS = 5.0
#: Seconds that a new job may be unknown to ``squeue``.
UNKNOWN_SECONDS = 30.0

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

    def __call__(self, task: Task) -> str:
        """Compute cells (see `mmrs_bench.evaluation.run.clusters.remote.remote_work`)."""
        return remote_work(task)

    def checkpoint(self, task: Task) -> Any:
        """Save in the cell's claim why it was interrupted, and return the same call for the next start."""
        from submitit.helpers import DelayedSubmission

        task.worker.interrupted("its Slurm job reached its time limit or was preempted")
        again = task._replace(worker=Worker(task.worker.name, task.worker.number))
        return DelayedSubmission(self, again)


class _Submitted(NamedTuple):
    """A job of submitit, and when it was submitted."""

    job: Any
    at: float


class SlurmPool:
    """Workers as Slurm jobs: an array for each group of cells, and an array for the pretrainings of a group.

    The workers of cells that share a pretraining depend on the job that trains it (``aftercorr``, ``afterok``). If that
    job fails, Slurm cancels them, and this process submits both again if cells are left.

    The options are those of submitit's ``update_parameters`` (``slurm_partition=gpu``, ``timeout_min=600``,
    ``gpus_per_node=1``), which win over the profile and the needs of cells; ``cluster=local`` runs submitit's local
    processes instead. Jobs that end without a result are replaced. If this process is killed, the jobs go on; the next
    run shares the cells with them.
    """

    def __init__(
        self,
        job: Job,
        workers: int,
        options: Options,
        *,
        groups: Sequence[Group] = (),
        profile: SlurmProfile | None = None,
        detached: bool = False,
    ) -> None:
        self._job = shared_job(job)
        self._workers = workers
        self._profile = profile or SlurmProfile()
        self._detached = detached
        self._submitit = import_optional("submitit", "--executor slurm")
        self._folder = self._job.results / "logs" / "submitit"
        self._variables = worker_variables(job)
        # A cell fails after a few interruptions, which also limits the time-outs of a job.
        own = {"slurm_max_num_timeout": 3 * len(job.cells)}
        self._options = {**own, **self._profile.pool_options, **options}
        self._cluster = str(self._options.pop("cluster", "slurm"))
        if self._cluster != "slurm":
            self._options.pop("slurm_max_num_timeout")
        given = list(groups) or [Group(needs=Needs(), free=job.cells)]
        self._groups = given if self._cluster == "slurm" else [group.without_units() for group in given]
        self._crew = Crew(self._job, self._groups, "slurm")
        self._submitted: dict[str, _Submitted] = {}
        self._replacements = Replacements("Slurm", self._folder)
        self._stages: dict[str, list[Stage]] = {}
        self._states: dict[str, str] | None = None
        self._asked = 0.0

    @property
    def alive(self) -> bool:
        """Whether any job runs or is queued."""
        return bool(self._crew.running)

    def __enter__(self) -> Self:
        self.submit()
        return self

    def submit(self) -> tuple[str, ...]:
        """Submit all jobs; return their ids, one for each array.

        Raises:
            ConfigError: If Slurm refuses the jobs, or an option is unknown.
        """
        processes = [self._profile.nodes(group.needs).workers_per_job for group in self._groups]
        batches = make_batches(self._groups, self._workers, processes)
        try:
            for starts in self._crew.first_starts(batches):
                self._submit(starts)
        except (NameError, RuntimeError, TypeError, ValueError, OSError, AssertionError) as error:
            self.__exit__()
            raise ConfigError(f"--executor slurm: {_reason(error)}. Check --executor-options and --profile.") from error
        return tuple(dict.fromkeys(_array_of(submitted.job) for submitted in self._submitted.values()))

    def _submit(self, starts: Sequence[Start]) -> None:
        """Submit workers of one kind as an array, or one worker as a job."""
        executor = self._executor(starts)
        with environment(self._variables), executor.batch():
            jobs = [executor.submit(SlurmWorker(), self._task(start)) for start in starts]
        now = time.monotonic()
        self._submitted |= {start.name: _Submitted(job, now) for start, job in zip(starts, jobs, strict=True)}

    def _task(self, start: Start) -> Task:
        share = start.share
        job = self._crew.job_of(share)
        return Task(job, start.worker, self._variables, share.rest, share.processes, self._detached)

    def _executor(self, starts: Sequence[Start]) -> Any:
        """Submitit's executor of some workers of one group."""
        share = starts[0].share
        group = self._groups[share.group]
        nodes, processes = self._profile.nodes(group.needs), max(start.share.processes for start in starts)
        hours = worker_hours(group.seconds, min(self._workers, len(group.seconds)), most=nodes.hours)
        parameters: dict[str, Any] = {
            "timeout_min": math.ceil(60 * hours),
            "cpus_per_task": self._job.execution.threads * processes,
        }
        memory = max(group.needs.memory_gb or 0.0, nodes.memory_gb or 0.0)
        if memory:
            parameters["mem_gb"] = memory * processes
        if group.needs.gpus:
            parameters["gpus_per_node"] = group.needs.gpus
        parameters["slurm_array_parallelism"] = max(1, math.ceil(self._workers / processes))
        parameters |= self._profile.worker_options(group.needs) | self._options
        # Its limit of time-outs is an argument of the constructor.
        own = {name: parameters.pop(name) for name in ("slurm_max_num_timeout",) if name in parameters}
        if dependency := self._dependency(starts):
            parameters["slurm_dependency"] = dependency
            further = parameters.get("slurm_additional_parameters", {})
            parameters["slurm_additional_parameters"] = {**further, "kill-on-invalid-dep": "yes"}
        executor = self._submitit.AutoExecutor(folder=self._folder, cluster=self._cluster, **own)
        executor.update_parameters(**parameters)
        return executor

    def _dependency(self, starts: Sequence[Start]) -> str:
        """Slurm's option ``--dependency`` of some workers."""
        before = [self._submitted[start.after].job.job_id for start in starts if start.after]
        if not before:
            return ""
        return f"afterok:{before[0]}" if len(before) == 1 else f"aftercorr:{before[0].partition('_')[0]}"

    def __exit__(self, *error: object) -> None:
        self._cancel(self._submitted)
        self._crew.running.clear()

    def _cancel(self, names: Iterable[str]) -> None:
        for name in list(names):
            job = self._submitted.pop(name).job
            try:
                if not job.paths.result_pickle.exists():
                    job.cancel(check=False)
            except OSError:  # scancel cannot run; the jobs end when they see that the run has ended
                break

    def poll(self) -> list[Stage]:
        """Wait, report stages, and replace the jobs that ended without a result."""
        time.sleep(POLL_SECONDS)
        stages = new_stages(self._job, self._crew.running, self._stages)
        for name, start in list(self._crew.running.items()):
            if name not in self._crew.running:  # it depended on one that died
                continue
            cause = self._end_of(self._submitted[name])
            if cause is None:
                continue
            if cause:
                self._handle_death(start, cause)
            else:
                self._crew.ended(name)
                del self._submitted[name]
        return stages

    def _handle_death(self, start: Start, cause: str) -> None:
        name = start.name
        self._job.report_end(name, cause)
        replace = self._crew.is_needed(start)
        if replace:
            others = len(self._crew.running) > 1
            took_a_cell, killed = bool(last_stages(self._job, name)), cause in CAUSES.values()
            replace = self._replacements.allowed(cause, killed=killed, took_a_cell=took_a_cell, others=others)
        follow: FollowUp = self._crew.died(name, replace=replace)
        del self._submitted[name]
        self._cancel(follow.cancel)
        try:
            for again in follow.start:
                self._submit([again])
        except (RuntimeError, OSError) as error:
            raise BenchError(f"a Slurm job ended ({cause}), and cannot be replaced: {_reason(error)}") from error

    def _end_of(self, submitted: _Submitted) -> str | None:
        """None while a job runs or waits, "" after its worker has ended well, else why it ended.

        Raises:
            BenchError: The error of the worker, if the results folder cannot be used.
        """
        job = submitted.job
        if job.paths.result_pickle.exists():
            error = job.exception()
            if error is not None:
                return last_line(error)
            if message := job.result():
                raise BenchError(message)
            return ""
        if self._cluster != "slurm":
            return GONE if job.done() else None
        states = self._slurm_states()
        if states is None:
            return None
        state = states.get(job.job_id)
        if state is None:
            return GONE if time.monotonic() - submitted.at > UNKNOWN_SECONDS else None
        if state == "COMPLETED" and time.monotonic() - self._asked < POLL_SECONDS:
            return None  # its result may need a moment to arrive on a shared file system
        return CAUSES.get(state)

    def _slurm_states(self) -> dict[str, str] | None:
        """States of this user's jobs by id. None if Slurm gives none now."""
        if time.monotonic() - self._asked > STATE_SECONDS:
            self._states = read_states()
            self._asked = time.monotonic()
        return self._states


def _array_of(job: Any) -> str:
    """The id of a job, or of the array that it belongs to."""
    return str(job.job_id).partition("_")[0]


def _reason(error: BaseException) -> str:
    """What a failed submission says; sbatch writes it to standard error, which submitit appends."""
    cause = error.__cause__
    text = cause.stderr if isinstance(cause, subprocess.CalledProcessError) and cause.stderr else None
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return " ".join((text or one_line(error)).split()).rstrip(".")
