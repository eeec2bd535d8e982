"""Mean ranks of methods over scenes, and which of them differ significantly (Nemenyi's test).

Scenes are the blocks: what was measured on one scene gives one rank of each method, however many draws it has.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean

import numpy as np

from mmrs_bench.evaluation.report.entries import Group, differing_settings
from mmrs_bench.evaluation.report.statistics import ALPHA, summarise
from mmrs_bench.evaluation.results.signature import fields_in_words

#: Decimals of accuracies that are compared: smaller differences are rounding errors.
_DECIMALS = 12
#: Distances and steps of the integral in `range_quantile`: beyond, the density is below 1e-15.
_REACH, _STEPS = 8.0, 2001
#: Fields that a title contains in other words.
_IN_TITLE = {"split", "shots", "budget", "sel", "simulated"}


@dataclass(frozen=True)
class MethodRank:
    """One method: its rank on each scene (1 is the best, equal OAs share the mean rank), their mean, and its interval.

    The interval is that of `summarise` over scenes, on the range from 1 to the number of methods.
    """

    label: str
    ranks: tuple[float, ...]
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SceneRanks:
    """Ranks under one protocol.

    Attributes:
        fields: Fields of the protocol, without the scene.
        shots: Labels per class.
        scenes: Ids of the scenes, at least two.
        methods: The methods that are ranked on every scene, the best mean rank first.
        left_out: Labels of methods that are ranked on some of the scenes only.
        critical_difference: Mean ranks that differ by this or more differ significantly (see `critical_difference`).
        chosen: Of scenes with several results, those that count: tag with fingerprint, and marks of the splits.
        tuned: Labels of methods whose settings differ between scenes.
    """

    fields: Mapping[str, str]
    shots: int
    scenes: tuple[str, ...]
    methods: tuple[MethodRank, ...]
    left_out: tuple[str, ...]
    critical_difference: float
    chosen: tuple[str, ...] = ()
    tuned: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Protocol and number of scenes."""
        shots = "shot" if self.shots == 1 else "shots"
        simulated = "SIMULATED: " if "simulated" in self.fields else ""
        others = fields_in_words(self.fields, without=_IN_TITLE)
        return (
            f"{simulated}{self.fields['split']}, {self.shots} {shots}, budget {self.fields['budget']}, {others}, "
            f"{len(self.scenes)} scenes"
        )

    @property
    def connected(self) -> list[tuple[int, int]]:
        """The longest runs of methods, as first and last index, in which no two differ significantly."""
        runs: list[tuple[int, int]] = []
        for first, method in enumerate(self.methods):
            below = method.mean + self.critical_difference
            last = max(i for i, other in enumerate(self.methods) if first <= i and other.mean < below)
            if last > first and not (runs and runs[-1][1] >= last):
                runs.append((first, last))
        return runs

    @property
    def note(self) -> str:
        """What the difference means, or how many scenes it takes; and which of several results of a scene count."""
        count = len(self.methods)
        remarks = f" Of scenes with several results, these count: {'; '.join(self.chosen)}." if self.chosen else ""
        remarks += f" Settings differ between scenes: {', '.join(self.tuned)}." if self.tuned else ""
        if self.critical_difference < count - 1:
            difference = f"{self.critical_difference:.2f}"
            return (
                f"Mean ranks that differ by less than {difference} are not separable (Nemenyi's test, 0.05).{remarks}"
            )
        return (
            f"No ranks are separable: for {count} methods, Nemenyi's test at 0.05 takes at least "
            f"{scenes_needed(count)} scenes; these are {len(self.scenes)}.{remarks}"
        )


def rank_over_scenes(groups: Iterable[Group]) -> list[SceneRanks]:
    """Rank the methods of each protocol that has at least two of them on at least two scenes.

    Simulated and real scenes are ranked apart. Of several revisions of a scene, the last one counts; of several
    fingerprints or splits, the one with most methods that are not imported, then with most methods.
    """
    found: dict[tuple[tuple[str, str], ...], dict[str, list[Group]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        if group.ranked:
            mark = {"simulated": "yes"} if group.simulated else {}
            fields = {name: value for name, value in group.fields.items() if name not in ("scene", "splits")}
            found[tuple({**fields, **mark}.items())][group.scene_id].append(group)
    ranked = (_rank(dict(fields), of_scene) for fields, of_scene in found.items() if len(of_scene) > 1)
    return [ranks for ranks in ranked if len(ranks.methods) > 1]


def _weight(group: Group) -> tuple[int, int, int, str]:
    """The highest one is that of the results of a scene that count."""
    revision = int(group.fields["scene"].partition("@")[0].rpartition("-r")[2])
    own = sum(not entry.method_id.origin for entry in group.ranked)
    return revision, own, len(group.ranked), _identity(group)


def _identity(group: Group) -> str:
    """What tells results of one scene apart."""
    splits = group.fields.get("splits", "")
    return group.fields["scene"] + (f", splits {splits}" if splits else "")


def _rank(fields: Mapping[str, str], found: Mapping[str, Sequence[Group]]) -> SceneRanks:
    groups = {scene: max(of_scene, key=_weight) for scene, of_scene in found.items()}
    means = [{e.label: fmean(e.by_draw("oa").values()) for e in group.ranked} for group in groups.values()]
    common = sorted(set.intersection(*(set(of_scene) for of_scene in means)))
    columns = [mean_ranks([of_scene[label] for label in common]) for of_scene in means]
    methods = [_method(label, tuple(ranks), len(common)) for label, *ranks in zip(common, *columns, strict=True)]
    return SceneRanks(
        fields,
        next(iter(groups.values())).shots,
        tuple(groups),
        tuple(sorted(methods, key=lambda method: (method.mean, method.label))),
        tuple(sorted(set.union(*(set(of_scene) for of_scene in means)) - set(common))),
        critical_difference(len(common), len(groups)) if len(common) > 1 else 0.0,
        tuple(_identity(groups[scene]) for scene, of_scene in found.items() if len(of_scene) > 1),
        tuple(label for label in differing_settings(groups.values()) if label in common),
    )


def _method(label: str, ranks: tuple[float, ...], count: int) -> MethodRank:
    extent = max(count - 1, 1)
    _, mean, _, low, high = summarise([(rank - 1) / extent for rank in ranks])
    found = [1 + extent * (mean if value is None else value) for value in (mean, low, high)]
    return MethodRank(label, ranks, *found)


def mean_ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, 1 for the highest; equal values share the mean of their ranks."""
    rounded = [round(value, _DECIMALS) for value in values]
    return [1 + sum(o > v for o in rounded) + (sum(o == v for o in rounded) - 1) / 2 for v in rounded]


def critical_difference(methods: int, scenes: int) -> float:
    """The smallest difference of mean ranks over scenes that is significant at 0.05, by Nemenyi's test.

    Args:
        methods: Number of methods, at least two.
        scenes: Number of scenes.

    Reference: Demšar 2006, JMLR 7, section 3.2.2.
    """
    return range_quantile(methods) / math.sqrt(2) * math.sqrt(methods * (methods + 1) / (6 * scenes))


def scenes_needed(methods: int) -> int:
    """Fewest scenes with which the best and the worst mean rank can differ significantly."""
    return next(n for n in range(2, 1000) if critical_difference(methods, n) <= methods - 1)


@cache
def range_quantile(count: int) -> float:
    """The value that the range of ``count`` independent standard normal numbers exceeds with a probability of 0.05.

    The distribution is P(range <= q) = n times the integral of the density at z times (F(z) - F(z - q))^(n - 1).
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr

    z = np.linspace(-_REACH, _REACH, _STEPS)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)

    def exceeded(q: float) -> float:
        inside = count * np.trapezoid(density * (ndtr(z) - ndtr(z - q)) ** (count - 1), z)
        return float(1 - inside - ALPHA)

    return float(brentq(exceeded, 0.5, 2 * _REACH))
