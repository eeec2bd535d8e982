"""The end of a detached run: the worker that computes its last cell removes the files of the run."""

from __future__ import annotations

from pathlib import Path

from mmrs_bench.evaluation.run.display.announcement import planned_outcome, read_plan
from mmrs_bench.evaluation.run.jobs import Job


def finish_if_done(job: Job) -> None:
    """Remove the files that only a detached run needs, if all its cells have an outcome."""
    plan, names = read_plan(job.lock_dir, job.run_id), dict[Path, frozenset[str]]()
    if plan is None or not plan.jobs:  # it has ended, or its process still submits jobs
        return
    if all(planned_outcome(job.results, planned, names) for planned in plan.cells if planned.pending):
        job.clean_up()
