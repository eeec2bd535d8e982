"""Plans: states, and estimates of the remaining time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.fake_cells import fake_record, make_cells
from helpers.fake_suite import CLASS_COUNTS, fake_cards, write_manifest

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Suite, build_cells
from mmrs_bench.evaluation.results.records import save_failure, save_record
from mmrs_bench.evaluation.run.claims import cell_lock
from mmrs_bench.evaluation.run.planning import State, expected_queries, make_plan, remaining_seconds, state_of


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Suite]:
    with fake_cards(tmp_path / "cards", monkeypatch, {"name": "alpha"}, {"name": "beta"}):
        yield Suite(datasets=(write_manifest(tmp_path),), draws=2, methods=("alpha",))


def test_states_of_cells(tmp_path: Path) -> None:
    done, failed, running, todo = make_cells(4)
    save_record(tmp_path, fake_record(done))
    save_failure(tmp_path, failed.protocol, ConfigError("no"))
    with cell_lock(tmp_path / "locks", running.key):
        states = [planned.state for planned in make_plan(tmp_path, [done, failed, running, todo], [])]
    assert states == [State.DONE, State.FAILED, State.RUNNING, State.TO_DO]
    assert state_of(tmp_path, running) is State.TO_DO
    assert not (tmp_path / "locks" / f"{todo.key}.lock").exists()


def test_estimates_are_means_of_the_most_similar_records(tmp_path: Path, suite: Suite) -> None:
    here = write_manifest(tmp_path, "here")
    there = write_manifest(tmp_path, "there", height=16)
    cells = build_cells(replace(suite, datasets=(here, there), shots=(2, 5), draws=2))
    measured = fake_record(cells[0], seconds=10.0)  # for the scene "here" and 2 shots
    estimates = {
        (c.protocol.scene, c.protocol.data.shots): seconds for c, _, seconds in make_plan(tmp_path, cells, [measured])
    }
    assert estimates["here-r1", 2] == 10.0
    assert estimates["here-r1", 5] == 10.0
    assert estimates["there-r1", 2] == pytest.approx(10.0 * (sum(CLASS_COUNTS) - 6) / measured.n_query)
    other_method = build_cells(replace(suite, methods=("beta",)))
    assert [seconds for _, _, seconds in make_plan(tmp_path, other_method, [measured])] == [None, None]


def test_the_remaining_time_is_that_of_unfinished_cells(tmp_path: Path) -> None:
    cells = make_cells(4)
    record = fake_record(cells[0], seconds=8.0)
    save_record(tmp_path, record)
    plan = make_plan(tmp_path, [*cells, *make_cells(1, method="other")], [record])
    assert remaining_seconds(plan, workers=2) == (12.0, 1)


def test_expected_queries_are_limited_by_the_budget(suite: Suite, tmp_path: Path) -> None:
    (cell,) = build_cells(replace(suite, draws=1))
    assert expected_queries(cell) == sum(CLASS_COUNTS) - 6
    large = write_manifest(
        tmp_path, "large", classes=[{"id": k, "name": f"c{k}", "color": f"#00000{k}", "count": 9000} for k in (1, 2, 3)]
    )
    counts = [
        expected_queries(cell)
        for budget in ("smoke", "quick", "paper")
        for cell in build_cells(replace(suite, draws=1, datasets=(large,), budget=budget))  # type: ignore[arg-type]
    ]
    assert counts == [2000, 20000, 26994]
