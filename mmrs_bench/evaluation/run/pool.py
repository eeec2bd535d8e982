"""The interface of worker pools, and the environment that workers start with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, Protocol, Self


class Stage(NamedTuple):
    """Progress of a cell: its key, the name of the stage, and the share of the stage that is done, in [0, 1]."""

    key: str
    name: str
    done: float


class Pool(Protocol):
    """The workers of a job, started on entering the context and ended on leaving it.

    Pools are created as ``Pool(job, workers, options)``. The options are texts from the command line; a pool raises
    `mmrs_bench.errors.ConfigError` for one that it does not have.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def poll(self) -> list[Stage]:
        """Wait briefly, remove or replace workers that ended, and return the progress they reported."""

    @property
    def alive(self) -> bool:
        """Whether any worker runs or is queued."""


def usable_cores() -> int:
    """Cores that this process may use; fewer than the machine has if its affinity is restricted."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_environment(threads: int) -> dict[str, str]:
    """Environment variables of a worker. Libraries read them when they are loaded.

    On a busy CPU, spinning OpenMP threads slow down a worker by a factor of up to 30, and memory pages that are
    returned to the system and requested again by a factor of up to 6.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "100000000000",
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
