"""Locks and claims of cells, and the run's own files in the lock folder.

A lock belongs to the process that computes the cell, and ends with it. A claim is a small file beside the lock. It
counts how often the cell was started, so that a cell that kills its workers fails after a few attempts.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from mmrs_bench.errors import BenchError, RecordError
from mmrs_bench.io import write_json
from mmrs_bench.reading import read_json, validated

#: How often a cell is computed before it fails because its workers were killed.
MAX_ATTEMPTS = 3

_ADVICE = "delete it while no run is on, and run the command again"


@dataclass(frozen=True)
class Attempt:
    """One start of a cell: the run, the name of its worker, and why it ended ("" while it runs or if unknown)."""

    run: str
    worker: str
    cause: str = ""


@dataclass(frozen=True)
class Claim:
    """The interrupted attempts of a cell, oldest first. Only the process that holds the cell's lock changes it."""

    path: Path
    attempts: tuple[Attempt, ...] = field(default_factory=tuple)

    def of_run(self, run: str) -> tuple[Attempt, ...]:
        """The attempts of one run."""
        return tuple(attempt for attempt in self.attempts if attempt.run == run)

    def started(self, run: str, worker: str) -> Claim:
        """Write the claim with a new attempt."""
        return self._written((*self.attempts, Attempt(run, worker)))

    def ended(self, cause: str) -> Claim:
        """Write the claim with the cause of its last attempt."""
        return self._written((*self.attempts[:-1], replace(self.attempts[-1], cause=cause)))

    def restore(self) -> None:
        """Write the claim as it is: without attempts, remove the file."""
        if self.attempts:
            self._written(self.attempts)
        else:
            with results_errors(self.path):
                self.path.unlink(missing_ok=True)

    def _written(self, attempts: tuple[Attempt, ...]) -> Claim:
        write_json(self.path, [vars(attempt) for attempt in attempts], indent=None)
        return Claim(self.path, attempts)


def read_claim(path: Path) -> Claim:
    """Read a claim; a missing file, or one with other content, is a claim without attempts.

    Raises:
        BenchError: If the path is not a regular file, or cannot be read.
    """
    if not _is_file(path):
        return Claim(path)
    try:
        fields = read_json(path, error=RecordError, advice=_ADVICE)
        attempts = validated(TypeAdapter(tuple[Attempt, ...]), fields, where=path, error=RecordError, advice=_ADVICE)
    except RecordError:  # it only counts attempts, and is written again before the cell starts
        return Claim(path)
    return Claim(path, attempts)


def _is_file(path: Path) -> bool:
    """Whether a path exists; a `BenchError` says that it is not a regular file, or cannot be looked at."""
    with results_errors(path):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return False
    if not stat.S_ISREG(mode):
        raise BenchError(f"{path}: expected a regular file or none; {_ADVICE}")
    return True


@contextmanager
def cell_lock(lock_dir: Path, key: str) -> Iterator[bool]:
    """Try to lock a cell without waiting, and yield whether it worked. The lock ends with the block or the process.

    Raises:
        BenchError: If the lock file cannot be used.
    """
    path = lock_dir / f"{key}.lock"
    _is_file(path)  # a FIFO or a link is refused
    with results_errors(path):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            locked = False
        else:
            locked = True
    try:
        yield locked
    finally:
        if locked:
            lock.release()


def is_locked(lock_dir: Path, key: str) -> bool:
    """Whether a process holds the lock of a cell. It only reads, and works without the right to write.

    Raises:
        BenchError: If the lock file cannot be read.
    """
    path = lock_dir / f"{key}.lock"
    if not _is_file(path):
        return False
    with results_errors(path):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)  # which releases the lock
    return False


@contextmanager
def results_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into a `BenchError` that names the file."""
    try:
        yield
    except OSError as error:
        raise BenchError(
            f"{error.filename or path}: cannot be used ({error.strerror or error}). Finished records are kept. Check "
            "that the results folder exists and can be written, and run the command again."
        ) from error


def exit_cause(code: int, *, out_of_memory: bool = False) -> str:
    """Why a process ended, from its exit code: negative after a signal, as `multiprocessing` and `subprocess` give it.

    Args:
        code: The exit code.
        out_of_memory: Whether the kernel killed processes for lack of memory while the process ran.
    """
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = f" ({signal.Signals(-code).name})"
    except ValueError:
        name = ""
    memory = "; the system killed processes for lack of memory at that time"
    return f"killed by signal {-code}{name}{memory if out_of_memory and code == -signal.SIGKILL else ''}"


def oom_kills() -> int:
    """How many processes of this machine the kernel has killed for lack of memory; 0 where it does not say so."""
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except (OSError, ValueError):
        return 0


def remove_quietly(path: Path) -> None:
    """Remove a file of a run that ends; the run's own error matters more than a file that stays."""
    try:
        os.unlink(path)
    except OSError:
        return
