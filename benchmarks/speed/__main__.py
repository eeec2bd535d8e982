"""The speed suite: what the hot paths cost beside the least they could cost, or beside the usual way.

    python benchmarks/speed [--only '[diffclip,bdgf]'] [--regress true | --update true]

Each ratio is measured in one run, one thread, ours and the other in turn. Prints one table and writes it as JSON.
Ratios of a busy machine mean nothing, so the suite stops there. ``--regress true`` compares with the committed ratios
(``ratios.json``) and fails where one is worse by more than its noise; ``--update true`` writes them.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import jsonargparse
import psutil
import torch
from page import COMMITTED, table
from rich.console import Console
from work import Measurement, Work, measure

from mmrs_bench.doctor.machine import processor
from mmrs_bench.errors import BenchError, ConfigError
from mmrs_bench.evaluation.report.render import print_tables
from mmrs_bench.evaluation.report.tables import Value
from mmrs_bench.io import write_json

GROUPS = ("windows", "selective_scan", "diffclip", "bdgf", "msfmamba", "unidiff", "threads")
#: Share of the processor that other programs may use.
MOST_BUSY = 0.25
#: A ratio is worse if it exceeds the committed one by this share, or by three times the noise of both.
TOLERANCE = 0.1

Row = dict[str, Value]


def main(only: tuple[str, ...] = GROUPS, out: str = "speed.json", regress: bool = False, update: bool = False) -> None:
    """Measure.

    Args:
        only: Groups of works.
        out: JSON file to write.
        regress: Compare with the committed ratios; exit 1 where one is worse.
        update: Replace the committed ratios of these groups.
    """
    if unknown := sorted(set(only) - set(GROUPS)):
        raise ConfigError(f"unknown group {', '.join(unknown)}; choose from {', '.join(GROUPS)}")
    check_idle()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for group in only:
        for work in import_module(group).works():
            print(f"{work.method}: {work.name}", file=sys.stderr)
            rows.append(row(work, measure(work)))
    print_tables([table(rows, processor(), torch.__version__)], Console())
    check_idle()
    found = {"processor": processor(), "torch": torch.__version__, "ratios": {name(line): line for line in rows}}
    write_json(Path(out), found)
    if update:
        kept = json.loads(COMMITTED.read_text())["ratios"] if COMMITTED.exists() else {}
        write_json(COMMITTED, {**found, "ratios": {**kept, **found["ratios"]}})
    if regress:
        compare(rows, processor())


def check_idle() -> None:
    """Stop if other programs are busy."""
    own = psutil.Process()
    before = sum(own.cpu_times()[:2])
    busy = psutil.cpu_percent(interval=1) / 100 * psutil.cpu_count()
    others = busy - (sum(own.cpu_times()[:2]) - before)
    if others > MOST_BUSY:
        raise ConfigError(
            f"other programs use {others:.1f} cores; ratios measured now mean nothing, so end them and start again"
        )


def row(work: Work, found: Measurement) -> Row:
    lead = None if found.reference is None else found.reference / found.ours
    return {
        "method": work.method,
        "work": work.name,
        "ours": 1000 * found.ours,
        "bound": None if found.bound is None else 1000 * found.bound,
        "reference": None if found.reference is None else 1000 * found.reference,
        "ratio": None if found.bound is None else found.ratio,
        "goal": work.goal,
        "lead": lead,
        "least": work.lead,
        "noise": found.noise,
        "met": verdict(work, found.ratio, lead),
    }


def verdict(work: Work, ratio: float, lead: float | None) -> str:
    if work.goal is not None:
        return "yes" if ratio <= work.goal else "no"
    if work.lead is not None and lead is not None:
        return "yes" if lead >= work.lead else "no"
    return ""


def name(line: Row) -> str:
    return f"{line['method']}: {line['work']}"


def compare(rows: list[Row], name_of_processor: str) -> None:
    """Exit with status 1 where a ratio is worse than the committed one by more than its noise."""
    committed = json.loads(COMMITTED.read_text())
    if committed["processor"] != name_of_processor:
        print(f"The committed ratios are those of {committed['processor']}; nothing was compared.")
        return
    worse = []
    for line in rows:
        before = committed["ratios"].get(name(line))
        if before is not None and slowness(line) > slowness(before) * (1 + allowed(line, before)):
            worse.append(f"{name(line)}: {slowness(before):.3g} -> {slowness(line):.3g}")
    print("\n".join(["Worse than committed:", *worse]) if worse else "No ratio is worse than the committed one.")
    sys.exit(bool(worse))


def slowness(line: dict[str, Value]) -> float:
    """The ratio that grows if ours gets slower."""
    return float(line["ratio"]) if line["ratio"] is not None else 1 / float(line["lead"])  # type: ignore[arg-type]


def allowed(line: dict[str, Value], before: dict[str, Value]) -> float:
    return max(TOLERANCE, 3 * (float(line["noise"]) + float(before["noise"])))  # type: ignore[arg-type]


if __name__ == "__main__":
    try:
        jsonargparse.auto_cli(main, as_positional=False)
    except BenchError as error:
        sys.exit(f"error: {error}")
