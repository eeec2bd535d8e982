"""A terminal: runs a command on a pseudo terminal, and keeps what its screen shows."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence

_CODE = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])")
TIMEOUT_SECONDS = 60


class Screen:
    """Lines of a terminal, those that were scrolled out included. It knows the codes that rich writes, and no other."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.lines = [""]
        self.row = self.column = 0
        self.cursor_visible = True
        self.colours: set[int] = set()
        self.text = ""
        self._rest = ""

    def feed(self, text: str) -> None:
        self.text += text
        text, self._rest = self._rest + text, ""
        while text:
            if text[0] != "\x1b":
                self._put(text[0])
                text = text[1:]
            elif code := _CODE.match(text):
                self._run(code[1] + code[3], code[2])
                text = text[code.end() :]
            else:
                assert len(text) < 16, f"unknown code {text[:16]!r}"
                self._rest, text = text, ""

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self._down()
        else:
            assert character.isprintable(), f"the terminal got {character!r}"
            if self.column == self.width:
                self._down()
                self.column = 0
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    def _run(self, kind: str, numbers: str) -> None:
        if kind == "A":  # not above the upper edge
            self.row = max(self.row - int(numbers or 1), len(self.lines) - self.height, 0)
        elif kind == "K":
            assert numbers == "2"
            self.lines[self.row] = ""
        elif kind == "m":
            self.colours |= {int(n) for n in numbers.split(";") if n and 30 <= int(n) <= 107}
        else:
            assert kind in ("?h", "?l"), kind
            assert numbers == "25"
            self.cursor_visible = kind == "?h"

    def shown(self) -> list[str]:
        """All lines but empty ones."""
        return [line.rstrip() for line in self.lines if line.strip()]


def run_on_terminal(
    command: Sequence[str],
    screen: Screen,
    *,
    variables: Mapping[str, str] | None = None,
    keys: Callable[[Screen], bytes] = lambda screen: b"",
) -> int:
    """Run a command; return its exit status. ``keys`` is called with new states, and returns what to type, once."""
    process, terminal = pty.fork()
    if process == 0:
        unset = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"}
        kept = {name: value for name, value in os.environ.items() if name not in unset}
        kept |= {"TERM": "xterm-256color", **(variables or {})}
        os.execvpe(command[0], list(command), kept)  # noqa: S606
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", screen.height, screen.width, 0, 0))
    try:
        _show(terminal, screen, keys)
    except BaseException:
        os.kill(process, signal.SIGKILL)
        raise
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        os.close(terminal)
    return status


def _show(terminal: int, screen: Screen, keys: Callable[[Screen], bytes]) -> None:
    """Give the screen what the terminal gets until its process ends."""
    before, end = termios.tcgetattr(terminal), time.monotonic() + TIMEOUT_SECONDS
    undecoded = typed = b""
    while True:
        assert time.monotonic() < end, screen.shown()
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            undecoded += os.read(terminal, 1 << 16)
        except OSError:  # the process has ended
            return
        text = undecoded.decode(errors="ignore")
        undecoded = b"" if text.encode() == undecoded else undecoded[len(text.encode()) :]
        screen.feed(text)
        if not typed and (typed := keys(screen)):
            os.write(terminal, typed)
        assert termios.tcgetattr(terminal) == before, "the command changed the terminal"
