"""Statistics compared with enumeration, scipy and hand calculation."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmrs_bench.errors import DataError
from mmrs_bench.evaluation.report.statistics import (
    MIN_DRAWS,
    draws_needed,
    holm,
    p_text,
    paired,
    separable,
    summarise,
    tie_groups,
    wilcoxon,
)
from mmrs_bench.randomness import numpy_generator

VALUES = st.floats(-1, 1, allow_nan=False).map(lambda v: round(v, 6))


def enumerated_wilcoxon(differences: Sequence[float]) -> float:
    """Two-sided exact p from all 2^n sign patterns, with mean ranks and without zeros."""
    kept = [d for d in differences if d != 0]
    if not kept:
        return 1.0
    ranks = stats.rankdata(np.abs(kept))
    observed = sum(r for r, d in zip(ranks, kept, strict=True) if d > 0)
    sums = np.array([ranks @ signs for signs in itertools.product((0, 1), repeat=len(kept))])
    return min(1.0, 2 * min(np.mean(sums <= observed + 1e-9), np.mean(sums >= observed - 1e-9)))


@given(st.lists(st.integers(-4, 4).map(lambda v: v / 10), min_size=1, max_size=9))
@settings(deadline=None)
def test_wilcoxon_equals_enumeration_with_ties_and_zeros(differences: list[float]) -> None:
    assert wilcoxon(differences) == pytest.approx(enumerated_wilcoxon(differences), abs=1e-12)


@pytest.mark.parametrize("n", [6, 10, 20, 40])
def test_wilcoxon_equals_scipy_without_ties(n: int) -> None:
    for case in range(5):
        differences = numpy_generator("wilcoxon", n, case).normal(0.3, 1, n)
        expected = stats.wilcoxon(differences, method="exact").pvalue
        assert wilcoxon(list(differences)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "p"), [(5, 0.0625), (6, 0.03125), (10, 0.001953125)])
def test_smallest_p_by_number_of_draws(n: int, p: float) -> None:
    assert wilcoxon(range(1, n + 1)) == p
    assert (p <= 0.05) == (n >= MIN_DRAWS)


def test_rounding_does_not_break_ties() -> None:
    # 0.1 + 0.2 and 0.3 differ in the last bit only.
    assert wilcoxon([0.1 + 0.2, -0.3, 0.5]) == wilcoxon([0.3, -0.3, 0.5])


@given(st.lists(VALUES, min_size=1, max_size=12))
def test_wilcoxon_does_not_depend_on_sign_or_order(differences: list[float]) -> None:
    p = wilcoxon(differences)
    assert 0 < p <= 1
    assert wilcoxon([-d for d in differences]) == p
    assert wilcoxon(differences[::-1]) == p


def test_holm_equals_a_hand_calculation() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 are 0.02, 0.03, 0.06, 0.04, made monotone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7, 0.6]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_by_its_definition(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, a in zip(p_values, adjusted, strict=True):
        assert p <= a <= min(1.0, len(p_values) * p) + 1e-12
    # In ascending order, the first p that is not rejected stops all larger ones.
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for alpha in (0.01, 0.05, 0.2):
        kept = [(len(p_values) - step) * p_values[i] > alpha for step, i in enumerate(order)]
        assert {i for i, a in enumerate(adjusted) if a <= alpha} == set(order[: [*kept, True].index(True)])


@pytest.mark.parametrize(("values", "lowest"), [([0.70, 0.74, 0.81, 0.66, 0.79], 0.0), ([-0.2, 0.1, 0.4], -1.0)])
def test_summary_is_mean_sd_and_t_interval_on_the_logit_scale(values: list[float], lowest: float) -> None:
    mean = np.mean(values)
    share, scale = (mean - lowest) / (1 - lowest), 1 - lowest
    error = stats.sem(values) / scale / (share * (1 - share))
    interval = stats.t.interval(0.95, len(values) - 1, loc=np.log(share / (1 - share)), scale=error)
    low, high = lowest + scale / (1 + np.exp(-np.array(interval)))
    expected = (len(values), mean, np.std(values, ddof=1), low, high)
    assert summarise(values, lowest=lowest) == pytest.approx(expected)


def test_with_many_close_values_the_interval_is_the_usual_t_interval() -> None:
    values = [0.8 + 0.01 * ((7 * i) % 11 - 5) for i in range(40)]
    usual = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert summarise(values)[3:] == pytest.approx(usual, abs=3e-4)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_an_interval_contains_the_mean_and_never_leaves_the_range_of_the_values(values: list[float]) -> None:
    for lowest, given_values in ((0.0, values), (-1.0, [2 * value - 1 for value in values])):
        _, mean, _, low, high = summarise(given_values, lowest=lowest)
        assert low is not None
        assert high is not None
        assert lowest - 1e-12 <= low <= mean <= high <= 1 + 1e-12


def test_equal_values_at_the_end_of_the_range_have_an_interval_without_width() -> None:
    assert summarise([1.0, 1.0]) == (2, 1.0, 0.0, 1.0, 1.0)
    assert summarise([0.0, 0.0]) == (2, 0.0, 0.0, 0.0, 0.0)


def test_percent_in_place_of_fractions_are_refused() -> None:
    with pytest.raises(DataError, match=r"from 70\.0 to 80\.0; expected fractions between 0 and 1"):
        summarise([70.0, 80.0])


@pytest.mark.parametrize(("methods", "draws"), [(2, 6), (4, 7), (6, 8), (10, 9), (17, 10)])
def test_draws_needed_is_the_fewest_with_which_holm_can_separate_the_best(methods: int, draws: int) -> None:
    assert draws_needed(methods) == draws
    for number, possible in ((draws - 1, False), (draws, True)):
        smallest = wilcoxon(range(1, number + 1))
        assert (holm([smallest] * (methods - 1))[0] <= 0.05) == possible
        best = [dict.fromkeys(range(number), 0.9)]
        others = [{draw: 0.5 - 0.01 * draw for draw in range(number)}] * (methods - 1)
        assert separable(best + others) == possible
        assert (set(tie_groups(best + others)) == {1, 2}) == possible


def test_one_method_cannot_be_separated() -> None:
    assert not separable([dict.fromkeys(range(20), 0.5)])


def test_one_draw_has_no_spread() -> None:
    assert summarise([0.5]) == (1, 0.5, None, None, None)


def test_only_common_draws_are_paired() -> None:
    one = dict.fromkeys(range(8), 0.9)
    other = dict.fromkeys(range(2, 12), 0.8) | {2: 0.9, 3: 0.95}
    found = paired(one, other)
    assert found is not None
    assert (found.difference.n, found.wins, found.losses, found.ties) == (6, 4, 1, 1)
    assert found.p == pytest.approx(enumerated_wilcoxon([0.0, -0.05, 0.1, 0.1, 0.1, 0.1]))
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_differences_of_kappa_may_exceed_one() -> None:
    """A perfect method against one that is always wrong."""
    found = paired({0: 1.0, 1: 0.9}, {0: -0.4, 1: -0.3}, lowest=-1.0)
    assert found is not None
    assert found.difference.mean == pytest.approx(1.3)
    low, high = found.difference.low, found.difference.high
    assert low is not None
    assert high is not None
    assert low < 1.3 < high <= 2
    with pytest.raises(DataError, match="expected fractions between -1 and 1"):
        paired({0: 1.0}, {0: -0.4})


def test_p_text() -> None:
    assert [p_text(p) for p in (None, 0.0312, 0.0004, 1.0)] == ["needs >= 6 draws", "0.031", "< 0.001", "1.000"]


def curve(mean: float, n: int = 10, first: int = 0) -> dict[int, float]:
    return {draw + first: mean + 0.001 * ((draw * 7) % 5 - 2) for draw in range(n)}


CONSTANT = dict.fromkeys(range(10), 0.9)
WORSE = {d: 0.8 - 0.001 * d for d in range(6)}


@pytest.mark.parametrize(
    ("methods", "groups"),
    [
        pytest.param([curve(0.7), curve(0.9), curve(0.8)], [3, 1, 2], id="clearly different methods"),
        pytest.param([curve(0.9), curve(0.9), curve(0.5)], [1, 1, 2], id="equal methods"),
        pytest.param([curve(0.9, 5), curve(0.5, 5), curve(0.1, 5)], [None, None, None], id="too few draws"),
        pytest.param([curve(0.9), curve(0.5, first=7), curve(0.4)], [1, None, 2], id="too few common draws"),
        pytest.param([curve(0.5), curve(0.9, 1), curve(0.8)], [2, None, 1], id="a single draw with the highest mean"),
        pytest.param([curve(0.9, 20, 100), curve(0.8), curve(0.5)], [None, 1, 2], id="many draws that no other has"),
        pytest.param(
            [CONSTANT, {d: 0.89 - 0.0001 * d for d in CONSTANT}, {d: (0.8 - 0.001 * d, 0.96)[d % 2] for d in CONSTANT}],
            [1, 2, 1],
            id="a scattered method in group 1 below a steady one in group 2",
        ),
        # One pair with p = 0.031 is significant, but not as one of three comparisons (0.031 * 3 > 0.05).
        pytest.param([CONSTANT, WORSE], [1, 2], id="one comparison"),
        pytest.param([CONSTANT, WORSE, WORSE, WORSE], [1, 1, 1, 1], id="three comparisons, Holm"),
        # The leader has no results on the hard draws; on the common draws it is always worse.
        pytest.param(
            [dict.fromkeys(range(8), 0.9), dict.fromkeys(range(8), 0.95) | dict.fromkeys(range(8, 14), 0.5)],
            [1, 1],
            id="a leader that is worse on common draws",
        ),
    ],
)
def test_tie_groups(methods: list[dict[int, float]], groups: list[int | None]) -> None:
    assert tie_groups(methods) == groups


@given(st.lists(st.lists(st.integers(0, 20).map(lambda v: v / 20), min_size=8, max_size=8), min_size=1, max_size=5))
@settings(deadline=None, max_examples=40)
def test_groups_have_no_gaps_are_led_by_the_best_and_do_not_depend_on_the_order(values: list[list[float]]) -> None:
    methods = [dict(enumerate(row)) for row in values]
    groups = [group or 0 for group in tie_groups(methods)]
    assert sorted(set(groups)) == list(range(1, max(groups) + 1))
    means = [sum(row) for row in values]
    assert groups[means.index(max(means))] == 1
    if len(set(means)) == len(means):
        order = list(range(len(methods)))
        random.Random(0).shuffle(order)
        assert tie_groups([methods[i] for i in order]) == [groups[i] for i in order]
