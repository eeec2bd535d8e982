"""``leaderboard`` and ``compare``."""

from __future__ import annotations

from pathlib import Path

from mmrs_bench.commands.output import say, table_console
from mmrs_bench.errors import RecordError
from mmrs_bench.evaluation.report.comparison import compare as compare_methods
from mmrs_bench.evaluation.report.leaderboard import build_leaderboard, write_leaderboard
from mmrs_bench.evaluation.report.render import print_tables
from mmrs_bench.evaluation.report.reported import load_reported
from mmrs_bench.evaluation.results.records import load_failures, load_records
from mmrs_bench.evaluation.results.schema import Record


def show_leaderboard(*, results: str) -> int:
    """Print the tables of a results folder, and write them to its subfolder ``leaderboard``."""
    folder = Path(results).expanduser()
    records = _records(folder)
    print_tables(build_leaderboard(records, load_failures(folder), load_reported()), table_console())
    files = write_leaderboard(folder)
    say(f"written to {files[0].parent}: {', '.join(path.name for path in files)}")
    return 0


def compare(*, one: str, other: str, results: str) -> int:
    """Print the paired comparison of two methods."""
    print_tables(compare_methods(_records(Path(results).expanduser()), one, other), table_console())
    return 0


def _records(results: Path) -> list[Record]:
    records = load_records(results)
    if not records:
        raise RecordError(f"{results} contains no records; give --results FOLDER, or create some with mmrs-bench run")
    return records
