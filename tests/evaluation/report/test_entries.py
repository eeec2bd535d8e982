"""Grouping: only results of one protocol are together, and every compared method has a label of its own."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.synthetic_records import make_record

from mmrs_bench.evaluation.report.entries import group_records
from mmrs_bench.evaluation.report.tables import Estimate


def test_estimates_equal_a_hand_calculation() -> None:
    records = [make_record(hits=hits, draw=draw) for draw, hits in enumerate([(200, 200, 200), (100, 100, 100)])]
    ((entry,),) = (group.entries for group in group_records(records))
    oa, kappa = entry.estimate("oa"), entry.estimate("kappa")
    # OA is 1 and 0.5: mean 75 %, sd (ddof 1) 35.36 points; kappa is 1 and 0.25.
    assert oa is not None
    assert (oa.mean, oa.sd) == (75.0, pytest.approx(35.3553, abs=1e-4))
    assert kappa is not None
    assert kappa.mean == pytest.approx(62.5)
    assert entry.draws == (0, 1)


def test_seeds_are_averaged_within_a_draw_first() -> None:
    records = [
        make_record(hits=(hits,) * 3, draw=draw, seed=seed)
        for hits, draw, seed in ((200, 0, 0), (100, 0, 1), (150, 1, 0))
    ]
    ((entry,),) = (group.entries for group in group_records(records))
    assert entry.estimate("oa") == Estimate(75.0, 0.0, 75.0, 75.0)
    assert (entry.draws, entry.seeds) == ((0, 1), (0, 1))
    assert entry.by_draw("oa", seed=1) == {0: 0.5}


@pytest.mark.parametrize("other", [{"shots": 5}, {"split": "block-v1"}, {"modalities": ("hsi",)}])
def test_results_of_different_protocols_are_in_different_groups(other: dict[str, Any]) -> None:
    groups = group_records([make_record("rf"), make_record("svm", **other)])
    assert [len(group.entries) for group in groups] == [1, 1]


def test_versions_and_settings_of_a_method_are_different_entries() -> None:
    changes: list[dict[str, Any]] = [{}, {"method_version": 2}, {"method_config": {"trees": 5}}]
    (group,) = group_records([make_record("rf", draw=draw, **change) for draw, change in enumerate(changes)])
    labels = [entry.label for entry in group.entries]
    assert len(set(labels)) == 3
    assert sum("v2" in label for label in labels) == 1


@pytest.mark.parametrize("change", [{"method_version": 2}, {"method_config": {"trees": 5}}, {"selection": "paper-val"}])
def test_a_curve_joins_no_versions_settings_or_rules(change: dict[str, Any]) -> None:
    groups = group_records([make_record("rf"), make_record("svm"), make_record("rf", shots=5, **change)])
    labels = [[entry.label for entry in group.entries] for group in groups]
    assert labels[0][1] == "svm"
    assert labels[0][0] != labels[1][0]
    assert labels[0][0].startswith("rf [")
    assert labels[1][0].startswith("rf [")


def test_ranks_over_scenes_join_no_versions_but_settings_may_depend_on_the_scene() -> None:
    def labels(**change: Any) -> list[str]:
        groups = group_records([make_record(), make_record(scene="city-r1", **change)])
        return [entry.label for group in groups for entry in group.entries]

    assert labels(method_version=2) == ["rf [v2]", "rf [v1]"]
    assert labels(method_config={"trees": 5}) == ["rf", "rf"]


def test_groups_are_sorted_by_shots_as_numbers() -> None:
    groups = group_records([make_record(shots=shots) for shots in (10, 2, 5)])
    assert [group.shots for group in groups] == [2, 5, 10]
    assert groups[0].fields_without_shots == groups[1].fields_without_shots == groups[2].fields_without_shots
