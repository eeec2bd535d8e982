"""A simulation of runs on clusters: how long cells take on a number of workers, some of which die.

A discrete-event simulation of what `mmrs_bench.evaluation.run.jobs` and `clusters` do. A worker takes one cell after
the other. Cells that share a pretraining wait for the first ones, and a worker that finds no cell ends until there is
one. A worker that dies loses its cell's work; another one starts. Results are estimates, not measurements.
"""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.claims import MAX_ATTEMPTS
from mmrs_bench.evaluation.run.clusters.groups import pretraining_units
from mmrs_bench.evaluation.run.planning import expected_seconds

#: Seconds until a new worker computes its first cell (docs/performance.md), without the time in a queue.
START_SECONDS = 7.0


class Step(NamedTuple):
    """A cell of the simulation.

    Attributes:
        seconds: Its time on a worker that does not die.
        after: Number of the step that must be done before; None if there is none.
    """

    seconds: float
    after: int | None = None


class Outcome(NamedTuple):
    """What a simulated run takes, in seconds.

    Attributes:
        workers: Most workers at the same time.
        makespan: From the start to the last cell.
        useful: Time of finished cells, over all workers.
        held: Time that workers run, over all workers.
        deaths: Number of workers that died.
        failed: Number of cells without a result, because their workers died too often.
    """

    workers: int
    makespan: float
    useful: float
    held: float
    deaths: int
    failed: int

    @property
    def efficiency(self) -> float:
        """Useful part of the time of all workers until the end of the run, in [0, 1]."""
        return self.useful / (self.workers * self.makespan) if self.makespan else 1.0


def steps_of(cells: Sequence[Cell], records: Sequence[Record]) -> tuple[list[Step], list[Cell]]:
    """The steps of cells with known times, pretrainings first, and the cells whose times nobody measured.

    Args:
        cells: Cells in the order in which they are computed.
        records: Finished cells.
    """
    units = pretraining_units(cells, records)
    chains = [unit.first for unit in units]
    of_unit = {cell.key: number for number, unit in enumerate(units) for cell in unit.rest}
    first = {cell.key for chain in chains for cell in chain}
    order = [*(cell for chain in chains for cell in chain), *(cell for cell in cells if cell.key not in first)]
    seconds = dict(zip((cell.key for cell in order), expected_seconds(order, records), strict=True))
    steps: list[Step] = []
    last: list[int | None] = []
    for chain in chains:
        after = None
        for cell in chain:
            if (value := seconds[cell.key]) is not None:
                steps.append(Step(value, after))
                after = len(steps) - 1
        last.append(after)
    for cell in order:
        value = seconds[cell.key]
        if cell.key not in first and value is not None:
            steps.append(Step(value, last[of_unit[cell.key]] if cell.key in of_unit else None))
    return steps, [cell for cell in cells if seconds[cell.key] is None]


@dataclass
class _Run:
    """The state of a simulated run; steps are named by their numbers."""

    steps: Sequence[Step]
    workers: int
    death_seconds: float | None
    start_seconds: float
    stream: random.Random
    ready: list[int] = field(default_factory=list)
    #: When workers are free, and what they did: (time, number of the event, step or -1, whether it was finished).
    events: list[tuple[float, int, int, bool]] = field(default_factory=list)
    attempts: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    useful: float = 0.0
    held: float = 0.0
    deaths: int = 0
    failed: int = 0
    end: float = 0.0
    number: int = 0
    parked: int = 0
    starting: int = 0

    def __post_init__(self) -> None:
        self.followers: dict[int, list[int]] = defaultdict(list)
        for number, step in enumerate(self.steps):
            if step.after is None:
                self.ready.append(number)
            else:
                self.followers[step.after].append(number)

    def simulate(self) -> Outcome:
        self.parked = self.workers
        self._wake(0.0)
        while self.events:
            now, _, step, finished = heapq.heappop(self.events)
            if step >= 0:
                self._handle_end(now, step, finished=finished)
            else:
                self.starting -= 1
            self._take(now)
            self._wake(now)
        return Outcome(self.workers, self.end, self.useful, self.held, self.deaths, self.failed)

    def _wake(self, now: float) -> None:
        """Start as many workers as there are cells for them."""
        for _ in range(min(self.parked, len(self.ready) - self.starting)):
            self.parked -= 1
            self.starting += 1
            self.held += self.start_seconds
            self._push(now + self.start_seconds, -1, finished=False)

    def _take(self, now: float) -> None:
        """Let a free worker take the first cell, or end."""
        if not self.ready:
            self.parked += 1
            return
        step = heapq.heappop(self.ready)
        seconds = self.steps[step].seconds
        death = self.stream.expovariate(1 / self.death_seconds) if self.death_seconds else seconds
        if death >= seconds:
            self.held += seconds
            self._push(now + seconds, step, finished=True)
        else:  # another worker starts in its place
            self.held += death + self.start_seconds
            self.deaths += 1
            self._push(now + death + self.start_seconds, step, finished=False)

    def _handle_end(self, now: float, step: int, *, finished: bool) -> None:
        if finished:
            self.useful += self.steps[step].seconds
            self.end = now
            for follower in self.followers[step]:
                heapq.heappush(self.ready, follower)
        else:
            self.attempts[step] += 1
            if self.attempts[step] < MAX_ATTEMPTS:
                heapq.heappush(self.ready, step)
            else:
                self.end = now
                self._fail(step)

    def _fail(self, step: int) -> None:
        self.failed += 1
        for follower in self.followers[step]:
            self._fail(follower)

    def _push(self, time: float, step: int, *, finished: bool) -> None:
        self.number += 1
        heapq.heappush(self.events, (time, self.number, step, finished))


def simulate(
    steps: Sequence[Step],
    workers: int,
    *,
    death_hours: float | None,
    start_seconds: float = START_SECONDS,
    seed: int = 0,
) -> Outcome:
    """Simulate a run. The same arguments give the same outcome.

    Args:
        steps: The cells.
        workers: Most workers at the same time.
        death_hours: Mean time until a worker dies; None if none dies.
        start_seconds: Time until a new worker computes its first cell.
        seed: Seed of the deaths.
    """
    stream = random.Random(f"{seed} {workers}")
    return _Run(steps, workers, death_hours and death_hours * 3600, start_seconds, stream).simulate()
