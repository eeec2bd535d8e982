"""Parts of a prediction in several threads: order, number of threads of each part, modes, errors and forks."""

from __future__ import annotations

import threading

import pytest
import torch
from helpers.new_process import in_new_process

from mmrs_bench.config import torch_threads
from mmrs_bench.models.threads import parallel_map

CPU = torch.device("cpu")


def place(part: int) -> tuple[int, int, bool, bool, bool]:
    """The part, torch's threads and modes, and whether this is the thread of the test."""
    here = threading.current_thread() is threading.main_thread()
    return part, torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(), here


@pytest.mark.parametrize("inference", [False, True])
def test_parts_keep_their_order_and_modes_and_have_one_thread_each(inference: bool) -> None:
    with torch_threads(3), torch.inference_mode(inference), torch.no_grad():
        assert parallel_map(place, range(10), CPU) == [(i, 1, False, inference, False) for i in range(10)]
        assert torch.get_num_threads() == 3
        assert parallel_map(place, [5], CPU) == [(5, 3, False, inference, True)]
        assert parallel_map(place, [], CPU) == []


def test_parts_with_gradients_or_autocast_or_on_other_devices_use_the_threads_of_torch() -> None:
    with torch_threads(3):
        assert parallel_map(place, range(2), CPU) == [(i, 3, True, False, True) for i in range(2)]
        with torch.no_grad():
            assert parallel_map(place, range(2), torch.device("meta"))[1] == (1, 3, False, False, True)
            with torch.autocast("cpu", torch.bfloat16):
                assert parallel_map(place, range(2), CPU)[1] == (1, 3, False, False, True)


def test_parts_run_at_once() -> None:
    """Each of two parts waits for the other."""
    both = threading.Barrier(2, timeout=60)
    with torch_threads(2), torch.no_grad():
        assert sorted(parallel_map(lambda part: both.wait(), range(2), CPU)) == [0, 1]


def test_the_error_of_a_part_is_raised() -> None:
    def compute(part: int) -> int:
        if part == 2:
            raise MemoryError(f"part {part}")
        return part

    with torch_threads(2), torch.no_grad(), pytest.raises(MemoryError, match="part 2"):
        parallel_map(compute, range(5), CPU)


FORKED = """
import os, signal, torch
from mmrs_bench.models.threads import parallel_map

torch.set_num_threads(3)
torch.set_grad_enabled(False)
def squares():
    return parallel_map(lambda part: part**2, range(5), torch.device("cpu"))
squares()
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(0 if squares() == [0, 1, 4, 9, 16] else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_forked_processes_start_threads_of_their_own() -> None:
    """Threads stay alive, and a forked process has none of them."""
    assert in_new_process(FORKED, PYTHONWARNINGS="ignore") == "0"
