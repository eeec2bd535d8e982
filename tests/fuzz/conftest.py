"""Bounded fuzzing: few fixed inputs in the tests, random ones for MMRS_FUZZ_MINUTES minutes with ``make fuzz``."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

MINUTES = float(os.environ.get("MMRS_FUZZ_MINUTES") or 0)
#: Inputs per test: in the tests, and in each round of a campaign.
EXAMPLES, ROUND = 40, 25

Fuzz = Callable[[Callable[[Any], object], SearchStrategy[Any]], None]


class Campaign:
    inputs = 0
    escapes = 0
    tests = 1


# A test with `@given` uses it as `@settings(settings.get_profile("fuzz"))`.
settings.register_profile(
    "fuzz",
    max_examples=int(MINUTES * ROUND) or EXAMPLES,
    derandomize=not MINUTES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def fuzz() -> Fuzz:
    """Call a check with many values of a strategy; an exception is an escape and fails the test."""

    def run(check: Callable[[Any], object], inputs: SearchStrategy[Any]) -> None:
        end = time.monotonic() + 60 * MINUTES / Campaign.tests
        number = 0
        while number == 0 or time.monotonic() < end:
            run_round(check, inputs, number)
            number += 1

    return run


def run_round(check: Callable[[Any], object], inputs: SearchStrategy[Any], number: int) -> None:
    @settings(settings.get_profile("fuzz"), max_examples=ROUND if MINUTES else EXAMPLES)
    @given(inputs)
    def test(value: Any) -> None:
        Campaign.inputs += 1
        check(value)

    try:
        (seed(number)(test) if MINUTES else test)()
    except Exception:
        Campaign.escapes += 1
        raise


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    Campaign.tests = max(1, sum("tests/fuzz/" in item.nodeid for item in items))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if MINUTES:
        peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        terminalreporter.write_line(
            f"fuzz: {Campaign.inputs:,} inputs tried, {Campaign.escapes} escapes, peak memory {max(peaks) >> 10:,} MiB"
        )
