"""Writing to the terminal. Control characters in names and messages are shown as escapes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console

from mmrs_bench.texts import printable

#: Width of tables in a file or a pipe.
FILE_WIDTH = 120


def table_console() -> Console:
    """The console for tables; if standard output is no terminal, it has a fixed width."""
    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)


def say(text: str = "") -> None:
    """Write one line to standard output."""
    sys.stdout.write(f"{printable(text)}\n")


def say_progress(text: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(f"{printable(text)}\n")


def say_columns(rows: Iterable[Sequence[str]]) -> None:
    """Write rows as left-aligned columns."""
    table = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    line = "  ".join(f"{{:<{width}}}" for width in widths)
    sys.stdout.writelines(f"{line.format(*row).rstrip()}\n" for row in table)
