"""Compute one cell and create its record. Only workers import this module, because it needs torch."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import BenchError, DataError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.metrics import confusion_matrix, scores
from mmrs_bench.evaluation.results.models import ModelCard, model_folder, remove_model, save_model
from mmrs_bench.evaluation.results.provenance import measured, provenance
from mmrs_bench.evaluation.results.schema import Leakage, PixelBoundRecord, Record
from mmrs_bench.evaluation.results.signature import signature, unranked_reason
from mmrs_bench.io import disk_errors
from mmrs_bench.methods.base import Method, Progress, RunContext, Trial, Wait, method_class, never_defer
from mmrs_bench.methods.setting_files import file_hashes, usable_config
from mmrs_bench.scenes.catalogue import load_manifest, load_scene
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.files.fingerprint import scene_fingerprint
from mmrs_bench.scenes.manifest import SceneClass
from mmrs_bench.scenes.scene import Scene
from mmrs_bench.scenes.splits.audit import audit


class Fitted(NamedTuple):
    """A fitted method, its data, and the seconds by stage."""

    method: Method
    data: SceneDataModule
    seconds: dict[str, float]


def run_cell(
    cell: Cell, execution: ExecutionConfig, results: Path, progress: Progress, wait: Wait = never_defer
) -> Record:
    """Compute one cell; training logs are written to the subfolder ``work`` of the results folder.

    Raises:
        BenchError: If data or settings are wrong, or the training fails.
    """
    return _run(cell, execution, results, progress, wait)


def run_and_save(
    cell: Cell, execution: ExecutionConfig, results: Path, progress: Progress, wait: Wait = never_defer
) -> Record:
    """`run_cell`, which also writes the fitted model (see `mmrs_bench.evaluation.results.models`)."""
    return _run(cell, execution, results, progress, wait, save=True)


def _run(
    cell: Cell, execution: ExecutionConfig, results: Path, progress: Progress, wait: Wait, *, save: bool = False
) -> Record:
    protocol = cell.protocol
    card = cell.card
    variant = card.variants[protocol.variant]
    execution = execution.resolved()
    method, data, seconds = fit_cell(cell, execution, results, progress, wait)
    with _timed(seconds, "predict", progress):
        prediction = method.classify(data, data.query)
    with _timed(seconds, "score", progress):
        confusion = confusion_matrix(data.query_targets, prediction, data.num_classes)
        leakage = audit(data.scene, data.split)
    if save:
        _save_model(cell, method, data, results)
    else:
        remove_model(results, protocol)
    parameters = method.parameter_counts()
    work_dir = method.context.work_dir
    if not any(work_dir.iterdir()):
        work_dir.rmdir()
    n_support = int(data.support.size)
    return Record(
        schema=1,
        key=protocol.key,
        protocol=protocol,
        execution=execution,
        simulated=data.scene.manifest.simulated,
        scene_title=data.scene.manifest.title,
        modalities=dict(data.channels),
        external_data=variant.external_data or card.external_data,
        class_names=data.class_names,
        split_sha256=data.split.sha256,
        n_support=n_support,
        labels_used=data.labels_used,
        n_query=int(data.query.size),
        confusion=tuple(map(tuple, confusion.tolist())),
        scores=scores(confusion),
        leakage=Leakage(**leakage._asdict()),
        pixel_bounds=tuple(
            PixelBoundRecord(modalities=b.modalities, accuracy=b.accuracy, standard_error=b.standard_error)
            for b in data.scene.pixel_bounds
        ),
        parameters_total=parameters.total,
        parameters_trainable=parameters.trainable,
        unranked=unranked_reason(
            protocol, labels_used=data.labels_used, n_support=n_support, variant_reason=variant.unranked
        ),
        notes=method.notes(),
        signature=signature(protocol),
        provenance=provenance(),
        measured=measured(seconds, method.context.pretraining_seconds),
    )


def _save_model(cell: Cell, method: Method, data: SceneDataModule, results: Path) -> None:
    manifest = data.scene.manifest
    used = [modality for modality in manifest.modalities if modality.name in data.modalities]
    card = ModelCard(
        key=cell.key,
        protocol=cell.protocol,
        dataset=cell.dataset,
        card_path=cell.card_path,
        class_path=cell.card.class_path,
        settings=_method_config(cell),
        classes=tuple(SceneClass(id=c.id, name=c.name, color=c.color) for c in manifest.classes),
        bands={name: data.scene.images[name].shape[2] for name in data.modalities},
        channels=data.channels,
        channel_names={m.name: m.channel_names for m in used if m.channel_names},
        wavelengths_nm={m.name: m.wavelengths_nm for m in used if m.wavelengths_nm},
        execution=method.context.execution,
        signature=signature(cell.protocol),
        provenance=provenance(),
    )
    save_model(model_folder(results, cell.protocol), card, method.save, data.component_axes())


def fit_cell(
    cell: Cell, execution: ExecutionConfig, results: Path, progress: Progress, wait: Wait = never_defer
) -> Fitted:
    """Load a cell's data and train its method; arguments and errors as `run_cell`."""
    method, data, seconds = pretrain_cell(cell, execution, _work_folder(results, cell.key), progress, wait)
    with _timed(seconds, "fit", progress):
        method.fit(data)
    return Fitted(method, data, seconds)


def pretrain_cell(
    cell: Cell,
    execution: ExecutionConfig,
    work_dir: Path,
    progress: Progress,
    wait: Wait = never_defer,
    *,
    only_cached: bool = False,
    trial: Trial | None = None,
) -> Fitted:
    """Load a cell's data and pretrain its method, which is not fitted.

    Args:
        cell: The cell.
        execution: As ``progress`` and ``wait``, see `run_cell`.
        work_dir: Folder for training logs.
        progress: Callback for the progress of a stage.
        wait: See `RunContext`.
        only_cached: See `RunContext`.
        trial: See `RunContext`.

    Raises:
        BenchError: If data or settings are wrong, or the training fails.
    """
    protocol = cell.protocol
    config = _method_config(cell)
    torch.set_num_threads(execution.threads)
    seconds: dict[str, float] = {}
    with _timed(seconds, "data", progress):
        data = SceneDataModule(
            _scene(cell.dataset, protocol.scene_fingerprint),
            protocol.data,
            seed=protocol.seed,
            inference_batch=execution.inference_batch,
            device=execution.resolved().device,
        )
        data.setup()
    context = RunContext(
        seed=protocol.seed,
        draw=protocol.data.draw,
        work_dir=work_dir,
        execution=execution,
        progress=progress,
        wait=wait,
        only_cached=only_cached,
        trial=trial,
    )
    method = method_class(cell.card)(config, context)
    with _timed(seconds, "pretrain", progress):
        method.pretrain(data)
    return Fitted(method, data, seconds)


def _method_config(cell: Cell) -> dict[str, Any]:
    """The method's settings with absolute paths; a `DataError` reports that a file changed since the run started."""
    protocol = cell.protocol
    found = file_hashes(protocol.method_config, cell.card, cell.card_path)
    if changed := sorted(name for name in found | protocol.files if found.get(name) != protocol.files.get(name)):
        raise DataError(f"{cell.title}: files of {', '.join(changed)} changed during the run; run the command again")
    return usable_config(protocol.method_config, cell.card_path or protocol.method)


@lru_cache(maxsize=1)
def _scene(dataset: str, fingerprint: str) -> Scene:
    """The scene, cached for the next cell."""
    manifest = load_manifest(dataset)
    scene = load_scene(manifest)
    # After reading, so that a file that changed before it was read is noticed.
    if scene_fingerprint(manifest) != fingerprint:
        raise DataError(f"{manifest.path}: the manifest or its files changed during the run; run the command again")
    return scene


def _work_folder(results: Path, key: str) -> Path:
    """The empty folder of a cell's training logs; what a killed run left there is removed.

    Raises:
        BenchError: If the folder cannot be emptied or created.
    """
    folder = results / "work" / key
    with disk_errors(results):
        if folder.is_symlink():
            raise BenchError(f"cannot write to {folder}: it is a symbolic link; remove it, and run the command again")
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    return folder


@contextmanager
def _timed(seconds: dict[str, float], stage: str, progress: Progress) -> Iterator[None]:
    progress(stage, 0.0)
    start = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - start, 6)
    progress(stage, 1.0)
