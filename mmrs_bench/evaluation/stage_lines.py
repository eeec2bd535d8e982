"""Progress of a single computation as lines: stages, estimates of their time, and finished shares."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

#: Shortest time between two lines about one stage; stages with less time left get no line but their name. In seconds.
INTERVAL = 30.0
#: Seconds and share that a stage has done before its first estimate: its start is slower than the rest.
SETTLED_SECONDS, SETTLED_SHARE = 10.0, 0.02


class StageLines:
    """Callback for progress that says the name of a stage when it begins, and how long it takes.

    The estimate comes when a stage has settled (`SETTLED_SECONDS`, `SETTLED_SHARE`), and again every `INTERVAL`
    seconds.

    Args:
        say: Prints a line.
        clock: Returns seconds.
    """

    def __init__(self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._stage = ""
        self._last_report = clock()

    def __call__(self, stage: str, done: float) -> None:
        """Receive the finished share of a stage, see `mmrs_bench.methods.base.Progress`."""
        now = self._clock()
        if done == 0.0:
            self._say(stage)
        if stage != self._stage or done == 0.0:
            # A stage whose first report has a share began when the stage before it ended.
            self._stage, self._begin = stage, now if done == 0.0 else self._last_report
            self._last_line = -math.inf
        self._last_report = now
        spent = now - self._begin
        settled = spent >= SETTLED_SECONDS and done >= SETTLED_SHARE
        if settled and done < 1.0 and now - self._last_line >= INTERVAL:
            left = spent * (1 - done) / done
            if left >= INTERVAL:
                self._say(f"{stage}: {done:.0%}, about {math.ceil(left / 60)} min left")
                self._last_line = now
