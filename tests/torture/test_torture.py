"""A short form of the fault campaign: a killed run, and damaged files; the records are those of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_cells import fake_record, make_cells
from torture.arena import Arena, QuickArena
from torture.corruption import damage, plant_claims
from torture.driver import Driver
from torture.rounds import Campaign
from torture.watch import Tally


def campaign(arena: Arena, reference: dict[str, dict[str, Any]]) -> Campaign:
    return Campaign(arena, reference, Tally(), random.Random(0), patience=120)


def damage_all(broken: Campaign, harms: list[tuple[str, str]]) -> None:
    rng = random.Random(1)
    for target, manner in harms:
        path = damage(broken.arena, target, manner, rng)
        assert path is not None, target
        broken.watch.forget(path)


def kill_after_two_records(scene: Any, driver: Driver) -> None:
    end = time.monotonic() + 120
    while driver.running and len(scene.watch.whole) < 2 and time.monotonic() < end:
        scene.watched_sleep(0.02, driver)
    driver.signal(signal.SIGKILL, group=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_runs_that_are_killed_and_find_damaged_files_end_with_the_records_of_an_undisturbed_run(tmp_path: Path) -> None:
    untouched = Driver(calm := Arena(tmp_path / "calm", draws=1))
    try:
        broken = campaign(Arena(tmp_path / "broken", draws=1), {})
        broken.situation = "all processes are killed"
        broken.run("--workers", "1", fault=kill_after_two_records)
        untouched.process.wait(timeout=240)
    finally:
        untouched.close()
    assert untouched.process.returncode == 0, untouched.text()
    broken.reference.update(calm.bodies())
    assert len(broken.reference) == calm.cells

    assert 2 <= len(broken.watch.whole) < calm.cells

    broken.situation = "damaged records"
    damage_all(broken, [("record", "truncated"), ("record", "a FIFO")])
    broken.recover("--workers", "1")
    assert broken.tally.findings == []
    assert broken.arena.bodies() == broken.reference


@pytest.mark.slow
def test_quick_runs_recover_from_kills_and_damaged_locks_and_claims(tmp_path: Path) -> None:
    cells = make_cells(12)
    broken = campaign(QuickArena(tmp_path, draws=12), {cell.key: fake_record(cell).body() for cell in cells})
    broken.situation = "all processes are killed"
    broken.run(fault=kill_after_two_records)
    plant_claims(broken.arena, [key for key in broken.reference if not has_claim(broken.arena, key)])
    broken.situation = "damaged locks and claims"
    damage_all(broken, [("lock", "a symlink"), ("claim", "a FIFO"), ("claim", "overwritten"), ("record", "a folder")])
    broken.recover()
    assert broken.tally.findings == []
    assert broken.arena.bodies() == broken.reference


def has_claim(arena: Arena, key: str) -> bool:
    return os.path.lexists(arena.results / "locks" / f"{key}.claim")
