"""Looks at a results folder from outside: which records are whole, lost, wrong or computed twice."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torture.arena import Arena

from mmrs_bench.errors import BenchError
from mmrs_bench.evaluation.results.records import load_record

Identity = tuple[int, int, int]


@dataclass
class Tally:
    """What a campaign counts.

    Attributes:
        faults: Injected faults by kind.
        skipped: Why a kind could not be injected.
        findings: One line for every event that must not happen, with its kind (``lost``, ``wrong``, ...).
    """

    faults: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    finished: int = 0
    runs: int = 0
    findings: list[tuple[str, str]] = field(default_factory=list)

    def count(self, kind: str) -> int:
        """Number of findings of a kind."""
        return sum(found == kind for found, _ in self.findings)


class Watch:
    """Compares every record that appears with the record of an undisturbed run; without ``reference``, with none."""

    def __init__(self, arena: Arena, reference: dict[str, dict[str, Any]], tally: Tally) -> None:
        self.arena, self.reference, self.tally = arena, reference, tally
        self._whole: dict[Path, Identity] = {}
        self._seen: dict[Path, Identity] = {}
        self._signature: object = None
        self._changed = time.monotonic()

    def forget(self, *paths: Path) -> None:
        """Expect nothing of these records: the campaign itself harms or removes them."""
        for path in paths:
            self._whole.pop(path, None)
            self._seen.pop(path, None)

    def forget_all(self) -> None:
        """Expect nothing of any record."""
        self._whole.clear()
        self._seen.clear()

    def accept_again(self, situation: str) -> None:
        """Accept that records were computed again while the campaign hid them; they must be whole and right."""
        for path in self.whole:
            identity = _identity(path)
            if identity is not None and identity != self._whole[path] and self._is_whole(path, situation):
                self._whole[path] = self._seen[path] = identity

    @property
    def whole(self) -> list[Path]:
        """Records that are whole, and must stay so."""
        return sorted(self._whole)

    def poll(self, situation: str) -> None:
        """Look at all records."""
        found = {path: _identity(path) for path in (self.arena.results / "records").rglob("[!.]*.json")}
        for path, identity in found.items():
            if identity is None or self._seen.get(path) == identity:
                continue
            before = self._whole.pop(path, None)
            self._seen[path] = identity
            if self._is_whole(path, situation):
                self._whole[path] = identity
                if before is None:
                    self.tally.finished += 1
                else:
                    self.tally.findings.append(("twice", f"{situation}: {path.name}"))
            elif before is not None:
                self.tally.findings.append(("lost", f"{situation}: {path.name} is no longer whole"))
        for path in [path for path in self._whole if found.get(path) is None]:
            self.forget(path)
            self.tally.findings.append(("lost", f"{situation}: {path.name} vanished"))

    def _is_whole(self, path: Path, situation: str) -> bool:
        if path.is_symlink() or not path.is_file():
            return False
        try:
            record = load_record(path)
        except BenchError:
            return False
        if self.reference and record.body() != self.reference.get(record.key):
            self.tally.findings.append(("wrong", f"{situation}: {path.name} differs from the undisturbed run"))
        return True

    def seconds_without_progress(self, *logs: Path) -> float:
        """Seconds since a file in results or cache, or an output, has changed."""
        sizes = [path.stat().st_size for path in logs if path.exists()]
        entries = [_entries(folder) for folder in (self.arena.results, self.arena.cache)]
        signature = (sizes, entries)
        if signature != self._signature:
            self._signature, self._changed = signature, time.monotonic()
        return time.monotonic() - self._changed

    def restart_clock(self) -> None:
        """Count a new run as progress."""
        self._changed = time.monotonic()


def _entries(folder: Path) -> tuple[int, int]:
    count = newest = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            identity = _identity(Path(parent, name))
            if identity is not None:
                count, newest = count + 1, max(newest, identity[1])
    return count, newest


def _identity(path: Path) -> Identity | None:
    try:
        state = path.lstat()
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size
