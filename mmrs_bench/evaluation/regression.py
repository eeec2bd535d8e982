"""Golden metrics: has the suite lost accuracy since the committed baselines were measured?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.report.entries import METRIC_TITLES, METRICS, Entry, Metric, group_records
from mmrs_bench.evaluation.report.tables import Column, Section, Table, Value
from mmrs_bench.evaluation.results.provenance import git_state
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.results.signature import signature_fields, signature_text
from mmrs_bench.io import write_json
from mmrs_bench.paths import BENCHMARK_DIR, REPOSITORY
from mmrs_bench.reading import read_json, validated

BASELINES = BENCHMARK_DIR / "baselines.json"

#: Least tolerance, as a fraction: other libraries and processors move a mean over draws by some tenths of a point.
FLOOR = 0.005
#: A tolerance is so many standard deviations of the mean over draws between training seeds.
DEVIATIONS = 3.0
#: Seeds that a tolerance must at least come from; fewer say little about a standard deviation.
MIN_REPEATS = 5

Status = Literal["ok", "loss", "gain", "missing"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Golden(_Part):
    """A metric as it was, in fractions: mean over draws and seeds, sd of the mean over draws between seeds."""

    mean: float
    sd: float
    tolerance: float = Field(ge=FLOOR)


class Baseline(_Part):
    """Golden metrics of one method under one protocol.

    Attributes:
        scene: Tag of the scene, as are the next fields parts of the protocol in plain words.
        signature: The whole protocol, without draws and code version: baselines outlive versions.
        draws: Draws that the means are over.
        repeats: Training seeds that mean and tolerance come from.
        commit: State of the code that measured it.
        code_version: Version of that code.
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
    repeats: int = Field(ge=MIN_REPEATS)
    metrics: dict[Metric, Golden]
    commit: str
    code_version: str

    @property
    def identity(self) -> tuple[str, str, str]:
        """What a row is found by."""
        return self.signature, self.method, self.variant

    @property
    def name(self) -> str:
        """``method`` or ``method:variant``."""
        return self.method if self.variant == "default" else f"{self.method}:{self.variant}"


class _BaselineFile(_Part):
    schema_version: Literal[1] = Field(alias="schema")
    rows: tuple[Baseline, ...]


def load_baselines(path: Path = BASELINES) -> list[Baseline]:
    """The committed baselines.

    Raises:
        ConfigError: If the file cannot be read or a field is wrong; file and field are named.
    """
    advice = "restore the committed file"
    fields = read_json(path, error=ConfigError, advice=advice)
    return list(validated(_BaselineFile, fields, where=path, error=ConfigError, advice=advice).rows)


class Check(NamedTuple):
    """One metric of one baseline against the records; ``current`` is None if it is missing."""

    baseline: Baseline
    metric: Metric
    current: float | None
    status: Status
    note: str


class RegressionReport(NamedTuple):
    """All checks. A loss or a missing result fails; a gain asks for new baselines but does not fail."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing was lost and nothing is missing."""
        return all(check.status in ("ok", "gain") for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0 if passed, else 1."""
        return 0 if self.passed else 1

    def summary(self) -> str:
        """The outcome in one line."""
        counts = {
            status: sum(check.status == status for check in self.checks) for status in ("loss", "missing", "gain")
        }
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
        rows: list[dict[str, Value]] = [
            {
                "protocol": f"{c.baseline.scene} {c.baseline.split} {c.baseline.shots}-shot {c.baseline.budget}",
                "method": c.baseline.name,
                "metric": METRIC_TITLES[c.metric],
                "baseline": 100 * c.baseline.metrics[c.metric].mean,
                "tolerance": 100 * c.baseline.metrics[c.metric].tolerance,
                "current": None if c.current is None else 100 * c.current,
                "change": None if c.current is None else 100 * (c.current - c.baseline.metrics[c.metric].mean),
                "status": c.status.upper() if c.status in ("loss", "missing") else c.status,
                "note": c.note,
            }
            for c in self.checks
        ]
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
    """Check records against baselines: mean over the baseline's draws, for OA, AA and kappa.

    Args:
        records: Of the code as it is now; one version and setting a method.
        baselines: What to expect.

    Raises:
        ConfigError: If there are no baselines, or several versions or settings of a method are among the records.
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
            identity = (_signature(entry.records[0]), entry.entrant.method, entry.entrant.variant)
            if identity in entries:
                raise ConfigError(
                    f"there are records of several versions or settings of {entry.entrant.name} on {group.scene_id}; "
                    "use a fresh --results folder, or move the old records away"
                )
            entries[identity] = entry
    return entries


def _signature(record: Record) -> str:
    fields = signature_fields(record.protocol)
    del fields["version"]
    return signature_text(fields)


def _check(baseline: Baseline, metric: Metric, entry: Entry | None) -> Check:
    if entry is None:
        return Check(baseline, metric, None, "missing", "no records")
    values = entry.by_draw(metric)
    absent = [draw for draw in baseline.draws if draw not in values]
    if absent:
        return Check(baseline, metric, None, "missing", f"draws {', '.join(map(str, absent))} are absent")
    current = fmean(values[draw] for draw in baseline.draws)
    golden = baseline.metrics[metric]
    change = current - golden.mean
    # Means that differ by rounding alone are equal, at a tolerance's edge too.
    if abs(change) <= golden.tolerance + 1e-9:
        return Check(baseline, metric, current, "ok", "")
    if change < 0:
        return Check(baseline, metric, current, "loss", "")
    return Check(baseline, metric, current, "gain", "update the baselines")


def update_baselines(records: Sequence[Record], path: Path = BASELINES, *, repository: Path = REPOSITORY) -> list[str]:
    """Replace the baselines of everything in the records; baselines of other methods and protocols stay.

    The tolerance is `DEVIATIONS` standard deviations of the mean over draws between seeds, at least `FLOOR`.

    Args:
        records: Of at least `MIN_REPEATS` seeds, each with the same draws, made by one clean commit.
        path: The baselines file.
        repository: The checkout that must be clean.

    Returns:
        One line a metric: old -> new.

    Raises:
        ConfigError: If the checkout is dirty or none, the records come from uncommitted code or of several commits,
            or seeds or draws are missing.
    """
    state = git_state(repository)
    if state.commit is None:
        raise ConfigError(f"{repository} is not a git checkout; baselines are updated in a clean checkout only")
    if state.dirty:
        raise ConfigError(
            f"{repository} has uncommitted changes; commit or stash them first, so that the baselines can be traced"
        )
    if not records:
        raise ConfigError("there are no records to make baselines from; run the cells first")
    old = {baseline.identity: baseline for baseline in load_baselines(path)}
    new = {identity: _baseline(identity[0], entry) for identity, entry in _entries(records).items()}
    rows = [row for _, row in sorted({**old, **new}.items())]
    content = _BaselineFile(schema=1, rows=tuple(rows))
    write_json(path, content.model_dump(mode="json", by_alias=True))
    return [line for identity, row in sorted(new.items()) for line in _changes(old.get(identity), row)]


def _baseline(signature: str, entry: Entry) -> Baseline:
    name, first = entry.entrant.name, entry.records[0].protocol
    commits = {record.provenance.commit for record in entry.records if not record.provenance.dirty}
    commit = next(iter(commits), None)
    if len(commits) != 1 or commit is None or any(record.provenance.dirty for record in entry.records):
        raise ConfigError(f"the records of {name} do not come from one clean commit; run its cells again")
    if len(entry.seeds) < MIN_REPEATS:
        raise ConfigError(
            f"{name} has {len(entry.seeds)} seeds; a tolerance needs at least {MIN_REPEATS}: run it with --seeds "
            + " ".join(map(str, range(MIN_REPEATS)))
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
        metrics={metric: golden for metric in METRICS if (golden := _golden(entry, metric)) is not None},
        commit=commit,
        code_version=first.code_version,
    )


def _golden(entry: Entry, metric: Metric) -> Golden | None:
    """Mean and tolerance over seeds; None if the metric is undefined somewhere."""
    by_seed = [entry.by_draw(metric, seed=seed) for seed in entry.seeds]
    if any(len(values) < len(entry.draws) for values in by_seed):
        return None
    means = [fmean(values.values()) for values in by_seed]
    sd = stdev(means)
    return Golden(mean=round(fmean(means), 6), sd=round(sd, 6), tolerance=round(max(FLOOR, DEVIATIONS * sd), 6))


def _changes(old: Baseline | None, new: Baseline) -> list[str]:
    lines = []
    for metric, golden in new.metrics.items():
        before = old.metrics.get(metric) if old else None
        lines.append(
            f"{new.scene} {new.split} {new.shots}-shot {new.budget} {new.name} {METRIC_TITLES[metric]}: "
            f"{_golden_text(before)} -> {_golden_text(golden)}"
        )
    return lines


def _golden_text(golden: Golden | None) -> str:
    return "none" if golden is None else f"{100 * golden.mean:.2f} ± {100 * golden.tolerance:.2f}"
