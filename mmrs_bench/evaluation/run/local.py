"""Workers as local processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple, Self

from mmrs_bench.errors import BenchError
from mmrs_bench.evaluation.run.jobs import Job, work
from mmrs_bench.evaluation.run.pool import Stage, environment, worker_environment

POLL_SECONDS = 0.2
#: Workers may die before they took a cell (at import, say) this often before the run gives up.
EARLY_DEATHS = 3


class _Worker(NamedTuple):
    process: SpawnProcess
    pipe: Connection


class LocalPool:
    """Spawned processes of this machine, one cell at a time each.

    A worker that dies is replaced; the cell it died on becomes a failure (see `mmrs_bench.evaluation.run.jobs.work`).
    Workers end when this process does, even by ``kill -9``.
    """

    def __init__(self, job: Job, workers: int) -> None:
        self._job = job
        self._count = workers
        self._workers: dict[int, _Worker] = {}
        self._began: set[int] = set()
        self._early_deaths = 0

    def __enter__(self) -> Self:
        """Start the workers; no more of them than cells."""
        try:
            for number in range(min(self._count, len(self._job.cells))):
                self._start(number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """End all workers, by force if they do not heed."""
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            worker.process.join(5)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
            self._close(worker)
        self._workers.clear()

    @property
    def alive(self) -> bool:
        """Whether any worker runs."""
        return bool(self._workers)

    def poll(self) -> list[Stage]:
        """Wait for news; replace the dead."""
        handles = [handle for w in self._workers.values() for handle in (w.pipe, w.process.sentinel)]
        wait(handles, POLL_SECONDS)
        stages = []
        for number, worker in list(self._workers.items()):
            ended = worker.process.exitcode is not None  # asked before reading, so that no last word is missed
            for message in _received(worker.pipe):
                if isinstance(message, Stage):
                    self._began.add(number)
                    stages.append(message)
                else:
                    raise message
            if ended:
                self._bury(number)
        return stages

    def _start(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(self._job, sender, number), name=f"worker-{number}", daemon=True)
        with environment(worker_environment(self._job.execution.threads)), _interrupt_blocked():
            process.start()
            sender.close()
            self._workers[number] = _Worker(process, receiver)

    def _close(self, worker: _Worker) -> None:
        log = _log_file(self._job, worker.process.pid)
        if log.exists() and log.stat().st_size == 0:
            log.unlink()
        worker.pipe.close()
        worker.process.close()

    def _bury(self, number: int) -> None:
        worker = self._workers.pop(number)
        code = worker.process.exitcode
        self._close(worker)
        if code == 0:
            return
        if number not in self._began:
            self._early_deaths += 1
            if self._early_deaths >= EARLY_DEATHS:
                raise BenchError(
                    f"worker processes die before they take a cell (exit code {code}); see {_log_dir(self._job)} and "
                    "try fewer --workers if memory is short"
                )
        self._began.discard(number)
        self._start(number)


def _received(pipe: Connection) -> Iterator[Stage | Exception]:
    try:
        while pipe.poll():
            yield pipe.recv()
    except (EOFError, ConnectionResetError):  # the worker has ended; its exit code tells how
        return


def _serve(job: Job, pipe: Connection, number: int) -> None:
    """Main function of a local worker."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _redirect_output(job)
    last = 0.0

    def listener(key: str, stage: str, done: float) -> None:
        nonlocal last
        now = time.monotonic()
        if done in (0.0, 1.0) or now - last > POLL_SECONDS:
            last = now
            try:
                pipe.send(Stage(key, stage, done))
            except BrokenPipeError:  # the owner of the job has died; this is no failure of the cell
                os._exit(1)

    try:
        work(job, listener, number)
    except BenchError as error:
        pipe.send(error)
    except Exception:  # noqa: BLE001 - the owner of the job raises it again, traceback and all
        pipe.send(RuntimeError(f"a worker failed outside any cell:\n{traceback.format_exc()}"))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - true in every spawned process
    wait([parent.sentinel])
    os._exit(1)


def _log_dir(job: Job) -> Path:
    return job.results / "logs"


def _log_file(job: Job, pid: int | None) -> Path:
    return _log_dir(job) / f"worker-{pid}.log"


def _redirect_output(job: Job) -> None:
    """Send what libraries print to a file, so that the progress display stays whole."""
    path = _log_file(job, os.getpid())
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


@contextmanager
def _interrupt_blocked() -> Iterator[None]:
    """Processes started within never see Ctrl-C: their owner ends them in order. Ours is delivered afterwards.

    The mask is what the processes inherit. It does not protect this one: the kernel may hand the signal to another
    thread (the progress display's), and Python would still raise it here, in the middle of a start. So the handler is
    put off as well. multiprocessing's own helper has to run already: starting it, as the first process to be started
    would, unblocks the signal.
    """
    resource_tracker.ensure_running()
    seen: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number)) if main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGINT, handler)
    if seen:
        raise KeyboardInterrupt
