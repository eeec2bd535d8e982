"""Workers as local processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple, Self

from mmrs_bench.errors import BenchError, ConfigError
from mmrs_bench.evaluation.run.jobs import Job, work
from mmrs_bench.evaluation.run.pool import Stage, environment, worker_environment

POLL_SECONDS = 0.2
#: Number of workers that may die before they start a cell (during imports, for example) until the run is given up.
MAX_EARLY_DEATHS = 3


class _Worker(NamedTuple):
    process: SpawnProcess
    pipe: Connection


class LocalPool:
    """Processes of this machine, which compute one cell at a time each.

    A worker that dies is replaced, and its cell fails (see `mmrs_bench.evaluation.run.jobs.work`). All workers end
    with this process, even if it is killed. There are no options.
    """

    def __init__(self, job: Job, workers: int, options: Mapping[str, str]) -> None:
        if options:
            raise ConfigError("--executor-options are for --executor slurm or ray; the local executor has none")
        self._job = job
        self._count = min(workers, len(job.cells))
        self._workers: dict[int, _Worker] = {}
        self._started_a_cell: set[int] = set()
        self._early_deaths = 0

    def __enter__(self) -> Self:
        try:
            for number in range(self._count):
                self._start(number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            worker.process.join(5)
            if worker.process.exitcode is None:  # it ignores termination
                worker.process.kill()
                worker.process.join()
            self._close(worker)
        self._workers.clear()

    @property
    def alive(self) -> bool:
        """Whether any worker runs."""
        return bool(self._workers)

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
                stages.append(message)
            if ended:
                self._handle_exit(number)
        return stages

    def _start(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work_and_report, args=(self._job, sender, number), daemon=True)
        with environment(worker_environment(self._job.execution.threads)), _interrupt_deferred():
            process.start()
            sender.close()
            self._workers[number] = _Worker(process, receiver)

    def _close(self, worker: _Worker) -> None:
        log = _log_file(self._job, worker.process.pid)
        if log.exists() and log.stat().st_size == 0:
            log.unlink()
        worker.pipe.close()
        worker.process.close()

    def _handle_exit(self, number: int) -> None:
        worker = self._workers.pop(number)
        code = worker.process.exitcode
        self._close(worker)
        if code == 0:
            return
        if number not in self._started_a_cell:
            self._early_deaths += 1
            if self._early_deaths >= MAX_EARLY_DEATHS:
                raise BenchError(
                    f"worker processes die before they take a cell (exit code {code}); see the logs in "
                    f"{self._job.results / 'logs'}, and try fewer --workers if memory is short"
                )
        self._started_a_cell.discard(number)
        self._start(number)


def _messages(pipe: Connection) -> Iterator[Stage | Exception]:
    try:
        while pipe.poll():
            yield pipe.recv()
    except (EOFError, ConnectionResetError):  # the worker has ended
        return


def _work_and_report(job: Job, pipe: Connection, number: int) -> None:
    """Main function of a worker process."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _redirect_output(_log_file(job, os.getpid()))
    last = 0.0

    def on_stage(key: str, stage: str, done: float) -> None:
        nonlocal last
        now = time.monotonic()
        if done in (0.0, 1.0) or now - last > POLL_SECONDS:
            last = now
            try:
                pipe.send(Stage(key, stage, done))
            except BrokenPipeError:  # the parent process died; that is not a failure of the cell
                os._exit(1)

    try:
        work(job, on_stage, number)
    except BenchError as error:
        pipe.send(error)
    except Exception:  # noqa: BLE001 - the parent process raises it
        pipe.send(RuntimeError(f"a worker failed outside any cell:\n{traceback.format_exc()}"))


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - true in every spawned process
    wait([parent.sentinel])
    os._exit(1)


def _log_file(job: Job, pid: int | None) -> Path:
    return job.results / "logs" / f"worker-{pid}.log"


def _redirect_output(path: Path) -> None:
    """Write what libraries print to a file, so that it does not disturb the progress display."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


@contextmanager
def _interrupt_deferred() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, and raise a Ctrl-C to this process only after the block.

    Processes inherit the signal mask. In this process the mask is not enough: the kernel may deliver the signal to
    another thread, and Python would raise it here. So the handler is replaced as well. The resource tracker of
    multiprocessing has to run before, because starting it unblocks the signal.
    """
    resource_tracker.ensure_running()
    received: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, frame: received.append(number)) if main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGINT, handler)
    if received:
        raise KeyboardInterrupt
