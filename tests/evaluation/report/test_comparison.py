"""The paired comparison of two methods."""

from __future__ import annotations

import pytest
from helpers.synthetic_records import make_record, values

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.report.comparison import compare
from mmrs_bench.evaluation.report.tables import Estimate


def test_comparison_over_common_draws_equals_a_hand_calculation() -> None:
    records = [make_record("rf", (150, 150, 150 + d), draw=d) for d in range(7)]
    records += [make_record("svm", (150, 150, 144), draw=d) for d in range(1, 9)]
    (table,) = compare(records, "rf", "svm")
    # Draws 1..6 are common; rf has 7..12 hits more: six wins, p = 2 / 2**6.
    assert values(table, "metric", "draws", "won", "lost", "tied", "p")[0] == ("OA", 6, 6, 0, 0, "0.031")
    difference = table.rows[0]["difference"]
    assert isinstance(difference, Estimate)
    assert difference.mean == pytest.approx(100 * 9.5 / 600)
    assert "A = rf, B = svm" in table.title


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("rf", "rf is compared with itself; give two different methods"),
        ("svn", "unknown method with records 'svn': did you mean svm"),
        ("svm", "the name fits several entries"),
        ("svm [last]", "no draw in common"),
    ],
)
def test_comparison_needs_two_known_methods_and_common_draws(other: str, message: str) -> None:
    records = [make_record("rf"), make_record("svm", draw=1), make_record("svm", draw=1, selection="support-cv")]
    with pytest.raises(ConfigError, match=message):
        compare(records, "rf", other)
