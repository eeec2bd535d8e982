"""A reading process with readers that crash, loop, allocate too much, or end; see tests/scenes/files/test_guard.py."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from mmrs_bench.scenes.files.decoders import guard_child
from mmrs_bench.scenes.files.decoders.raster import Raster


def crash(path: Path) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


def loop(path: Path) -> Any:
    while True:
        pass


def allocate(path: Path) -> Any:
    return Raster(np.ones(1 << 33, dtype=np.uint8))


def idle(path: Path) -> Raster:
    """End without an answer the first time, as a child that was idle does."""
    marker = path.with_suffix(".marker")
    if not marker.exists():
        marker.touch()
        os._exit(0)
    return ones(path)


def ones(path: Path) -> Raster:
    os.write(1, b"a library prints")
    return Raster(np.ones((2, 3)).T)


guard_child.READERS.update(crash=crash, loop=loop, allocate=allocate, idle=idle, ones=ones)

if __name__ == "__main__":
    guard_child.serve()
