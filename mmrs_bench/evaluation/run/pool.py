"""What every pool of workers is: its interface, and the environment that workers start with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, Protocol, Self


class Stage(NamedTuple):
    """How far a cell is: the share of the stage done, in [0, 1]."""

    key: str
    name: str
    done: float


class Pool(Protocol):
    """Workers of a job. Leaving the context ends those that still run."""

    def __enter__(self) -> Self:
        """Start the workers."""

    def __exit__(self, *error: object) -> None:
        """End the workers."""

    def poll(self) -> list[Stage]:
        """Wait a moment, replace workers that died, and return what they told meanwhile."""

    @property
    def alive(self) -> bool:
        """Whether any worker runs or waits to be started."""


def usable_cores() -> int:
    """Cores this process may use (affinity, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_environment(threads: int) -> dict[str, str]:
    """Variables that a worker needs before it starts: they are read when libraries are loaded.

    Spinning OpenMP threads and returned pages cost factors of up to 30 and 6 on busy CPUs.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "100000000000",
    }


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for what is started within."""
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
