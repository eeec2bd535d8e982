"""Regression: compare accuracies with the committed baselines."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mmrs_bench.config import method_label
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.report.entries import Entry, group_records
from mmrs_bench.evaluation.report.tables import Column, Section, Table, Value
from mmrs_bench.evaluation.results.metrics import METRICS
from mmrs_bench.evaluation.results.provenance import git_state
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.results.signature import signature_fields, signature_text
from mmrs_bench.io import write_json
from mmrs_bench.paths import BENCHMARK_DIR, CHECKOUT, RESTORE
from mmrs_bench.reading import read_json, validated

BASELINES = BENCHMARK_DIR / "baselines.json"

#: Smallest tolerance, as a fraction. Other libraries and processors change a mean over draws by some 0.1 points.
MIN_TOLERANCE = 0.005
#: Tolerance in standard deviations between training seeds.
DEVIATIONS = 3.0
#: Smallest number of training seeds for a standard deviation.
MIN_SEEDS = 5

Status = Literal["ok", "loss", "gain", "missing"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MetricBaseline(_Part):
    """A metric in fractions: mean over draws and seeds, and sd between seeds of the mean over draws."""

    mean: float
    sd: float
    tolerance: float = Field(ge=MIN_TOLERANCE)


class Baseline(_Part):
    """Accuracies of one method under one protocol, over ``draws`` and a number of training seeds (``repeats``).

    ``signature`` contains neither draws nor the code version: baselines are valid for later versions.
    """

    scene: str
    split: str
    shots: int
    budget: str
    method: str
    variant: str
    selection: str
    signature: str
    draws: tuple[int, ...] = Field(min_length=1)
    repeats: int = Field(ge=MIN_SEEDS)
    metrics: dict[str, MetricBaseline]
    commit: str
    code_version: str

    @property
    def identity(self) -> tuple[str, str, str]:
        """Key of a row in the file."""
        return self.signature, self.method, self.variant

    @property
    def slot(self) -> tuple[str, str, int, str, str, str]:
        """What `update_baselines` replaces: the row without fingerprint and data settings."""
        return self.scene, self.split, self.shots, self.budget, self.method, self.variant

    @property
    def name(self) -> str:
        """``method`` or ``method:variant``."""
        return method_label(self.method, self.variant)

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: dict[str, MetricBaseline]) -> dict[str, MetricBaseline]:
        if unknown := metrics.keys() - METRICS.keys():
            raise ValueError(f"unknown metrics {', '.join(sorted(unknown))}; known metrics: {', '.join(METRICS)}")
        return metrics

    @property
    def protocol_text(self) -> str:
        """``simulated-r1 random-v1 2-shot quick``."""
        return f"{self.scene} {self.split} {self.shots}-shot {self.budget}"


class _BaselineFile(_Part):
    schema_version: Literal[1] = Field(alias="schema")
    rows: tuple[Baseline, ...]


def load_baselines(path: Path = BASELINES) -> list[Baseline]:
    """Read the committed baselines; a `ConfigError` says which field is wrong."""
    fields = read_json(path, error=ConfigError, advice=RESTORE)
    return list(validated(_BaselineFile, fields, where=path, error=ConfigError, advice=RESTORE).rows)


class Check(NamedTuple):
    """Comparison of one metric of one baseline with the records; ``current`` is None if it is missing."""

    baseline: Baseline
    metric: str
    current: float | None
    status: Status
    note: str = ""


class RegressionReport(NamedTuple):
    """All checks. The regression test fails if a metric is lost or missing."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no metric is lost or missing."""
        return all(check.status in ("ok", "gain") for check in self.checks)

    def summary(self) -> str:
        """The result in one line."""
        counts = Counter(check.status for check in self.checks)
        if not self.passed:
            return (
                f"regression: {counts['loss']} metrics lost more than their tolerance, {counts['missing']} are "
                f"missing (of {len(self.checks)})"
            )
        if counts["gain"]:
            return f"no loss; {counts['gain']} metrics gained more than their tolerance: update the baselines"
        return f"no loss: all {len(self.checks)} metrics are within their tolerance"

    def table(self) -> Table:
        """The checks as a table, in percent."""
        rows: list[dict[str, Value]] = []
        for baseline, metric, current, status, note in self.checks:
            expected = baseline.metrics[metric]
            rows.append(
                {
                    "protocol": baseline.protocol_text,
                    "method": baseline.name,
                    "metric": METRICS[metric].title,
                    "baseline": 100 * expected.mean,
                    "tolerance": 100 * expected.tolerance,
                    "current": None if current is None else 100 * current,
                    "change": None if current is None else 100 * (current - expected.mean),
                    "status": status.upper() if status in ("loss", "missing") else status,
                    "note": note,
                }
            )
        columns = (
            Column("protocol", "Protocol"),
            Column("method", "Method", fixed=True),
            Column("metric", "Metric"),
            Column("baseline", "Baseline %", "number"),
            Column("tolerance", "±", "number"),
            Column("current", "Now %", "number"),
            Column("change", "Change", "number"),
            Column("status", "Status", fixed=True),
            Column("note", "Note"),
        )
        return Table("Accuracy against the baselines", columns, (Section("", tuple(rows)),), notes=(self.summary(),))


def regress(records: Iterable[Record], baselines: Sequence[Baseline]) -> RegressionReport:
    """Compare the means of records, over the draws of the baseline, with baselines.

    Raises:
        ConfigError: If there are no baselines, or the records of a method have different versions or settings.
    """
    if not baselines:
        raise ConfigError(
            "there are no baselines to check against; measure them with `mmrs-bench regress --update-baselines`"
        )
    entries = _entries(records)
    return RegressionReport(
        tuple(
            _check(baseline, metric, entries.get(baseline.identity))
            for baseline in baselines
            for metric in METRICS
            if metric in baseline.metrics
        )
    )


def _entries(records: Iterable[Record]) -> dict[tuple[str, str, str], Entry]:
    entries: dict[tuple[str, str, str], Entry] = {}
    for group in group_records(records):
        for entry in group.entries:
            identity = (_signature(entry.records[0]), entry.method_id.method, entry.method_id.variant)
            if identity in entries:
                raise ConfigError(
                    f"there are records of several versions or settings of {entry.method_id.name} on {group.scene_id}; "
                    "use a fresh --results folder, or move the old records away"
                )
            entries[identity] = entry
    return entries


def _signature(record: Record) -> str:
    fields = signature_fields(record.protocol)
    del fields["version"]
    return signature_text(fields)


def _check(baseline: Baseline, metric: str, entry: Entry | None) -> Check:
    if entry is None:
        return Check(baseline, metric, None, "missing", "no records")
    values = entry.by_draw(metric)
    absent = [draw for draw in baseline.draws if draw not in values]
    if absent:
        return Check(baseline, metric, None, "missing", f"draws {', '.join(map(str, absent))} are absent")
    current = fmean(values[draw] for draw in baseline.draws)
    expected = baseline.metrics[metric]
    change = current - expected.mean
    # Rounding errors do not count, not even if the change equals the tolerance.
    if abs(change) <= expected.tolerance + 1e-9:
        return Check(baseline, metric, current, "ok")
    if (change > 0) == METRICS[metric].higher_is_better:
        return Check(baseline, metric, current, "gain", "update the baselines")
    return Check(baseline, metric, current, "loss")


def check_traceable(checkout: Path | None = CHECKOUT) -> None:
    """Check that new baselines can be traced to a commit.

    Raises:
        ConfigError: If this is no git checkout, or it has changes.
    """
    if checkout is None:
        raise ConfigError(
            "new baselines must be traceable to a commit, and this is an installed package; run regress "
            "--update-baselines in a git checkout of mmrs-bench (after make setup)"
        )
    state = git_state(checkout)
    if state.commit is None:
        raise ConfigError(f"{checkout} is not a git checkout; new baselines must be traceable to a commit")
    if state.dirty:
        raise ConfigError(
            f"{checkout} has uncommitted changes; commit or stash them first, so that the baselines can be traced"
        )


def update_baselines(
    records: Sequence[Record], path: Path = BASELINES, *, checkout: Path | None = CHECKOUT
) -> list[str]:
    """Replace the baselines of the methods, scenes, shots and budgets of some records; others do not change.

    Baselines of an earlier fingerprint of the scene, or of other data settings, are replaced, too: nothing measures
    them again.

    The tolerance is `DEVIATIONS` standard deviations between seeds of the mean over draws, at least `MIN_TOLERANCE`.

    Args:
        records: At least `MIN_SEEDS` seeds of each method, with the same draws, from one commit.
        path: The baselines file.
        checkout: The git checkout.

    Returns:
        One line per metric: old -> new, where the old value may be of an earlier fingerprint or other data settings.

    Raises:
        ConfigError: See `check_traceable`; or the records are not from one commit, or seeds or draws are missing.
    """
    check_traceable(checkout)
    if not records:
        raise ConfigError("there are no records for new baselines; run the cells first")
    old = load_baselines(path)
    new = sorted((_baseline(signature, entry) for (signature, *_), entry in _entries(records).items()), key=_identity)
    replaced = {row.slot: row for row in old}
    kept = [row for row in old if row.slot not in {row.slot for row in new}]
    content = _BaselineFile(schema=1, rows=tuple(sorted([*kept, *new], key=_identity)))
    write_json(path, content.model_dump(mode="json", by_alias=True))
    return [line for row in new for line in _changes(replaced.get(row.slot), row)]


def _identity(row: Baseline) -> tuple[str, str, str]:
    return row.identity


def _baseline(signature: str, entry: Entry) -> Baseline:
    name, first = entry.method_id.name, entry.records[0].protocol
    commits = {None if record.provenance.dirty else record.provenance.commit for record in entry.records}
    commit = commits.pop()
    if commits or commit is None:
        raise ConfigError(f"the records of {name} are not from one commit without changes; run its cells again")
    if len(entry.seeds) < MIN_SEEDS:
        raise ConfigError(
            f"{name} has {len(entry.seeds)} seeds; a tolerance needs at least {MIN_SEEDS}: run it with --seeds "
            + " ".join(map(str, range(MIN_SEEDS)))
        )
    draws_of = defaultdict(set)
    for record in entry.records:
        draws_of[record.protocol.seed].add(record.protocol.data.draw)
    if len({frozenset(draws) for draws in draws_of.values()}) != 1:
        raise ConfigError(f"the seeds of {name} do not have the same draws; run the missing cells first")
    return Baseline(
        scene=first.scene,
        split=first.data.split,
        shots=first.data.shots,
        budget=first.budget,
        method=first.method,
        variant=first.variant,
        selection=first.data.selection,
        signature=signature,
        draws=entry.draws,
        repeats=len(entry.seeds),
        metrics={metric: found for metric in METRICS if (found := _metric_baseline(entry, metric)) is not None},
        commit=commit,
        code_version=first.code_version,
    )


def _metric_baseline(entry: Entry, metric: str) -> MetricBaseline | None:
    """Mean and tolerance over seeds; None if the metric is undefined somewhere."""
    by_seed = [entry.by_draw(metric, seed=seed) for seed in entry.seeds]
    if any(len(values) < len(entry.draws) for values in by_seed):
        return None
    means = [fmean(values.values()) for values in by_seed]
    sd = stdev(means)
    tolerance = max(MIN_TOLERANCE, DEVIATIONS * sd)
    return MetricBaseline(mean=round(fmean(means), 6), sd=round(sd, 6), tolerance=round(tolerance, 6))


def _changes(old: Baseline | None, new: Baseline) -> list[str]:
    before = old.metrics if old else {}
    return [
        f"{new.protocol_text} {new.name} {METRICS[metric].title}: {_text(before.get(metric))} -> {_text(after)}"
        for metric, after in new.metrics.items()
    ]


def _text(metric: MetricBaseline | None) -> str:
    return "none" if metric is None else f"{100 * metric.mean:.2f} ± {100 * metric.tolerance:.2f}"
