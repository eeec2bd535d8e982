"""Statistics over draws: intervals, exact paired tests, Holm's correction, tie groups."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from mmrs_bench.errors import DataError

#: With fewer pairs the exact two-sided Wilcoxon test cannot fall below 0.05 (5 pairs: 2 / 2**5 = 0.0625).
MIN_DRAWS = 6
ALPHA = 0.05
#: Decimals kept of a difference. Accuracies are ratios of counts, so smaller differences are rounding errors.
_DECIMALS = 12
_ROUNDING = 10.0**-_DECIMALS


class Summary(NamedTuple):
    """Mean, sd (ddof 1) and 95 % interval (``low``, ``high``) of ``n`` values; sd and interval are None for n = 1."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


def summarise(values: Sequence[float], *, lowest: float = 0.0, highest: float = 1.0) -> Summary:
    """Summarise at least one value of a known range, with a t-interval of the mean on the logit scale.

    The mean m in 0..1 and its standard error s become logit(m) and s / (m (1 - m)) (delta method). The t-interval
    about logit(m) is mapped back, so that it never leaves the range of the values. With many draws it equals the usual
    t-interval. With few draws of a high accuracy it is wider, and contains the mean more often: for accuracies with a
    beta distribution of mean 0.95 and sd 0.03, in 95 % of samples of 2 to 20 draws, where the usual t-interval does in
    93 %.

    Args:
        values: Accuracies, or values of another range.
        lowest: Lower end of the range: -1 for kappa.
        highest: Upper end.

    Raises:
        DataError: If a value is outside of the range.
    """
    n, extent = len(values), highest - lowest
    mean = math.fsum(values) / n
    if min(values) < lowest - _ROUNDING or max(values) > highest + _ROUNDING:
        raise DataError(
            f"values from {min(values)} to {max(values)}; expected fractions between {lowest:g} and {highest:g}"
        )
    if n == 1:
        return Summary(1, mean, None, None, None)
    from scipy.special import expit, logit, stdtrit

    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    share = (mean - lowest) / extent
    spread = share * (1 - share)
    if spread <= _ROUNDING:  # all values at one end of the range
        return Summary(n, mean, sd, mean, mean)
    half = float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n) / (extent * spread)
    low, high = (lowest + extent * float(expit(logit(share) + offset)) for offset in (-half, half))
    return Summary(n, mean, sd, min(low, mean), max(high, mean))


def wilcoxon(differences: Sequence[float]) -> float:
    """Two-sided p of the exact Wilcoxon signed-rank test for paired differences.

    Zero differences are dropped, ties take their mean rank, and the null distribution is enumerated for these ranks: up
    to 52 pairs without rounding.

    Reference: Wilcoxon 1945, Biometrics Bulletin 1(6).
    """
    rounded = (round(difference, _DECIMALS) for difference in differences)
    kept = [difference for difference in rounded if difference]
    sizes = [abs(difference) for difference in kept]
    # Twice the mean rank, which is an integer: smaller + (smaller + equal) + 1.
    ordered = sorted(sizes)
    ranks = [bisect_left(ordered, size) + bisect_right(ordered, size) + 1 for size in sizes]
    observed = sum(rank for rank, d in zip(ranks, kept, strict=True) if d > 0)
    # shares[s]: share of sign patterns with the sum s of positive ranks, which is symmetric about half of all ranks.
    shares = np.zeros(min(observed, sum(ranks) - observed) + 1)
    shares[0] = 1.0
    for rank in ranks:
        shares[rank:] += shares[: max(shares.size - rank, 0)]
        shares *= 0.5
    return min(1.0, 2 * float(shares.sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the given order.

    Reference: Holm 1979, Scandinavian Journal of Statistics 6(2).
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for step, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = running
    return adjusted


class Paired(NamedTuple):
    """Comparison of two methods over common draws; ``p`` is None below `MIN_DRAWS`."""

    difference: Summary
    p: float | None
    wins: int
    losses: int
    ties: int


def paired(one: Mapping[int, float], other: Mapping[int, float], *, lowest: float = 0.0) -> Paired | None:
    """Compare two methods (values by draw) over their common draws; None if there is no common draw.

    Args:
        one: Values between ``lowest`` and 1.
        other: Those of the other method.
        lowest: Lower end of their range: -1 for kappa.
    """
    differences = _differences(one, other)
    if not differences:
        return None
    p = wilcoxon(differences) if len(differences) >= MIN_DRAWS else None
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return Paired(
        summarise(differences, lowest=lowest - 1, highest=1 - lowest), p, wins, losses, len(differences) - wins - losses
    )


def _differences(one: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """Differences over the common draws, in their order."""
    return [round(one[draw] - other[draw], _DECIMALS) for draw in sorted(one.keys() & other.keys())]


def p_text(p: float | None) -> str:
    """Format a p value; for None, state how many draws the test needs."""
    if p is None:
        return f"needs >= {MIN_DRAWS} draws"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def draws_needed(methods: int) -> int:
    """Fewest draws with which the best of some methods (at least two) can differ significantly from another one.

    With n draws the smallest p of the exact Wilcoxon test is 2 / 2**n, and Holm's correction multiplies it by the
    number of comparisons with the best method.
    """
    return max(MIN_DRAWS, math.ceil(1 + math.log2((methods - 1) / ALPHA)))


def separable(values: Sequence[Mapping[int, float]]) -> bool:
    """Whether there are enough common draws for `tie_groups` to find more than one group."""
    lead, *others = _comparable(values) or [0]
    common = [len(values[lead].keys() & values[other].keys()) for other in others]
    return bool(common) and max(common) >= draws_needed(1 + len(common))


def _comparable(values: Sequence[Mapping[int, float]]) -> list[int]:
    """Indices of methods of which each two have at least `MIN_DRAWS` draws in common, the highest mean first.

    Methods that can be compared with many others are chosen first, then those with many draws.
    """
    means = [fmean(of_method.values()) for of_method in values]
    testable = [[len(one.keys() & other.keys()) >= MIN_DRAWS for other in values] for one in values]
    chosen: list[int] = []
    for i in sorted(range(len(values)), key=lambda i: (-sum(testable[i]), -len(values[i]), -means[i])):
        if all(testable[i][j] for j in (i, *chosen)):
            chosen.append(i)
    return sorted(chosen, key=lambda i: -means[i])


def tie_groups(values: Sequence[Mapping[int, float]]) -> list[int | None]:
    """Rank methods in groups of methods that do not differ significantly from the best of their group.

    Methods with too few draws for a test (fewer than `MIN_DRAWS` in common with the others) have no group. Of the
    others, the one with the highest mean leads group 1. All methods join it that are not significantly worse at `ALPHA`
    by the exact Wilcoxon test over common draws, with Holm's correction. The remaining methods are ranked in the same
    way for group 2, and so on. A method with scattered draws can be in a better group than a steady method with a
    higher mean.

    Args:
        values: Values by draw of each method, at least one draw each.

    Returns:
        The group of each method, counted from 1; None without a test.
    """
    groups: list[int | None] = [None] * len(values)
    left = _comparable(values)
    group = 0
    while left:
        group += 1
        lead, *others = left
        differences = [_differences(values[lead], values[other]) for other in others]
        p_values = holm([wilcoxon(found) for found in differences])
        # If draws are missing, the leader can be worse on the common draws.
        left = [
            other
            for other, found, p in zip(others, differences, p_values, strict=True)
            if p <= ALPHA and fmean(found) > 0
        ]
        for joined in {lead, *others} - set(left):
            groups[joined] = group
    return groups
