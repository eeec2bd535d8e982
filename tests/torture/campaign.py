"""Fault campaign: break runs of the command line in every way that users met, and compare all records at the end.

``make torture MINUTES=10`` or ``python -m torture.campaign --minutes 10`` in the folder ``tests``.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from torture.arena import Arena, QuickArena
from torture.corruption import MANNERS, TARGETS
from torture.driver import Driver
from torture.faults import Fault, running_faults
from torture.rounds import Campaign
from torture.watch import Tally

#: Findings that make the campaign fail.
DEADLY = ("lost", "wrong", "hang", "traceback")
#: Cells of the runs that need no torch.
QUICK_CELLS = 40


def undisturbed(arena: Arena) -> dict[str, dict[str, Any]]:
    """The bodies of the records of a run without faults."""
    driver = Driver(arena, "--keep-going")
    driver.process.wait()
    driver.close()
    bodies = arena.bodies()
    if driver.process.returncode != 0 or len(bodies) != arena.cells:
        raise SystemExit(f"the undisturbed run failed:\n{driver.text()}")
    return bodies


class Decks:
    """All faults in random order, dealt again and again."""

    def __init__(self, rng: random.Random, *, quick: bool) -> None:
        self._rng, self._quick = rng, quick
        self._running: list[tuple[str, Fault]] = []
        self._resting: list[tuple[str, str]] = []
        self._number = 0

    def play(self, usual: Campaign, small: Campaign) -> Campaign:
        """One round in one of two arenas; ``small`` has a disk that can be filled."""
        if not self._running or not self._resting:
            self._shuffle()
        self._number += 1
        campaign = usual
        if self._number % 12 == 0:
            campaign.limited_round()
        elif self._number % 3:
            name, fault = self._running.pop()
            campaign = small if name == "disk full" else usual
            campaign.running_round(name, fault)
        else:
            campaign.resting_round([self._resting.pop() for _ in range(min(3, len(self._resting)))])
        return campaign

    def _shuffle(self) -> None:
        self._running = [
            (name, fault) for name, fault in running_faults().items() if not (self._quick and _in_cache(name))
        ]
        targets = [target for target, pattern in TARGETS.items() if not (self._quick and pattern.startswith("cache"))]
        self._resting = [(target, manner) for target in targets for manner in MANNERS]
        self._rng.shuffle(self._running)
        self._rng.shuffle(self._resting)


def _in_cache(name: str) -> bool:
    return name.startswith(("cache", "checkpoint", "features", "pretrained", "results/work"))


def torture(minutes: float, seed: int, patience: float, draws: int, console: Console, *, only_quick: bool) -> Tally:
    """Run the campaign; half of the time goes to runs with quick cells, which start faster."""
    tally, rng = Tally(), random.Random(seed)
    deadline = time.monotonic() + 60 * minutes
    root = Path(tempfile.mkdtemp(prefix="torture-"))
    arenas: list[Arena] = []
    try:
        groups = []
        for kind, name, count in ((QuickArena, "quick", QUICK_CELLS), (Arena, "real", draws))[: 2 - only_quick]:
            usual, small = kind(root / name, draws=count), kind(root / f"{name}-small", draws=count, disk=True)
            arenas += [usual, small]
            reference = undisturbed(usual)
            campaigns = [Campaign(arena, reference, tally, rng, patience=patience) for arena in (usual, small)]
            groups.append((campaigns, Decks(rng, quick=kind is QuickArena)))
        spent = [0.0] * len(groups)
        while (start := time.monotonic()) < deadline:
            group = spent.index(min(spent))
            (usual_campaign, small_campaign), decks = groups[group]
            seen = len(tally.findings)
            campaign = decks.play(usual_campaign, small_campaign)
            spent[group] += time.monotonic() - start
            line = f"{tally.faults.total()} faults, {tally.finished} cells: {campaign.situation}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
            for kind_of_finding, text in tally.findings[seen:]:
                console.print(f"  {kind_of_finding.upper()} {text}", highlight=False, markup=False, soft_wrap=True)
    finally:
        for arena in arenas:
            arena.close()
        shutil.rmtree(root, ignore_errors=True)
    return tally


def report(tally: Tally, console: Console) -> int:
    """Print the table; returns the exit status."""
    lines = [f"{count:6d}  {name}" for name, count in sorted(tally.faults.items()) if count]
    lines += [f"  skip  {name}: {reason}" for name, reason in sorted(tally.skipped.items())]
    lines += [f"{kind.upper()}: {text}" for kind, text in tally.findings]
    counts = {
        "faults injected": tally.faults.total(),
        "runs started": tally.runs,
        "cells finished": tally.finished,
        "records lost": tally.count("lost"),
        "records wrong": tally.count("wrong"),
        "cells computed twice": tally.count("twice"),
        "hangs": tally.count("hang"),
        "tracebacks": tally.count("traceback"),
    }
    lines += [f"{count:6d}  {name}" for name, count in counts.items()]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return int(any(tally.count(kind) for kind in DEADLY))


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=60.0, help="seconds without progress that are a hang")
    parser.add_argument("--draws", type=int, default=4, help="draws of each of the five methods")
    parser.add_argument("--only-quick", action="store_true", help="only runs whose cells need no torch")
    given = parser.parse_args(arguments)
    console = Console()
    tally = torture(given.minutes, given.seed, given.patience, given.draws, console, only_quick=given.only_quick)
    return report(tally, console)


if __name__ == "__main__":
    sys.exit(main())
