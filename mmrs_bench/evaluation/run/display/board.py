"""State of a run for its displays: which cells are done, failed and running, mean OA by method, and the time left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import compress
from statistics import fmean
from typing import NamedTuple

from mmrs_bench.config import PRETRAINING
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import record_place
from mmrs_bench.evaluation.run.jobs import DEFERRED
from mmrs_bench.texts import duration_text, rough_duration

#: Which parts of a title are the column of a cell: scene, split and shots.
_COLUMN = slice(1, 4)
#: Largest part of a running cell that counts as passed; also the part that its pretraining is assumed to take.
_MOST_PASSED = 0.9


class ShownCell(NamedTuple):
    """What displays know of a cell.

    Attributes:
        key: Key of the cell.
        place: Path of its record within the results folder.
        parts: Parts of its title, see `mmrs_bench.evaluation.cells.Cell.title_parts`.
    """

    key: str
    place: str
    parts: tuple[str, ...]

    @classmethod
    def of(cls, cell: Cell) -> ShownCell:
        """What displays know of a cell."""
        return cls(cell.key, record_place(cell.protocol), cell.title_parts)

    @property
    def title(self) -> str:
        """The title of the cell."""
        return " ".join(filter(None, self.parts))

    @property
    def method(self) -> str:
        """Name of the method, with its variant."""
        return self.parts[0]


class Running(NamedTuple):
    """A cell that a worker computes.

    Attributes:
        cell: The cell.
        stage: Name of its stage.
        share: Finished share of the stage.
        began: When the cell began, in seconds of the display's clock.
        pretrained: Whether its pretraining has ended.
    """

    cell: ShownCell
    stage: str
    share: float
    began: float
    pretrained: bool = False

    def passed(self, weight: float, now: float) -> float:
        """The part of its expected seconds ``weight`` that has passed, never all of them.

        A pretraining passes by its finished share, which is right on faster and slower machines too. Everything else
        passes by the clock.
        """
        if self.stage == PRETRAINING or self.pretrained:
            return _MOST_PASSED * weight * (1.0 if self.pretrained else self.share)
        return min(max(0.0, now - self.began), _MOST_PASSED * weight)


@dataclass
class Count:
    """Numbers of cells of one method, or of one method and column."""

    total: int = 0
    done: int = 0
    failed: int = 0
    scored: int = 0
    oa_sum: float = 0.0

    @property
    def mean_oa(self) -> float | None:
        """Mean OA of the cells that are done; None if there are none, or if not all of them were read."""
        return self.oa_sum / self.scored if self.scored and self.scored == self.done else None


class MethodRow(NamedTuple):
    """Numbers of cells of a method: all, running ones, and by column (None where the column has no cell)."""

    method: str
    total: Count
    running: int
    places: list[Count | None]


class Board:
    """State of a run.

    Args:
        cells: All cells.
        seconds: Expected seconds of the cells that the run computes, by key; None if unknown.
        workers: Number of workers.

    Attributes:
        total: Number of cells.
        done: Number of cells that have a record, those of earlier runs included.
        failed: Number of failed cells.
        running: What workers compute, by key.
        ended: Keys of the cells that are done or failed.
        over: Whether the run has ended, finished or not.
    """

    def __init__(
        self, cells: Iterable[ShownCell], *, seconds: Mapping[str, float | None] | None = None, workers: int = 1
    ) -> None:
        self.cells = {cell.key: cell for cell in cells}
        self.total, self.done, self.failed = len(self.cells), 0, 0
        self.running: dict[str, Running] = {}
        self.ended: set[str] = set()
        self.over = False
        varies = [len(set(values)) > 1 for values in zip(*(c.parts for c in self.cells.values()), strict=True)]
        self._in_titles = [True, *varies[1:4], True, *varies[5:]]
        self._in_columns = varies[_COLUMN]
        self._rows: dict[str, Count] = {}
        self._places: dict[tuple[str, str], Count] = {}
        for cell in self.cells.values():
            for count in self._counts(cell):
                count.total += 1
        self.columns = list(dict.fromkeys(column for _, column in self._places))
        expected = dict.fromkeys(self.cells, None) if seconds is None else seconds
        known = [value for value in expected.values() if value is not None]
        typical = fmean(known) if known else 1.0
        self._weights = {key: typical if value is None else value for key, value in expected.items()}
        self._weight, self._ended_weight = sum(self._weights.values()), 0.0
        self._workers = workers if known else 0

    def short_title(self, cell: ShownCell) -> str:
        """The title of a cell without the parts that all cells have in common."""
        return " ".join(filter(None, compress(cell.parts, self._in_titles)))

    def stage(self, key: str, stage: str, share: float, began: float) -> None:
        """Note what a worker does, and when its cell began; the note may come after the end of the cell."""
        if stage == DEFERRED:
            self.stop(key)
        elif key in self.cells and key not in self.ended:
            known = self.running.get(key)
            pretrained = stage != PRETRAINING and known is not None and (known.pretrained or known.stage == PRETRAINING)
            began = min(began, known.began) if known else began
            self.running[key] = Running(self.cells[key], stage, share, began, pretrained)

    def stop(self, key: str) -> None:
        """Note that no worker computes a cell any more."""
        self.running.pop(key, None)

    def close(self) -> None:
        """Note that the run has ended."""
        self.running.clear()
        self.over = True

    def finish(self, key: str) -> None:
        """Note that a cell has a record."""
        self.done += 1
        self._end(key)
        for count in self._counts(self.cells[key]):
            count.done += 1

    def score(self, key: str, oa: float) -> None:
        """Note the OA of a cell that has a record."""
        for count in self._counts(self.cells[key]):
            count.scored += 1
            count.oa_sum += oa

    def fail(self, key: str) -> None:
        """Note that a cell failed."""
        self.failed += 1
        self._end(key)
        for count in self._counts(self.cells[key]):
            count.failed += 1

    def rows(self) -> list[MethodRow]:
        """The methods in the order of the cells."""
        running = Counter(entry.cell.method for entry in list(self.running.values()))
        return [
            MethodRow(method, count, running[method], [self._places.get((method, column)) for column in self.columns])
            for method, count in self._rows.items()
        ]

    def summary(self, elapsed: float, now: float | None = None) -> str:
        """``12 of 50 done, 2 running, 1 failed; 1 min 20 s, about 5 minutes left``, after these seconds.

        Args:
            elapsed: Seconds since the start of the run.
            now: Seconds of the clock that the running cells began by; None leaves them out of the time left.
        """
        counts = f"{self.done} of {self.total} done, {len(self.running)} running, {self.failed} failed"
        if self.over:
            return counts
        ended = self._ended_weight + (0.0 if now is None or not self._workers else self._running_weight(now))
        left = seconds_left(self._weight, ended, elapsed, self._workers)
        return f"{counts}; {duration_text(elapsed)}{'' if left is None else f', {rough_duration(left)} left'}"

    def _running_weight(self, now: float) -> float:
        """The part of the running cells that has passed."""
        return sum(entry.passed(self._weights.get(key, 0.0), now) for key, entry in list(self.running.items()))

    def _end(self, key: str) -> None:
        self.ended.add(key)
        self.running.pop(key, None)
        self._ended_weight += self._weights.get(key, 0.0)

    def _counts(self, cell: ShownCell) -> tuple[Count, Count]:
        column = " ".join(compress(cell.parts[_COLUMN], self._in_columns))
        return self._rows.setdefault(cell.method, Count()), self._places.setdefault((cell.method, column), Count())


def seconds_left(total: float, ended: float, elapsed: float, workers: int) -> float | None:
    """Expected seconds until the end of a run, first by expectation, later by its own pace; None if there is neither.

    Args:
        total: Sum of the expected seconds of its cells.
        ended: The part of ``total`` that has ended.
        elapsed: Seconds since the start.
        workers: Number of workers; 0 if ``total`` is only relative.
    """
    rest = 1 - ended / total if total else 0.0
    if workers:
        return rest * (rest * total / workers + elapsed)
    return rest * elapsed / (1 - rest) if rest < 1 else None
