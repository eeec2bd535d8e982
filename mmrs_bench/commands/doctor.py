"""``doctor``: what the machine has, self-tests of all modules, and times of the hot paths."""

from __future__ import annotations

from pathlib import Path

from mmrs_bench.commands.output import say, table_console
from mmrs_bench.doctor.diagnosis import diagnose, plain
from mmrs_bench.evaluation.report.render import print_tables
from mmrs_bench.io import write_json

EXIT_FAILED = 1


def doctor(*, device: str, no_timing: bool, results: str, file: str | None) -> int:
    """Print a table per part, then one line per problem; return 1 if a self-test failed.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``, for self-tests and times.
        no_timing: Whether to leave out the times of the hot paths.
        results: Folder of the records.
        file: Path of a JSON file with everything; None for none.
    """
    parts, console = [], table_console()
    for part in diagnose(device, Path(results), timing=not no_timing):
        print_tables([part.table], console)
        parts.append(part)
    found = plain(parts)
    for note in found["notes"]:
        say(f"note    {note}")
    for failure in found["failures"]:
        say(f"FAILED  {failure}")
    count = len(found["failures"])
    say(f"{count} check{'s' * (count > 1)} failed" if count else "all is well: every check passed")
    if file is not None:
        write_json(Path(file).expanduser(), found)
        say(f"written to {file}")
    return EXIT_FAILED if count else 0
