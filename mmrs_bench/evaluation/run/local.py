"""Workers as local processes."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self

from mmrs_bench.errors import BenchError, ConfigError
from mmrs_bench.evaluation.run.claims import exit_cause, oom_kills, remove_quietly
from mmrs_bench.evaluation.run.jobs import Job, Worker, work
from mmrs_bench.evaluation.run.pool import Replacements, Stage, worker_environment
from mmrs_bench.evaluation.run.processes import Child, redirect_output, start_child
from mmrs_bench.evaluation.run.stage_files import StageFile
from mmrs_bench.io import end_with_parent

POLL_SECONDS = 0.2


class LocalPool:
    """Processes of this machine, which compute one cell at a time each.

    A worker that dies is replaced, and its cell is computed again (see `mmrs_bench.evaluation.run.jobs.work`). All
    workers end with this process, even if it is killed. There are no options.

    Args:
        job: The cells.
        workers: Number of processes.
        options: Must be empty.
        name: Begins the names of workers and files, which pools of the same run must not share.
        first: Number of the first worker.
    """

    def __init__(
        self, job: Job, workers: int, options: Mapping[str, Any], *, name: str = "local", first: int = 0
    ) -> None:
        if options:
            raise ConfigError("--executor-options are for --executor slurm or ray; the local executor has none")
        self._job = job
        self._count = min(workers, len(job.cells))
        self._workers: dict[int, Child] = {}
        self._started_a_cell: set[int] = set()
        self._name, self._first = name, first
        self._stage_file = StageFile(job, name)
        self._replacements = Replacements("local", job.results / "logs")
        self._oom_kills = oom_kills()

    def __enter__(self) -> Self:
        try:
            for number in range(self._count):
                self._start(self._first + number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            worker.end()
            self._close(worker)
        self._workers.clear()

    @property
    def alive(self) -> bool:
        """Whether any worker runs."""
        return bool(self._workers)

    def report_ends(self, cause: str) -> None:
        """Save why all workers end now."""
        for worker in self._workers.values():
            self._job.report_end(_worker_name(self._name, worker.process.pid), cause)

    def poll(self) -> list[Stage]:
        """Wait for messages, replace workers that died, and return the reported progress."""
        wait([handle for w in self._workers.values() for handle in (w.pipe, w.process.sentinel)], POLL_SECONDS)
        stages = []
        for number, worker in list(self._workers.items()):
            ended = worker.process.exitcode is not None  # before the pipe is read, so that no message is missed
            for message in _messages(worker.pipe):
                if not isinstance(message, Stage):
                    raise message
                self._started_a_cell.add(number)
                self._stage_file.note(number, message)
                stages.append(message)
            if ended:
                self._handle_exit(number)
        self._stage_file.write()
        return stages

    def _start(self, number: int) -> None:
        variables = worker_environment(self._job.execution.threads)
        self._workers[number] = start_child(_work_and_report, variables, self._job, self._name, number)

    def _close(self, worker: Child) -> None:
        log = _log_file(self._job, self._name, worker.process.pid)
        if log.is_file() and log.stat().st_size == 0:
            remove_quietly(log)
        worker.pipe.close()
        worker.process.close()

    def _handle_exit(self, number: int) -> None:
        worker = self._workers.pop(number)
        self._stage_file.forget(number)
        code, name = worker.process.exitcode, _worker_name(self._name, worker.process.pid)
        self._close(worker)
        if not code:
            return
        kills = oom_kills()
        cause = exit_cause(code, out_of_memory=kills > self._oom_kills)
        self._oom_kills = kills
        self._job.report_end(name, cause)
        took_a_cell = number in self._started_a_cell
        self._started_a_cell.discard(number)
        if self._replacements.allowed(cause, killed=code < 0, took_a_cell=took_a_cell, others=self.alive):
            self._start(number)


def _messages(pipe: Connection) -> Iterator[Stage | Exception]:
    try:
        while pipe.poll():
            yield pipe.recv()
    except (EOFError, OSError):  # the worker has ended
        return


def _work_and_report(pipe: Connection, job: Job, pool: str, number: int) -> None:
    """Main function of a worker process."""
    end_with_parent()
    last, last_stage = 0.0, ""

    def on_stage(key: str, stage: str, done: float) -> None:
        nonlocal last, last_stage
        now = time.monotonic()
        if done in (0.0, 1.0) or stage != last_stage or now - last > POLL_SECONDS:
            last, last_stage = now, stage
            try:
                pipe.send(Stage(key, stage, done))
            except BrokenPipeError:  # the parent process died; that is not a failure of the cell
                os._exit(1)

    try:
        redirect_output(_log_file(job, pool, os.getpid()))
        work(job, on_stage, Worker(_worker_name(pool, os.getpid()), number))
    except BenchError as error:
        pipe.send(error)
    except Exception:  # noqa: BLE001 - the parent process raises it
        pipe.send(RuntimeError(f"a worker failed outside any cell:\n{traceback.format_exc()}"))


def _worker_name(pool: str, pid: int | None) -> str:
    return f"{pool}-{pid}"


def _log_file(job: Job, pool: str, pid: int | None) -> Path:
    return job.results / "logs" / f"worker-{'' if pool == 'local' else f'{pool}-'}{pid}.log"
