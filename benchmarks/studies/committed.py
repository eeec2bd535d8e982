"""Committed tables of studies, which pages show (``make tables``)."""

from __future__ import annotations

import csv
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mmrs_bench.doctor.machine import processor
from mmrs_bench.evaluation.doc_tables import STUDIES
from mmrs_bench.evaluation.results.provenance import provenance, utc_now
from mmrs_bench.io import write_text


def write_table(name: str, lines: Sequence[str], *, simulated: bool, numbers: Path | None = None) -> None:
    """Write a table in Markdown with the command, code and machine that made it, and print where.

    Args:
        name: Name of the file, for ``<!-- study NAME -->`` in a page.
        lines: The table.
        simulated: Whether the data are.
        numbers: The committed file that the table was made from, if the command did not compute its numbers.
    """
    command = shlex.join(["python", f"benchmarks/studies/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    mark = "SIMULATED. " if simulated else ""
    caption = f"{mark}`{command}`; {f'numbers of {numbers.name}' if numbers else _origin()}."
    path = STUDIES / f"{name}.md"
    write_text(path, "\n".join([*lines, "", caption, ""]))
    print(path)


def _origin() -> str:
    """Code, machine and day of numbers that are computed now."""
    code = provenance()
    commit = f"{code.commit[:7]}{' with changes' if code.dirty else ''}" if code.commit else "unknown"
    return f"code {commit}; {processor()}, torch {torch.__version__}; {utc_now()[:10]}"


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [*csv.DictReader(stream)]
