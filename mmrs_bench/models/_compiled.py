# numba has no types.
# mypy: ignore-errors
"""What all kernels that numba compiles share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from numba import njit

LN2 = math.log(2)
#: Only the optimisations that keep NaN and infinity.
FASTMATH = {"contract", "reassoc", "nsz", "arcp"}


def compiled(function: Callable) -> Callable:
    """Compile a function at its first call, with numba's cache on disk if a cache folder can be written."""
    try:
        return njit(cache=True, nogil=True, fastmath=FASTMATH)(function)
    except RuntimeError:  # no cache folder
        return njit(nogil=True, fastmath=FASTMATH)(function)


@cache
def _helpers(count: int) -> ThreadPoolExecutor:
    """Threads that stay alive: to start them at each call would take as long as many a kernel."""
    return ThreadPoolExecutor(count, thread_name_prefix="mmrs-bench-kernel")


if hasattr(os, "register_at_fork"):  # a forked process (of a data loader) has none of the threads
    os.register_at_fork(after_in_child=_helpers.cache_clear)


def working_memory(count: int) -> np.ndarray:
    """``count`` zeros (float32), aligned to 64 bytes by torch.

    Not by ``torch.zeros``, which starts a second team of OpenMP threads if a helper calls it. With more OpenMP threads
    than cores, they sleep whenever they wait, and small operations of torch take up to twice as long.
    """
    memory = torch.empty(count).numpy()
    memory.fill(0)
    return memory


def in_threads(run: Callable[[int, int], None], units: int) -> None:
    """Call ``run(start, stop)`` for parts of ``units`` units in as many threads as torch has.

    Not in numba's own threads, which can make a forked process abort.
    """
    threads = max(1, min(torch.get_num_threads(), units))
    bounds = [units * i // threads for i in range(threads + 1)]
    first, *others = pairwise(bounds)
    waiting = [_helpers(threads - 1).submit(run, *part) for part in others]
    try:
        run(*first)
    finally:
        wait(waiting)
    for part in waiting:
        part.result()
