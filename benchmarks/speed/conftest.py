"""The performance suite: ``pytest benchmarks/speed --benchmark-enable``.

Not part of the tests. Each group compares our implementation with the usual one, on the same input in the same run; the
numbers in brackets in the table are the ratios within a group. Run it on an idle machine, with the Makefile's memory
settings (``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000``).
"""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """One thread, as each worker of the runner has."""
    torch.set_num_threads(1)
