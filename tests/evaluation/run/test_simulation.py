"""Simulated runs: against a plain schedule, bounds, pretrainings and deaths."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.cli import main
from mmrs_bench.evaluation.cells import Suite, build_cells
from mmrs_bench.evaluation.results.costs import typical_seconds
from mmrs_bench.evaluation.run.claims import MAX_ATTEMPTS
from mmrs_bench.evaluation.run.simulation import Step, simulate, steps_of
from mmrs_bench.evaluation.simulation_table import WORKERS, simulation_table

SECONDS = st.lists(st.integers(1, 50), min_size=1, max_size=30)
START = 3.0


def plain_schedule(seconds: list[int], workers: int) -> float:
    """Each cell in turn goes to the worker that is free first."""
    free = [START] * min(workers, len(seconds))
    for value in seconds:
        place = free.index(min(free))
        free[place] += value
    return max(free)


@given(SECONDS, st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_without_deaths_and_pretrainings_it_is_the_plain_schedule(seconds: list[int], workers: int) -> None:
    outcome = simulate([Step(value) for value in seconds], workers, death_hours=None, start_seconds=START)
    assert outcome.makespan == plain_schedule(seconds, workers)
    assert outcome.useful == sum(seconds)
    assert outcome.held == sum(seconds) + START * min(workers, len(seconds))
    assert (outcome.deaths, outcome.failed) == (0, 0)


def test_cells_wait_for_their_pretraining_and_no_worker_waits_with_them() -> None:
    steps = [Step(100.0), Step(10.0, 0), Step(10.0, 0), Step(5.0)]
    outcome = simulate(steps, 4, death_hours=None, start_seconds=START)
    assert outcome.makespan == START + 100 + START + 10  # one of the two cells by a worker that has to start
    assert outcome.held == 125 + 3 * START


@given(SECONDS, st.integers(1, 8), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_with_deaths_every_cell_is_finished_or_has_failed(seconds: list[int], workers: int, seed: int) -> None:
    steps = [
        Step(value, None if number % 3 else (number - 1 if number else None)) for number, value in enumerate(seconds)
    ]
    outcome = simulate(steps, workers, death_hours=0.02, start_seconds=START, seed=seed)
    assert outcome == simulate(steps, workers, death_hours=0.02, start_seconds=START, seed=seed)
    assert outcome.useful <= outcome.held <= workers * (outcome.makespan + START) + START
    if not outcome.failed:
        assert outcome.useful == pytest.approx(sum(seconds))


def test_a_cell_whose_workers_always_die_fails_with_those_that_wait_for_it() -> None:
    steps = [Step(1e9), Step(1.0, 0), Step(1.0)]
    outcome = simulate(steps, 2, death_hours=1.0, start_seconds=START)
    assert (outcome.deaths, outcome.failed, outcome.useful) == (MAX_ATTEMPTS, 2, 1.0)


def test_a_pretraining_counts_once_and_the_cells_that_share_it_come_after_it() -> None:
    cells = build_cells(Suite(methods=("majority", "bdgf", "bdgf-cnn"), draws=3, budget="quick"))
    steps, unknown = steps_of(cells, [])
    (pretraining,) = typical_seconds().seconds["bdgf"]["quick"].pretraining.values()
    assert unknown == []
    assert [step.after for step in steps[:2]] == [None, 0], "the first cells of both methods, one after the other"
    assert sorted(str(step.after) for step in steps[2:]) == ["1"] * 4 + ["None"] * 3
    own = sum(typical_seconds().seconds[name]["quick"].own * 3 for name in ("majority", "bdgf", "bdgf-cnn"))
    assert sum(step.seconds for step in steps) == pytest.approx(own + pretraining, rel=1e-3)


def test_the_table_names_cells_without_times_and_says_that_it_is_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    cells = build_cells(Suite(methods=("majority", "unidiff"), draws=2, budget="quick"))
    table = simulation_table(cells, [], 24.0)
    assert table.title.startswith("SIMULATED run of 2 cells")
    assert [row["workers"] for row in table.sections[0].rows] == list(WORKERS)
    assert table.notes[-1] == "Without 2 cells of methods that nobody measured under this budget: unidiff."
    assert main(["plan", "--simulate", "--methods", "majority", "--draws", "2", "--results", "none"]) == 0
    assert "SIMULATED run of 2 cells, budget quick" in capsys.readouterr().out
    assert main(["plan", "--simulate", "--methods", "majority", "--death-hours", "-1"]) == 2
    assert "death-hours -1: give the mean hours" in capsys.readouterr().err
