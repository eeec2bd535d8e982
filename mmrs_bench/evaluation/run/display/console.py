"""Where progress is shown, and single lines of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

from rich.console import Console

from mmrs_bench.texts import printable


def progress_console(*, shown: bool = True) -> Console:
    """The console of progress: standard error, and standard output in a notebook, which shows errors in red."""
    if Console().is_jupyter:
        return Console(file=sys.stdout, force_jupyter=False, quiet=not shown)
    return Console(stderr=True, quiet=not shown, force_interactive=_is_terminal(sys.stderr))


def watch_console() -> Console:
    """The console of ``watch``, which shows nothing but progress: standard output."""
    return Console(force_interactive=_is_terminal(sys.stdout))


def is_live(console: Console) -> bool:
    """Whether a console can replace what it shows; a file and a pipe cannot, whatever FORCE_COLOR says."""
    return console.is_interactive and console.is_terminal and not (console.is_dumb_terminal or console.quiet)


def _is_terminal(stream: object) -> bool:
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty())


def line_printer(*, shown: bool = True) -> Callable[[str], None]:
    """A function that prints one line to the console of progress."""
    return partial(print_line, progress_console(shown=shown))


def print_line(console: Console, text: str) -> None:
    """Print one line."""
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
