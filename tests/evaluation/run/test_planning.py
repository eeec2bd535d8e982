"""Plans: states, and estimates of the remaining time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.fake_cells import fake_record, make_cells
from helpers.fake_suite import CLASS_COUNTS, fake_cards, write_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell, Suite, build_cells
from mmrs_bench.evaluation.results.costs import (
    CostModel,
    assumed_seconds,
    expected_queries,
    typical_costs,
    typical_seconds,
)
from mmrs_bench.evaluation.results.records import save_failure, save_record
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.claims import cell_lock
from mmrs_bench.evaluation.run.jobs import draw_blocks
from mmrs_bench.evaluation.run.planning import (
    State,
    estimate_text,
    expected_seconds,
    in_cost_order,
    make_plan,
    states_of,
    wall_seconds,
)


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Suite]:
    with fake_cards(tmp_path / "cards", monkeypatch, {"name": "alpha"}, {"name": "beta"}):
        yield Suite(datasets=(write_manifest(tmp_path),), draws=2, methods=("alpha",))


def estimate(cells: list[Cell], records: list[Record], workers: int) -> str:
    return estimate_text(cells, expected_seconds(cells, records), records, workers)


def with_pretraining(record: Record, pretraining: dict[str, float] | None) -> Record:
    return record.model_copy(update={"measured": record.measured.model_copy(update={"pretraining": pretraining})})


def test_states_of_cells(tmp_path: Path) -> None:
    done, failed, running, todo = make_cells(4)
    save_record(tmp_path, fake_record(done))
    save_failure(tmp_path, failed.protocol, ConfigError("no"))
    with cell_lock(tmp_path / "locks", running.key):
        states = [planned.state for planned in make_plan(tmp_path, [done, failed, running, todo], [])]
    assert states == [State.DONE, State.FAILED, State.RUNNING, State.TO_DO]
    assert states_of(tmp_path, [running]) == [State.TO_DO]
    assert not (tmp_path / "locks" / f"{todo.key}.lock").exists()


def test_estimates_are_means_of_the_most_similar_records(tmp_path: Path, suite: Suite) -> None:
    here = write_manifest(tmp_path, "here")
    there = write_manifest(tmp_path, "there", height=16)
    cells = build_cells(replace(suite, datasets=(here, there), shots=(2, 5), draws=2))
    measured = fake_record(cells[0], seconds=10.0, predict=4.0)  # for the scene "here" and 2 shots
    estimates = {
        (c.protocol.scene, c.protocol.data.shots): seconds for c, _, seconds in make_plan(tmp_path, cells, [measured])
    }
    assert estimates["here-r1", 2] == 14.0
    assert estimates["here-r1", 5] == 14.0
    # Fitting costs the same on every scene, and predicting as much for each pixel.
    assert estimates["there-r1", 2] == pytest.approx(10.0 + 4.0 * (sum(CLASS_COUNTS) - 6) / measured.n_query)
    other_method = build_cells(replace(suite, methods=("beta",)))
    assert [seconds for _, _, seconds in make_plan(tmp_path, other_method, [measured])] == [None, None]


def test_the_remaining_time_is_that_of_all_cells_shared_by_the_workers_and_at_least_the_longest() -> None:
    assert wall_seconds([8.0, 8.0, 8.0, None], workers=2) == (12.0, 1)
    assert wall_seconds([8.0, 30.0], workers=2) == (30.0, 0)
    assert wall_seconds([], workers=2) == (0.0, 0)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_every_cell_is_once_in_the_order_with_the_cheap_ones_first_in_each_draw(data: st.DataObject) -> None:
    """Some methods have records, with or without a shared pretraining; others have none."""
    methods = [f"m{number}" for number in range(data.draw(st.integers(1, 5), label="methods"))]
    cells = [cell for draw in zip(*(make_cells(4, method=method) for method in methods), strict=True) for cell in draw]
    records = []
    for cell in cells[: len(methods)]:
        if data.draw(st.booleans(), label="measured"):
            record = fake_record(cell, seconds=data.draw(st.floats(0, 100), label="seconds"))
            shared = data.draw(st.sampled_from([None, {}, {"entry": 50.0}]), label="pretraining")  # which is done
            records.append(with_pretraining(record, shared))
    ordered = in_cost_order(cells, records)
    assert sorted(cell.key for cell in ordered) == sorted(cell.key for cell in cells)
    assert [cell.protocol.data.draw for cell in ordered] == [draw for draw in range(4) for _ in methods]
    costs = CostModel(records)
    for block in draw_blocks(ordered):
        seconds = [cost.own if (cost := costs.cost(cell)) else assumed_seconds(cell.protocol) for cell in block]
        assert seconds == sorted(seconds)


def test_cells_that_share_a_pretraining_come_after_those_without_until_it_is_done() -> None:
    shared: dict[str, tuple[float, dict[str, float] | None]] = {
        "first": (1.0, {"entry": 5000.0}),
        "none": (20.0, None),
        "second": (2.0, {"entry": 5000.0}),
    }
    cells, records = [], []
    for method, (seconds, pretraining) in shared.items():
        elsewhere = make_cells(3, scenes=3, method=method)[1]
        records.append(with_pretraining(fake_record(elsewhere, seconds=seconds), pretraining))
        cells += make_cells(2, method=method)
    cells.sort(key=lambda cell: cell.protocol.data.draw)
    own = [seconds for seconds, _ in shared.values()]
    methods = [cell.method_label for cell in in_cost_order(cells, records)]
    assert methods[0] == "none"
    assert methods[3:] == [method for _, method in sorted(zip(own, shared, strict=True))]
    assert set(methods[1:3]) == {"first", "second"}


def test_a_cell_that_nobody_measured_comes_after_those_with_shorter_trainings() -> None:
    lengths = {"long": {"pretrain_epochs": 50, "epochs": 40}, "short": {"epochs": 40}, "none": {"epochs_off": 900}}
    cells = [
        replace(cell, protocol=cell.protocol.model_copy(update={"method_config": config}))
        for method, config in lengths.items()
        for cell in make_cells(1, method=method)
    ]
    assert [cell.method_label for cell in in_cost_order(cells, [])] == ["none", "short", "long"]


def test_a_pretraining_counts_once_for_the_cells_that_share_it(tmp_path: Path) -> None:
    cells, elsewhere = make_cells(3), make_cells(3, scenes=3)[1]
    measured = with_pretraining(fake_record(elsewhere, predict=4.0), {"entry": 50.0})
    own = 4.0 / measured.n_query
    pixels = [seconds for seconds in expected_seconds(cells, [measured]) if seconds is not None]
    assert pixels[0] - pixels[1] == pytest.approx(50.0)
    assert pixels[1] == pixels[2] == pytest.approx(own * (expected_queries(cells[0]) or 0))
    done = with_pretraining(fake_record(cells[0], seconds=4.0), {"entry": 50.0})
    save_record(tmp_path, done)
    assert [planned.seconds for planned in make_plan(tmp_path, cells, [done])] == [4.0] * 3
    other = make_cells(1, method="other")
    records = [measured, with_pretraining(fake_record(make_cells(3, scenes=3, method="other")[1]), {"entry": 50.0})]
    alone, together = expected_seconds(other, records), expected_seconds([*cells, *other], records)
    assert (alone[0], together[-1]) == (50.0, 0.0)


def test_what_a_run_will_take_is_said_in_one_line() -> None:
    cells = make_cells(3)
    record = fake_record(cells[0], seconds=200.0)
    assert estimate(cells, [record], 2) == (
        "3 cells to compute: about 5 minutes on 2 workers (times of the records in this folder)"
    )
    other = make_cells(1, method="other")
    assert estimate([*cells, *other], [record], 1) == (
        "4 cells to compute: about 10 minutes on 1 worker (times of the records in this folder); no estimate for 1 of "
        "them"
    )
    assert estimate(other, [record], 1) == (
        "1 cell to compute on 1 worker; no estimate of the time, because no similar cells were measured"
    )


def test_shipped_methods_without_records_have_the_typical_seconds_of_a_named_processor() -> None:
    cells = build_cells(Suite(draws=2, budget="smoke"))
    assert None not in expected_seconds(cells, [])
    assert estimate(cells, [], 2).endswith(f"on 2 workers (times of: {typical_seconds().processor})")
    first = in_cost_order(cells, [])[0]
    cost = CostModel([]).cost(first)
    assert cost is not None
    assert cost.own < 2
    assert not cost.pretraining


def test_shipped_seconds_are_those_of_a_scene_with_as_many_scored_pixels(tmp_path: Path) -> None:
    larger = [{"id": k, "name": f"c{k}", "color": f"#00000{k}", "count": 9000} for k in (1, 2, 3)]
    dataset = write_manifest(tmp_path, "larger", classes=larger)
    (cell,) = build_cells(Suite(datasets=(dataset,), draws=1, methods=("cnn",), budget="paper"))
    typical, cost = typical_seconds().seconds["cnn"]["paper"], CostModel([]).cost(cell)
    assert cost is not None
    assert 0 < typical.predict < typical.own
    assert cost.own == pytest.approx(typical.own - typical.predict + typical.predict * 26994 / typical.n_query)


def test_typical_costs_are_means_of_records() -> None:
    cells = make_cells(2)
    records = [fake_record(cells[0], seconds=10.0, predict=4.0), fake_record(cells[1], seconds=20.0, predict=6.0)]
    cost = typical_costs(records)["fake"]["smoke"]
    assert (cost.own, cost.predict, cost.pretraining) == (20.0, 5.0, {})
    assert cost.n_query == pytest.approx(sum(record.n_query for record in records) / 2, abs=0.5)


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
    assert counts == [2000, 4000, 26994]
