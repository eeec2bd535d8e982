"""Typical seconds of cells by method and budget, which ``run`` and ``plan`` use where a folder has no records.

    make bench RESULTS=DIR && python benchmarks/studies/typical_seconds.py --results DIR

Writes the means of all records in DIR, which this machine must have computed on one scene, to
``benchmarks/typical_seconds.json``, over those of the same method and budget that are there.
"""

from __future__ import annotations

import platform
from pathlib import Path

import jsonargparse

from mmrs_bench.doctor.machine import machine
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.results.costs import TYPICAL_FILE, TypicalSeconds, typical_costs, typical_seconds
from mmrs_bench.evaluation.results.records import load_records
from mmrs_bench.io import write_json


def main(results: str) -> None:
    """Write the file.

    Args:
        results: Results folder.
    """
    records = load_records(Path(results))
    scenes = sorted({record.protocol.scene for record in records})
    hosts = {record.measured.host for record in records}
    if len(scenes) != 1 or hosts != {platform.node()}:
        raise ConfigError(f"{results}: give a folder with records of one scene that this machine computed")
    rows = machine("cpu", Path(results)).table.rows
    processor = next(str(row["value"]) for row in rows if row["item"] == "processor")
    found = TypicalSeconds(processor=processor, scene=scenes[0], seconds=typical_costs(records))
    if TYPICAL_FILE.exists() and (typical_seconds().processor, typical_seconds().scene) == (found.processor, scenes[0]):
        merged = {
            label: typical_seconds().seconds.get(label, {}) | found.seconds.get(label, {})
            for label in sorted(typical_seconds().seconds.keys() | found.seconds.keys())
        }
        found = found.model_copy(update={"seconds": merged})
    write_json(TYPICAL_FILE, found.model_dump(mode="json"))
    print(f"{TYPICAL_FILE}: {len(found.seconds)} methods, measured on {found.processor}")


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
