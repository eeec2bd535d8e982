"""Helpers for tests of caches: waiting for another process, a disk that is full."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE_SECONDS = 120.0


def wait_for(path: Path) -> None:
    """Wait until another process has written a file."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        assert time.monotonic() < end, f"{path} was not written"
        time.sleep(0.01)


@contextmanager
def disk_full_after(writes: int) -> Iterator[None]:
    """Let every write but the first ones fail, as on a full disk."""
    done = 0

    def synchronise(descriptor: int) -> None:
        nonlocal done
        done += 1
        if done > writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", synchronise)
        yield
