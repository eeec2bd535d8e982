"""Records whose splits disagree share no table and no comparison."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
from helpers.synthetic_records import make_record
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.report.comparison import compare
from mmrs_bench.evaluation.report.entries import group_records
from mmrs_bench.evaluation.report.leaderboard import build_leaderboard
from mmrs_bench.evaluation.results.schema import Record


def record(method: str, draw: int, split: str, finished: int = 0, **changes: Any) -> Record:
    made = make_record(method, draw=draw, **changes)
    measured = made.measured.model_copy(update={"finished_at": f"2025-01-01T00:{finished:02}:00+00:00"})
    return made.model_copy(update={"split_sha256": split * 64, "measured": measured})


def test_records_of_other_labels_are_in_another_table() -> None:
    old = [record("svm", draw, "a") for draw in range(2)]
    new = [record("rf", draw, "b", finished=1) for draw in range(3)]
    groups = group_records(old + new)
    assert [[entry.label for entry in group.entries] for group in groups] in ([["svm"], ["rf"]], [["rf"], ["svm"]])
    assert all(group.title.endswith(f"splits {group.fields['splits']}") for group in groups)
    assert len({group.signature(group.entries) for group in groups}) == 2
    assert len([table for table in build_leaderboard(old + new) if table.in_csv]) == 2
    with pytest.raises(ConfigError, match="no draw in common"):
        compare(old + new, "svm", "rf")


def test_without_conflict_groups_are_as_before() -> None:
    records = [record(method, draw, "ab"[draw]) for method in ("svm", "rf") for draw in range(2)]
    (group,) = group_records(records)
    assert "splits" not in group.fields


def test_a_conflict_of_one_method_separates_its_modalities_too() -> None:
    records = [record("rf", 0, "a"), record("rf", 0, "b", finished=1, modalities=("hsi",))]
    assert [len(table.rows) for table in build_leaderboard(records)] == [1, 1]


@given(
    st.lists(st.tuples(st.sampled_from(["rf", "svm", "cnn"]), st.integers(0, 3), st.sampled_from("abc")), unique=True)
)
@settings(max_examples=50, deadline=None, database=None, derandomize=True)
def test_in_every_table_each_draw_has_one_split(cells: list[tuple[str, int, str]]) -> None:
    records = [record(*cell, finished=i, seed=i) for i, cell in enumerate(cells)]
    groups = group_records(records)
    assert sum(len(group.records) for group in groups) == len(records)
    for group in groups:
        splits = sorted({(r.protocol.data.draw, r.split_sha256) for r in group.records})
        assert all(len(list(of_draw)) == 1 for _, of_draw in groupby(splits, key=lambda item: item[0]))
