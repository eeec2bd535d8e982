"""One campaign in one arena: runs, faults, recovery and checks."""

from __future__ import annotations

import random
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from torture.arena import Arena, QuickArena
from torture.corruption import damage, files_of, plant_claims, plant_failures
from torture.driver import Driver
from torture.faults import HANG, Fault
from torture.watch import Tally, Watch

#: Runs after a fault until the campaign gives the remaining cells up.
MAX_RUNS = 10
ADVICE = re.compile(r"\b(remove|delete|move)\b", re.IGNORECASE)


class Campaign:
    """Runs, faults and checks in one arena.

    Args:
        arena: The folders.
        reference: Bodies of the records of an undisturbed run.
        tally: Receives all counts.
        rng: Decides about kinds, files and moments.
        patience: Seconds without progress that count as a hang.
    """

    def __init__(
        self,
        arena: Arena,
        reference: dict[str, dict[str, Any]],
        tally: Tally,
        rng: random.Random,
        *,
        patience: float,
    ) -> None:
        self.arena, self.reference, self.tally, self.rng = arena, reference, tally, rng
        self.patience = patience
        self.watch = Watch(arena, reference, tally)
        self.situation = ""

    # What faults use.

    def watched_sleep(self, seconds: float, driver: Driver | None = None) -> None:
        """Sleep, and look at the records meanwhile."""
        end = time.monotonic() + seconds
        while True:
            self.watch.poll(self.situation)
            if (left := end - time.monotonic()) <= 0 or (driver is not None and not driver.running):
                return
            time.sleep(min(0.05, left))

    def moment(self, driver: Driver) -> None:
        """Wait for a random moment: during the start, or after some more records, locks or files of the cache."""
        kind = self.rng.choice(["start", "lock", "record", "record", "cache", "later"])
        patterns = {"lock": "results/locks/*.claim", "record": "results/records/*/*/*.json", "cache": "cache/**/*"}
        if kind == "start":
            self.watched_sleep(self.rng.uniform(0, 1 if isinstance(self.arena, QuickArena) else 6), driver)
            return
        if isinstance(self.arena, QuickArena) and kind == "cache":
            kind = "record"
        pattern = patterns.get(kind, "results/records/*/*/*.json")
        enough = self._count(pattern) + self.rng.randrange(1, 6)
        while driver.running and self._count(pattern) < enough:
            self.watched_sleep(0.02, driver)
            if self.watch.seconds_without_progress(driver.log) > 20:
                return
        self.watched_sleep(self.rng.uniform(0, 1 if kind == "later" else 0.2), driver)

    def harmed(self, path: Path) -> None:
        """Expect nothing more of a record."""
        self.watch.forget(path)

    def _count(self, pattern: str) -> int:
        return sum(1 for _ in self.arena.disk.glob(pattern))

    # Runs.

    def run(self, *options: str, fault: Fault | None = None, file_limit: int | None = None) -> tuple[int, str]:
        """Run the command, with a fault; returns its exit status and what it printed."""
        self.tally.runs += 1
        self.watch.restart_clock()
        driver = Driver(self.arena, *options, file_limit=file_limit)
        try:
            if fault is not None and (reason := fault(self, driver)):
                if reason.startswith(HANG):
                    self._found("hang", reason)
                else:
                    self.tally.skipped[self.situation] = reason
                    self.tally.faults[self.situation] -= 1
            while driver.running:
                self.watched_sleep(0.05, driver)
                if self.watch.seconds_without_progress(driver.log) > self.patience:
                    self._found("hang", f"no progress for {self.patience:.0f} s; {driver.text()[-300:]!r}")
                    break
        finally:
            if not driver.close():
                self._found("hang", "a worker outlived the command")
        self.watch.poll(self.situation)
        self._look_for_tracebacks(driver)
        return driver.process.returncode, driver.text()

    def _look_for_tracebacks(self, driver: Driver) -> None:
        texts = [(driver.log, driver.text())]
        for log in (self.arena.results / "logs").glob("*.log"):
            if log.is_file() and not log.is_symlink():
                texts.append((log, log.read_text(encoding="utf-8", errors="replace")))
                log.unlink()
        for path, text in texts:
            at = text.find("Traceback (most recent call last)")
            if at < 0 and (path != driver.log or "(traceback in" not in text):
                continue
            kept = Path(tempfile.gettempdir()) / f"torture-traceback-{self.tally.count('traceback'):02d}.txt"
            kept.write_text(f"{self.situation}\n{text}", encoding="utf-8")
            last = [line for line in text[max(at, 0) :].splitlines() if line.strip() and not line.startswith(" ")]
            error = next((line for line in last if re.match(r"[\w.]*(Error|Exception|Timeout|Interrupt)\b", line)), "")
            failed = next((line for line in text.splitlines() if "(traceback in" in line), "")
            self._found("traceback", f"{path.name}: {error or failed} (kept in {kept})")

    def _found(self, kind: str, text: str) -> None:
        self.tally.findings.append((kind, f"{self.situation}: {text}"))

    def recover(self, *options: str) -> None:
        """Run the command until all cells are done, and do what its error lines advise."""
        text = ""
        for _ in range(MAX_RUNS):
            status, text = self.run("--keep-going", *options)
            if status == 0:
                break
            self.follow_advice(text)
        else:
            self._found("lost", f"cells stay undone after {MAX_RUNS} runs; {text[-400:]!r}")
            self.watch.forget_all()
            self.arena.clear()
            return
        if self.arena.precious.read_text() != "precious\n":
            self._found("wrong", "the target of a symlink was changed")
            self.arena.precious.write_text("precious\n")
        if set(self.arena.bodies()) != set(self.reference):
            self._found("lost", "the command reports success, but records are missing")

    def follow_advice(self, text: str) -> None:
        """Remove the files that error lines say to remove."""
        for line in text.splitlines():
            if not ADVICE.search(line):
                continue
            for name in re.findall(re.escape(str(self.arena.disk)) + r"/[^\s:;,()'\"]+", line):
                path = Path(name.rstrip("."))
                if path in (self.arena.results, self.arena.cache, self.arena.results / "records"):
                    continue
                if path not in self.watch.whole:
                    self.watch.forget(path)
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)

    # Rounds.

    def prepare(self, *, cache: bool) -> None:
        """Remove some records, and perhaps the cache, so that there is work to do."""
        self.watch.poll(self.situation)
        records = files_of(self.arena, "record")
        for path in records:
            if path.parent.name == "torture" or self.rng.random() < 0.5:
                self.watch.forget(path)
                path.unlink()
        if not cache:
            shutil.rmtree(self.arena.cache, ignore_errors=True)

    def running_round(self, name: str, fault: Fault) -> None:
        """A fault during a run, and runs until all is done."""
        self.situation = name
        self.prepare(cache=self.rng.random() < 0.3)
        self.tally.faults[name] += 1
        self.run(*self.rng.choice([(), ("--keep-going",)]), fault=fault)
        self.recover()

    def limited_round(self) -> None:
        """Files cannot grow beyond some bytes, which looks like a full disk and needs no rights."""
        self.situation = "file size limit"
        self.prepare(cache=False)
        self.tally.faults[self.situation] += 1
        self.run("--keep-going", file_limit=self.rng.choice([0, 700, 2000, 5000, 20000]))
        self.recover()

    def resting_round(self, harms: list[tuple[str, str]]) -> None:
        """Damaged files, before runs until all is done."""
        self.situation = "; ".join(f"{target} {manner}" for target, manner in harms)
        targets = {target for target, _ in harms}
        if "checkpoint" in targets:
            self.prepare(cache=False)
            self.run(fault=_kill_at_checkpoint)
        else:
            self.prepare(cache=True)
        if "claim" in targets:
            plant_claims(self.arena, sorted(self.reference))
        if "failure" in targets:
            plant_failures(self.arena)
        for target, manner in harms:
            path = damage(self.arena, target, manner, self.rng)
            if path is None:
                self.tally.skipped[f"{target} {manner}"] = "no such file in this round"
                continue
            self.tally.faults[f"{target} {manner}"] += 1
            self.harmed(path)
        self.recover()


def _kill_at_checkpoint(campaign: Any, driver: Driver) -> str | None:
    """Kill all processes as soon as the pretraining has written a checkpoint."""
    while driver.running and not files_of(campaign.arena, "checkpoint"):
        campaign.watched_sleep(0.01, driver)
    driver.signal(9, group=True)
    return None
