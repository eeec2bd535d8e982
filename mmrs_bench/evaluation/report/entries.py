"""Groups records by protocol and method. Only results of one group are comparable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from statistics import fmean
from typing import NamedTuple

from mmrs_bench.config import ProtocolConfig, method_label
from mmrs_bench.errors import unknown_name
from mmrs_bench.evaluation.report.split_conflicts import conflicting_splits
from mmrs_bench.evaluation.report.statistics import summarise
from mmrs_bench.evaluation.report.tables import Column, Estimate
from mmrs_bench.evaluation.results.metrics import METRICS, metric_value
from mmrs_bench.evaluation.results.schema import FailureRecord, Leakage, Record
from mmrs_bench.evaluation.results.signature import fields_in_words, signature_fields, signature_text

#: Fields that tables and figures show apart from the protocol.
_NOT_IN_PROTOCOL = {"scene", "shots", "sel"}


def metric_columns() -> list[Column]:
    """One column per metric, with mean and spread over draws."""
    return [Column(metric.name, f"{metric.title} %", "estimate") for metric in METRICS.values()]


class MethodId(NamedTuple):
    """Identity of a compared method; ``settings`` is a short hash of its settings, ``origin`` as in `Record.origin`."""

    method: str
    variant: str
    selection: str
    version: int
    settings: str
    origin: str = ""

    @classmethod
    def of(cls, protocol: ProtocolConfig, origin: str = "") -> MethodId:
        """Return the identity of a cell's method."""
        selection, version = protocol.data.selection, protocol.method_version
        return cls(protocol.method, protocol.variant, selection, version, protocol.settings_hash, origin)

    @property
    def name(self) -> str:
        """``method``, or ``method:variant`` for a variant other than the default."""
        return method_label(self.method, self.variant)


@dataclass(frozen=True)
class Entry:
    """Records (at least one) of one method under one protocol; ``label`` is unique within the protocol."""

    method_id: MethodId
    label: str
    records: tuple[Record, ...]

    @cached_property
    def _by_draw(self) -> dict[tuple[str, int | None], dict[int, float]]:
        """The values that `by_draw` has computed."""
        return {}

    @cached_property
    def draws(self) -> tuple[int, ...]:
        """Draws with a record, ascending."""
        return tuple(sorted({r.protocol.data.draw for r in self.records}))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Training seeds with a record, ascending."""
        return tuple(sorted({r.protocol.seed for r in self.records}))

    @property
    def unranked(self) -> str:
        """Why the entry has no rank; empty if it is ranked."""
        return "; ".join(sorted({r.unranked for r in self.records if r.unranked}))

    def by_draw(self, metric: str, *, seed: int | None = None) -> dict[int, float]:
        """Defined values (fractions) by draw, averaged over seeds or of one seed."""
        if (metric, seed) not in self._by_draw:
            values = defaultdict(list)
            for record in self.records:
                value = metric_value(record, metric)
                if value is not None and seed in (None, record.protocol.seed):
                    values[record.protocol.data.draw].append(value)
            averages = {draw: sum(of_draw) / len(of_draw) for draw, of_draw in sorted(values.items())}
            self._by_draw[metric, seed] = averages
        return self._by_draw[metric, seed].copy()

    def estimate(self, metric: str) -> Estimate | None:
        """Mean and spread over draws in percent; None if the metric is defined in no draw."""
        values = list(self.by_draw(metric).values())
        return Estimate.percent(summarise(values, lowest=METRICS[metric].lowest)) if values else None


@dataclass(frozen=True)
class Group:
    """All results of one protocol, which are comparable with each other. Selection rules may differ.

    Attributes:
        fields: `signature_fields` with an empty selection rule.
        shots: Labels per class.
        scene_label: Title and id of the scene, after ``SIMULATED:`` if it is simulated.
        simulated: Whether the scene is simulated.
        entries: Sorted by label; empty if every cell failed.
        failures: Failed cells.
    """

    fields: Mapping[str, str]
    shots: int
    scene_label: str
    simulated: bool
    entries: tuple[Entry, ...]
    failures: tuple[FailureRecord, ...] = ()

    @property
    def fields_without_shots(self) -> dict[str, str]:
        """Groups that are equal in these fields form one accuracy curve over shots."""
        return {name: value for name, value in self.fields.items() if name != "shots"}

    @property
    def records(self) -> list[Record]:
        """Records of all entries."""
        return [record for entry in self.entries for record in entry.records]

    @property
    def ranked(self) -> list[Entry]:
        """The entries that are ranked."""
        return [entry for entry in self.entries if not entry.unranked]

    @property
    def scene_id(self) -> str:
        """The manifest's id, e.g. ``trento``."""
        return _scene_id(self.fields["scene"])

    @property
    def title(self) -> str:
        """Scene, split, missing modalities, shots and budget."""
        shots = "shot" if self.shots == 1 else "shots"
        mark = f", splits {self.fields['splits']}" if "splits" in self.fields else ""
        return f"{self.scene_label}, {self.protocol_label}, {self.shots} {shots}, budget {self.fields['budget']}{mark}"

    @property
    def protocol_label(self) -> str:
        """The split, and the modalities that are missing in predictions: ``random-v1, predicted without lidar``."""
        drop = self.fields.get("drop", "").replace("+", " + ")
        return self.fields["split"] + (f", predicted without {drop}" if drop else "")

    @property
    def protocol_text(self) -> str:
        """All fields but scene, shots and selection rule, in words."""
        start = f"{self.protocol_label}, budget {self.fields['budget']}"
        return f"{start}, {fields_in_words(self.fields, without=_NOT_IN_PROTOCOL | {'split', 'drop', 'budget'})}"

    def signature(self, entries: Sequence[Entry]) -> str:
        """Signature of a table of these entries; different draw counts give a range."""
        counts = sorted({len(entry.draws) for entry in entries})
        draws = str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}" if counts else "0"
        rules = "+".join(sorted({entry.method_id.selection for entry in entries})) or "none"
        return signature_text({**self.fields, "sel": rules}, draws=draws)

    def find(self, name: str) -> list[Entry]:
        """The entry with this label, else the entries with this ``method`` or ``method:variant``."""
        exact = [entry for entry in self.entries if entry.label == name]
        return exact or [entry for entry in self.entries if entry.method_id.name == name]

    def find_one(self, name: str) -> Entry:
        """The only entry with this label or name.

        Raises:
            ConfigError: If there is none, or there are several.
        """
        found = self.find(name)
        if len(found) != 1:
            kind = "label (the name fits several entries)" if found else "method with results"
            raise unknown_name(kind, name, (entry.label for entry in self.entries))
        return found[0]


def _scene_id(field: str) -> str:
    return field.partition("@")[0].rpartition("-")[0]


def mean_leakage(records: Sequence[Record]) -> dict[str, float]:
    """Mean leakage of records in percent, by the fields of `Leakage`."""
    return {name: 100 * fmean(getattr(r.leakage, name) for r in records) for name in Leakage.model_fields}


def differing_settings(groups: Iterable[Group]) -> list[str]:
    """Labels of ranked methods whose settings differ between groups: of several scenes, as labels tell shots apart."""
    settings: dict[str, set[str]] = defaultdict(set)
    for entry in (entry for group in groups for entry in group.ranked):
        settings[entry.label].add(entry.method_id.settings)
    return sorted(label for label, found in settings.items() if len(found) > 1)


#: The fields of a group as a dictionary key.
_Key = tuple[tuple[str, str], ...]


def group_records(records: Iterable[Record], failures: Iterable[FailureRecord] = ()) -> list[Group]:
    """Group records and failures by protocol, sorted by scene, protocol and shots.

    Where records disagree in the pixels of a split, those of different splits are in different groups.
    """
    grouped: dict[_Key, dict[MethodId, list[Record]]] = defaultdict(lambda: defaultdict(list))
    failed: dict[_Key, list[FailureRecord]] = defaultdict(list)
    shots: dict[_Key, int] = {}
    records = list(records)
    marks = conflicting_splits(records)
    items: list[Record | FailureRecord] = [*records, *failures]
    for item in sorted(items, key=lambda item: (item.protocol.data.draw, item.protocol.seed, item.key)):
        key = tuple({**signature_fields(item.protocol), "sel": ""}.items())
        if isinstance(item, Record) and item.identity in marks:
            key += (("splits", marks[item.identity]),)
        shots[key] = item.protocol.data.shots
        if isinstance(item, Record):
            grouped[key][MethodId.of(item.protocol, item.origin)].append(item)
        else:
            failed[key].append(item)
    labels = _labels(grouped)
    scenes = _scenes(grouped)
    groups = []
    for key in sorted(shots, key=lambda key: ([part for part in key if part[0] != "shots"], shots[key])):
        entries = [Entry(method, labels[method], tuple(found)) for method, found in grouped[key].items()]
        entries.sort(key=lambda entry: entry.label)
        scene = dict(key)["scene"]
        label, simulated = scenes.get(scene, (_scene_id(scene), False))
        groups.append(Group(dict(key), shots[key], label, simulated, tuple(entries), tuple(failed[key])))
    return groups


def _scenes(grouped: Mapping[_Key, Mapping[MethodId, Iterable[Record]]]) -> dict[str, tuple[str, bool]]:
    """Label of each scene, and whether it is simulated, by the field of the protocol.

    Of all groups together: one whose cells all failed knows neither.
    """
    titles: dict[str, set[str]] = defaultdict(set)
    simulated: dict[str, bool] = defaultdict(bool)
    for key, methods in grouped.items():
        scene = dict(key)["scene"]
        for record in chain.from_iterable(methods.values()):
            titles[scene].add(record.scene_title)
            simulated[scene] |= record.simulated
    return {
        scene: (f"{'SIMULATED: ' * simulated[scene]}{' / '.join(sorted(found))} ({_scene_id(scene)})", simulated[scene])
        for scene, found in titles.items()
    }


def _labels(groups: Mapping[_Key, Iterable[MethodId]]) -> dict[MethodId, str]:
    """A label for every method that is unique over all shots of a protocol, and does not join versions over scenes."""
    over_shots: dict[_Key, set[MethodId]] = defaultdict(set)
    over_scenes: dict[_Key, set[MethodId]] = defaultdict(set)
    for key, methods in groups.items():
        found = set(methods)
        over_shots[tuple(part for part in key if part[0] != "shots")] |= found
        over_scenes[tuple(part for part in key if part[0] not in ("shots", "scene"))] |= found
    differing: dict[MethodId, set[str]] = defaultdict(set)
    for families, parts in ((over_shots, ("selection", "version", "settings")), (over_scenes, ("version",))):
        for members in families.values():
            by_name: dict[str, list[MethodId]] = defaultdict(list)
            for method in members:
                by_name[method.name].append(method)
            for same_name in by_name.values():
                found_parts = {part for part in parts if len({getattr(method, part) for method in same_name}) > 1}
                for method in same_name:
                    differing[method] |= found_parts
    labels = {}
    for method, of_method in differing.items():
        texts = {"selection": method.selection, "version": f"v{method.version}", "settings": method.settings}
        added = ", ".join(
            [text for part, text in texts.items() if part in of_method] + [method.origin] * bool(method.origin)
        )
        labels[method] = f"{method.name} [{added}]" if added else method.name
    return labels
