"""The table of ratios, in the terminal and on docs/performance.md.

    python benchmarks/speed/page.py

prints the committed ratios in Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmrs_bench.evaluation.report.render import render
from mmrs_bench.evaluation.report.tables import Column, Section, Table, Value

COMMITTED = Path(__file__).with_name("ratios.json")


def table(rows: Sequence[Mapping[str, Value]], processor: str, torch: str) -> Table:
    """The ratios of a run."""
    columns = (
        Column("method", "method"),
        Column("work", "work", fixed=True),
        Column("ours", "ours ms", "number", 1),
        Column("bound", "bound ms", "number", 1),
        Column("reference", "reference ms", "number", 1),
        Column("ratio", "ours / bound", "number", 2),
        Column("goal", "at most", "number", 2),
        Column("lead", "reference / ours", "number", 1),
        Column("least", "at least", "number", 0),
        Column("noise", "noise", "number", 3),
        Column("met", "met"),
    )
    title = f"Hot paths, one thread, {processor}, torch {torch}"
    return Table(title, columns, (Section("", tuple(rows)),))


def committed_table() -> str:
    """The committed ratios in Markdown."""
    found = json.loads(COMMITTED.read_text())
    return render([table(list(found["ratios"].values()), found["processor"], found["torch"])], "md")


if __name__ == "__main__":
    print(committed_table())
