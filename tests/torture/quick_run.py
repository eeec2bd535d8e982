"""A run whose cells need no data and no torch: RESULTS DRAWS [--keep-going] [--workers N].

Sessions, workers, locks, claims and records are those of ``mmrs-bench run``; such a run starts in a second, so that a
campaign can inject many more faults.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from helpers.fake_cells import EXECUTION, fake_record, make_cells

from mmrs_bench.errors import BenchError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.session import run_cells

SECONDS = 0.05


def compute(cell: Cell, execution: Any, results: Path, *callbacks: Any) -> Record:
    """The record of a cell, after a moment."""
    callbacks[0]("fit", 0.5)
    time.sleep(SECONDS)
    return fake_record(cell, execution)


def main() -> int:
    """Run, with errors in one line as the command line prints them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("results", type=Path)
    parser.add_argument("draws", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep-going", action="store_true")
    given = parser.parse_args()
    try:
        return run_cells(
            make_cells(given.draws),
            given.results,
            EXECUTION,
            workers=given.workers,
            keep_going=given.keep_going,
            compute="torture.quick_run:compute",
        )
    except BenchError as error:
        sys.stderr.write(f"mmrs-bench: error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
