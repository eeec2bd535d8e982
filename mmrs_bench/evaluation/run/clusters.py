"""Common parts of the worker pools on clusters. `slurm` needs the package submitit, `ray_cluster` needs ray.

The results folder must be on a file system that all nodes share.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmrs_bench.errors import BenchError
from mmrs_bench.evaluation.run.jobs import Job, Worker, work
from mmrs_bench.evaluation.run.pool import worker_environment
from mmrs_bench.evaluation.run.stage_files import StageFile


def worker_variables(job: Job) -> dict[str, str]:
    """Environment variables of a worker on another machine: as local ones, and the settings of this package."""
    own = {name: value for name, value in os.environ.items() if name.startswith("MMRS_BENCH_")}
    return {**worker_environment(job.execution.threads), **own}


def shared_job(job: Job) -> Job:
    """The job with absolute paths, because workers on other machines have other working directories."""
    stale = {str(Path(path).absolute()): modified for path, modified in job.stale.items()}
    return replace(job, results=job.results.absolute(), stale=stale)


def remote_work(job: Job, worker: Worker, variables: Mapping[str, str]) -> str:
    """Main function of a worker on another machine.

    Returns:
        The message of the `BenchError` that ended it, or "".
    """
    os.environ.update(variables)
    try:
        work(job, StageFile(job, worker.name), worker)
    except BenchError as error:
        return str(error)
    return ""


def one_line(error: object) -> str:
    """The first line of an error's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def last_line(error: object) -> str:
    """The last line of an error's text, which for a traceback states the error."""
    lines = [line for line in str(error).splitlines() if line.strip(" -")]
    return lines[-1].strip() if lines else type(error).__name__


Options = Mapping[str, Any]
