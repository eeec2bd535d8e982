"""The interface of worker pools, and the environment that workers start with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from mmrs_bench.config import OPENMP_SPINS
from mmrs_bench.errors import BenchError

#: Workers in a row that may fail without having taken a cell (during imports, for example) until no more are started.
MAX_EARLY_FAILURES = 3
#: The same for workers that were killed from outside.
MAX_EARLY_KILLS = 12


class Stage(NamedTuple):
    """Progress of a cell: its key, the name of the stage, and the share of the stage that is done, in [0, 1]."""

    key: str
    name: str
    done: float


class Pool(Protocol):
    """The workers of a job, started on entering the context and ended on leaving it.

    Pools are created as ``Pool(job, workers, options)``. The options are values from the command line: texts, numbers,
    lists and mappings; a pool raises `mmrs_bench.errors.ConfigError` for one that it does not have.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def poll(self) -> list[Stage]:
        """Wait briefly, remove or replace workers that ended, and return the progress they reported."""

    @property
    def alive(self) -> bool:
        """Whether any worker runs or is queued."""


class Replacements:
    """Decides whether a dead worker is replaced.

    A worker that took a cell is always replaced: each cell counts its attempts, so that ends. A worker that died
    without a cell is replaced a few times.
    """

    def __init__(self, kind: str, logs: Path) -> None:
        self._kind = kind
        self._logs = logs
        self._early_failures = 0
        self._early_kills = 0

    def allowed(self, cause: str, *, killed: bool, took_a_cell: bool, others: bool) -> bool:
        """Whether to start another worker.

        Args:
            cause: Why the worker ended.
            killed: Whether it was killed from outside.
            took_a_cell: Whether it had started any cell.
            others: Whether other workers run.

        Raises:
            BenchError: If it is not replaced, and no other worker runs.
        """
        if took_a_cell:
            self._early_failures = self._early_kills = 0
            return True
        self._early_kills += killed
        self._early_failures += not killed
        if self._early_failures < MAX_EARLY_FAILURES and self._early_kills < MAX_EARLY_KILLS:
            return True
        if others:
            return False
        raise BenchError(
            f"{self._kind} workers die before they take a cell ({cause}); see the logs in {self._logs}, and try fewer "
            "--workers if memory is short"
        )


def worker_environment(threads: int) -> dict[str, str]:
    """Environment variables of a worker. Libraries read them when they are loaded.

    Waiting OpenMP threads shall sleep, those of gcc's library soon (see `OPENMP_SPINS`). On a busy CPU, memory pages
    that are returned to the system and requested again slow down a worker by a factor of up to 6.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": OPENMP_SPINS,
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "100000000000",
        # Inherited values may be unknown, or need a display; what libraries print goes to log files.
        "MPLBACKEND": "agg",
        "PYTHONIOENCODING": "utf-8:replace",
    }


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables within a block, for the processes that it starts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
