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
from torture.arena import Arena
from torture.corruption import MANNERS, TARGETS
from torture.driver import Driver
from torture.faults import Fault, running_faults
from torture.rounds import Campaign
from torture.watch import Tally

#: Findings that make the campaign fail.
DEADLY = ("lost", "wrong", "hang", "traceback")


def undisturbed(arena: Arena) -> dict[str, dict[str, Any]]:
    """The bodies of the records of a run without faults."""
    driver = Driver(arena, "--keep-going")
    driver.process.wait()
    driver.close()
    bodies = arena.bodies()
    if driver.process.returncode != 0 or len(bodies) != arena.cells:
        raise SystemExit(f"the undisturbed run failed:\n{driver.text()}")
    return bodies


def decks(rng: random.Random) -> tuple[list[tuple[str, Fault]], list[tuple[str, str]]]:
    """All faults of running and resting files, shuffled."""
    running = list(running_faults().items())
    resting = [(target, manner) for target in TARGETS for manner in MANNERS]
    rng.shuffle(running)
    rng.shuffle(resting)
    return running, resting


def torture(minutes: float, seed: int, patience: float, draws: int, console: Console) -> Tally:
    """Run the campaign."""
    tally, rng = Tally(), random.Random(seed)
    deadline = time.monotonic() + 60 * minutes
    root = Path(tempfile.mkdtemp(prefix="torture-"))
    arenas = [Arena(root / "plain", draws=draws), Arena(root / "small", draws=draws, disk=True)]
    try:
        reference = undisturbed(arenas[0])
        campaigns = [Campaign(arena, reference, tally, rng, patience=patience) for arena in arenas]
        running: list[tuple[str, Fault]] = []
        resting: list[tuple[str, str]] = []
        number = 0
        while time.monotonic() < deadline:
            if not running or not resting:
                running, resting = decks(rng)
            seen = len(tally.findings)
            campaign = campaigns[0]
            number += 1
            if number % 12 == 0:
                campaign.limited_round()
            elif number % 3:
                name, fault = running.pop()
                campaign = campaigns[name == "disk full"]
                campaign.running_round(name, fault)
            else:
                campaign.resting_round([resting.pop() for _ in range(min(3, len(resting)))])
            console.print(f"{number}: {campaign.situation}", highlight=False, markup=False)
            for kind, text in tally.findings[seen:]:
                console.print(f"  {kind.upper()} {text}", highlight=False, markup=False, soft_wrap=True)
    finally:
        for arena in arenas:
            arena.close()
        shutil.rmtree(root, ignore_errors=True)
    return tally


def report(tally: Tally, console: Console) -> int:
    """Print the table; returns the exit status."""
    lines = [f"{count:6d}  {name}" for name, count in sorted(tally.faults.items())]
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
    given = parser.parse_args(arguments)
    console = Console()
    return report(torture(given.minutes, given.seed, given.patience, given.draws, console), console)


if __name__ == "__main__":
    sys.exit(main())
