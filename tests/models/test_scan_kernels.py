"""The compiled kernels of the selective scan: powers, short registers, no cache folder, and their threads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from helpers.short_registers import run_with_short_registers

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba (extra fast) is absent")


@needs_numba
def test_powers_of_two_in_float32_are_accurate_for_all_exponents() -> None:
    """Within two units in the last place; 0 and infinity beyond the exponents."""
    import numba
    import numpy as np

    from mmrs_bench.models._lanes import LANES, load_group, powers_of_two, repeat, store_group

    @numba.njit
    def write_powers(found: np.ndarray, exponents: np.ndarray, factor: np.float32) -> None:
        for i in range(0, exponents.size, LANES**2):
            store_group(found, i, powers_of_two(load_group(exponents, i, LANES), repeat(factor)))

    def powers(exponents: np.ndarray, factor: float = 1.0) -> np.ndarray:
        padded = np.resize(exponents, -(-exponents.size // LANES**2) * LANES**2)
        found = np.empty_like(padded)
        write_powers(found, padded, np.float32(factor))
        return found[: exponents.size]

    x = np.linspace(-125.9, 127.4, 1_000_001, dtype=np.float32)
    expected = np.exp2(x.astype(np.float64))
    assert (np.abs(powers(x) - expected) / expected).max() < 2.0**-22
    np.testing.assert_array_equal(powers(x / 4, 4.0), powers(x))
    ends = np.array([-np.inf, -1e9, -127.0, 0.0, 128.0, 1e9, np.inf, np.nan], dtype=np.float32)
    np.testing.assert_array_equal(powers(ends), np.array([0, 0, 0, 1, np.inf, np.inf, np.inf, np.nan]))


@pytest.mark.slow
@needs_numba
def test_the_kernels_are_right_on_cpus_with_short_registers(tmp_path: Path) -> None:
    code = """
from models.test_selective_scan import check, inputs
import torch
for channels, states, length in ((1, 1, 1), (8, 8, 8), (9, 16, 121), (16, 17, 7)):
    for reverse in (False, True):
        check(inputs(2, channels, states, length, dtype=torch.float32), reverse=reverse)
"""
    run_with_short_registers(code, tmp_path)


@needs_numba
def test_kernels_compile_without_a_cache_folder() -> None:
    import numba

    from mmrs_bench.models._scan_numba import compiled

    def increment(x: int) -> int:
        return x + 1

    increment.__code__ = increment.__code__.replace(co_filename="nowhere.py")
    with pytest.raises(RuntimeError, match="cannot cache function"):
        numba.njit(cache=True)(increment)
    assert compiled(increment)(1) == 2


@needs_numba
def test_threads_share_all_units_and_an_error_is_raised_after_all_have_ended() -> None:
    from mmrs_bench.config import torch_threads
    from mmrs_bench.models._compiled import in_threads

    def run(start: int, stop: int) -> None:
        parts.append((start, stop))
        if start == 3:
            raise MemoryError(f"units {start} to {stop}")

    for threads, units, expected in (
        (1, 5, [(0, 5)]),
        (2, 5, [(0, 2), (2, 5)]),
        (4, 2, [(0, 1), (1, 2)]),
        (2, 0, [(0, 0)]),
    ):
        parts: list[tuple[int, int]] = []
        with torch_threads(threads):
            in_threads(run, units)
        assert sorted(parts) == expected
    parts = []
    with torch_threads(3), pytest.raises(MemoryError, match="units 3 to 6"):
        in_threads(run, 9)
    assert sorted(parts) == [(0, 3), (3, 6), (6, 9)]
