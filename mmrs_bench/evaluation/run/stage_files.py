"""Small files in the lock folder that contain what the workers of a run do at the moment.

A worker of a cluster writes its own file, the process of a local run writes one for all its workers. They are for
displays only: nothing depends on them, and the run removes them when it ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from mmrs_bench.errors import RecordError
from mmrs_bench.evaluation.run.claims import remove_quietly
from mmrs_bench.evaluation.run.jobs import Job
from mmrs_bench.evaluation.run.pool import Stage
from mmrs_bench.io import canonical_json
from mmrs_bench.reading import read_json, validated

#: Least number of seconds between two updates of a file.
STAGE_SECONDS = 1.0
SUFFIX = ".stage"


class StageReport(NamedTuple):
    """What a worker does: cell, stage, its finished share, and the seconds since the cell began."""

    key: str
    name: str
    done: float
    seconds: float


class StageFile:
    """Writes what one or more workers do, at most once a second.

    Args:
        job: The run.
        name: Name of the file.
        clock: Returns seconds.
    """

    def __init__(self, job: Job, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = job.file(f"{name}{SUFFIX}")
        self._clock = clock
        self._stages: dict[int, tuple[Stage, float]] = {}
        self._written_at = -math.inf
        self._changed = False

    def __call__(self, key: str, stage: str, done: float) -> None:
        """Report the stage of the only worker; a new cell or stage is written at once."""
        before = self._stages.get(0)
        self.note(0, Stage(key, stage, done))
        self.write(at_once=before is None or before[0][:2] != (key, stage))

    def note(self, worker: int, stage: Stage) -> None:
        """Remember the stage of a worker for the next `write`."""
        before = self._stages.get(worker)
        began = before[1] if before is not None and before[0].key == stage.key else self._clock()
        self._stages[worker] = (stage, began)
        self._changed = True

    def forget(self, worker: int) -> None:
        """Note that a worker ended."""
        self._changed |= self._stages.pop(worker, None) is not None

    def write(self, *, at_once: bool = False) -> None:
        """Write the file if something changed, and the last time was a second ago."""
        now = self._clock()
        if not self._changed or (now - self._written_at < STAGE_SECONDS and not at_once):
            return
        self._changed, self._written_at = False, now
        reports = [StageReport(*stage, round(now - began, 1)) for stage, began in self._stages.values()]
        part = self._path.with_suffix(".part")
        try:
            part.write_text(canonical_json(reports), encoding="utf-8")
            part.replace(self._path)
        except OSError:  # only a display; the claim and the record report a folder that cannot be written
            remove_quietly(part)


def read_stages(path: Path) -> list[StageReport]:
    """What a file reports; nothing if there is none."""
    if not path.exists():
        return []
    try:
        return validated(
            list[StageReport], read_json(path, error=RecordError, advice=""), where=path, error=RecordError
        )
    except RecordError:  # only a display; a worker may have ended while it wrote
        return []


def last_stages(job: Job, worker: str) -> list[Stage]:
    """The last stage that each process of a worker of a cluster reported."""
    return [Stage(*report[:3]) for report in read_stages(job.file(f"{worker}{SUFFIX}"))]


def new_stages(job: Job, workers: Iterable[str], known: dict[str, list[Stage]]) -> list[Stage]:
    """The stages that changed since the last call; ``known`` keeps the last stages by worker."""
    stages = []
    cells = {cell.key for cell in job.cells}
    for worker in workers:
        if found := last_stages(job, worker):
            stages += [stage for stage in found if stage not in known.get(worker, ()) and stage.key in cells]
            known[worker] = found
    return stages
