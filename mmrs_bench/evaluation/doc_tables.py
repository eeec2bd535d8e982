"""Tables of results in Markdown pages, generated from records (``mmrs-bench tables``).

A page contains blocks that begin with a comment, whose first word is ``results`` and whose rest is YAML (the fields of
`TableSpec`), and end with ``<!-- end of results -->``. What stands between the comments is replaced.

A block that begins with ``<!-- study NAME -->`` shows the table that a script in ``benchmarks/studies`` has written to
``studies/NAME.md`` in the results folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmrs_bench.config import BudgetName, Selection, SplitName
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.report.entries import Entry, Group, group_records
from mmrs_bench.evaluation.report.leaderboard import build_leaderboard
from mmrs_bench.evaluation.report.render import markdown_table
from mmrs_bench.evaluation.report.statistics import MIN_DRAWS, Paired, p_text, paired
from mmrs_bench.evaluation.report.tables import Column, Estimate, Section, Table, Value, format_value
from mmrs_bench.evaluation.results.metrics import METRICS
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.io import write_text
from mmrs_bench.paths import BENCHMARK_DIR
from mmrs_bench.reading import parse_yaml, validated

_END = "<!-- end of results -->"
_BLOCK = re.compile(
    rf"(?P<start>^<!-- (?:results\n(?P<spec>.*?)^-->|study (?P<study>[a-z0-9-]+) -->)\n)(?P<table>.*?)(?P<end>^{_END})",
    re.DOTALL | re.MULTILINE,
)
_MARK = re.compile(rf"^(<!-- results|<!-- study|{_END})", re.MULTILINE)
_ADVICE = "docs/results-format.md shows such a block"

#: Folder of the committed tables of studies.
STUDIES = BENCHMARK_DIR / "results" / "studies"

#: Columns of a ranking that pages show, unless they are empty.
RANKING_COLUMNS = (
    "group",
    "label",
    *METRICS,
    "draws",
    "labels_used",
    "parameters_total",
    "seconds",
    "pretraining_seconds",
)


class Row(BaseModel):
    """One row: a method under a name of its own, on some modalities, with another selection rule or version.

    Attributes:
        method: ``method``, or ``method:variant``.
        label: What the table shows; by default the method.
        modalities: The modalities that the method saw; empty for all.
        selection: The selection rule; None for the only one that has records, without ``paper-val``.
        version: The method's version; None for the newest one that has records.
        signature: Further parts of the signature for this row, as in `TableSpec`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    label: str = ""
    modalities: tuple[str, ...] = ()
    selection: Selection | None = None
    version: int | None = None
    signature: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, fields: Any) -> Any:
        return {"method": fields} if isinstance(fields, str) else fields

    @property
    def title(self) -> str:
        """The text of the first column."""
        return self.label or self.method + (f", {' + '.join(self.modalities)} only" if self.modalities else "")


class TableSpec(BaseModel):
    """A table of a page.

    Attributes:
        kind: ``accuracy`` has a row per method and a column per scene and shot count; ``ranking`` is that of the
            leaderboard, for one scene and shot count.
        scenes: Ids of scenes.
        shots: Labels per class.
        budget: Budget.
        split: Split protocol.
        methods: The rows; for a ranking, none shows all methods.
        metric: Metric of an ``accuracy`` table.
        against: A method: every value is followed by the mean difference from it over common draws.
        draws: Number of draws that every value is over: the first ones, of those that have records.
        signature: Further parts of the signature, e.g. ``{query: "20000"}``, where records have several; an empty text
            means that the part is absent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["accuracy", "ranking"] = "accuracy"
    scenes: tuple[str, ...] = Field(min_length=1)
    shots: tuple[int, ...] = Field(min_length=1)
    budget: BudgetName = "quick"
    split: SplitName = "random-v1"
    methods: tuple[Row, ...] = ()
    metric: str = "oa"
    against: Row | None = None
    draws: int | None = None
    signature: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> TableSpec:
        if self.kind == "ranking" and (len(self.scenes), len(self.shots)) != (1, 1):
            raise ValueError("a ranking shows one scene and one shot count; give one each")
        if self.kind == "accuracy" and not self.methods:
            raise ValueError("an accuracy table needs methods; list them")
        if self.metric not in METRICS:
            raise ValueError(f"metric {self.metric!r} is unknown; known: {', '.join(METRICS)}")
        return self


def update_page(page: Path, records: Sequence[Record], *, studies: Path = STUDIES, write: bool = True) -> bool:
    """Generate the tables of a page again.

    Args:
        page: A Markdown file.
        records: Records behind its tables.
        studies: Folder of the tables of studies.
        write: Whether to write the page if it changes.

    Returns:
        Whether the page was out of date.

    Raises:
        ConfigError: If the page cannot be read, a block is wrong, a value of a table has no records, or a study has
            written no table.
        BenchError: If the page cannot be written.
    """
    try:
        before = page.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{page}: cannot be read ({error}); give a Markdown file") from error
    ends = [match[1] == _END for match in _MARK.finditer(before)]
    if ends != [False, True] * len(_BLOCK.findall(before)):
        raise ConfigError(
            f"{page}: a block begins with a line <!-- results or <!-- study NAME --> and ends with a line {_END}, and "
            f"these do not pair up; {_ADVICE}"
        )
    after = _BLOCK.sub(partial(_generated, page, before, records, studies), before)
    if write and after != before:
        write_text(page, after)
    return after != before


def _generated(page: Path, text: str, records: Sequence[Record], studies: Path, block: re.Match[str]) -> str:
    line = text.count("\n", 0, block.start()) + 1
    where = f"{page}, line {line}"
    if name := block["study"]:
        return f"{block['start']}{_study(name, studies, where)}{block['end']}"
    fields = parse_yaml(block["spec"], where=where, error=ConfigError, advice=_ADVICE)
    spec = validated(TableSpec, fields, where=where, error=ConfigError, advice=_ADVICE)
    make = _ranking if spec.kind == "ranking" else _accuracies
    groups = group_records([r for r in records if r.protocol.data.draw < (spec.draws or math.inf)])
    try:
        return f"{block['start']}{make(spec, groups)}{block['end']}"
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _study(name: str, folder: Path, where: str) -> str:
    path = folder / f"{name}.md"
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{where}: {path} cannot be read ({error}); run the script in benchmarks/studies that writes it"
        ) from error


def _accuracies(spec: TableSpec, groups: Sequence[Group]) -> str:
    columns = [Column("method", "method")]
    rows: list[dict[str, Value]] = [{"method": row.title} for row in spec.methods]
    against = (spec.against,) if spec.against else ()
    used: list[Entry] = []
    pairs: list[Paired] = []
    for scene in spec.scenes:
        for shots in spec.shots:
            key = f"{scene} {shots}"
            title = f"{scene}, {shots} shots" if len(spec.scenes) > 1 else f"{shots} shots"
            columns.append(Column(key, title.removesuffix("s") if shots == 1 else title, "estimate"))
            found = [_found(spec, row, scene, shots, groups) for row in (*spec.methods, *against)]
            _check_column([(row, group) for row, (group, _) in zip((*spec.methods, *against), found, strict=True)])
            base = found[-1][1] if against else None
            columns += [Column(f"{key} -", f"minus {row.title}") for row in against]
            for cells, (_, entry) in zip(rows, found, strict=False):
                used.append(entry)
                cells[key] = entry.estimate(spec.metric)
                if base is None or base is entry:
                    continue
                lowest = METRICS[spec.metric].lowest
                if pair := paired(entry.by_draw(spec.metric), base.by_draw(spec.metric), lowest=lowest):
                    pairs.append(pair)
                    cells[f"{key} -"] = _difference(pair)
    return f"{_table(columns, rows)}\n\n{_caption(spec, used)} {_tests(pairs)}".rstrip() + "\n"


def _check_column(found: Sequence[tuple[Row, Group]]) -> None:
    """Refuse a column with values of several protocols, but for what one of two rows states."""
    for (row, group), (other_row, other) in combinations(found, 2):
        stated = {"mod", *row.signature, *other_row.signature}
        different = {name for name, _ in group.fields.items() ^ other.fields.items()}
        if different - stated:
            signatures = "; ".join(each.signature(each.entries) for each in (group, other))
            raise ConfigError(
                f"the values of one column are of several protocols: {signatures}; run all methods under one, or state "
                "what differs as signature of the rows"
            )


def _ranking(spec: TableSpec, groups: Sequence[Group]) -> str:
    (scene,), (shots,) = spec.scenes, spec.shots
    (group,) = _one(spec, scene, shots, [g for g in groups if _fits(g, spec, scene, shots)], "any method")
    groups = group_records(group.records)  # as the leaderboard groups and labels them
    (group,) = groups
    table = next(table for table in build_leaderboard(group.records) if table.in_csv)
    shown = [entry.label for entry in group.entries]
    if spec.methods:
        shown = [_found(spec, row, scene, shots, groups)[1].label for row in spec.methods]
    rows = [row for row in table.rows if row["label"] in shown]
    filled = {key for key in RANKING_COLUMNS if any(row.get(key) is not None for row in rows)}
    columns = [column for column in table.columns if column.key in filled]
    used = [entry for entry in group.entries if entry.label in shown]
    return f"{_table(columns, rows)}\n\n{_caption(spec, used)}\n"


def _table(columns: Sequence[Column], rows: Sequence[Mapping[str, Value]]) -> str:
    return markdown_table(Table("", tuple(columns), (Section("", tuple(rows)),)).printable())


def _fits(group: Group, spec: TableSpec, scene: str, shots: int, row: Row | None = None) -> bool:
    """Whether a group is of the protocol of a table and a row."""
    parts = {"mod": "+".join(row.modalities), **row.signature} if row else {"mod": ""}
    wanted = {"split": spec.split, "budget": spec.budget, "drop": "", **spec.signature, **parts}
    found = (group.scene_id, group.shots) == (scene, shots) and bool(group.entries)
    return found and all(group.fields.get(name, "") == value for name, value in wanted.items())


def _one(spec: TableSpec, scene: str, shots: int, groups: Sequence[Group], name: str) -> Sequence[Group]:
    """The groups if there is exactly one."""
    if len(groups) == 1:
        return groups
    wanted = f"{name} on {scene}, {spec.split}, {shots} shots, budget {spec.budget}"
    if not groups:
        raise ConfigError(f"there are no records of {wanted}; run these cells, and add them with mmrs-bench collect")
    signatures = "; ".join(group.signature(group.entries) for group in groups)
    raise ConfigError(f"there are several protocols with {wanted}: {signatures}; choose one by signature: {{...}}")


def _found(spec: TableSpec, row: Row, scene: str, shots: int, groups: Sequence[Group]) -> tuple[Group, Entry]:
    """The entry of a row, of the newest version of its method, and its group."""
    fitting = [g for g in groups if _fits(g, spec, scene, shots, row) and _entries(g, row)]
    (group,) = _one(spec, scene, shots, fitting, row.method)
    found = _entries(group, row)
    newest = max(entry.method_id.version for entry in found)
    found = [entry for entry in found if entry.method_id.version == newest]
    if len(found) > 1:
        labels = ", ".join(entry.label for entry in found)
        raise ConfigError(f"{row.method} fits several rows of records ({labels}); state the selection, or one of them")
    if spec.draws is not None and len(found[0].draws) != spec.draws:
        draws = len(found[0].draws)
        raise ConfigError(f"{row.method} on {scene}, {shots} shots has {draws} draws, expected {spec.draws}; run them")
    return group, found[0]


def _entries(group: Group, row: Row) -> list[Entry]:
    found = [entry for entry in group.find(row.method) if row.version in (None, entry.method_id.version)]
    if row.selection is None:
        return [entry for entry in found if entry.method_id.selection != "paper-val"]
    return [entry for entry in found if entry.method_id.selection == row.selection]


def _difference(pair: Paired) -> str:
    """Mean difference with its sd, draws won of all, and p if there are enough draws."""
    text = format_value(Estimate.percent(pair.difference), Column("", kind="estimate"))
    sign = "+" if pair.difference.mean > 0 and not text.startswith("0.00") else ""
    p = "" if pair.p is None else f", p {p_text(pair.p)}"
    return f"{sign}{text} ({pair.wins} of {pair.wins + pair.losses + pair.ties}{p})"


def _caption(spec: TableSpec, entries: Sequence[Entry]) -> str:
    """What is needed to interpret the numbers."""
    records = [record for entry in entries for record in entry.records]
    simulated = sorted({r.protocol.scene.rpartition("-")[0] for r in records if r.simulated})
    mark = f"SIMULATED: {', '.join(simulated)}. " if simulated else ""
    mark = "SIMULATED. " if all(record.simulated for record in records) else mark
    metrics = "OA, AA and κ" if spec.kind == "ranking" else METRICS[spec.metric].title
    limits = [record.protocol.data.query_limit for record in records]
    pixels = f", at most {_range(limit for limit in limits if limit)} query pixels" if any(limits) else ""
    draws, window = _range(len(entry.draws) for entry in entries), _range(r.protocol.data.window for r in records)
    commits = ", ".join(sorted({_commit(record) for record in records}))
    return (
        f"{mark}{metrics} in percent, mean ± sd over {draws} draws; {spec.split}, budget {spec.budget}, window {window}"
        f"{pixels}; code {commits}."
    )


def _commit(record: Record) -> str:
    """The commit of a record's code, for a caption."""
    commit, dirty = record.provenance.commit, record.provenance.dirty
    return f"{commit[:7]}{' with changes' if dirty else ''}" if commit else f"v{record.protocol.code_version}"


def _tests(pairs: Sequence[Paired]) -> str:
    """What the differences are, if there are any."""
    if not pairs:
        return ""
    test = f"a test needs >= {MIN_DRAWS} draws"
    if any(pair.p is not None for pair in pairs):
        test = "p: exact paired Wilcoxon test, not corrected"
    return f"Differences: mean ± sd over common draws, draws won; {test}."


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"
