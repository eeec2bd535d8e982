"""Runs whose process submits Slurm jobs and exits. `watch` shows them, and the next run shares the cells with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from mmrs_bench.evaluation.run.claims import remove_quietly
from mmrs_bench.evaluation.run.clusters.ending import finish_if_done
from mmrs_bench.evaluation.run.clusters.queue import alive_jobs
from mmrs_bench.evaluation.run.display.announcement import Plan, announce_detached, has_owner, jobs_of, run_ids
from mmrs_bench.evaluation.run.jobs import Job


class SubmittingPool(Protocol):
    """A pool whose workers go on without this process."""

    def submit(self) -> tuple[str, ...]:
        """Submit all jobs; return their ids."""


def submit_detached(job: Job, pool: SubmittingPool, plan: Plan, say: Callable[[str], object]) -> int:
    """Submit the jobs of a run, announce it, and leave it to Slurm.

    Raises:
        BenchError: If Slurm refuses the jobs, or the results folder cannot be written.
    """
    job.open()
    try:
        jobs = pool.submit()
    except BaseException:
        job.clean_up()
        raise
    announce_detached(job, plan, jobs)
    finish_if_done(job)  # all workers may have ended before the plan was there
    say(
        f"submitted as Slurm jobs {' '.join(jobs)}; watch them with: mmrs-bench watch {job.results}. The same command "
        "without --detach, or again with it, computes what is missing at the end"
    )
    return 0


def detached_notes(lock_dir: Path) -> Iterator[str]:
    """What users must know about detached runs of this folder. The files of those whose jobs have ended are removed."""
    for run_id in run_ids(lock_dir):
        jobs = jobs_of(lock_dir, run_id)
        if not jobs or has_owner(lock_dir, run_id):
            continue
        alive = alive_jobs(jobs)
        if alive == []:
            for path in lock_dir.glob(f"{run_id}.*"):
                remove_quietly(path)
        elif alive is None:
            yield f"an earlier run --detach has the Slurm jobs {' '.join(jobs)}; Slurm does not say whether they go on"
        else:
            yield (
                f"an earlier run --detach goes on as Slurm jobs {' '.join(alive)}: this run shares the cells with "
                "them; scancel ends them"
            )
