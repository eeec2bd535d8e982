"""What a second thread gains: the works of the networks in float32 with two threads, beside the same with one.

Meant for `make speed`, which sets the variables of workers: how long OpenMP threads wait actively decides much.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import bdgf
import diffclip
import msfmamba
from work import Run, Work

from mmrs_bench.config import torch_threads


def works() -> Iterator[Work]:
    for work in chain(bdgf.works(), diffclip.works(), msfmamba.works()):
        if "bfloat16" not in work.name:
            two, one = (in_threads(work.ours, count) for count in (2, 1))
            yield Work(work.method, f"{work.name}: two threads / one", two, reference=one)


def in_threads(run: Run, count: int) -> Run:
    def running() -> object:
        with torch_threads(count):
            return run()

    return running
