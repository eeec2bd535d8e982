"""What workers need: GPUs, memory and hours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from helpers.fake_cells import fake_record
from helpers.fake_suite import fake_cards, write_manifest

from mmrs_bench.cli import main
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell, Suite, build_cells
from mmrs_bench.evaluation.needs_table import needs_table
from mmrs_bench.evaluation.results.costs import CostModel, typical_seconds
from mmrs_bench.evaluation.run.needs import Needs, cell_needs, worker_hours
from mmrs_bench.methods.catalogue import CARD_DIR, read_method_card

NOTHING_MEASURED = CostModel([])


def first_cell(**options: object) -> Cell:
    return build_cells(Suite.of({"draws": 1, **options}))[0]


@pytest.mark.parametrize(
    ("budget", "device", "gpus"),
    [("paper", "auto", 1), ("quick", "auto", 0), ("paper", "cpu", 0), ("quick", "cuda", 1)],
)
def test_the_card_says_which_budget_needs_a_gpu_and_the_device_decides(budget: str, device: str, gpus: int) -> None:
    cell = first_cell(methods="bdgf", budget=budget)
    assert cell_needs(cell, NOTHING_MEASURED, device).gpus == gpus


def test_memory_is_what_the_card_states_else_what_was_measured_with_headroom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = {"name": "alpha", "resources": {"smoke": {"memory_gb": 7}}}
    with fake_cards(tmp_path / "cards", monkeypatch, card):
        suite = Suite(datasets=(write_manifest(tmp_path),), draws=1, methods=("alpha",))
        stated, measured = (build_cells(replace(suite, budget=budget))[0] for budget in ("smoke", "quick"))
        record = fake_record(measured)
        record = record.model_copy(
            update={"measured": record.measured.model_copy(update={"peak_memory_mib": 3 * 1024.0})}
        )
        assert cell_needs(measured, NOTHING_MEASURED, "cpu") == Needs(0, None)
        costs = CostModel([record])
        assert cell_needs(measured, costs, "cpu") == Needs(0, 8)  # 4.5 GB, rounded up
        assert cell_needs(stated, costs, "cpu") == Needs(0, 7)


def test_resources_change_no_key(tmp_path: Path) -> None:
    fields = yaml.safe_load((CARD_DIR / "rf.yaml").read_text()) | {"name": "my-rf"}
    path, keys = tmp_path / "card.yaml", set()
    for resources in ({}, {"paper": {"gpu": 1, "memory_gb": 16}}):
        path.write_text(yaml.safe_dump({**fields, "resources": resources}))
        assert bool(read_method_card(path).resources) == bool(resources)
        keys.add(first_cell(methods=str(path)).key)
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"paper": {"gpus": 1}}, r"resources\.paper\.gpus is not a known field"),
        ({"paper": {"gpu": -1}}, r"resources\.paper\.gpu: .*greater than or equal to 0"),
        ({"long": {"gpu": 1}}, r"resources\.long"),
    ],
)
def test_wrong_resources_of_a_card_are_named(resources: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load((CARD_DIR / "rf.yaml").read_text()), "resources": resources}))
    with pytest.raises(ConfigError, match=message):
        read_method_card(path)


def test_a_time_limit_is_three_times_the_expected_time_and_never_guessed() -> None:
    assert worker_hours([3600.0] * 4, workers=2, most=24) == pytest.approx(6.25)
    assert worker_hours([600.0, 7200.0], workers=2, most=24) == pytest.approx(6.25)  # the longest cell
    assert worker_hours([1.0, None], workers=2, most=24) == 24
    assert worker_hours([3600.0] * 400, workers=2, most=24) == 24


def test_the_table_of_needs_counts_a_pretraining_once(capsys: pytest.CaptureFixture[str]) -> None:
    cells = build_cells(Suite(methods=("bdgf", "bdgf-cnn", "majority"), draws=3, budget="quick"))
    rows = {row["method"]: row for row in needs_table(cells, [], "auto").sections[0].rows}
    (pretraining,) = typical_seconds().seconds["bdgf"]["quick"].pretraining.values()
    first, second = (float(str(rows[name]["hours"])) * 3600 for name in ("bdgf", "bdgf-cnn"))
    assert first == pytest.approx(3 * float(str(rows["bdgf"]["seconds"])) + pretraining)
    assert second == pytest.approx(3 * float(str(rows["bdgf-cnn"]["seconds"])))
    assert main(["plan", "--needs", "--methods", "bdgf", "--budget", "paper", "--device", "auto"]) == 0
    assert "needs, budget paper, --device auto" in capsys.readouterr().out
