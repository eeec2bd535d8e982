"""Faults that are injected while a run is on: killed processes, second runs, full disks, folders that vanish."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

from torture.arena import Arena
from torture.corruption import TARGETS, damage, put_back, unwritable
from torture.driver import Driver
from torture.watch import Watch


class Scene(Protocol):
    """What a fault sees of the campaign (`torture.campaign.Campaign`)."""

    arena: Arena
    rng: random.Random
    watch: Watch
    situation: str

    def moment(self, driver: Driver) -> None:
        """Wait for a random moment of a run."""

    def watched_sleep(self, seconds: float, driver: Driver | None = None) -> None:
        """Sleep, and look at the records meanwhile."""

    def harmed(self, path: Path) -> None:
        """Expect nothing more of a record."""


#: Begins the text that a fault returns if a run hangs.
HANG = "hang"
#: Injects a fault into a run; returns a text if it was not possible, or if a run hangs.
Fault = Callable[[Scene, Driver], str | None]


def _kill_workers(scene: Scene, driver: Driver, *, times: int = 1, number: int = signal.SIGKILL) -> None:
    for _ in range(times):
        scene.moment(driver)
        workers = driver.workers()
        if workers:
            with suppress(ProcessLookupError):
                os.kill(scene.rng.choice(workers), number)


def _signalled(number: int, *, group: bool) -> Fault:
    def inject(scene: Scene, driver: Driver) -> None:
        scene.moment(driver)
        driver.signal(number, group=group)

    return inject


def _second_run(scene: Scene, driver: Driver, *, kill: bool = False) -> str | None:
    if scene.rng.random() < 0.5:
        scene.moment(driver)
    other = Driver(scene.arena, "--keep-going")
    try:
        if kill:
            scene.moment(other)
            driver.signal(signal.SIGKILL, group=True)
        end = time.monotonic() + 120
        while other.running and time.monotonic() < end:
            scene.watched_sleep(0.05, other)
        return f"{HANG}: the second run did not end" if other.running else None
    finally:
        other.close()


def _moved_away(name: str, *, replaced: bool = False) -> Fault:
    """Rename a folder away for a while, below the folder of results and cache; a file can take its place."""

    def inject(scene: Scene, driver: Driver) -> str | None:
        scene.moment(driver)
        place, away = scene.arena.disk / name, scene.arena.disk / "away"
        if not place.is_dir():
            return "absent"
        place.rename(away)
        try:
            if replaced:
                place.write_text("not a folder")
            end = time.monotonic() + scene.rng.choice([0.3, 2.0, 60.0])
            while driver.running and time.monotonic() < end:
                time.sleep(0.02)
        finally:
            put_back(away, place)
            if not replaced:
                scene.watch.accept_again(scene.situation)
        return None

    return inject


def _unwritable(name: str) -> Fault:
    def inject(scene: Scene, driver: Driver) -> str | None:
        scene.moment(driver)
        with ExitStack() as stack:
            if not stack.enter_context(unwritable(scene.arena.disk / name)):
                return "this user or file system cannot make a folder unwritable"
            end = time.monotonic() + scene.rng.choice([0.5, 3.0, 60.0])
            while driver.running and time.monotonic() < end:
                scene.watched_sleep(0.05, driver)
        return None

    return inject


def _full_disk(scene: Scene, driver: Driver) -> str | None:
    """Fill the file system of results and cache, for a while or until the run ends."""
    if not scene.arena.mounted:
        return "no small file system could be mounted (needs root); the limit of file sizes is used instead"
    scene.moment(driver)
    filler = scene.arena.disk / "filler"
    try:
        end = time.monotonic() + scene.rng.choice([1.0, 5.0, 60.0])
        with filler.open("wb", buffering=0) as file:
            while driver.running and time.monotonic() < end:
                try:
                    while True:
                        file.write(b"x" * scene.rng.choice([512, 4096, 65536]))
                except OSError:
                    scene.watched_sleep(0.02, driver)
    finally:
        filler.unlink(missing_ok=True)
    return None


def _damaged(target: str, manner: str) -> Fault:
    def inject(scene: Scene, driver: Driver) -> str | None:
        scene.moment(driver)
        path = damage(scene.arena, target, manner, scene.rng)
        if path is None:
            return "no such file"
        scene.harmed(path)
        return None

    return inject


def running_faults() -> dict[str, Fault]:
    """All faults of this kind, by name."""
    faults: dict[str, Fault] = {
        "kill -9 of the command": _signalled(signal.SIGKILL, group=False),
        "kill -9 of a worker": _kill_workers,
        "kill -9 of three workers": lambda scene, driver: _kill_workers(scene, driver, times=3),
        "kill -9 of all": _signalled(signal.SIGKILL, group=True),
        "SIGTERM of a worker": lambda scene, driver: _kill_workers(scene, driver, number=signal.SIGTERM),
        "SIGTERM": _signalled(signal.SIGTERM, group=False),
        "SIGTERM of all": _signalled(signal.SIGTERM, group=True),
        "SIGINT": _signalled(signal.SIGINT, group=False),
        "SIGINT of all": _signalled(signal.SIGINT, group=True),
        "SIGHUP of all": _signalled(signal.SIGHUP, group=True),
        "two runs": _second_run,
        "two runs, one killed": lambda scene, driver: _second_run(scene, driver, kill=True),
        "disk full": _full_disk,
    }
    folders = ("results", "results/records", "results/locks", "results/logs", "results/work", "cache", "cache/features")
    for name in folders:
        faults[f"{name} vanishes"] = _moved_away(name)
        faults[f"{name} unwritable"] = _unwritable(name)
    for name in ("results/records", "results/locks", "results/failures", "cache/pretraining"):
        faults[f"{name} becomes a file"] = _moved_away(name, replaced=True)
    for target in ("record", "lock", "claim", "checkpoint", "features", "pretrained"):
        assert target in TARGETS
        for manner in ("truncated", "a folder", "a FIFO"):
            faults[f"{target} {manner}, during a run"] = _damaged(target, manner)
    return faults
