"""What each modality adds: paired comparisons of one method over common draws."""

from __future__ import annotations

import pytest
from helpers.synthetic_records import make_record, values

from mmrs_bench.evaluation.report.leaderboard import build_leaderboard
from mmrs_bench.evaluation.report.tables import Estimate, Table
from mmrs_bench.evaluation.results.schema import Record


def runs(hits: int, *modalities: str, method: str = "rf", draws: int = 10, shots: int = 2) -> list[Record]:
    """Records whose accuracy varies with the draw, equally for all modalities."""
    return [
        make_record(method, (hits + 3 * draw, 160, 150), modalities=modalities, draw=draw, shots=shots)
        for draw in range(draws)
    ]


def modality_tables(records: list[Record]) -> list[Table]:
    return [table for table in build_leaderboard(records) if table.title.endswith("what each modality adds")]


def test_all_modalities_are_compared_with_fewer_draw_by_draw() -> None:
    whole, part = runs(150), runs(100, "hsi")
    (table,) = modality_tables(whole + part + runs(90, "lidar"))
    # The exact two-sided p of ten wins is 2 / 2^10; Holm doubles it for two tests.
    assert values(table, "modalities", "won", "lost", "tied", "draws", "p") == [
        ("hsi + lidar", None, None, None, 10, None),
        ("hsi", 10, 0, 0, 10, "0.004"),
        ("lidar", 10, 0, 0, 10, "0.004"),
    ]
    difference = table.rows[1]["difference"]
    assert isinstance(difference, Estimate)
    expected = [100 * (a.scores.oa - b.scores.oa) for a, b in zip(whole, part, strict=True)]
    assert difference.mean == pytest.approx(sum(expected) / 10)
    assert not table.in_csv, "the rows are derived from other rows"


def test_a_missing_modality_has_a_table_and_a_ranking_of_its_own() -> None:
    whole = runs(150)
    dropped = [
        make_record("rf", (100 + 3 * draw, 160, 150), drop=drop, draw=draw, shots=2)
        for drop in (("lidar",), ("hsi", "lidar"))
        for draw in range(10)
    ]
    tables = build_leaderboard(whole + dropped)
    assert [table.title.partition("Town (town), ")[2] for table in tables] == [
        "random-v1, predicted without hsi + lidar, 2 shots, budget paper",
        "random-v1, predicted without lidar, 2 shots, budget paper",
        "random-v1, 2 shots, budget paper",
        "random-v1, 2 shots, budget paper, what a missing modality costs",
    ]
    assert [len(table.rows) for table in tables] == [1, 1, 1, 3]
    assert "|drop:lidar|" in dict(tables[1].card)["signature"]
    assert "predicted without lidar, whose mean stands in its place" in dict(tables[1].card)["modalities"]
    assert values(tables[3], "modalities", "won", "lost", "tied", "draws", "p") == [
        ("with hsi + lidar", None, None, None, 10, None),
        ("without hsi + lidar", 10, 0, 0, 10, "0.004"),
        ("without lidar", 10, 0, 0, 10, "0.004"),
    ]


@pytest.mark.parametrize(("draws", "p"), [(10, "0.002"), (3, "needs >= 6 draws")])
def test_a_single_pair_is_not_corrected_and_few_draws_have_no_p(draws: int, p: str) -> None:
    (table,) = modality_tables(runs(150) + runs(100, "hsi", draws=draws))
    assert table.rows[1]["p"] == p


@pytest.mark.parametrize("other", [[], runs(100, "hsi", method="svm"), runs(100, "hsi", shots=5)])
def test_only_results_of_the_same_method_and_protocol_are_paired(other: list[Record]) -> None:
    assert modality_tables(runs(150) + other) == []
