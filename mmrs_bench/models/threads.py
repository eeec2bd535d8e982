"""Work in several threads of this process, with the same results whatever their number."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


@cache
def helpers(count: int) -> ThreadPoolExecutor:
    """Threads that stay alive, because to start them takes as long as many a kernel.

    In each, torch computes with one thread. Otherwise they would start OpenMP threads of their own. If there are more
    of these than cores, all sleep whenever they wait, and small operations of torch take up to twice as long.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "mmrs-bench", initializer=_use_one_thread)
    started = threading.Barrier(count + 1, timeout=60)
    for _ in range(count):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(before)  # also the number of threads that others start later
    return pool


def _use_one_thread() -> None:
    torch.get_num_threads()  # the first call in a thread sets the number that the thread before it had
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # a forked process (of a data loader) has none of the threads
    os.register_at_fork(after_in_child=helpers.cache_clear)


def parallel_map(compute: Callable[[T], R], parts: Iterable[T], device: torch.device) -> list[R]:
    """The results of independent parts of a prediction, in order.

    On a CPU, as many parts as torch has threads are computed at once, each with one thread. So the results are those
    of one thread, and small operations gain as much as large ones, which torch alone divides well. If gradients or
    autocast are on, or on another device, the parts are computed one after the other by torch's own threads.
    """
    parts = list(parts)
    count = min(torch.get_num_threads(), len(parts))
    if count < 2 or device.type != "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return [compute(part) for part in parts]
    inference = torch.is_inference_mode_enabled()  # which, as the mode of gradients, is one of each thread

    def run(part: T) -> R:
        with torch.inference_mode(inference), torch.no_grad():
            return compute(part)

    return list(helpers(count).map(run, parts))
