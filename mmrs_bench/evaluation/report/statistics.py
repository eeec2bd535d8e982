"""Statistics over draws: intervals, exact paired tests, correction for many tests, tie groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

#: With fewer pairs the exact two-sided Wilcoxon test cannot fall below 0.05 (5 pairs: 2 / 2**5 = 0.0625).
MIN_DRAWS = 6
ALPHA = 0.05
#: Differences closer than this are ties: accuracies are ratios of counts, and only rounding separates them.
_TIE_DECIMALS = 12


class Summary(NamedTuple):
    """Mean over draws; ``sd`` (ddof 1), ``low`` and ``high`` (95 % t-interval) are None for a single draw."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


def summarise(values: Sequence[float], *, level: float = 0.95) -> Summary:
    """Mean, standard deviation with n - 1, and t-interval of the mean.

    Args:
        values: One value a draw, at least one.
        level: Coverage of the interval.
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(1, mean, None, None, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 0.5 + level / 2)) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - half, mean + half)


def wilcoxon(differences: Sequence[float]) -> float:
    """Two-sided p of the exact Wilcoxon signed-rank test that paired differences are symmetric about zero.

    Zero differences are dropped, ties take their mean rank, and the null distribution is counted for exactly these
    ranks, so that p is exact with ties as well. All differences zero (or none) gives 1.

    Reference:
        Wilcoxon 1945, Biometrics Bulletin 1(6).
    """
    magnitudes = [round(abs(d), _TIE_DECIMALS) for d in differences]
    kept = [(m, d > 0) for m, d in zip(magnitudes, differences, strict=True) if m > 0]
    if not kept:
        return 1.0
    # Twice the mean rank is a whole number: below + (below + equal) + 1.
    sizes = [m for m, _ in kept]
    ranks = [2 * sum(o < m for o in sizes) + sum(o == m for o in sizes) + 1 for m in sizes]
    observed = sum(rank for rank, (_, positive) in zip(ranks, kept, strict=True) if positive)
    # counts[s]: sign patterns whose positive ranks sum to s; one rank is added at a time.
    counts = [1] + [0] * sum(ranks)
    for rank in ranks:
        counts = [c + (counts[s - rank] if s >= rank else 0) for s, c in enumerate(counts)]
    tail = min(sum(counts[: observed + 1]), sum(counts[observed:]))
    return min(1.0, 2 * tail / (1 << len(ranks)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given; reject where the result is at most alpha.

    Reference:
        Holm 1979, Scandinavian Journal of Statistics 6(2).
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for step, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = running
    return adjusted


class Paired(NamedTuple):
    """Comparison of a method with another over common draws; ``p`` is None below `MIN_DRAWS`."""

    difference: Summary
    p: float | None
    wins: int
    losses: int
    ties: int


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> Paired | None:
    """Compare two methods over the draws that both have (values by draw); None without a common draw."""
    common = sorted(one.keys() & other.keys())
    if not common:
        return None
    differences = [round(one[draw] - other[draw], _TIE_DECIMALS) for draw in common]
    p = wilcoxon(differences) if len(common) >= MIN_DRAWS else None
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return Paired(summarise(differences), p, wins, losses, len(common) - wins - losses)


def p_text(p: float | None) -> str:
    """A p value for tables, or why there is none."""
    if p is None:
        return f"needs >= {MIN_DRAWS} draws"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def tie_groups(values: Sequence[Mapping[int, float]], *, alpha: float = ALPHA) -> list[int]:
    """Rank methods in groups that the draws can tell apart.

    The method with the highest mean leads group 1. It is compared with every other method by the exact Wilcoxon
    test over their common draws, with Holm's correction over these comparisons. All that are not significantly
    different share its group. The rest is ranked again in the same way, for group 2, and so on. Pairs with fewer
    than `MIN_DRAWS` common draws cannot be told apart.

    A group hence means "not separable from the best of this group". It need not be a run of neighbours in the order
    of the means: a method with scattered draws may be inseparable from the best although a steadier one with a
    higher mean is not.

    Args:
        values: For each method, its value by draw (at least one).
        alpha: Level of each group's family of comparisons.

    Returns:
        The group of each method, from 1, in the order given.
    """
    groups = [0] * len(values)
    left = sorted(range(len(values)), key=lambda i: -summarise(list(values[i].values())).mean)
    group = 0
    while left:
        group += 1
        lead, *others = left
        groups[lead] = group
        pairs = {other: paired(values[lead], values[other]) for other in others}
        tested = {i: pair for i, pair in pairs.items() if pair is not None and pair.p is not None}
        adjusted = dict(zip(tested, holm([pair.p for pair in tested.values() if pair.p is not None]), strict=True))
        # Where draws are missing, the leader by mean may be the worse one on the common draws: not separable.
        left = [i for i in others if adjusted.get(i, 1.0) <= alpha and tested[i].difference.mean > 0]
        for other in others:
            if other not in left:
                groups[other] = group
    return groups
