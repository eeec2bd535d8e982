"""``leaderboard`` and ``compare``."""

from __future__ import annotations

from mmrs_bench.api.results import load_results
from mmrs_bench.commands.output import say, table_console
from mmrs_bench.evaluation.report.leaderboard import write_leaderboard
from mmrs_bench.evaluation.report.render import print_tables


def show_leaderboard(*, results: str) -> int:
    """Print the tables of a results folder, and write them to its subfolder ``leaderboard``."""
    found = load_results(results)
    print_tables(found.leaderboard().tables, table_console())
    files = write_leaderboard(found.folder)
    say(f"written to {files[0].parent}: {', '.join(path.name for path in files)}")
    return 0


def compare(*, one: str, other: str, results: str) -> int:
    """Print the paired comparison of two methods."""
    print_tables(load_results(results).compare(one, other).tables, table_console())
    return 0
