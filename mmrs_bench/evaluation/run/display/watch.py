"""Watch runs of other processes and machines through their results folder. Nothing is written there.

A look costs the names of the files in the folders of pending cells. Each record is read once.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, Group

from mmrs_bench.errors import ConfigError, RecordError
from mmrs_bench.evaluation.results.records import FAILURES, RECORDS, load_record, names_in
from mmrs_bench.evaluation.results.verified import VerifiedFiles
from mmrs_bench.evaluation.run.claims import is_locked, read_claim
from mmrs_bench.evaluation.run.clusters.queue import alive_jobs
from mmrs_bench.evaluation.run.display.announcement import (
    Plan,
    PlannedCell,
    has_owner,
    planned_outcome,
    read_plan,
    run_ids,
)
from mmrs_bench.evaluation.run.display.board import Board, ShownCell
from mmrs_bench.evaluation.run.display.console import is_live, print_line
from mmrs_bench.evaluation.run.display.progress import (
    STATUS_SECONDS,
    LiveView,
    failure_line,
    score_text,
    status_lines,
)
from mmrs_bench.evaluation.run.display.view import board_view
from mmrs_bench.evaluation.run.stage_files import SUFFIX, read_stages
from mmrs_bench.io import garbage_kept

#: Least seconds between two looks. A look takes at most one part of the time in so many.
LOOK_SECONDS = 1.0
LOOK_SHARE = 20
#: Seconds per look for reading scores of records that are older than the watching; and of the only look.
READ_SECONDS, READ_ONCE_SECONDS = 0.2, 2.0
#: Seconds without owner and locks after which a run is dead. A worker may be between two cells.
QUIET_SECONDS = 15.0
#: Least seconds between two questions to Slurm.
QUEUE_SECONDS = 10.0
#: Failures that one list names.
MOST_FAILURES = 10

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


class State(Enum):
    """State of runs: on, submitted (``run --detach``), without the process that started them, killed, ended."""

    ON = auto()
    SUBMITTED = auto()
    ORPHANED = auto()
    KILLED = auto()
    ENDED = auto()


class Outcome(NamedTuple):
    """The record or failure record of a cell."""

    cell: ShownCell
    path: Path
    failed: bool


class Watched:
    """The runs of a results folder, as its files show them.

    Args:
        results: Folder of the records.
        plans: Plans of the runs, by id.

    Attributes:
        board: State of their cells.
    """

    def __init__(self, results: Path, plans: Mapping[str, Plan]) -> None:
        self._results, self._locks, self._runs = results, results / "locks", tuple(plans)
        by_key: dict[str, PlannedCell] = {}
        for plan in sorted(plans.values(), key=lambda plan: plan.started):
            by_key |= {planned.cell.key: planned for planned in plan.cells}
        self._started = min(plan.started for plan in plans.values())
        #: Slurm jobs of detached runs, and whether any of them waits or runs.
        self.jobs = tuple(job for plan in plans.values() for job in plan.jobs)
        self._queued, self._asked = True, -math.inf
        seconds = {key: planned.seconds for key, planned in by_key.items() if planned.pending}
        workers = sum(plan.workers for plan in plans.values())
        self.board = Board((planned.cell for planned in by_key.values()), seconds=seconds, workers=workers)
        self._pending: dict[str, PlannedCell] = {}
        self._unread: deque[Outcome] = deque()
        self._verified = VerifiedFiles(results / RECORDS)
        for key, planned in by_key.items():
            if planned.pending:
                self._pending[key] = planned
                continue
            self.board.finish(key)
            if planned.oa is not None:
                self.board.score(key, planned.oa)

    @property
    def elapsed(self) -> float:
        """Seconds since the start of the first run; clocks of machines may differ."""
        return max(0.0, time.time() - self._started)

    def look(self) -> list[Outcome]:
        """Update the board from the files; return the new outcomes."""
        self._look_at_running()
        names: dict[Path, frozenset[str]] = {}
        found = []
        for planned in list(self._pending.values()):
            outcome = self._outcome(planned, names)
            if outcome is None:
                continue
            del self._pending[planned.cell.key]
            (self.board.fail if outcome.failed else self.board.finish)(planned.cell.key)
            found.append(outcome)
        return found

    def score_later(self, outcomes: Iterable[Outcome]) -> None:
        """Note records whose scores `read_scores` reads."""
        self._unread.extend(outcome for outcome in outcomes if not outcome.failed)

    def read_scores(self, seconds: float) -> None:
        """Read records for about so many seconds."""
        end = time.monotonic() + seconds
        with garbage_kept():
            while self._unread and time.monotonic() < end:
                self.line_of(self._unread.popleft())

    def line_of(self, outcome: Outcome) -> str:
        """What an outcome says, in one line; a record's OA is added to the board."""
        try:
            if outcome.failed:
                return failure_line(outcome.cell.title, outcome.path)
            record = load_record(outcome.path, verified=self._verified)
        except RecordError as error:
            return f"{outcome.cell.title}: {error}"
        self.board.score(outcome.cell.key, record.scores.oa)
        return f"{outcome.cell.title}: {score_text(record)}"

    def state(self) -> State:
        """The state of the runs at this moment. Between two cells, orphaned workers hold no lock."""
        announced = set(run_ids(self._locks)).intersection(self._runs)
        if not announced:
            return State.ENDED
        if any(has_owner(self._locks, run) for run in announced):
            return State.ON
        if self.jobs and self.board.done + self.board.failed < self.board.total:
            return State.SUBMITTED if self._is_queued() else State.KILLED
        locked = any(is_locked(self._locks, key) for key in self.board.running)
        return State.ORPHANED if locked else State.KILLED

    def _is_queued(self) -> bool:
        """Whether Slurm jobs of detached runs wait or run; also where Slurm does not answer."""
        now = time.monotonic()
        if now - self._asked >= QUEUE_SECONDS:
            alive = alive_jobs(self.jobs)
            self._queued, self._asked = alive is None or bool(alive), now
        return self._queued

    def _outcome(self, planned: PlannedCell, names: dict[Path, frozenset[str]]) -> Outcome | None:
        """The outcome of a cell; ``names`` keeps the names of files by folder."""
        found = planned_outcome(self._results, planned, names)
        return Outcome(planned.cell, *found) if found else None

    def _look_at_running(self) -> None:
        """What runs is what these runs have claimed; stage files may be a second old."""
        board, now, names = self.board, time.monotonic(), names_in(self._locks)
        for key in set(board.running):
            if f"{key}.claim" not in names:
                board.stop(key)
        for name in names:
            key, _, kind = name.partition(".")
            if kind == "claim" and key in self._pending and key not in board.running:
                path = self._locks / name
                attempts = read_claim(path).attempts
                if attempts and attempts[-1].run in self._runs:
                    board.stage(key, "", 0.0, now - _age(path))
        for name in names:
            run, worker = name.partition(".")[::2]
            # A worker with a file of its end died.
            if run in self._runs and worker.endswith(SUFFIX) and name.removesuffix(SUFFIX) + ".end" not in names:
                path = self._locks / name
                age = _age(path)
                for report in read_stages(path):
                    if report.key in board.running:
                        board.stage(report.key, report.name, report.done, now - report.seconds - age)


def _age(path: Path) -> float:
    """Seconds since a file was written; clocks of machines may differ."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:  # it was removed meanwhile
        return max(0.0, time.time())


def watch(results: Path, console: Console, *, once: bool = False) -> int:
    """Show the progress of the runs of a results folder until they end.

    Args:
        results: Folder of the records.
        console: Where to show it: a live table on a terminal, otherwise one line per finished cell.
        once: Whether to show the state of this moment only.

    Returns:
        0 if all cells are done, or there is no run; 1 if cells failed or are missing at the end; 130 after Ctrl-C.

    Raises:
        BenchError: If the folder does not exist or cannot be read.
    """
    if not results.is_dir():
        raise ConfigError(f"{results}: there is no such folder; give the folder of the run (--results of its command)")
    watched = _find_runs(results)
    if watched is None:
        records, failures = (_count_files(results / kind) for kind in (RECORDS, FAILURES))
        print_line(console, f"{results}: no run is on; {records:,} records, {failures:,} failed cells")
        return EXIT_FAILED if failures else 0
    if once:
        return _show_once(watched, console)
    try:
        while True:
            state = _follow(watched, console)
            following = _find_runs(results) if state is State.ENDED else None
            if following is None:
                return _report_end(watched, state, console)
            watched = following
    except KeyboardInterrupt:
        print_line(console, "stopped watching; the run goes on")
        return EXIT_INTERRUPTED


def _find_runs(results: Path) -> Watched | None:
    """The runs that are on; without any, those that were killed; None if there are none either."""
    found = {}
    for run in run_ids(results / "locks"):
        plan = read_plan(results / "locks", run)
        if plan is not None:
            found[run] = Watched(results, {run: plan}), plan
    states = {}
    for run, (watched, _) in found.items():
        watched.look()
        states[run] = watched.state()
    alive = (State.ON, State.SUBMITTED, State.ORPHANED)
    on = {run: plan for run, (_, plan) in found.items() if states[run] in alive}
    killed = {run: plan for run, (_, plan) in found.items() if states[run] is State.KILLED}
    return Watched(results, on or killed) if on or killed else None


def _show_once(watched: Watched, console: Console) -> int:
    outcomes = watched.look()
    watched.score_later(outcomes)
    watched.read_scores(READ_ONCE_SECONDS)
    state = watched.state()
    if state in (State.KILLED, State.ENDED):
        watched.board.close()
    console.print(board_view(watched.board, elapsed=watched.elapsed, now=time.monotonic(), width=console.width))
    _print_failures(watched, outcomes, console)
    if state in (State.SUBMITTED, State.ORPHANED, State.KILLED):
        print_line(console, _state_text(state, watched.jobs))
    return 0


def _print_failures(watched: Watched, outcomes: Iterable[Outcome], console: Console) -> None:
    failed = [outcome for outcome in outcomes if outcome.failed]
    for outcome in failed[:MOST_FAILURES]:
        print_line(console, watched.line_of(outcome))
    if len(failed) > MOST_FAILURES:
        print_line(console, f"and {len(failed) - MOST_FAILURES} more failed cells")


def _state_text(state: State, jobs: Sequence[str]) -> str:
    if state is State.SUBMITTED:
        return f"this run was submitted to Slurm with --detach, jobs {' '.join(jobs)}; scancel ends them"
    if state is State.ORPHANED:
        return "the process that started this run has ended; its workers go on"
    what = f"the Slurm jobs {' '.join(jobs)} of this run have ended" if jobs else "the run was killed"
    return f"{what}; run the same command again to continue"


def _follow(watched: Watched, console: Console) -> State:
    """Show runs until they end or are dead."""
    outcomes = watched.look()
    _print_failures(watched, outcomes, console)
    watched.score_later(outcomes)
    state, quiet_since, status_at = State.ON, None, time.monotonic()

    def view(width: int, height: int) -> Group:
        return board_view(watched.board, elapsed=watched.elapsed, now=time.monotonic(), width=width, height=height)

    with LiveView(console, view):
        while True:
            begin = time.monotonic()
            now_state = watched.state()  # before the outcomes are read, so that the last ones are not missed
            outcomes = watched.look()
            for number, outcome in enumerate(outcomes, len(watched.board.ended) - len(outcomes) + 1):
                print_line(console, f"[{number}/{watched.board.total}] {watched.line_of(outcome)}")
            watched.read_scores(READ_SECONDS)
            if now_state in (State.SUBMITTED, State.ORPHANED) and state is State.ON:
                print_line(console, _state_text(now_state, watched.jobs))
            quiet_since = (quiet_since or begin) if now_state is State.KILLED else None
            if now_state is State.ENDED or (quiet_since is not None and begin - quiet_since >= QUIET_SECONDS):
                return now_state
            state = now_state if now_state is not State.KILLED else state
            if not is_live(console) and begin - status_at >= STATUS_SECONDS:
                status_at = begin
                for text in status_lines(watched.board, watched.elapsed):
                    print_line(console, text)
            time.sleep(max(LOOK_SECONDS, LOOK_SHARE * (time.monotonic() - begin)))


def _report_end(watched: Watched, state: State, console: Console) -> int:
    board = watched.board
    if board.done == board.total:
        print_line(console, f"all {board.total} cells are done")
        return 0
    reason = f"; {_state_text(state, watched.jobs)}" if state is State.KILLED else ""
    print_line(console, f"{board.done} of {board.total} cells are done, {board.failed} failed{reason}")
    return EXIT_FAILED


def _count_files(folder: Path) -> int:
    """Number of records below a folder."""
    return sum(name.endswith(".json") for _, _, names in os.walk(folder) for name in names)
