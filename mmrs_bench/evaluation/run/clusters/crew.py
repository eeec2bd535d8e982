"""Which workers of a cluster run, what they compute, and what to start when one has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mmrs_bench.evaluation.run.clusters.groups import Batch, Group, Share
from mmrs_bench.evaluation.run.jobs import Job, Worker


class Start(NamedTuple):
    """A worker to start.

    Attributes:
        worker: Its name and number.
        share: What it computes.
        after: Name of the worker that must have ended well before this one starts; empty if there is none.
    """

    worker: Worker
    share: Share
    after: str = ""

    @property
    def name(self) -> str:
        """Name of the worker."""
        return self.worker.name


class FollowUp(NamedTuple):
    """What to do after a worker died: workers to cancel, by name, and workers to start."""

    cancel: tuple[str, ...] = ()
    start: tuple[Start, ...] = ()


class Crew:
    """The workers of a run on a cluster.

    Args:
        job: The run.
        groups: Its cells.
        kind: Begins the names of workers.

    Attributes:
        running: Workers that run or are queued, by name.
    """

    def __init__(self, job: Job, groups: Sequence[Group], kind: str) -> None:
        self._job, self._groups, self._kind = job, groups, kind
        self._next = 0
        self.running: dict[str, Start] = {}

    def job_of(self, share: Share) -> Job:
        """The job of a worker."""
        return self._groups[share.group].job(self._job, share.cells)

    def first_starts(self, batches: Sequence[Batch]) -> list[list[Start]]:
        """The workers of each batch."""
        started: list[list[Start]] = []
        for batch in batches:
            before = started[batch.after] if batch.after is not None else []
            names = [start.name for start in before] or [""] * len(batch.shares)
            started.append([self._start(share, after) for share, after in zip(batch.shares, names, strict=True)])
        return started

    def _start(self, share: Share, after: str = "") -> Start:
        number, self._next = self._next, self._next + 1
        start = Start(Worker(f"{self._kind}-{number}", number), share, after)
        self.running[start.name] = start
        return start

    def ended(self, name: str) -> None:
        """Note that a worker ended well."""
        self.running.pop(name, None)

    def is_needed(self, start: Start) -> bool:
        """Whether cells of a worker that ended, or of those that depend on it, are still to do."""
        cells = start.share.cells + start.share.rest
        return not self._job.stopped and any(self._job.outcome(cell) is None for cell in cells)

    def died(self, name: str, *, replace: bool) -> FollowUp:
        """Note that a worker died, and with it the workers that depend on it.

        Args:
            name: Name of the worker.
            replace: Whether to start it, and those that depend on it, again.
        """
        dead = self.running.pop(name)
        dependent = [start for start in self.running.values() if start.after == name]
        for start in dependent:
            del self.running[start.name]
        cancel = tuple(start.name for start in dependent)
        if not replace:
            return FollowUp(cancel)
        again = self._start(dead.share, dead.after if dead.after in self.running else "")
        return FollowUp(cancel, (again, *(self._start(start.share, again.name) for start in dependent)))
