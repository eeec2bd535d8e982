"""Records of one scene, split, shots and draw whose split hashes differ: their labels or pixels were not the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.results.signature import signature_fields
from mmrs_bench.io import content_hash

#: Parts of the signature that determine the split of a draw.
SPLIT_FIELDS = ("scene", "split", "shots", "win", "version")


def conflicting_splits(records: Iterable[Record]) -> dict[str, str]:
    """A mark for each record whose split is in conflict with another record's, by `Record.identity`.

    Records with the same mark agree in the split of every draw. Records of a scene, split and number of shots without
    any conflict have no mark.
    """
    scopes: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.measured.finished_at, record.identity)):
        fields = signature_fields(record.protocol)
        scopes[tuple(fields[name] for name in SPLIT_FIELDS)].append(record)
    marks: dict[str, str] = {}
    for of_scope in scopes.values():
        splits = {(record.protocol.data.draw, record.split_sha256) for record in of_scope}
        if len(splits) == len({draw for draw, _ in splits}):
            continue
        for part in _parts(of_scope):
            content = {str(record.protocol.data.draw): record.split_sha256 for record in part}
            marks |= {record.identity: content_hash(content)[:8] for record in part}
    return marks


def _parts(records: list[Record]) -> list[list[Record]]:
    """Records in parts within which every draw has one split.

    A record joins the part that contains its split, else a part with its method, else any part without its draw.
    """
    parts: list[list[Record]] = []
    for record in records:
        draw = record.protocol.data.draw
        fitting = [
            part
            for part in parts
            if all(other.split_sha256 == record.split_sha256 for other in part if other.protocol.data.draw == draw)
        ]
        fitting.sort(key=lambda part: (not _shares_split(part, record), not _shares_method(part, record)))
        if fitting:
            fitting[0].append(record)
        else:
            parts.append([record])
    return parts


def _shares_split(part: list[Record], record: Record) -> bool:
    return any(other.split_sha256 == record.split_sha256 for other in part)


def _shares_method(part: list[Record], record: Record) -> bool:
    protocol = record.protocol
    return any((other.protocol.method, other.protocol.variant) == (protocol.method, protocol.variant) for other in part)
