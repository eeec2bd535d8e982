"""Records sorted into what may be compared: groups of one protocol, and in them one entry a method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from mmrs_bench.config import ProtocolConfig
from mmrs_bench.errors import unknown_name
from mmrs_bench.evaluation.report.statistics import Summary, summarise
from mmrs_bench.evaluation.results.schema import FailureRecord, Record
from mmrs_bench.evaluation.results.signature import signature_fields, signature_text
from mmrs_bench.io import content_hash

Metric = Literal["oa", "aa", "kappa"]
METRICS: tuple[Metric, ...] = ("oa", "aa", "kappa")
METRIC_TITLES: dict[Metric, str] = {"oa": "OA", "aa": "AA", "kappa": "κ"}


class Entrant(NamedTuple):
    """What competes: a method in a variant, with these settings, version and selection rule."""

    method: str
    variant: str
    selection: str
    version: int
    settings: str

    @classmethod
    def of(cls, protocol: ProtocolConfig) -> Entrant:
        """The entrant of a cell; ``settings`` are six digits of the settings' hash."""
        return cls(
            protocol.method,
            protocol.variant,
            protocol.data.selection,
            protocol.method_version,
            content_hash(protocol.method_config)[:6],
        )

    @property
    def name(self) -> str:
        """``method``, or ``method:variant`` for a variant other than the default, as on command lines."""
        return self.method if self.variant == "default" else f"{self.method}:{self.variant}"


@dataclass(frozen=True)
class Entry:
    """The records of one entrant under one protocol, over draws and seeds.

    Attributes:
        label: The entrant's name, with what tells it apart where names repeat.
        records: At least one.
    """

    entrant: Entrant
    label: str
    records: tuple[Record, ...]

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
        """Why it is shown without a rank; empty if it is ranked."""
        return "; ".join(sorted({r.unranked for r in self.records if r.unranked}))

    def by_draw(self, metric: Metric, *, seed: int | None = None) -> dict[int, float]:
        """The metric (a fraction) by draw, averaged over the seeds of the draw, or of one seed.

        Draws in which the metric is undefined (kappa under a chance agreement of 1) are left out.
        """
        values = defaultdict(list)
        for record in self.records:
            value = getattr(record.scores, metric)
            if value is not None and seed in (None, record.protocol.seed):
                values[record.protocol.data.draw].append(value)
        return {draw: sum(of_draw) / len(of_draw) for draw, of_draw in sorted(values.items())}

    def summary(self, metric: Metric) -> Summary | None:
        """Mean, sd and interval over draws, as fractions; None if the metric is defined in no draw."""
        values = list(self.by_draw(metric).values())
        return summarise(values) if values else None


@dataclass(frozen=True)
class Group:
    """Everything made under one protocol, which may hence be compared.

    Selection rules that keep to the label budget (``last``, ``support-cv``) are part of a method and may differ
    within a group; ``paper-val`` results are in it too, but without a rank.

    Attributes:
        fields: `signature_fields` without the selection rule.
        shots: Labels per class.
        entries: By label; may be empty where every cell failed.
        failures: Failed cells of this protocol.
    """

    fields: Mapping[str, str]
    shots: int
    entries: tuple[Entry, ...]
    failures: tuple[FailureRecord, ...] = ()

    @property
    def family(self) -> tuple[tuple[str, str], ...]:
        """The protocol without its shots; groups of one family make one curve."""
        return tuple((name, value) for name, value in self.fields.items() if name != "shots")

    @property
    def records(self) -> list[Record]:
        """Records of all entries."""
        return [record for entry in self.entries for record in entry.records]

    @property
    def scene_label(self) -> str:
        """How every table and figure names the scene: title and id, after ``SIMULATED:`` where it is simulated."""
        titles = " / ".join(sorted({record.scene_title for record in self.records}))
        simulated = any(record.simulated for record in self.records)
        return ("SIMULATED: " if simulated else "") + (f"{titles} ({self.scene_id})" if titles else self.scene_id)

    @property
    def scene_id(self) -> str:
        """The manifest's id, e.g. ``trento``."""
        return self.fields["scene"].partition("@")[0].rpartition("-")[0]

    def signature(self, entries: Sequence[Entry], *, metric: str = "OA") -> str:
        """The signature of a table of these entries: ranges and alternatives where they differ."""
        counts = sorted({len(entry.draws) for entry in entries})
        draws = str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}" if counts else "0"
        rules = "+".join(sorted({entry.entrant.selection for entry in entries})) or "none"
        fields: dict[str, str] = {}
        for name, value in self.fields.items():
            if name == "budget":
                fields["sel"] = rules
            fields[name] = value
        return signature_text(fields, draws=draws, metric=metric)

    def find(self, name: str) -> Entry:
        """The entry with this label or name.

        Raises:
            ConfigError: If there is none, or the name fits several; the labels are listed.
        """
        exact = [entry for entry in self.entries if entry.label == name]
        found = exact or [entry for entry in self.entries if entry.entrant.name == name]
        if len(found) != 1:
            kind = "method with results" if not found else "label (the name fits several entries)"
            raise unknown_name(kind, name, (entry.label for entry in self.entries))
        return found[0]


def group_records(records: Iterable[Record], failures: Iterable[FailureRecord] = ()) -> list[Group]:
    """Sort records and failures into groups, by scene, protocol and shots."""
    grouped: dict[tuple[tuple[str, str], ...], dict[Entrant, list[Record]]] = defaultdict(lambda: defaultdict(list))
    failed: dict[tuple[tuple[str, str], ...], list[FailureRecord]] = defaultdict(list)
    shots: dict[tuple[tuple[str, str], ...], int] = {}
    items: list[Record | FailureRecord] = [*records, *failures]
    for item in items:
        fields = signature_fields(item.protocol)
        del fields["sel"]
        key = tuple(fields.items())
        shots[key] = item.protocol.data.shots
        if isinstance(item, Record):
            grouped[key][Entrant.of(item.protocol)].append(item)
        else:
            failed[key].append(item)
    labels = _labels(grouped)
    groups = []
    for key in sorted(shots, key=lambda key: ([part for part in key if part[0] != "shots"], shots[key])):
        entries = [
            Entry(entrant, labels[entrant], tuple(sorted(of_entrant, key=_draw_and_seed)))
            for entrant, of_entrant in grouped[key].items()
        ]
        groups.append(
            Group(
                dict(key),
                shots[key],
                tuple(sorted(entries, key=lambda entry: entry.label)),
                tuple(sorted(failed[key], key=_draw_and_seed)),
            )
        )
    return groups


def _draw_and_seed(item: Record | FailureRecord) -> tuple[int, int, str]:
    return item.protocol.data.draw, item.protocol.seed, item.key


def _labels(grouped: Mapping[tuple[tuple[str, str], ...], Mapping[Entrant, list[Record]]]) -> dict[Entrant, str]:
    """A label for every entrant that no other entrant in one of its groups has."""
    extras: dict[Entrant, set[str]] = defaultdict(set)
    for entrants in grouped.values():
        for entrant in entrants:
            rivals = [e for e in entrants if e.name == entrant.name and e != entrant]
            for part in ("selection", "version", "settings"):
                if any(getattr(rival, part) != getattr(entrant, part) for rival in rivals):
                    extras[entrant].add(part)
    labels = {}
    for entrant in {e for entrants in grouped.values() for e in entrants}:
        parts = {"selection": entrant.selection, "version": f"v{entrant.version}", "settings": entrant.settings}
        told = [text for part, text in parts.items() if part in extras[entrant]]
        labels[entrant] = f"{entrant.name} [{', '.join(told)}]" if told else entrant.name
    return labels
