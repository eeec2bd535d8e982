"""Collected records: many cells of one scene and budget in one small file, to be kept with the code.

A file ``<scene>-<budget>.cells.json`` has one line per cell. Values that cells share (protocol, environment, scene,
split, method) are stored once, by the first digits of their hash. What follows from other fields is left out (key,
metrics, number of query pixels). Every record is restored exactly, with its measurements; each cell and each shared
value has a checksum, and so has the file.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from mmrs_bench.config import ProtocolConfig, method_label
from mmrs_bench.errors import BenchError, RecordError
from mmrs_bench.evaluation.results.metrics import score_values
from mmrs_bench.io import content_hash, write_text
from mmrs_bench.reading import read_json, validated

SUFFIX = ".cells.json"
SCHEMA = 1

#: Fields of a record that cells share, by the name of what they describe. Fields of no list describe the method.
_SHARED = {
    "scene": ("simulated", "scene_title", "modalities", "class_names", "pixel_bounds"),
    "environment": ("execution", "provenance"),
    "split": ("split_sha256", "n_support", "leakage"),
    "method": (),
}
_OWN = {"key", "protocol", "n_query", "confusion", "scores", "measured"}
_ID_DIGITS, _SUM_DIGITS = 8, 16

_ADVICE = "restore the committed file, or collect the records again with mmrs-bench collect"


class CellFields(NamedTuple):
    """The fields of one record, and where they come from, for messages."""

    where: str
    fields: dict[str, Any]


class _Content(BaseModel):
    """The content of a file; see the module."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = Field(alias="schema")
    sha256: str
    shared: dict[str, dict[str, Any]]
    cells: list[dict[str, Any]]


def collected_files(results: Path) -> list[Path]:
    """The files with collected records in a results folder, sorted."""
    return sorted(results.glob(f"*{SUFFIX}"))


def collected_name(protocol: ProtocolConfig) -> str:
    """The name of the file for the records of a scene and a budget."""
    return f"{protocol.scene}-{protocol.budget}{SUFFIX}"


def write_collected(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the fields of records of one scene and budget; the same records give the same bytes.

    Raises:
        BenchError: If the file cannot be written.
    """
    shared: dict[str, dict[str, Any]] = {name: {} for name in ("protocol", *_SHARED)}
    ordered = sorted(records, key=_order)
    cells = [_packed(fields, shared) for fields in ordered]
    shared = {name: dict(sorted(values.items())) for name, values in shared.items()}
    lines = [f'{{"schema": {SCHEMA},', f' "sha256": "{_file_sum(cells, shared)}",', ' "shared": {']
    for name, values in shared.items():
        lines += [f'  "{name}": {{', *_with_commas(f"   {_text(i)}: {_text(v)}" for i, v in values.items()), "  },"]
    lines[-1] = "  }},"
    lines += [' "cells": [', *_with_commas(f"  {_text(cell)}" for cell in cells), " ]}"]
    write_text(path, "\n".join(lines) + "\n")


def read_collected(path: Path) -> list[CellFields]:
    """The fields of all records in a file.

    Raises:
        RecordError: If the file cannot be read, or was edited; it names the first wrong entry.
    """
    content = validated(
        TypeAdapter(_Content),
        read_json(path, error=RecordError, advice=_ADVICE),
        where=path,
        error=RecordError,
        advice=_ADVICE,
    )
    if content.schema_version != SCHEMA:
        raise RecordError(f"{path}: has schema {content.schema_version}, expected {SCHEMA}; update mmrs-bench")
    for name, values in content.shared.items():
        for given, value in values.items():
            if content_hash(value)[:_ID_DIGITS] != given:
                raise RecordError(f"{path}: the shared {name} {given!r} was edited; {_ADVICE}")
    cells = [_restored(f"{path}: cell {n}", cell, content.shared) for n, cell in enumerate(content.cells, 1)]
    if _file_sum(content.cells, content.shared) != content.sha256:
        raise RecordError(f"{path}: cells were added, removed or put in another order by hand; {_ADVICE}")
    return cells


def cell_title(fields: Mapping[str, Any]) -> str:
    """Method, split, shots, draw and seed of a record's fields, for messages."""
    protocol = fields["protocol"]
    data = protocol["data"]
    label = method_label(protocol["method"], protocol["variant"])
    return f"{label}, {data['split']}, shots {data['shots']}, draw {data['draw']}, seed {protocol['seed']}"


def _order(fields: Mapping[str, Any]) -> tuple[Any, ...]:
    protocol = fields["protocol"]
    data = protocol["data"]
    method = (protocol["method"], protocol["variant"], data["draw"], protocol["seed"], fields["key"])
    return (data["split"], data["shots"], *method)


def _packed(fields: Mapping[str, Any], shared: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One cell; adds what it shares with others to ``shared``."""
    protocol = {**fields["protocol"], "data": dict(fields["protocol"]["data"])}
    cell: dict[str, Any] = {"draw": protocol["data"].pop("draw"), "seed": protocol.pop("seed")}
    parts: dict[str, dict[str, Any]] = defaultdict(dict)
    parts["protocol"] = protocol
    part_of = {field: part for part, names in _SHARED.items() for field in names}
    for name, value in fields.items():
        if name not in _OWN:
            parts[part_of.get(name, "method")][name] = value
    measured = dict(fields["measured"])
    parts["environment"]["host"] = measured.pop("host")
    scores, expected = fields["scores"], _scores(fields["confusion"])
    if all(name in expected and expected[name] == value for name, value in scores.items()):
        parts["method"]["scores"] = sorted(scores)  # they follow from the confusion matrix
    else:
        cell["scores"] = scores
    for name, value in parts.items():
        identity = content_hash(value)[:_ID_DIGITS]
        if shared[name].setdefault(identity, value) != value:
            raise BenchError(f"two values of {name} have the hash {identity}; collect them into two folders")
        cell[name] = identity
    return {**cell, "measured": measured, "confusion": fields["confusion"], "sha256": _cell_sum(fields)}


def _restored(where: str, cell: Mapping[str, Any], shared: Mapping[str, Mapping[str, Any]]) -> CellFields:
    """The record's fields of a cell."""
    try:
        parts = {name: dict(shared[name][cell[name]]) for name in ("protocol", *_SHARED)}
        protocol = parts.pop("protocol")
        protocol |= {"data": {**protocol["data"], "draw": cell["draw"]}, "seed": cell["seed"]}
        measured = {**cell["measured"], "host": parts["environment"].pop("host")}
        expected = _scores(cell["confusion"])
        names = parts["method"].pop("scores", ())
        fields: dict[str, Any] = {
            **{name: value for part in parts.values() for name, value in part.items()},
            "protocol": protocol,
            "key": validated(ProtocolConfig, protocol, where=where, error=RecordError).key,
            "n_query": sum(map(sum, cell["confusion"])),
            "confusion": cell["confusion"],
            "scores": cell["scores"] if "scores" in cell else {name: expected[name] for name in names},
            "measured": measured,
        }
        where = f"{where} ({cell_title(fields)})"
        intact = cell.get("sha256") == _cell_sum(fields)
    except (LookupError, TypeError, ValueError, AttributeError) as fault:
        raise RecordError(
            f"{where}: is no cell of collected records ({type(fault).__name__}: {fault}); {_ADVICE}"
        ) from fault
    except BenchError as fault:
        raise RecordError(f"{where}: {fault}; {_ADVICE}") from fault
    if not intact:
        raise RecordError(f"{where} was edited after it was written; {_ADVICE}")
    return CellFields(where, fields)


def _scores(confusion: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The metrics as in a record file."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in score_values(confusion).items()}


def _cell_sum(fields: Mapping[str, Any]) -> str:
    return content_hash(fields)[:_SUM_DIGITS]


def _file_sum(cells: object, shared: object) -> str:
    return content_hash({"cells": cells, "shared": shared})


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _with_commas(lines: Iterable[str]) -> list[str]:
    found = [f"{line}," for line in lines]
    return [*found[:-1], found[-1].removesuffix(",")] if found else []
