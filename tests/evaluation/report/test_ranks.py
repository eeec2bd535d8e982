"""Ranks over scenes: against scipy and a published example, what is ranked together, files and figures."""

from __future__ import annotations

import csv
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers.synthetic_records import make_record, varied_hits
from matplotlib.figure import Figure
from scipy import stats

from mmrs_bench.evaluation.report.curves import curve_families, curve_figure, write_curves
from mmrs_bench.evaluation.report.entries import Group, group_records
from mmrs_bench.evaluation.report.paper.figures import write_figures
from mmrs_bench.evaluation.report.ranks.diagram import rank_figure, write_ranks
from mmrs_bench.evaluation.report.ranks.scene_ranks import (
    MethodRank,
    SceneRanks,
    critical_difference,
    mean_ranks,
    range_quantile,
    rank_over_scenes,
    scenes_needed,
)


def scene_groups(
    quality: dict[str, dict[str, int]], *, shots: int = 2, simulated: bool = False, **changes: Any
) -> list[Group]:
    """Groups of scenes; ``quality[scene][method]`` decides the OA."""
    return group_records(
        make_record(
            method,
            varied_hits(hits, draw),
            draw=draw,
            shots=shots,
            scene=f"{scene}-r1",
            title=scene,
            simulated=simulated,
            **changes,
        )
        for scene, methods in quality.items()
        for method, hits in methods.items()
        for draw in range(3)
    )


def ranks_of(*means: float, difference: float) -> SceneRanks:
    methods = tuple(MethodRank(f"m{number}", (), mean, mean, mean) for number, mean in enumerate(means))
    return SceneRanks({"split": "random-v1", "budget": "paper"}, 2, ("a", "b"), methods, (), difference)


@pytest.mark.parametrize("count", [2, 3, 7, 20, 40])
def test_the_quantile_of_the_range_equals_that_of_scipy(count: int) -> None:
    assert range_quantile(count) == pytest.approx(stats.studentized_range.ppf(0.95, count, float("inf")), abs=1e-4)


def test_the_critical_difference_equals_a_published_example() -> None:
    """Demšar 2006, section 3.2.3: four classifiers on 14 data sets, q = 2.569."""
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


@pytest.mark.parametrize("methods", [2, 4, 10])
def test_scenes_needed_is_the_fewest_that_can_separate_best_and_worst(methods: int) -> None:
    needed = scenes_needed(methods)
    assert critical_difference(methods, needed) <= methods - 1 < critical_difference(methods, needed - 1)


@pytest.mark.parametrize("values", [[0.5, 0.9, 0.7], [0.5, 0.5, 0.9, 0.5], [0.3], [0.1 + 0.2, 0.3]])
def test_ranks_are_those_of_scipy_and_ties_share_their_mean(values: list[float]) -> None:
    assert mean_ranks(values) == list(stats.rankdata([-round(value, 12) for value in values]))


def test_bars_are_the_longest_runs_without_a_significant_difference() -> None:
    assert ranks_of(1.0, 1.5, 2.6, 4.0, difference=1.2).connected == [(0, 1), (1, 2)]
    assert ranks_of(1.0, 2.0, 3.0, difference=1.0).connected == [], "a difference of this size is significant"
    assert ranks_of(1.0, 2.0, 3.0, difference=9.0).connected == [(0, 2)]


def test_methods_are_ranked_that_are_on_every_scene_and_others_are_named() -> None:
    quality = {
        "augsburg": {"rf": 150, "svm": 120, "cnn": 90},
        "muufl": {"rf": 150, "svm": 170, "cnn": 90},
        "trento": {"rf": 150, "svm": 120, "clip": 190},
    }
    (ranks,) = rank_over_scenes(scene_groups(quality))
    assert [(method.label, method.ranks) for method in ranks.methods] == [("rf", (1, 2, 1)), ("svm", (2, 1, 2))]
    assert (ranks.scenes, ranks.left_out) == (("augsburg", "muufl", "trento"), ("clip", "cnn"))
    assert [method.mean for method in ranks.methods] == pytest.approx([4 / 3, 5 / 3])
    for method in ranks.methods:
        assert 1 <= method.low <= method.mean <= method.high <= 2
    assert "takes at least 4 scenes; these are 3" in ranks.note


def test_titles_state_the_whole_protocol() -> None:
    methods = {"rf": 150, "svm": 120}
    found = [
        scene_groups({"muufl": methods, "trento": methods}, **change) for change in ({}, {"unlabelled": "support"})
    ]
    titles = [ranks.title for ranks in rank_over_scenes([*found[0], *found[1]])]
    assert titles == [
        f"random-v1, 2 shots, budget paper, window 11, unlabelled pixels {pixels}, v0.1.0, 2 scenes"
        for pixels in ("scene", "support")
    ]


def test_of_several_results_of_a_scene_the_newest_and_most_own_ones_count() -> None:
    methods = {"rf": 150, "svm": 120}
    records = [r for group in scene_groups({"a": methods, "b": methods}) for r in group.records]
    newer = [
        make_record(method, varied_hits(hits, draw), draw=draw, scene="b-r10", fingerprint="ff" * 32)
        for method, hits in (("rf", 90), ("svm", 120))
        for draw in range(3)
    ]
    older = [make_record(method, draw=0, scene="b-r9", fingerprint="ee" * 32) for method in methods]
    (ranks,) = rank_over_scenes(group_records([*records, *older, *newer]))
    assert {method.label: method.ranks for method in ranks.methods} == {"rf": (1, 2), "svm": (2, 1)}
    assert "several results, these count: b-r10@ffffffff." in ranks.note
    others = [record.model_copy(update={"split_sha256": "0" * 64}).with_origin("Lab") for record in records]
    (ranks,) = rank_over_scenes(group_records([*records, *others[:3]]))
    assert {method.label for method in ranks.methods} == {"rf", "svm"}, "imported results hide own ones"
    assert re.search(r"these count: a-r1@abababab, splits [0-9a-f]{8}\.$", ranks.note)


def test_settings_that_differ_between_scenes_are_stated() -> None:
    methods = {"rf": 150, "svm": 120}
    records = [record for group in scene_groups({"a": methods, "b": methods}) for record in group.records]
    assert "Settings" not in rank_over_scenes(group_records(records))[0].note
    tuned = make_record("rf", draw=0, scene="c-r1", method_config={"trees": 5})
    (ranks,) = rank_over_scenes(group_records([*records, tuned, make_record("svm", draw=0, scene="c-r1")]))
    assert ranks.note.endswith("Settings differ between scenes: rf.")


def test_simulated_and_real_scenes_and_other_protocols_are_ranked_apart() -> None:
    methods = {"rf": 150, "svm": 120}
    real = scene_groups({"muufl": methods, "trento": methods})
    other = scene_groups({"trento": methods}, shots=5)
    simulated = scene_groups({"town": methods, "village": methods}, simulated=True)
    found = rank_over_scenes([*real, *other, *simulated])
    assert [ranks.scenes for ranks in found] == [("muufl", "trento"), ("town", "village")]
    assert [ranks.title.startswith("SIMULATED") for ranks in found] == [False, True]
    assert rank_over_scenes(scene_groups({"trento": methods})) == []


def test_files_of_ranks_have_the_numbers_and_equal_bytes_each_time(tmp_path: Path) -> None:
    groups = scene_groups({"muufl": {"rf": 150, "svm": 120}, "trento": {"rf": 140, "svm": 150}})
    files = write_ranks(groups, tmp_path)
    assert [path.name for path in files] == [
        f"ranks-random-v1-2shot-11-scene-paper-v0_1_0.{suffix}" for suffix in ("csv", "png", "pdf")
    ]
    rows = list(csv.DictReader(files[0].read_text(encoding="utf-8").splitlines()))
    assert [(row["label"], row["mean_rank"], row["rank_muufl"], row["rank_trento"]) for row in rows] == [
        ("rf", "1.5", "1.0", "2.0"),
        ("svm", "1.5", "2.0", "1.0"),
    ]
    before = [path.read_bytes() for path in files]
    assert [path.read_bytes() for path in write_ranks(groups, tmp_path)] == before


def test_equal_values_of_different_fields_give_different_files(tmp_path: Path) -> None:
    quality = {"muufl": {"rf": 150, "svm": 120}, "trento": {"rf": 140, "svm": 150}}
    changes: list[dict[str, Any]] = [{"modalities": ("hsi",)}, {"drop": ("hsi",)}]
    groups = group_records(
        record
        for change in changes
        for shots in (2, 5)
        for group in scene_groups(quality, shots=shots, **change)
        for record in group.records
    )
    files = [*write_ranks(groups, tmp_path), *write_curves(groups, tmp_path), *write_figures(groups, tmp_path)]
    assert len(files) == len(set(files)) == 4 * 3 + 4 * 2 + 5
    assert {"mod-hsi", "drop-hsi"} == {part for path in files for part in re.findall("(?:mod|drop)-hsi", path.name)}


def overlapping_texts(figure: Figure) -> list[str]:
    """The title if it touches legend or axes, or leaves the figure."""
    figure.draw_without_rendering()
    title = figure._suptitle.get_window_extent()  # type: ignore[attr-defined]
    others = [*(legend.get_window_extent() for legend in figure.legends), *(a.get_tightbbox() for a in figure.axes)]
    inside = figure.bbox.x0 <= title.x0 and title.x1 <= figure.bbox.x1 and title.y1 <= figure.bbox.y1
    return [] if inside and not any(title.overlaps(other) for other in others) else [figure.get_suptitle()]


@pytest.mark.parametrize("count", [2, 17])
def test_titles_of_figures_touch_neither_legend_nor_axes(count: int) -> None:
    quality = {
        f"a scene with a long name, number {n}": {f"method-{m}": 60 + 7 * m for m in range(count)} for n in (1, 2)
    }
    groups = [*scene_groups(quality), *scene_groups(quality, shots=5)]
    (ranks, _) = rank_over_scenes(groups)
    assert overlapping_texts(rank_figure(ranks)) == []
    (family, _) = curve_families(sorted(groups, key=lambda group: group.scene_id))
    assert overlapping_texts(curve_figure(family)) == []


@pytest.mark.parametrize("count", [2, 16, 17, 26, 40])
def test_numbers_of_the_axis_of_ranks_have_gaps(count: int) -> None:
    figure = rank_figure(ranks_of(*(1.0 + place for place in range(count)), difference=100.0))
    figure.draw_without_rendering()
    numbers = [text for text in figure.axes[0].texts if text.get_text().isdigit()]
    boxes = [text.get_window_extent() for text in numbers]
    assert all(right.x0 - left.x1 > 3 for left, right in pairwise(boxes)), "numbers touch"
    assert [text.get_text() for text in numbers][:1] == ["1"]
    assert len(numbers) >= min(count, 9)
