"""Collect the records of results folders into small files, to be kept with the code (``mmrs-bench collect``)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmrs_bench.errors import RecordError
from mmrs_bench.evaluation.results.collected import collected_files, collected_name, write_collected
from mmrs_bench.evaluation.results.locks import folder_lock
from mmrs_bench.evaluation.results.records import load_collected, load_records, merged, slot
from mmrs_bench.evaluation.results.schema import Record


class CollectedFile(NamedTuple):
    """A file that was written: number of its cells, of those that are new or replaced, and bytes."""

    path: Path
    cells: int
    new: int
    size: int


def collect(sources: Sequence[Path], out: Path, *, replace: bool = False) -> list[CollectedFile]:
    """Add the records of results folders to the collected files in a folder.

    Args:
        sources: Results folders; collected files in them count, too.
        out: Folder of the collected files.
        replace: Let the records replace those in ``out`` of the same scene, budget, data settings, method, variant and
            seed, also those of other versions and settings of the method.

    Returns:
        The files that changed.

    Raises:
        RecordError: If a source has no records, a file is corrupt, or two records of one cell differ.
        BenchError: If a file cannot be written.
    """
    added: list[Record] = []
    for source in sources:
        found = load_records(source)
        if not found:
            raise RecordError(f"{source} contains no records; give results folders of mmrs-bench run")
        added = merged(added, found)
    with folder_lock(out):
        return _add(added, out, replace=replace)


def _add(added: Sequence[Record], out: Path, *, replace: bool) -> list[CollectedFile]:
    before = [record for path in collected_files(out) for record in load_collected(path)]
    slots = {slot(record.protocol) for record in added} if replace else set()
    kept = [record for record in before if slot(record.protocol) not in slots]
    after = by_file(merged(kept, added))
    unchanged = by_file(before)
    written = []
    for name, records in after.items():
        known = {record.key: record for record in unchanged.get(name, ())}
        if known == {record.key: record for record in records}:
            continue
        path = out / name
        write_collected(path, (record.model_dump(mode="json", by_alias=True) for record in records))
        if {record.key: record for record in load_collected(path)} != {record.key: record for record in records}:
            raise RecordError(f"{path}: its content differs from what was written; check the disk, and collect again")
        new = sum(known.get(record.key) != record for record in records)
        written.append(CollectedFile(path, len(records), new, path.stat().st_size))
    return written


def by_file(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records by the name of their collected file, sorted."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[collected_name(record.protocol)].append(record)
    return dict(sorted(found.items()))
