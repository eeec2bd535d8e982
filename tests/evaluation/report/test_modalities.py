"""What each modality adds: pairs of one method over common draws, corrected over the table."""

from __future__ import annotations

import pytest
from helpers.synthetic_records import make_record

from mmrs_bench.evaluation.report.leaderboard import build_leaderboard
from mmrs_bench.evaluation.report.tables import Estimate, Table
from mmrs_bench.evaluation.results.schema import Record


def runs(hits: int, *modalities: str, method: str = "rf", draws: int = 10, shots: int = 2) -> list[Record]:
    """Draws whose accuracies differ a little; a draw has the same luck whatever it sees."""
    return [
        make_record(method, (hits + 3 * draw, 160, 150), modalities=modalities, draw=draw, shots=shots)
        for draw in range(draws)
    ]


def added(records: list[Record]) -> list[Table]:
    return [table for table in build_leaderboard(records) if table.title.endswith("what each modality adds")]


def test_all_modalities_are_compared_with_fewer_draw_by_draw() -> None:
    whole, part = runs(150), runs(100, "hsi")
    (table,) = added(whole + part + runs(90, "lidar"))
    rows = table.sections[0].rows
    assert [row["modalities"] for row in rows] == ["hsi + lidar", "hsi", "lidar"]
    gain = rows[1]["gain"]
    assert isinstance(gain, Estimate)
    expected = [100 * (a.scores.oa - b.scores.oa) for a, b in zip(whole, part, strict=True)]
    assert gain.mean == pytest.approx(sum(expected) / 10)
    assert [rows[1][name] for name in ("won", "lost", "tied", "draws")] == [10, 0, 0, 10]
    # The exact two-sided p of ten wins is 2 / 2^10; Holm doubles it for two tests.
    assert [row.get("p") for row in rows] == [None, "0.004", "0.004"]


def test_one_pair_is_not_corrected_and_few_draws_have_no_p() -> None:
    (table,) = added(runs(150) + runs(100, "hsi"))
    assert table.sections[0].rows[1]["p"] == "0.002"
    (table,) = added(runs(150) + runs(100, "hsi", draws=3))
    assert table.sections[0].rows[1]["p"] == "needs >= 6 draws"


def test_only_the_same_method_and_protocol_are_paired() -> None:
    assert added(runs(150) + runs(100, "hsi", method="svm")) == []
    assert added(runs(150) + runs(100, "hsi", shots=5)) == []
    assert added(runs(150)) == []


def test_the_lines_are_not_in_the_tidy_file() -> None:
    """They are derived from other rows."""
    (table,) = added(runs(150) + runs(100, "hsi"))
    assert not table.tidy
