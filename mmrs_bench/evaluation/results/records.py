"""Records on disk: one JSON file a cell, whole or absent, checked whenever it is read.

``results/records/<scene>/<method>[-<variant>]/<budget>-<split>-<shots>shot-draw<dd>-seed<s>-<key>.json`` holds what
is needed to trace, repeat and trust a number; ``results/failures/...`` holds, under the same name, why a cell failed.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mmrs_bench.config import ProtocolConfig
from mmrs_bench.errors import DataError, RecordError
from mmrs_bench.evaluation.results.metrics import scores
from mmrs_bench.evaluation.results.provenance import utc_now
from mmrs_bench.evaluation.results.schema import (
    SCHEMA_VERSION,
    FailureRecord,
    Record,
    Scores,
)
from mmrs_bench.io import write_json
from mmrs_bench.reading import read_json, validated

RECORDS = "records"
FAILURES = "failures"

#: One step per schema: ``MIGRATIONS[n]`` turns the fields of schema n into those of schema n + 1.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

#: Rounding differs between machines in the last digit; a changed count differs by far more.
_SCORE_TOLERANCE = 1e-9

_ADVICE = "delete the file or move it away, and the next run computes its cell again"

AnyRecord = TypeVar("AnyRecord", Record, FailureRecord)


def _relative_path(protocol: ProtocolConfig) -> Path:
    data = protocol.data
    method = protocol.method if protocol.variant == "default" else f"{protocol.method}-{protocol.variant}"
    name = (
        f"{protocol.budget}-{data.split}-{data.shots}shot-draw{data.draw:02d}-seed{protocol.seed}-{protocol.key}.json"
    )
    return Path(_slug(protocol.scene), _slug(method), name)


def _slug(name: str) -> str:
    """A name as one folder name on any file system; the key in the file name keeps equal slugs apart."""
    return re.sub(r"[^A-Za-z0-9_+-]", "_", name)


def record_path(results: Path, protocol: ProtocolConfig) -> Path:
    """Where the record of this cell lies or will lie; the cell is done if and only if the file exists."""
    return results / RECORDS / _relative_path(protocol)


def failure_path(results: Path, protocol: ProtocolConfig) -> Path:
    """Where the failure record of this cell lies if its last run failed."""
    return results / FAILURES / _relative_path(protocol)


def find_record(results: Path, key: str) -> Path:
    """The file of the record whose key is, or begins with, ``key``; found by name, without reading any file.

    Raises:
        RecordError: If no record, or more than one, has such a key.
    """
    found = sorted((results / RECORDS).glob(f"*/*/*-{_slug(key)}*.json"))
    found = [path for path in found if _key_of(path).startswith(key)]
    if not found:
        raise RecordError(f"no record with key {key!r} in {results / RECORDS}; `mmrs-bench plan` prints the keys")
    if len(found) > 1:
        raise RecordError(f"key {key!r} fits {len(found)} records; give all digits: {', '.join(map(_key_of, found))}")
    return found[0]


def _key_of(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def save_record(results: Path, record: Record) -> Path:
    """Write a record atomically, read it back, and remove the failure record of an earlier run.

    Returns:
        The record's file.

    Raises:
        BenchError: If the folder cannot be written.
        RecordError: If the record contradicts itself, or the file does not read back as it was written.
    """
    path = record_path(results, record.protocol)
    if fault := _contradiction(record, path):
        raise RecordError(f"{path} was not written: {fault}; this is a defect of what made the record")
    write_json(path, record.model_dump(mode="json", by_alias=True))
    if load_record(path) != record:
        raise RecordError(f"{path} does not read back as it was written; check the disk, delete the file, run again")
    failure_path(results, record.protocol).unlink(missing_ok=True)
    return path


def save_failure(results: Path, protocol: ProtocolConfig, error: BaseException) -> Path:
    """Write atomically why a cell failed; the cell is tried again on the next run.

    Returns:
        The failure record's file.

    Raises:
        BenchError: If the folder cannot be written.
    """
    failure = FailureRecord(
        key=protocol.key,
        protocol=protocol,
        error=type(error).__name__,
        message=" ".join(str(error).split()),
        traceback="".join(traceback.format_exception(error)),
        failed_at=utc_now(),
    )
    path = failure_path(results, protocol)
    write_json(path, failure.model_dump(mode="json", by_alias=True))
    return path


def load_record(path: Path) -> Record:
    """Read one record and check it against itself.

    Raises:
        RecordError: If the file is not a record, is of another schema, or contradicts itself; it names file, fault
            and what to do.
    """
    record = _parse(path, Record)
    if fault := _contradiction(record, path):
        raise _corrupt(path, fault)
    return record


def load_failure(path: Path) -> FailureRecord:
    """Read one failure record.

    Raises:
        RecordError: If the file is not a failure record.
    """
    return _parse(path, FailureRecord)


def load_records(results: Path) -> list[Record]:
    """All records of a results folder, in the order of their paths; empty if there is none.

    Raises:
        RecordError: If a file is corrupt; every corrupt file is named (three at most).
    """
    return _load_all(results / RECORDS, load_record)


def load_failures(results: Path) -> list[FailureRecord]:
    """Failure records of all cells that have no record, in the order of their paths.

    Raises:
        RecordError: If a file is corrupt.
    """
    failures = _load_all(results / FAILURES, load_failure)
    return [failure for failure in failures if not record_path(results, failure.protocol).exists()]


def _load_all(folder: Path, load: Callable[[Path], AnyRecord]) -> list[AnyRecord]:
    records, faults = [], []
    for path in sorted(folder.rglob("*.json")):
        try:
            records.append(load(path))
        except RecordError as error:
            faults.append(str(error))
    if faults:
        more = f" (and {len(faults) - 3} more files)" if len(faults) > 3 else ""
        raise RecordError(" ".join(faults[:3]) + more)
    return records


def _corrupt(path: Path, fault: str) -> RecordError:
    return RecordError(f"{path}: {fault}; {_ADVICE}")


def _parse(path: Path, kind: type[AnyRecord]) -> AnyRecord:
    fields = read_json(path, error=RecordError, advice=_ADVICE)
    if not isinstance(fields, dict):
        raise _corrupt(path, f"holds a JSON {type(fields).__name__}, expected a record")
    return validated(kind, _migrate(path, fields), where=path, error=RecordError, advice=_ADVICE)


def _migrate(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    version = fields.get("schema")
    if not isinstance(version, int):
        raise _corrupt(path, f"has schema {version!r}, expected a number up to {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise RecordError(
            f"{path}: was written by a newer mmrs-bench (schema {version}; this one reads up to {SCHEMA_VERSION}). "
            "Update mmrs-bench, or choose another results folder."
        )
    while version < SCHEMA_VERSION:
        if version not in MIGRATIONS:
            raise _corrupt(path, f"has schema {version}, which no migration knows")
        fields = {**MIGRATIONS[version](fields), "schema": version + 1}
        version += 1
    return fields


def _contradiction(record: Record, path: Path) -> str:
    """What in a record disagrees with the rest of it; empty if nothing does."""
    if record.key != record.protocol.key:
        return f"its key {record.key} is not that of its protocol ({record.protocol.key}); a field was changed"
    place = _relative_path(record.protocol)
    if path.parts[-3:] != place.parts:
        return f"holds the record of another place, {place}"
    classes, shots = len(record.class_names), record.protocol.data.shots
    if [len(row) for row in record.confusion] != [classes] * classes:
        return f"its confusion matrix is not {classes} x {classes}, as its class names demand"
    if record.n_support != shots * classes:
        return f"n_support is {record.n_support}, but {shots} shots of {classes} classes are {shots * classes}"
    if record.labels_used != record.n_support and not record.unranked:
        return f"it is ranked although it used {record.labels_used} labels instead of {record.n_support}"
    total = sum(map(sum, record.confusion))
    if total != record.n_query:
        return f"its confusion matrix counts {total} pixels, but n_query is {record.n_query}"
    try:
        again = scores(record.confusion)
    except DataError as error:
        return str(error)
    wrong = [name for name in Scores.model_fields if not _agree(getattr(record.scores, name), getattr(again, name))]
    return f"its {', '.join(wrong)} does not follow from its confusion matrix" if wrong else ""


def _agree(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_agree, one, other))
    if one is None or other is None:
        return one is other
    return bool(abs(one - other) <= _SCORE_TOLERANCE)
