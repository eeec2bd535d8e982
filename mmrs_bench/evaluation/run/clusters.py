"""Common parts of the worker pools on clusters. `slurm` needs the package submitit, `ray_cluster` needs ray.

The results folder must be on a file system that all nodes share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mmrs_bench.errors import BenchError, RecordError
from mmrs_bench.evaluation.run.claims import remove_quietly
from mmrs_bench.evaluation.run.jobs import Job, Worker, work
from mmrs_bench.evaluation.run.pool import Stage, worker_environment
from mmrs_bench.io import canonical_json
from mmrs_bench.reading import read_json, validated

#: Least number of seconds between two updates of a worker's stage file.
STAGE_SECONDS = 1.0


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


class StageFile:
    """Reports the stages of a worker through a small file in the lock folder, which the run's process reads."""

    def __init__(self, job: Job, name: str) -> None:
        self._path = job.file(f"{name}.stage")
        self._last: tuple[str, str] = ("", "")
        self._time = 0.0

    def __call__(self, key: str, stage: str, done: float) -> None:
        """Write a stage, at most once a second unless the cell or the stage changes."""
        now = time.monotonic()
        if (key, stage) == self._last and now - self._time < STAGE_SECONDS:
            return
        self._last, self._time = (key, stage), now
        part = self._path.with_suffix(".part")
        try:
            part.write_text(canonical_json([key, stage, done]), encoding="utf-8")
            part.replace(self._path)
        except OSError:  # only a display; the claim and the record report a folder that cannot be written
            remove_quietly(part)


def read_stage(job: Job, name: str) -> Stage | None:
    """The last stage that a worker reported, or None."""
    path = job.file(f"{name}.stage")
    if not path.exists():
        return None
    try:
        fields = read_json(path, error=RecordError, advice="")
        return Stage(*validated(TypeAdapter(tuple[str, str, float]), fields, where=path, error=RecordError))
    except RecordError:  # only a display; a worker may have ended while it wrote
        return None


def new_stages(job: Job, names: Iterable[str], known: dict[str, Stage]) -> list[Stage]:
    """The stages that changed since the last call; ``known`` keeps the last stage by worker."""
    stages = []
    cells = {cell.key for cell in job.cells}
    for name in names:
        stage = read_stage(job, name)
        if stage is not None and stage != known.get(name) and stage.key in cells:
            known[name] = stage
            stages.append(stage)
    return stages


def one_line(error: object) -> str:
    """The first line of an error's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def last_line(error: object) -> str:
    """The last line of an error's text, which for a traceback states the error."""
    lines = [line for line in str(error).splitlines() if line.strip(" -")]
    return lines[-1].strip() if lines else type(error).__name__


Options = Mapping[str, Any]
