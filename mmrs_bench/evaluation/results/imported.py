"""Imported results: records of other people or machines, shown with their origin and never mixed with own ones.

``RESULTS/imported/<folder>`` holds what `mmrs_bench.evaluation.exchange.export_results` wrote: collected files (see
`mmrs_bench.evaluation.results.collected`), and ``origin.json`` with the name of the origin and the SHA-256 of each
file. The folder is the name of the origin in lower case.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mmrs_bench.errors import ConfigError, RecordError
from mmrs_bench.evaluation.results.collected import SUFFIX, collected_name
from mmrs_bench.evaluation.results.records import load_collected
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.io import content_hash, file_sha256, text_hash
from mmrs_bench.reading import read_json, validated

IMPORTED = "imported"
DESCRIPTION = "origin.json"
#: Names of origins: letters, digits, blanks and some punctuation, so that they are inert everywhere.
_NAME = re.compile(r"\w(?:[\w .&()'+-]{0,38}[\w.)])?")

_ADVICE = "ask for the export again, or remove it from the results with its folder"


class Origin(BaseModel):
    """The content of ``origin.json``.

    Attributes:
        name: Who computed the results, as tables show it.
        contact: How to reach them; may be empty.
        exported_at: UTC time in ISO 8601.
        code_version: Version of mmrs-bench that exported them.
        files: SHA-256 of the collected files by name.
        sha256: Checksum of the other fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    contact: Annotated[str, Field(max_length=200)] = ""
    exported_at: str
    code_version: str
    files: dict[str, str] = Field(min_length=1)
    sha256: str

    @classmethod
    def of(cls, **fields: Any) -> Origin:
        """An origin with its checksum."""
        values = {"schema": 1, **fields}
        return cls.model_validate({**values, "sha256": content_hash(values)})


def check_name(
    name: str, *, error: type[ConfigError] | type[RecordError] = ConfigError, where: str = "--origin"
) -> str:
    """Return a name of an origin, or raise an ``error`` if it is none."""
    if not _NAME.fullmatch(name):
        raise error(
            f"{where} is {name[:60]!r}; use 1 to 40 letters, digits, blanks and . & ( ) ' + -, beginning with a letter "
            "or digit, e.g. 'Example University'"
        )
    return name


def folder_name(name: str) -> str:
    """The folder of an origin below ``imported``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or f"origin-{text_hash(name)[:8]}"


def imported_folders(results: Path) -> list[Path]:
    """The folders of all origins, sorted; hidden ones are those of imports that were interrupted."""
    folder = results / IMPORTED
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def imported_place(record: Record) -> str:
    """Path of the file of an imported record within a results folder, with slashes on every system."""
    return f"{IMPORTED}/{folder_name(record.origin)}/{collected_name(record.protocol)}"


def load_imported(results: Path) -> list[Record]:
    """The imported records of a results folder, with their origins.

    Raises:
        RecordError: If a file is damaged, was edited, or is missing, or two folders have one origin.
    """
    records: list[Record] = []
    seen: dict[str, Path] = {}
    for folder in imported_folders(results):
        origin, of_origin = read_export(folder)
        if other := seen.get(origin.name):
            raise RecordError(f"{other} and {folder} are both of {origin.name}; remove one of them")
        seen[origin.name] = folder
        records += of_origin
    return records


def read_export(folder: Path) -> tuple[Origin, list[Record]]:
    """Read and check an export.

    Args:
        folder: Folder with ``origin.json`` and the collected files.

    Returns:
        The origin, and its records with this origin.

    Raises:
        RecordError: If a file is damaged, was edited, is missing, or does not belong there.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise RecordError(f"{folder}: has no {DESCRIPTION}, so it is no export of results; {_ADVICE}")
    fields = read_json(path, error=RecordError, advice=_ADVICE)
    origin = validated(Origin, fields, where=path, error=RecordError, advice=_ADVICE)
    check_name(origin.name, error=RecordError, where=f"{path}: name")
    if origin.sha256 != content_hash({name: value for name, value in fields.items() if name != "sha256"}):
        raise RecordError(f"{path}: was edited after it was written; {_ADVICE}")
    found = {each.name for each in folder.iterdir() if not each.name.startswith(".")} - {DESCRIPTION}
    for name in sorted(found ^ origin.files.keys()):
        state = "is missing" if name in origin.files else "is no file of this export"
        raise RecordError(f"{folder / name}: {state}; {_ADVICE}")
    records: list[Record] = []
    for name, sha256 in sorted(origin.files.items()):
        records += _read_file(folder / name, sha256, origin.name)
    return origin, records


def _read_file(path: Path, sha256: str, origin: str) -> list[Record]:
    if not path.name.endswith(SUFFIX) or path.is_symlink() or not path.is_file():
        raise RecordError(f"{path}: is no file of collected records; {_ADVICE}")
    if file_sha256(path) != sha256:
        raise RecordError(f"{path}: differs from what was exported (its SHA-256 is another one); {_ADVICE}")
    records = load_collected(path)
    for record in records:
        if (expected := collected_name(record.protocol)) != path.name:
            raise RecordError(f"{path}: contains records that belong in {expected}; {_ADVICE}")
    return [record.with_origin(origin) for record in records]
