"""Results of several folders on one page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mmrs_bench.errors import RecordError
from mmrs_bench.evaluation.results.schema import Record


def merged_records(folders: Iterable[tuple[Path, Iterable[Record]]]) -> list[Record]:
    """The records of all folders, each cell once for each origin.

    Raises:
        RecordError: If two folders have different results of one cell.
    """
    found: dict[str, tuple[Path, Record]] = {}
    for folder, records in folders:
        for record in records:
            place, first = found.setdefault(record.identity, (folder, record))
            if first.confusion != record.confusion:
                raise RecordError(
                    f"{place} and {folder} have different results of the cell {record.identity} ({record.signature}); "
                    "give one of the two folders, or move one of the two records away"
                )
    return [record for _, record in found.values()]
