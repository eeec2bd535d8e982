"""One run of the command line: its processes, its output, and the end of them all."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from torture.arena import Arena

#: Seconds that workers may live longer than their run.
FAREWELL_SECONDS = 20.0


class Driver:
    """A started run. Its processes form one process group.

    Args:
        arena: Where it runs.
        options: Further options of the command.
        file_limit: Largest file in bytes that its processes can write; None for no limit.
    """

    count = 0

    def __init__(self, arena: Arena, *options: str, file_limit: int | None = None) -> None:
        Driver.count += 1
        if "--workers" not in options:
            options = (*options, "--workers", "2")
        self.log = arena.output / f"run-{Driver.count:04d}.txt"

        def limit() -> None:
            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

        # A pipe has no size, so the limit does not reach the output.
        with self.log.open("wb") as log:
            reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log, start_new_session=True)
        self._reader = reader
        self.process = subprocess.Popen(
            arena.command(*options),
            env=arena.environment(),
            cwd=arena.root,
            stdin=subprocess.DEVNULL,
            stdout=reader.stdin,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=limit,
        )
        assert reader.stdin is not None
        reader.stdin.close()

    @property
    def running(self) -> bool:
        """Whether the process of the command runs."""
        return self.process.poll() is None

    def workers(self) -> list[int]:
        """Process numbers of the living workers."""
        found = []
        with suppress(OSError):
            for child in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
                with suppress(OSError):
                    command = Path(f"/proc/{child}/cmdline").read_bytes()
                    if b"spawn_main" in command:
                        found.append(int(child))
        return found

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the command, or to all its processes."""
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.process.pid, number)

    def close(self) -> bool:
        """Kill what is left, and return whether all processes had ended by themselves after the command."""
        end = time.monotonic() + FAREWELL_SECONDS
        while (left := self._group_lives()) and not self.running and time.monotonic() < end:
            time.sleep(0.05)
        self.signal(signal.SIGKILL, group=True)
        self.process.wait()
        self._reader.kill() if left else self._reader.wait()
        self._reader.wait()
        return not left

    def text(self) -> str:
        """What the command has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _group_lives(self) -> bool:
        self.process.poll()
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True
