"""A short form of the fault campaign: a killed run, and damaged files; the records are those of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from torture.arena import Arena
from torture.corruption import damage, plant_claims
from torture.driver import Driver
from torture.rounds import Campaign
from torture.watch import Tally


def campaign(root: Path, reference: dict[str, dict[str, Any]]) -> Campaign:
    return Campaign(Arena(root, draws=1), reference, Tally(), random.Random(0), patience=120)


@pytest.mark.timeout(600)
def test_runs_that_are_killed_and_find_damaged_files_end_with_the_records_of_an_undisturbed_run(tmp_path: Path) -> None:
    untouched = Driver(calm := Arena(tmp_path / "calm", draws=1))
    try:
        broken = campaign(tmp_path / "broken", {})
        broken.situation = "all processes are killed"
        broken.run("--workers", "1", fault=_kill_after_two_records)
        untouched.process.wait(timeout=240)
    finally:
        untouched.close()
    assert untouched.process.returncode == 0, untouched.text()
    broken.reference.update(calm.bodies())
    assert len(broken.reference) == calm.cells

    broken.situation = "damaged records, locks and claims"
    rng = random.Random(1)
    done = broken.watch.whole
    assert 2 <= len(done) < calm.cells
    damaged = [damage(broken.arena, target, manner, rng) for target, manner in HARMS if target != "claim"]
    plant_claims(broken.arena, [key for key in broken.reference if not _has_claim(broken.arena, key)])
    damaged += [damage(broken.arena, target, manner, rng) for target, manner in HARMS if target == "claim"]
    assert None not in damaged
    broken.watch.forget(*(path for path in damaged if path is not None))
    broken.recover("--workers", "1")
    assert broken.tally.findings == []
    assert broken.arena.bodies() == broken.reference


HARMS = [
    ("record", "truncated"),
    ("record", "a FIFO"),
    ("lock", "a folder"),
    ("lock", "a symlink"),
    ("claim", "a FIFO"),
]


def _has_claim(arena: Arena, key: str) -> bool:
    return os.path.lexists(arena.results / "locks" / f"{key}.claim")


def _kill_after_two_records(scene: Any, driver: Driver) -> None:
    end = time.monotonic() + 120
    while driver.running and len(scene.watch.whole) < 2 and time.monotonic() < end:
        scene.watched_sleep(0.02, driver)
    driver.signal(signal.SIGKILL, group=True)
