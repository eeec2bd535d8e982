"""Records on disk: one JSON file per cell, written atomically and checked on reading.

A record is ``results/records/<scene>/<method>[-<variant>]/<budget>-<split>-<shots>shot-draw<dd>-seed<s>-<key>.json``;
the failure record of a cell has the same path below ``results/failures``. A record's ``sha256`` is the checksum of its
other fields except ``measured``.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from mmrs_bench.config import ProtocolConfig
from mmrs_bench.errors import DataError, RecordError
from mmrs_bench.evaluation.results.collected import cell_title, collected_files, read_collected
from mmrs_bench.evaluation.results.metrics import score_values
from mmrs_bench.evaluation.results.provenance import utc_now
from mmrs_bench.evaluation.results.schema import SCHEMA_VERSION, FailureRecord, Record
from mmrs_bench.evaluation.results.verified import VerifiedFiles, record_hash
from mmrs_bench.io import content_hash, garbage_kept, write_json
from mmrs_bench.reading import json_text, parse_json, validated
from mmrs_bench.texts import one_line, printable

#: ``MIGRATIONS[n]`` converts the fields of schema n to those of schema n + 1.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

#: Rounding may differ between machines in the last digit; a changed count makes a much larger difference.
_SCORE_TOLERANCE = 1e-9

_ADVICE = "delete the file or move it away, and the next run computes its cell again"

_log = logging.getLogger(__name__)

AnyRecord = TypeVar("AnyRecord", Record, FailureRecord)


RECORDS, FAILURES = "records", "failures"


def _relative_path(protocol: ProtocolConfig) -> Path:
    return Path(*_place(protocol))


def _place(protocol: ProtocolConfig) -> tuple[str, str]:
    """Folder and name of a record, below the folder of all records."""
    data = protocol.data
    method = protocol.method if protocol.variant == "default" else f"{protocol.method}-{protocol.variant}"
    name = (
        f"{protocol.budget}-{data.split}-{data.shots}shot-draw{data.draw:02d}-seed{protocol.seed}-{protocol.key}.json"
    )
    return f"{_slug(protocol.scene)}/{_slug(method)}", name


@cache
def _slug(name: str) -> str:
    """A name that is valid as a folder name on every file system; equal slugs are distinguished by the key."""
    return re.sub(r"[^A-Za-z0-9_+-]", "_", name)


def record_path(results: Path, protocol: ProtocolConfig) -> Path:
    """Path of a cell's record; the cell is done if and only if the file exists."""
    return results / RECORDS / _relative_path(protocol)


def record_place(protocol: ProtocolConfig) -> str:
    """Path of a cell's record within a results folder, with slashes on every system."""
    return "/".join((RECORDS, *_place(protocol)))


def failure_path(results: Path, protocol: ProtocolConfig) -> Path:
    """Path of a cell's failure record."""
    return results / FAILURES / _relative_path(protocol)


class Listing:
    """Which cells have a record or a failure record. Each folder is read once, when its first cell is looked up.

    Args:
        results: Folder of the records.

    Raises:
        RecordError: By its methods, if a folder cannot be read.
    """

    def __init__(self, results: Path) -> None:
        self._results = results
        self._names: dict[tuple[str, str], frozenset[str]] = {}

    def has_record(self, protocol: ProtocolConfig) -> bool:
        """Whether a cell had a record when its folder was read."""
        return self._has(RECORDS, protocol)

    def has_failure(self, protocol: ProtocolConfig) -> bool:
        """Whether a cell had a failure record when its folder was read."""
        return self._has(FAILURES, protocol)

    def _has(self, kind: str, protocol: ProtocolConfig) -> bool:
        folder, name = _place(protocol)
        if (kind, folder) not in self._names:
            self._names[kind, folder] = names_in(self._results / kind / folder)
        return name in self._names[kind, folder]


def names_in(folder: Path) -> frozenset[str]:
    """Names of the files and folders in a folder; none if it does not exist. A `RecordError` says why not."""
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        raise _unreadable(error) from error


def save_record(results: Path, record: Record) -> Path:
    """Write a record atomically, read it back, remove an earlier failure record, and return the path.

    Raises:
        BenchError: If the folder cannot be written.
        RecordError: If the record is inconsistent, or the file differs from what was written.
    """
    path = record_path(results, record.protocol)
    if fault := _misplaced(record, path) or _inconsistency(record):
        raise RecordError(f"{path} was not written: {fault}; this is a defect of the code that made the record")
    fields = record.model_dump(mode="json", by_alias=True)
    write_json(path, {**fields, "sha256": _body_sha256(fields)})
    if load_record(path) != record:
        raise RecordError(
            f"{path}: its content differs from what was written; check the disk, delete the file, run again"
        )
    failure_path(results, record.protocol).unlink(missing_ok=True)
    return path


def save_failure(results: Path, protocol: ProtocolConfig, error: BaseException) -> Path:
    """Write a failure record atomically and return its path; the next run computes the cell again."""
    failure = FailureRecord(
        key=protocol.key,
        protocol=protocol,
        error=type(error).__name__,
        message=one_line(str(error)),
        traceback="".join(traceback.format_exception(error)),
        failed_at=utc_now(),
    )
    path = failure_path(results, protocol)
    write_json(path, failure.model_dump(mode="json", by_alias=True))
    return path


def load_record(path: Path, *, verified: VerifiedFiles | None = None) -> Record:
    """Read one record; a `RecordError` says why it is not valid or consistent, or that it was edited.

    Args:
        path: The file.
        verified: Files that were checked before, whose fields are read without the other checks.
    """
    text = json_text(path, error=RecordError, advice=_ADVICE)
    found = record_hash(path, text) if verified is not None else ""
    known = verified is not None and found in verified
    fields = _fields_of(path, text, known_valid=known)
    stated = fields.pop("sha256", None)
    record = _validated(path, Record, fields)
    if not known and (fault := _misplaced(record, path) or _inconsistency(record) or _edited(fields, stated)):
        raise _corrupt(path, fault)
    if verified is not None:
        verified.add(found)
        record.protocol.__dict__["key"] = record.key  # equal, as was checked; so it is not computed again
    return record


def _edited(fields: Mapping[str, Any], stated: Any) -> str:
    """What is wrong with the checksum of a record's fields; empty if nothing. Older records have none."""
    found = _body_sha256(fields)
    if stated in (None, found):
        return ""
    return f"was edited after it was written (its content has sha256 {found[:12]}..., it states another one)"


def load_failure(path: Path) -> FailureRecord:
    """Read one failure record; a `RecordError` says why it is not valid."""
    text = json_text(path, error=RecordError, advice=_ADVICE)
    return _validated(path, FailureRecord, _fields_of(path, text))


def load_records(results: Path) -> list[Record]:
    """All records of a results folder, sorted by path, and after them those of its collected files.

    Raises:
        RecordError: If files are corrupt (it names the first three), or two records of one cell differ.
    """
    folder = results / RECORDS
    verified = VerifiedFiles(folder)
    records = _load_all(folder, partial(load_record, verified=verified))
    verified.save()
    collected = (record for path in collected_files(results) for record in load_collected(path))
    return merged(records, collected)


def load_collected(path: Path) -> list[Record]:
    """The records of one collected file; a `RecordError` names the first wrong cell."""
    records = []
    for where, fields in read_collected(path):
        record = validated(Record, _migrate(path, fields), where=where, error=RecordError)
        if fault := _inconsistency(record):
            raise RecordError(f"{where}: {fault}; restore the committed file")
        records.append(record)
    return records


def merged(records: Iterable[Record], more: Iterable[Record]) -> list[Record]:
    """The records, and those of ``more`` for other cells.

    Raises:
        RecordError: If two records of one cell differ in more than their measurements.
    """
    by_key = {record.key: record for record in records}
    for record in more:
        known = by_key.setdefault(record.key, record)
        if known is record:
            continue
        one, other = known.body(), record.body()
        if differing := sorted(name for name in one | other if one.get(name) != other.get(name)):
            raise RecordError(
                f"two records of {record.protocol.scene}, {cell_title(one)} (key {record.key}) differ in "
                f"{', '.join(differing)}; keep one, or let the new ones replace the others with mmrs-bench collect "
                "--replace"
            )
    return list(by_key.values())


def slot(protocol: ProtocolConfig) -> Hashable:
    """What a method's cell is of, whatever the method's version and settings."""
    return (protocol.scene, protocol.budget, protocol.data.canonical, protocol.seed, protocol.method, protocol.variant)


def remaining_failures(records: Iterable[Record], failures: Iterable[FailureRecord]) -> list[FailureRecord]:
    """The failures, each cell once, that no later record replaces: of the cell, or of another version of its method."""
    records = list(records)
    done = {record.key for record in records}
    found = {failure.key: failure for failure in failures if failure.key not in done}
    if not found:
        return []
    last: dict[Hashable, str] = {}
    for record in records:
        if not record.origin:
            place = slot(record.protocol)
            last[place] = max(last.get(place, ""), record.measured.finished_at)
    return [failure for failure in found.values() if failure.failed_at >= last.get(slot(failure.protocol), "")]


def load_failures(results: Path) -> list[FailureRecord]:
    """Failure records of all cells without a record, sorted by path; raises as `load_records`."""
    failures = _load_all(results / FAILURES, load_failure)
    return [failure for failure in failures if not record_path(results, failure.protocol).exists()]


def _load_all(folder: Path, load: Callable[[Path], AnyRecord]) -> list[AnyRecord]:
    records, faults = [], []
    with garbage_kept():
        for path in _record_files(folder):
            try:
                if path.is_symlink():
                    raise _corrupt(path, "is a symbolic link, which is not followed")
                records.append(load(path))
            except RecordError as error:
                faults.append(str(error))
    if faults:
        more = f" (and {len(faults) - 3} more files)" if len(faults) > 3 else ""
        raise RecordError(" ".join(faults[:3]) + more)
    return records


def _corrupt(path: Path, fault: str) -> RecordError:
    return RecordError(f"{path}: {fault}; {_ADVICE}")


def _unreadable(error: OSError) -> RecordError:
    return RecordError(f"{error.filename}: cannot be read ({error.strerror}); make the folder readable")


def _record_files(folder: Path) -> list[Path]:
    """Everything below a folder that is named like a record, sorted; links to other folders, which are not followed.

    Hidden files, such as the ``._*`` files of macOS, are named in a warning.
    """
    if not folder.is_dir():
        return []

    def refuse(error: OSError) -> None:
        raise _unreadable(error)

    found = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        paths = [Path(place, name) for name in folders + files]
        links = [path for path in paths if path.name in folders and path.is_symlink()]
        for path in links + [path for path in paths if path.suffix == ".json"]:
            if path.name.startswith("."):
                _warn_hidden(path)
            else:
                found.append(path)
        folders[:] = [name for name in folders if not name.endswith(".json")]
    return sorted(set(found), key=attrgetter("parts"))  # faster than by paths, and the same order


@cache
def _warn_hidden(path: Path) -> None:
    _log.warning("%s: is a hidden file and no record; it was skipped", printable(str(path)))


def _body_sha256(fields: Mapping[str, Any]) -> str:
    """The checksum of a record's fields without those that two runs of one cell need not share."""
    return content_hash({name: value for name, value in fields.items() if name not in {"measured", "sha256"}})


def _fields_of(path: Path, text: str, *, known_valid: bool = False) -> dict[str, Any]:
    fields = parse_json(text, where=path, error=RecordError, advice=_ADVICE, known_valid=known_valid)
    if not isinstance(fields, dict):
        raise _corrupt(path, f"contains a JSON {type(fields).__name__}, expected a record")
    return fields


def _validated(path: Path, kind: type[AnyRecord], fields: dict[str, Any]) -> AnyRecord:
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
            raise _corrupt(path, f"has schema {version}, for which there is no migration")
        fields = {**MIGRATIONS[version](fields), "schema": version + 1}
        version += 1
    return fields


def _misplaced(record: Record, path: Path) -> str:
    """What is wrong with the key or the place of a record; empty if nothing."""
    if record.key != record.protocol.key:
        return f"its key {record.key} is not that of its protocol ({record.protocol.key}); a field was changed"
    expected_path = _relative_path(record.protocol)
    return "" if path.parts[-3:] == expected_path.parts else f"contains a record that belongs in {expected_path}"


def _inconsistency(record: Record) -> str:
    """The first field that disagrees with the rest of a record; empty if there is none."""
    classes, shots = len(record.class_names), record.protocol.data.shots
    if [len(row) for row in record.confusion] != [classes] * classes:
        return f"its confusion matrix is not {classes} x {classes}, although it has {classes} class names"
    if record.n_support != shots * classes:
        return f"n_support is {record.n_support}, but {shots} shots of {classes} classes are {shots * classes}"
    if record.labels_used != record.n_support and not record.unranked:
        return f"it is ranked although it used {record.labels_used} labels instead of {record.n_support}"
    total = sum(map(sum, record.confusion))
    if total != record.n_query:
        return f"its confusion matrix counts {total} pixels, but n_query is {record.n_query}"
    try:
        expected = score_values(record.confusion)
    except DataError as error:
        return str(error)
    # A record that is older than a metric does not contain it.
    stored = sorted(record.scores.model_fields_set)
    wrong = [name for name in stored if not _equal(getattr(record.scores, name), expected[name])]
    return f"its {', '.join(wrong)} does not follow from its confusion matrix" if wrong else ""


def _equal(one: Any, other: Any) -> bool:
    if one == other:
        return True
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if one is None or other is None:
        return one is other
    return bool(abs(one - other) <= _SCORE_TOLERANCE)
