"""A thousand cells on a Slurm cluster of one node of this machine, while workers are killed and jobs cancelled.

    python tests/clusters/thousand.py [--cells 1000] [--every 60] [--out FOLDER]

Five cheap methods under the budget ``smoke`` on the simulated scene. Every so many seconds, a worker gets SIGKILL or
its job is cancelled. Prints how many cells are done, how many were computed twice, and what the two cores of the node
did from the start of the first job to the end of the last cell:

- computing: share of the time in which they computed cells that have a record, by the seconds in the records;
- idle: share of the time in which no worker process ran, by the logs of the jobs.

The rest is the start of workers, the cells that were killed, and the work between cells. Other programs on the machine
make cells longer and starts slower. The exit status is 0 if all cells are done, none twice, and idle is under 10
percent.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonargparse

sys.path.insert(0, str(Path(__file__).parents[1]))

from clusters import campaign, slurm_cluster

from mmrs_bench.evaluation.results.records import load_failures, load_records
from mmrs_bench.evaluation.results.schema import Record

METHODS = ("majority", "nearest-prototype", "svm", "svm-spatial", "rf")
SHOTS = (2, 5, 10, 20)
CORES = 2
MOST_IDLE = 0.1
SECONDS = 3600.0

_STAMP = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3})\) - Starting")


class Rewritten:
    """Notices records that are written a second time."""

    def __init__(self, results: Path) -> None:
        self._folder = results / "records"
        self._seen: dict[Path, tuple[int, int]] = {}
        self.again: set[str] = set()

    def look(self) -> None:
        for path in self._folder.rglob("*.json"):
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                if self._seen.setdefault(path, (found.st_ino, found.st_mtime_ns)) != (found.st_ino, found.st_mtime_ns):
                    self.again.add(path.name)


def job_intervals(logs: Path) -> list[tuple[float, float]]:
    """When the process of each job ran: from the first line of its log to the last change of its logs."""
    found = []
    for path in logs.glob("*_log.out"):
        if stamp := _STAMP.search(path.read_text(errors="replace")):
            start = datetime.strptime(stamp[1], "%Y-%m-%d %H:%M:%S").astimezone().timestamp() + int(stamp[2]) / 1000
            end = max(path.stat().st_mtime, path.with_suffix(".err").stat().st_mtime)
            found.append((start, end))
    return found


def shares(records: Iterable[Record], jobs: list[tuple[float, float]]) -> dict[str, float]:
    """What the cores did, as shares of the time from the first job to the last cell."""
    ends = [
        (datetime.fromisoformat(r.measured.finished_at).timestamp(), sum(r.measured.seconds.values())) for r in records
    ]
    begin, end = min(start for start, _ in jobs), max(at for at, _ in ends)
    held = sum(max(0.0, min(stop, end) - start) for start, stop in jobs)
    total = CORES * (end - begin)
    return {"seconds": end - begin, "computing": sum(s for _, s in ends) / total, "idle": max(0.0, 1 - held / total)}


def main(cells: int = 1000, every: float = 60.0, out: str | None = None) -> int:
    """Run the cells and print the figures.

    Args:
        cells: Number of cells, rounded down to a multiple of 20.
        every: Seconds between two kills.
        out: Folder that is kept; without it, a temporary one.
    """
    with tempfile.TemporaryDirectory(prefix="mb-") as temporary:
        place = Path(out or temporary).resolve()
        cluster, results = place / "cluster", place / "results"
        draws = cells // (len(METHODS) * len(SHOTS))
        suite = ["--datasets", "simulated", "--methods", *METHODS, "--draws", str(draws), "--budget", "smoke"]
        suite += ["--shots", *map(str, SHOTS), "--results", str(results)]
        run = [sys.executable, "-m", "mmrs_bench", "run", *suite, "--executor", "slurm", "--workers", str(CORES)]
        ways, rewritten = (campaign.kill_worker, campaign.kill_worker, campaign.cancel_job), Rewritten(results)

        def interrupt(count: int) -> str:
            rewritten.look()
            return ways[count % len(ways)](results)

        try:
            variables = slurm_cluster.start(cluster)
            status, text, killed = campaign.run_while(run, variables, interrupt, every, SECONDS)
        finally:
            slurm_cluster.stop(cluster)
        rewritten.look()
        records = load_records(results)
        figures: dict[str, Any] = {
            "status": status,
            "cells": draws * len(METHODS) * len(SHOTS),
            "records": len(records),
            "failures": len(load_failures(results)),
            "computed twice": len(rewritten.again),
            "interruptions": killed,
            "jobs": len(job_intervals(results / "logs" / "submitit")),
            **{k: round(v, 3) for k, v in shares(records, job_intervals(results / "logs" / "submitit")).items()},
        }
    sys.stdout.write(f"{json.dumps(figures, indent=1)}\n{text[-600:] if status else ''}")
    good = figures["records"] == figures["cells"] and not (figures["failures"] or figures["computed twice"])
    return 0 if good and figures["idle"] < MOST_IDLE else 1


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli(main, as_positional=False))
