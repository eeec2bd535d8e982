"""Checks before any worker starts: folders, device, optional packages, and files that methods need."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import BenchError, ConfigError, PreflightError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.run.jobs import is_done
from mmrs_bench.methods.setting_files import missing_files, scene_notes
from mmrs_bench.methods.suitability import unmet_need
from mmrs_bench.paths import CACHE_VARIABLE, cache_root
from mmrs_bench.plugins import EXTRAS, missing_package
from mmrs_bench.scenes.catalogue import load_manifest

#: Subfolders of a results folder that a run writes to.
WRITTEN = ("records", "failures", "locks", "logs", "work")
#: The optional package that an executor needs.
EXECUTOR_PACKAGES = {"slurm": "submitit", "ray": "ray"}


def preflight(
    cells: Iterable[Cell],
    results: Path,
    execution: ExecutionConfig,
    *,
    executor: str = "local",
    force: bool = False,
    save_models: bool = False,
    folders: Iterable[Path] = (),
    packages: Iterable[str] = (),
) -> None:
    """Check that cells can be computed. Nothing is written.

    Only ``--device cuda``, ``--devices``, and towers of open_clip that are not in ``data_manifests/weights.yaml``,
    import torch.

    Args:
        cells: The cells of the run.
        results: Folder of the records.
        execution: The device is checked only if the workers run on this machine.
        executor: Name of the executor.
        force: Whether cells that have a record are computed, too.
        save_models: Whether cells that have a record but no model are computed, too.
        folders: Further folders that are written.
        packages: Further optional packages that are needed (see `mmrs_bench.plugins.EXTRAS`).

    Raises:
        PreflightError: With one line for each fault, all of them at once.
    """
    pending = [cell for cell in cells if force or not is_done(results, cell, save_models=save_models)]
    faults = list(_folder_faults(results, "choose another folder"))
    written = (*WRITTEN, "models") if save_models else WRITTEN
    if not faults:
        faults += [fault for name in written for fault in _folder_faults(results / name, "choose another folder")]
        faults += [fault for folder in folders for fault in _folder_faults(folder, "choose another folder with --out")]
    if executor in EXECUTOR_PACKAGES:
        packages = [*packages, EXECUTOR_PACKAGES[executor]]
    packages = [*packages, *(name for name in execution.logger if name in EXTRAS)]
    faults += filter(None, map(missing_package, packages))
    if pending:
        if executor == "local":
            faults += _device_faults(execution)
        if any(_uses_cache(cell) for cell in pending):
            faults += _folder_faults(cache_root(), f"set {CACHE_VARIABLE} to a writable folder")
        faults += method_faults(pending)
        faults += notes_of(pending).faults
    if faults:
        raise PreflightError(dict.fromkeys(faults))


class Notes(NamedTuple):
    """What users must know about cells before they are computed: lines to show, and why cells cannot be computed."""

    lines: list[str]
    faults: list[str]


def notes_of(cells: Iterable[Cell]) -> Notes:
    """How methods apply to scenes, see `unmet_need` and `mmrs_bench.methods.setting_files.scene_notes`."""
    notes = Notes([], [])
    for cell in {(cell.dataset, cell.card_path, cell.method_label): cell for cell in cells}.values():
        where = f"{cell.method_label} on {cell.protocol.scene}"
        try:
            manifest, modalities = load_manifest(cell.dataset), cell.protocol.data.modalities
            if reason := unmet_need(cell.card, cell.protocol.variant, manifest, modalities):
                notes.faults.append(f"{where}: {reason}; choose other --methods")
            found = scene_notes(cell.protocol.method_config, cell.card, cell.card_path, cell.dataset)
        except BenchError as error:
            notes.faults.append(f"{where}: {error}")
        else:
            notes.lines.extend(f"{where}: {line}" for line in found)
    return notes


def _folder_faults(folder: Path, advice: str) -> Iterator[str]:
    """Why a folder cannot be written or created, if so."""
    existing = folder
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        yield f"cannot write {folder}: {existing} is not a folder; {advice}"
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield f"cannot write {folder}: {existing} is not writable; {advice}, or change its rights"


def _device_faults(execution: ExecutionConfig) -> list[str]:
    if execution.device != "cuda" and execution.devices == 1:
        return []
    try:
        execution.resolved()
    except ConfigError as error:
        return [str(error)]
    return []


def _uses_cache(cell: Cell) -> bool:
    """Whether the method pretrains or extracts features, which it stores in the cache."""
    return cell.card.uses_unlabelled or cell.card.external_data != "none"


def method_faults(cells: Iterable[Cell]) -> list[str]:
    """The pretrained weights and files that methods need and this machine lacks, one line each."""
    users: dict[str, list[str]] = defaultdict(list)
    checked: set[tuple[str, str]] = set()
    for cell in cells:
        kind = (cell.card_path or cell.protocol.method, cell.method_label)
        if kind in checked:
            continue
        checked.add(kind)
        for line in missing_files(cell.protocol.method_config, cell.card, cell.card_path):
            users[line].append(cell.method_label)
    return [
        f"{' and '.join(dict.fromkeys(methods))}: {line}, or choose other --methods" for line, methods in users.items()
    ]
