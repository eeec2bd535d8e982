# numba has no types.
# mypy: ignore-errors
"""What all kernels that numba compiles share."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import wait
from itertools import pairwise

import torch
from numba import njit

from mmrs_bench.models.threads import helpers

LN2 = math.log(2)
#: Only the optimisations that keep NaN and infinity.
FASTMATH = {"contract", "reassoc", "nsz", "arcp"}


def compiled(function: Callable) -> Callable:
    """Compile a function at its first call, with numba's cache on disk if a cache folder can be written."""
    try:
        return njit(cache=True, nogil=True, fastmath=FASTMATH)(function)
    except RuntimeError:  # no cache folder
        return njit(nogil=True, fastmath=FASTMATH)(function)


def in_threads(run: Callable[[int, int], None], units: int) -> None:
    """Call ``run(start, stop)`` for parts of ``units`` units in as many threads as torch has.

    Not in numba's own threads, which can make a forked process abort.
    """
    threads = min(torch.get_num_threads(), units)
    if threads < 2:
        run(0, units)
        return
    first, *others = pairwise(units * i // threads for i in range(threads + 1))
    waiting = [helpers(threads - 1).submit(run, *part) for part in others]
    try:
        run(*first)
    finally:
        wait(waiting)
    for part in waiting:
        part.result()
