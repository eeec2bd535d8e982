"""Statistics against slow enumeration, scipy and hand calculation."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.evaluation.report.statistics import (
    MIN_DRAWS,
    holm,
    p_text,
    paired,
    summarise,
    tie_groups,
    wilcoxon,
)
from mmrs_bench.randomness import numpy_generator

VALUES = st.floats(-1, 1, allow_nan=False).map(lambda v: round(v, 6))


def slow_wilcoxon(differences: Sequence[float]) -> float:
    """Two-sided exact p by going through all 2^n sign patterns, with mean ranks and without zeros."""
    kept = [d for d in differences if d != 0]
    if not kept:
        return 1.0
    magnitudes = sorted(abs(d) for d in kept)
    ranks = [np.mean([i + 1 for i, m in enumerate(magnitudes) if m == abs(d)]) for d in kept]
    observed = sum(r for r, d in zip(ranks, kept, strict=True) if d > 0)
    sums = [
        sum(r for r, sign in zip(ranks, signs, strict=True) if sign)
        for signs in itertools.product((False, True), repeat=len(kept))
    ]
    lower = sum(s <= observed + 1e-9 for s in sums) / len(sums)
    upper = sum(s >= observed - 1e-9 for s in sums) / len(sums)
    return min(1.0, 2 * min(lower, upper))


@given(st.lists(st.integers(-4, 4).map(lambda v: v / 10), min_size=1, max_size=9))
@settings(deadline=None)
def test_wilcoxon_equals_enumeration_with_ties_and_zeros(differences: list[float]) -> None:
    assert wilcoxon(differences) == pytest.approx(slow_wilcoxon(differences), abs=1e-12)


@pytest.mark.parametrize("n", [6, 10, 20, 40])
def test_wilcoxon_equals_scipy_without_ties(n: int) -> None:
    from scipy import stats

    for case in range(5):
        differences = numpy_generator("wilcoxon", n, case).normal(0.3, 1, n)
        expected = stats.wilcoxon(differences, method="exact").pvalue
        assert wilcoxon(list(differences)) == pytest.approx(expected, rel=1e-9)


def test_why_six_draws_are_needed() -> None:
    assert wilcoxon([1, 2, 3, 4, 5]) == 0.0625
    assert wilcoxon([1, 2, 3, 4, 5, 6]) == 0.03125
    assert wilcoxon(list(range(1, 11))) == pytest.approx(0.001953125)
    assert wilcoxon(range(1, MIN_DRAWS)) > 0.05 >= wilcoxon(range(1, MIN_DRAWS + 1))


def test_rounding_does_not_break_ties() -> None:
    # 0.1 + 0.2 and 0.3 differ in the last bit only.
    assert wilcoxon([0.1 + 0.2, -0.3, 0.5]) == wilcoxon([0.3, -0.3, 0.5])


@given(st.lists(VALUES, min_size=1, max_size=12))
def test_wilcoxon_does_not_care_about_sign_or_order(differences: list[float]) -> None:
    p = wilcoxon(differences)
    assert 0 < p <= 1
    assert wilcoxon([-d for d in differences]) == p
    assert wilcoxon(differences[::-1]) == p


def test_equal_methods() -> None:
    assert wilcoxon([0.0] * 10) == 1.0


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 are 0.02, 0.03, 0.06, 0.04, made monotone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7, 0.6]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, a in zip(p_values, adjusted, strict=True):
        assert p <= a <= min(1.0, len(p_values) * p) + 1e-12
    # The definition, word for word: the smallest p still not rejected stops all larger ones.
    for alpha in (0.01, 0.05, 0.2):
        rejected = set()
        for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if (len(p_values) - step) * p_values[index] > alpha:
                break
            rejected.add(index)
        assert {i for i, a in enumerate(adjusted) if a <= alpha} == rejected


def test_the_interval_is_the_t_interval() -> None:
    from scipy import stats

    values = [0.70, 0.74, 0.81, 0.66, 0.79]
    found = summarise(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert found.n == 5
    assert found.mean == pytest.approx(np.mean(values))
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_three_draws_by_hand() -> None:
    # t(0.975, 2) = 4.3027; sd of 1, 2, 3 is 1.
    found = summarise([1.0, 2.0, 3.0])
    assert found.sd == pytest.approx(1.0)
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-5)


def test_one_draw_has_no_spread() -> None:
    assert summarise([0.5]) == (1, 0.5, None, None, None)


def test_pairs_are_made_over_common_draws_only() -> None:
    one = dict.fromkeys(range(8), 0.9)
    other = dict.fromkeys(range(2, 12), 0.8) | {2: 0.9, 3: 0.95}
    found = paired(one, other)
    assert found is not None
    assert (found.difference.n, found.wins, found.losses, found.ties) == (6, 4, 1, 1)
    assert found.p == pytest.approx(slow_wilcoxon([0.0, -0.05, 0.1, 0.1, 0.1, 0.1]))
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_below_six_draws_there_is_no_p() -> None:
    found = paired(dict.fromkeys(range(5), 1.0), dict.fromkeys(range(5), 0.0))
    assert found is not None
    assert found.p is None
    assert p_text(found.p) == "needs >= 6 draws"


def test_p_texts() -> None:
    assert [p_text(0.0312), p_text(0.0004), p_text(1.0)] == ["0.031", "< 0.001", "1.000"]


def curve(mean: float, n: int = 10, spread: float = 0.001) -> dict[int, float]:
    return {draw: mean + spread * ((draw * 7) % 5 - 2) for draw in range(n)}


def test_groups_of_clearly_different_methods() -> None:
    assert tie_groups([curve(0.7), curve(0.9), curve(0.8)]) == [3, 1, 2]


def test_equal_methods_share_a_group() -> None:
    assert tie_groups([curve(0.9), curve(0.9), curve(0.5)]) == [1, 1, 2]


def test_few_draws_separate_nothing() -> None:
    assert tie_groups([curve(0.9, 5), curve(0.5, 5), curve(0.1, 5)]) == [1, 1, 1]


def test_a_method_with_few_common_draws_stays_with_the_best() -> None:
    late = {draw + 7: value for draw, value in curve(0.5).items()}
    assert tie_groups([curve(0.9), late, curve(0.4)]) == [1, 1, 2]


def test_a_scattered_method_may_be_in_group_one_below_a_steady_one_of_group_two() -> None:
    best = dict.fromkeys(range(10), 0.9)
    steady = {d: 0.89 - 0.0001 * d for d in range(10)}
    scattered = {d: 0.96 if d % 2 else 0.80 - 0.001 * d for d in range(10)}
    assert tie_groups([best, steady, scattered]) == [1, 2, 1]


def test_holm_is_applied_within_a_group() -> None:
    # One pair of p = 0.031 separates alone, but not as one of three comparisons (0.031 * 3 > 0.05).
    best = dict.fromkeys(range(6), 0.9)
    worse = {d: 0.8 - 0.001 * d for d in range(6)}
    assert tie_groups([best, worse]) == [1, 2]
    assert tie_groups([best, worse, dict(worse), dict(worse)]) == [1, 1, 1, 1]


def test_a_leader_by_lucky_draws_does_not_push_down_a_method_that_beats_it() -> None:
    # The leader lacks the hard draws; on common draws it loses every time.
    leader = dict.fromkeys(range(8), 0.9)
    better = dict.fromkeys(range(8), 0.95) | dict.fromkeys(range(8, 14), 0.5)
    assert tie_groups([leader, better]) == [1, 1]


@given(st.lists(st.lists(st.integers(0, 20).map(lambda v: v / 20), min_size=8, max_size=8), min_size=1, max_size=5))
@settings(deadline=None, max_examples=40)
def test_groups_are_gapless_led_by_the_best_and_follow_the_methods(values: list[list[float]]) -> None:
    methods = [dict(enumerate(row)) for row in values]
    groups = tie_groups(methods)
    assert sorted(set(groups)) == list(range(1, max(groups) + 1))
    means = [sum(row) for row in values]
    assert groups[means.index(max(means))] == 1
    distinct = len(set(means)) == len(means)
    order = list(range(len(methods)))
    random.Random(0).shuffle(order)
    if distinct:
        assert tie_groups([methods[i] for i in order]) == [groups[i] for i in order]
