"""Compact LaTeX tables for two-column papers: methods by scenes and shots, and the protocol cards as an appendix."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from statistics import fmean

from mmrs_bench.errors import unknown_name
from mmrs_bench.evaluation.report.card import merged_card
from mmrs_bench.evaluation.report.entries import Group, differing_settings
from mmrs_bench.evaluation.report.render import latex_escape
from mmrs_bench.evaluation.report.tables import Estimate, Table, Value
from mmrs_bench.evaluation.results.metrics import METRICS
from mmrs_bench.texts import printable

#: Columns of values that fit beside the names in the width of two columns of IEEEtran.
MOST_COLUMNS = 9

_HEAD = """\
% Needs \\usepackage{booktabs} in the preamble. Written by mmrs-bench leaderboard.
"""

#: One column of results: a protocol with a number of shots, and its rows by label.
_Rows = Mapping[str, Mapping[str, Value]]
_Column = tuple[Group, _Rows]


def check_metrics(metrics: Sequence[str]) -> None:
    """Raise ConfigError if a metric is unknown."""
    for name in metrics:
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)


def paper_tables(groups: Sequence[Group], rankings: Sequence[Table], metrics: Sequence[str] = ("oa",)) -> str:
    """LaTeX of ranked results: one ``table*`` for all scenes and shots of a protocol, then the cards.

    Values are mean ± sd over draws in percent. The best mean of a column is bold; underlined are the methods that do
    not differ significantly from it; a star marks methods, or columns, without a test. Columns that do not fit stand in
    a further table.

    Args:
        groups: Groups in the order of `mmrs_bench.evaluation.report.entries.group_records`.
        rankings: The leaderboard's ranking of each group.
        metrics: Names of metrics; each is a column of every scene and number of shots.

    Raises:
        ConfigError: If a metric is unknown.
    """
    check_metrics(metrics)
    found: dict[str, list[_Column]] = defaultdict(list)
    for group, ranking in zip(groups, rankings, strict=True):
        rows = {str(row["label"]): row for row in ranking.rows if not row["unranked"]}
        if rows:
            found[group.protocol_text].append((group, rows))
    names = _scene_names(groups)
    texts = []
    for number, (protocol, columns) in enumerate(found.items(), 1):
        parts = _parts(columns, max(1, MOST_COLUMNS // len(metrics)))
        texts += [
            _table(protocol, part, metrics, names, label=f"{_label(number)}{'' if len(parts) == 1 else f'-{place}'}")
            for place, part in enumerate(parts, 1)
        ]
    return _HEAD + "\n".join([*texts, *_cards(groups, rankings)])


def _parts(columns: Sequence[_Column], most: int) -> list[list[_Column]]:
    """The columns in parts of at most ``most``; a scene is divided only if it does not fit into one part."""
    parts: list[list[_Column]] = [[]]
    for _, of_scene in groupby(columns, key=lambda column: column[0].fields["scene"]):
        scene = list(of_scene)
        if parts[-1] and len(parts[-1]) + len(scene) > most:
            parts.append([])
        for column in scene:
            if len(parts[-1]) == most:
                parts.append([])
            parts[-1].append(column)
    return parts


def _scene_names(groups: Iterable[Group]) -> dict[str, str]:
    """Heading of each scene: its id, which is shorter than its title; the title is in the caption of the card.

    Where scenes of one id have several revisions or contents, these are named.
    """
    of_scene = {group.fields["scene"]: group for group in groups}
    shared = Counter(group.scene_id for group in of_scene.values())
    return {
        scene: ("SIMULATED: " if group.simulated else "") + (group.scene_id if shared[group.scene_id] == 1 else scene)
        for scene, group in of_scene.items()
    }


def _label(number: int) -> str:
    return f"tab:mmrs-bench-{number}"


def _table(
    protocol: str, columns: Sequence[_Column], metrics: Sequence[str], names: Mapping[str, str], *, label: str
) -> str:
    draws = sorted({value for _, rows in columns for row in rows.values() if isinstance(value := row["draws"], int)})
    over = str(draws[0]) if len(draws) == 1 else f"{draws[0]} to {draws[-1]}"
    titles = ", ".join(METRICS[name].title for name in metrics)
    caption = (
        f"{titles} in percent, mean ± sd over {over} draws; {protocol}. Columns: shots. Bold: the best mean"
        f"{_ties(columns, metrics)}."
    )
    if tuned := differing_settings(group for group, _ in columns):
        caption += f" Settings differ between scenes: {', '.join(tuned)}."
    count = len(columns) * len(metrics)
    lines = [
        r"\begin{table*}[!t]",
        r"\centering",
        rf"\caption{{{_text(caption)}}}",
        rf"\label{{{label}}}",
        r"\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{@{{}}l{'r' * count}@{{}}}}",
        r"\toprule",
        *_headings(columns, metrics, names),
        r"\midrule",
        *(_line(name, columns, metrics) for name in _order(columns, metrics[0])),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _tested(rows: _Rows) -> bool:
    """Whether the best method of a column was compared with others: this takes enough common draws."""
    return any(row["group"] and _best(row, rows, "oa") for row in rows.values())


def _best(row: Mapping[str, Value], rows: _Rows, metric: str) -> bool:
    """Whether no row has a higher mean."""
    value = row[metric]
    means = [other.mean for r in rows.values() if isinstance(other := r[metric], Estimate)]
    return isinstance(value, Estimate) and value.mean == max(means)


def _ties(columns: Sequence[_Column], metrics: Sequence[str]) -> str:
    """What underlined values mean; empty if no value could be underlined. Tests compare OA only."""
    if "oa" not in metrics or not any(_tested(rows) for _, rows in columns):
        return ""
    what = "underlined" if len(metrics) == 1 else "underlined OA"
    text = f"; {what}: not significantly different from it (exact paired Wilcoxon test, Holm, 0.05)"
    complete = all(
        len(rows) == 1 or (_tested(rows) and all(row["group"] for row in rows.values())) for _, rows in columns
    )
    return text if complete else f"{text}; *: no test, which takes more common draws"


def _headings(columns: Sequence[_Column], metrics: Sequence[str], names: Mapping[str, str]) -> Iterator[str]:
    """A line of scenes with rules, one of shots, and one of metrics if there are several."""
    scenes = [
        (scene, len([*of_scene])) for scene, of_scene in groupby(names[group.fields["scene"]] for group, _ in columns)
    ]
    yield _spanning("", [(scene, count * len(metrics)) for scene, count in scenes])
    first = 2
    rules = []
    for _, count in scenes:
        rules.append(rf"\cmidrule(lr){{{first}-{first + count * len(metrics) - 1}}}")
        first += count * len(metrics)
    yield "".join(rules)
    marked = bool(_ties(columns, metrics))
    shots = [f"{group.shots}{'*' if marked and len(rows) > 1 and not _tested(rows) else ''}" for group, rows in columns]
    if len(metrics) == 1:
        yield rf"Method & {' & '.join(shots)} \\"
        return
    yield _spanning("", [(text, len(metrics)) for text in shots])
    titles = [_text(METRICS[name].title) for name in metrics] * len(columns)
    yield rf"Method & {' & '.join(titles)} \\"


def _spanning(first: str, texts: Iterable[tuple[str, int]]) -> str:
    cells = (rf"\multicolumn{{{count}}}{{c}}{{{_text(text)}}}" for text, count in texts)
    return rf"{first} & {' & '.join(cells)} \\"


def _order(columns: Sequence[_Column], metric: str) -> list[str]:
    """Labels, the highest mean over their columns first."""
    means: dict[str, list[float]] = defaultdict(list)
    for _, rows in columns:
        for name, row in rows.items():
            value = row[metric]
            means[name] += [value.mean] if isinstance(value, Estimate) else []
    return sorted(means, key=lambda name: (-fmean(means[name]) if means[name] else 0.0, name))


def _line(name: str, columns: Sequence[_Column], metrics: Sequence[str]) -> str:
    cells = [_cell(rows.get(name), rows, metric) for _, rows in columns for metric in metrics]
    return rf"{_text(name)} & {' & '.join(cells)} \\"


def _cell(row: Mapping[str, Value] | None, rows: _Rows, metric: str) -> str:
    value = row[metric] if row else None
    if not row or not isinstance(value, Estimate):
        return "--"
    text = f"{value.mean:.1f}" + ("" if value.sd is None else rf"\,$\pm$\,{value.sd:.1f}")
    if _best(row, rows, metric):
        return rf"\textbf{{{text}}}"
    if metric != "oa" or not _tested(rows):  # groups are those of OA
        return text
    return rf"\underline{{{text}}}" if row["group"] == 1 else f"{text}{'' if row['group'] else '*'}"


def _cards(groups: Sequence[Group], rankings: Sequence[Table]) -> Iterator[str]:
    """One ``table*`` with the card of each scene and protocol."""
    pairs = [(group, ranking) for group, ranking in zip(groups, rankings, strict=True) if ranking.card]
    for number, (_, found) in enumerate(groupby(pairs, key=lambda pair: pair[0].fields_without_shots), 1):
        family = list(found)
        lines = merged_card([(group.shots, ranking.card) for group, ranking in family])
        body = [
            rf"{_text(label)} & \parbox[t]{{0.82\textwidth}}{{\raggedright {_text(prefix)}{_text(text)}\strut}} \\"
            for label, texts in lines
            for label, prefix, text in _card_rows(label, texts)
        ]
        yield "\n".join(
            [
                r"\begin{table*}[!t]",
                r"\centering",
                rf"\caption{{{_text(f'Protocol: {family[0][0].scene_label}, {family[0][0].protocol_text}')}}}",
                rf"\label{{tab:mmrs-bench-card-{number}}}",
                r"\scriptsize\setlength{\tabcolsep}{3pt}",
                r"\begin{tabular}{@{}ll@{}}",
                r"\toprule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table*}",
                "",
            ]
        )


def _card_rows(label: str, texts: Sequence[Sequence[str]]) -> Iterator[tuple[str, str, str]]:
    """Label, shots and text of each line; the label stands in the first one only."""
    for place, (shots, text) in enumerate(texts):
        yield label if place == 0 else "", f"{shots}: " if shots else "", text


def _text(text: str) -> str:
    """A text for LaTeX that may be broken within signatures."""
    return re.sub(r"\\textbar\{\}", r"\\textbar\\allowbreak{}", latex_escape(printable(text)))
