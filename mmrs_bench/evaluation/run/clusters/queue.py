"""What Slurm's queue says about the jobs of this user."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection

COMMAND_SECONDS = 60.0

#: States of jobs that wait or run.
ALIVE = frozenset(
    {"PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING"}
    | {"SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)


def read_states() -> dict[str, str] | None:
    """States of all jobs of this user that Slurm still has in memory, by id; None if Slurm does not answer.

    It asks ``squeue``, which every cluster has; ``sacct`` needs accounting. Slurm keeps ended jobs for some minutes
    (``MinJobAge``).
    """
    command = ["squeue", "--noheader", "--array", "--states=all", "--user", str(os.getuid()), "--format=%i|%T"]
    try:
        shown = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    pairs = (line.strip().partition("|") for line in shown.splitlines())
    return {job: state for job, _, state in pairs}


def alive_jobs(jobs: Collection[str]) -> list[str] | None:
    """Those of some jobs that wait or run; an id of an array stands for all its jobs. None if Slurm does not answer."""
    states = read_states()
    if states is None:
        return None
    alive = {job.partition("_")[0] for job, state in states.items() if state in ALIVE}
    return [job for job in jobs if job in alive]
