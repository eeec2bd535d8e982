# numba has no types.
# mypy: ignore-errors
"""What all kernels that numba compiles share."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

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


def in_threads(run: Callable[[int, int], None], units: int) -> None:
    """Call ``run(start, stop)`` for parts of ``units`` units in as many threads as torch has.

    Numba's own threads stay alive, and can make a forked process (of a data loader) abort.
    """
    threads = min(torch.get_num_threads(), units)
    if threads <= 1:
        run(0, units)
        return
    bounds = [units * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, bounds[:-1], bounds[1:]))
