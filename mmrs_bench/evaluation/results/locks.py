"""Locks of folders whose files several processes may change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from mmrs_bench.io import disk_errors

#: The file that is locked; it stays in the folder.
NAME = ".lock"


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Let one process at a time change the files of a folder; others wait.

    Args:
        folder: The folder; it is made if it is missing.

    Raises:
        BenchError: If the folder cannot be written.
    """
    lock = FileLock(folder / NAME)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
