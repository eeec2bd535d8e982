"""Exchange of results: export own records with the name of their origin, and import those of others."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mmrs_bench.errors import ConfigError, RecordError
from mmrs_bench.evaluation.collect import by_file
from mmrs_bench.evaluation.results.collected import SUFFIX, collected_files, write_collected
from mmrs_bench.evaluation.results.imported import (
    DESCRIPTION,
    IMPORTED,
    Origin,
    check_name,
    folder_name,
    read_export,
)
from mmrs_bench.evaluation.results.locks import folder_lock
from mmrs_bench.evaluation.results.provenance import utc_now
from mmrs_bench.evaluation.results.records import RECORDS, load_records
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.io import atomic_write, disk_errors, file_sha256, in_the_way, write_json
from mmrs_bench.version import __version__

ARCHIVE = ".zip"
#: Limits of an archive: files, and bytes of one expanded file (the limit of JSON files that are read).
MOST_FILES, MOST_BYTES = 1000, 16 << 20

#: What zipfile raises for a damaged archive; RuntimeError for an unknown compression, and for encryption.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError)


class Exported(NamedTuple):
    """What was exported, and what readers of it should know, one line each."""

    records: list[Record]
    remarks: list[str]


class Imported(NamedTuple):
    """What was imported.

    Attributes:
        origin: Its origin.
        records: Its records.
        folder: Where it is now.
        new: Whether it was not there before.
        same: Number of cells that the results folder computed itself with the same confusion matrix.
        different: Such cells with another confusion matrix.
    """

    origin: Origin
    records: list[Record]
    folder: Path
    new: bool
    same: int
    different: list[Record]


def is_results(path: Path) -> bool:
    """Whether a path is a results folder."""
    return path.is_dir() and ((path / RECORDS).is_dir() or bool(collected_files(path)))


def export_results(results: Path, out: Path, *, name: str, contact: str = "") -> Exported:
    """Write the records of a results folder, without imported ones, for others to import.

    Args:
        results: The results folder.
        out: A ``.zip`` file, or a folder that is new or empty.
        name: Who computed the results.
        contact: How to reach them.

    Raises:
        ConfigError: If the name is invalid, or ``out`` is a folder with files.
        RecordError: If there are no records, or one is corrupt.
        BenchError: If a file cannot be written.
    """
    check_name(name)
    records = load_records(results)
    if not records:
        raise RecordError(f"{results} contains no records of its own; give the results folder of mmrs-bench run")
    if out.suffix.lower() == ARCHIVE:
        with tempfile.TemporaryDirectory(prefix="mmrs-export-") as folder:
            paths = _write_export(Path(folder), records, name, contact)
            atomic_write(out, lambda file: _write_archive(file, paths))
    else:
        if fault := in_the_way(out / DESCRIPTION):
            raise ConfigError(f"--out {out}: {fault}")
        if out.is_dir() and any(out.iterdir()):
            raise ConfigError(f"--out {out}: contains files; give a new folder, or a {ARCHIVE} file")
        _write_export(out, records, name, contact)
    return Exported(records, _remarks(records))


def import_results(source: Path, results: Path, *, name: str | None = None, replace: bool = False) -> Imported:
    """Check an export, and copy it into a results folder, where reports show it with its origin.

    Args:
        source: The ``.zip`` file or folder that `export_results` wrote.
        results: The results folder.
        name: Another name of the origin, for tables of this folder.
        replace: Replace earlier results of the same origin.

    Raises:
        ConfigError: If there is no such file, the name is invalid, or other results of this origin are there.
        RecordError: If a file is damaged or was edited.
        BenchError: If the results folder cannot be written.
    """
    if name is not None:
        check_name(name)
    with _unpacked(source) as folder:
        origin, records = read_export(folder)
        if name not in (None, origin.name):
            fields = origin.model_dump(by_alias=True, exclude={"sha256", "name"})
            origin = Origin.of(name=name, **fields)
            records = [record.with_origin(origin.name) for record in records]
        target = results / IMPORTED / folder_name(origin.name)
        new = _check_target(target, origin, records, replace=replace)
        if new:
            with folder_lock(target.parent):
                new = _check_target(target, origin, records, replace=replace)  # others may have imported meanwhile
                if new:
                    _copy(folder, origin, target)
    own = {record.key: record for record in load_records(results)}
    known = [(record, own[record.key]) for record in records if record.key in own]
    different = [record for record, mine in known if record.confusion != mine.confusion]
    return Imported(origin, records, target, new, len(known) - len(different), different)


def _write_export(folder: Path, records: Iterable[Record], name: str, contact: str) -> list[Path]:
    """Write the files of an export, ``origin.json`` last; return them."""
    paths = []
    for file, of_file in by_file(records).items():
        write_collected(folder / file, (record.model_dump(mode="json", by_alias=True) for record in of_file))
        paths.append(folder / file)
    origin = Origin.of(
        name=name,
        contact=contact,
        exported_at=utc_now(),
        code_version=__version__,
        files={path.name: file_sha256(path) for path in paths},
    )
    write_json(folder / DESCRIPTION, origin.model_dump(mode="json", by_alias=True))
    read_export(folder)  # as the reader will
    return [*paths, folder / DESCRIPTION]


def _write_archive(file: object, paths: Sequence[Path]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        for path in paths:
            archive.write(path, path.name)


def _remarks(records: Sequence[Record]) -> list[str]:
    """What a reader of results asks about, where it applies."""
    dirty = sum(record.provenance.dirty is not False for record in records)
    unranked = sum(bool(record.unranked) for record in records)
    hosts = sorted({record.measured.host for record in records})
    remarks = [f"names of machines in the records: {', '.join(hosts)}"]
    if dirty:
        remarks.append(f"{dirty} records are of code with uncommitted changes, or of an unknown commit")
    if unranked:
        remarks.append(f"{unranked} records are unranked")
    return remarks


@contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    """The folder of an export; an archive is expanded to a temporary one."""
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise ConfigError(f"{source}: does not exist; give the {ARCHIVE} file or folder that mmrs-bench export wrote")
    with tempfile.TemporaryDirectory(prefix="mmrs-import-") as name:
        folder = Path(name)
        for file, content in _members(source):
            with disk_errors(folder):
                (folder / file).write_bytes(content)
        try:
            yield folder
        except RecordError as error:  # names the archive, not the temporary folder
            raise RecordError(str(error).replace(str(folder), str(source))) from error


def _members(source: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of an archive."""
    try:
        with zipfile.ZipFile(source) as archive:
            for entry in _checked_entries(source, archive):
                with archive.open(entry) as stream:
                    content = stream.read(MOST_BYTES + 1)
                if len(content) > MOST_BYTES:
                    raise RecordError(f"{source}: {entry.filename} is larger than {MOST_BYTES >> 20} MB")
                yield entry.filename, content
    except _BROKEN as error:
        raise RecordError(
            f"{source}: is no complete {ARCHIVE} archive ({' '.join(str(error).split())}); ask for it again"
        ) from error


def _checked_entries(source: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The entries of an archive, none of which has a path, a second name, or another kind of file."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    wrong = [n for n in names if n != DESCRIPTION and not (n.endswith(SUFFIX) and Path(n).name == n)]
    if wrong or len(set(names)) < len(names) or len(names) > MOST_FILES:
        found = f"contains {wrong[0]!r}" if wrong else "contains a file twice, or too many files"
        raise RecordError(f"{source}: {found}, so mmrs-bench export did not write it; ask for it again")
    return entries


def _check_target(target: Path, origin: Origin, records: list[Record], *, replace: bool) -> bool:
    """Whether the results have to be copied; raises a `ConfigError` if others are there."""
    if not target.exists():
        return True
    try:
        known, before = read_export(target)
    except RecordError:
        if replace:  # damaged results are of no use
            return True
        raise
    if known.name != origin.name:
        raise ConfigError(f"{target} has the results of {known.name}; import these with another --origin")
    if replace:
        return True
    if {record.key: record for record in before} == {record.key: record for record in records}:
        return False
    raise ConfigError(
        f"{target} has other results of {origin.name}, exported {known.exported_at}; replace them with --replace, or "
        "import these with another --origin"
    )


def _copy(folder: Path, origin: Origin, target: Path) -> None:
    """Copy an export within the lock of the target's folder; a reader sees either all or nothing of it.

    Earlier results are removed last.
    """
    part, before = (target.with_name(f".{target.name}.{kind}") for kind in ("part", "before"))
    with disk_errors(target.parent):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name in origin.files:
            shutil.copyfile(folder / name, part / name)
        write_json(part / DESCRIPTION, origin.model_dump(mode="json", by_alias=True))
        read_export(part)
        shutil.rmtree(before, ignore_errors=True)
        if target.exists():
            target.rename(before)
        part.rename(target)
        shutil.rmtree(before, ignore_errors=True)
