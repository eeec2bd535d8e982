"""Fitted models outside the runner: classify a scene, write a Lightning checkpoint."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmrs_bench.config import DataConfig, ExecutionConfig, MethodSpec, drop_fault, method_label, torch_threads
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.report.maps.panels import MethodMap
from mmrs_bench.evaluation.report.maps.sheet import MapSheet
from mmrs_bench.evaluation.results.models import ModelCard, read_axes, read_model
from mmrs_bench.io import atomic_write, file_sha256
from mmrs_bench.methods.catalogue import method_cards
from mmrs_bench.scenes.catalogue import load_manifest, load_scene
from mmrs_bench.scenes.files.fingerprint import scene_fingerprint

if TYPE_CHECKING:
    from lightning import LightningModule

    from mmrs_bench.methods.base import Method, Prediction, Progress
    from mmrs_bench.scenes.datamodule import SceneDataModule
    from mmrs_bench.scenes.manifest import Manifest, Modality
    from mmrs_bench.scenes.scene import Scene

#: Largest difference between band centres of one sensor on two scenes.
MAX_SHIFT_NM = 10.0


def predict_scene(
    model: Path,
    dataset: str | None,
    execution: ExecutionConfig,
    progress: Progress,
    *,
    drop: Sequence[str] | None = None,
) -> MapSheet:
    """Classify every pixel of a scene with a model that ``mmrs-bench run --save-models`` wrote.

    The training scene is prepared as in the training. Another scene is normalised by its own statistics. Its ground
    truth is not used, and may be absent.

    Args:
        model: Folder of the model, or record of its cell.
        dataset: Name of a scene, or path of a manifest; None takes the training scene.
        execution: Device and threads; precision and batch size are those of the training.
        progress: Callback for the progress of a stage.
        drop: Modalities that are not used, or that the scene does not have; None takes those of the model's protocol.

    Raises:
        ConfigError: If there is no such model or scene, the scene has other channels, or ``drop`` is impossible.
        DataError: If files of the model or the scene are missing or damaged.
    """
    folder, card = read_model(model)
    _check_version(folder, card)
    manifest = load_manifest(dataset or card.dataset)
    config = card.protocol.data if drop is None else card.protocol.data.model_copy(update={"drop": tuple(drop)})
    if fault := drop_fault(config.drop, card.bands):
        raise ConfigError(f"{folder}: {fault}")
    _check_channels(folder, card, manifest, config.drop)
    scene = load_scene(manifest, progress=lambda line: progress(line, 0.0))
    same = scene_fingerprint(manifest) == card.protocol.scene_fingerprint
    if not same:
        progress(
            f"{manifest.tag} is not the training scene: it is normalised by its own statistics, without labels", 0.0
        )
    with _loaded(folder, card, _execution(card, execution.device).resolved(), progress) as method:
        if not same and (reason := method.bound_to_scene()):
            raise ConfigError(
                f"{folder}: {reason}, so it classifies {card.protocol.scene} only; train on {manifest.tag}"
            )
        unlabelled = _as_trained(scene, card)
        data = _data(scene if same else unlabelled, folder, card, method.context.execution, config, same=same)
        progress(f"predict {manifest.tag}", 0.0)
        prediction = classify_all(method, data, execution.threads)
    title = f"{_title(card)}, trained on {card.protocol.scene}"
    return MapSheet(unlabelled, (MethodMap(_label(card), *prediction),), np.empty(0, np.int64), None, title)


def classify_all(method: Method, data: SceneDataModule, threads: int) -> Prediction:
    """Classify every pixel of a scene by ``threads`` threads, or those of the training if they are more."""
    execution = method.context.execution
    more = execution.model_copy(update={"threads": max(threads, execution.threads)})
    method.context = replace(method.context, execution=more)
    return method.classify_with_confidence(data, np.arange(data.scene.labels.size))


@contextmanager
def saved_method(
    model: Path, dataset: str, device: Literal["auto", "cpu", "cuda"], progress: Progress
) -> Iterator[tuple[Method, SceneDataModule]]:
    """A fitted method that ``mmrs-bench run --save-models`` wrote, and its training scene as in the training.

    Raises:
        ConfigError: If there is no such model, or the installed method is another one.
        DataError: If files of the model or the scene are missing or damaged.
    """
    folder, card = read_model(model)
    _check_version(folder, card)
    execution = _execution(card, device).resolved()
    data = _data(load_scene(load_manifest(dataset)), folder, card, execution, card.protocol.data, same=True)
    with _loaded(folder, card, execution, progress) as method:
        yield method, data


def export_model(model: Path, out: Path, progress: Progress, *, pretrained: bool = False) -> str:
    """Write a Lightning checkpoint of a model.

    Args:
        model: Folder of the model, or record of its cell.
        out: The file.
        progress: Callback for the progress of a stage.
        pretrained: Write the module of stage 1, which is read from the pretraining cache.

    Returns:
        ``module:Class`` or ``file.py:Class`` of the LightningModule, whose ``load_from_checkpoint`` reads the file.

    Raises:
        ConfigError: If there is no such model, or it has no LightningModule.
        DataError: If files of the model are missing or damaged.
        NotPretrainedError: If the cache does not contain stage 1.
    """
    from mmrs_bench.methods.base import place_of

    folder, card = read_model(model)
    _check_version(folder, card)
    if pretrained:
        from mmrs_bench.evaluation.pretrained import pretrained_module

        module = pretrained_module(card.cell, _execution(card, card.execution.device), progress)
    else:
        with _loaded(folder, card, _execution(card, "cpu"), progress) as method:
            module = method.module
            if module is None:
                raise ConfigError(
                    f"{folder}: {card.protocol.method} has no LightningModule, so there is no checkpoint of it; "
                    "mmrs-bench predict classifies scenes with it"
                )
    write_checkpoint(out, module)
    return place_of(type(module))


def write_checkpoint(path: Path, module: LightningModule) -> None:
    """Write what ``type(module).load_from_checkpoint(path)`` reads: tensors and hyperparameters.

    Raises:
        BenchError: If the file cannot be written.
    """
    import lightning as L
    import torch

    checkpoint: dict[str, Any] = {
        "pytorch-lightning_version": L.__version__,
        "epoch": 0,
        "global_step": 0,
        "state_dict": module.state_dict(),
        "hparams_name": "kwargs",
        "hyper_parameters": dict(module.hparams),
    }
    module.on_save_checkpoint(checkpoint)
    content = io.BytesIO()
    torch.save(checkpoint, content)
    atomic_write(path, lambda file: file.write(content.getbuffer()))


@contextmanager
def _loaded(folder: Path, card: ModelCard, execution: ExecutionConfig, progress: Progress) -> Iterator[Method]:
    """The fitted method of a model; threads of torch are those of the training meanwhile."""
    from mmrs_bench.methods.base import RunContext, method_class

    protocol = card.protocol
    spec = MethodSpec(
        name=protocol.method, version=protocol.method_version, class_path=card.class_path, title="", reference=""
    )
    with torch_threads(execution.threads), tempfile.TemporaryDirectory(prefix="mmrs-predict-") as work_dir:
        context = RunContext(protocol.seed, protocol.data.draw, Path(work_dir), execution, progress)
        method = method_class(spec)(card.settings, context)
        method.load(folder)
        yield method


def _data(
    scene: Scene, folder: Path, card: ModelCard, execution: ExecutionConfig, config: DataConfig, *, same: bool
) -> SceneDataModule:
    """The scene as the method receives it."""
    from mmrs_bench.scenes.datamodule import SceneDataModule
    from mmrs_bench.scenes.inference import InferenceDataModule

    options: dict[str, Any] = {
        "seed": card.protocol.seed,
        "inference_batch": execution.inference_batch,
        "device": execution.device,
    }
    if same:
        return SceneDataModule(scene, config, **options)
    return InferenceDataModule(scene, config, card.bands, read_axes(folder), **options)


def _execution(card: ModelCard, device: Literal["auto", "cpu", "cuda"]) -> ExecutionConfig:
    """What predictions depend on as in the training, on a device; number of devices and loggers do not matter."""
    trained = card.execution
    return ExecutionConfig(
        device=device,
        precision=trained.precision,
        inference_batch=trained.inference_batch,
        threads=trained.threads,
    )


def _check_version(folder: Path, card: ModelCard) -> None:
    """Raise a `ConfigError` if the installed method would predict other classes than the one that was fitted."""
    protocol = card.protocol
    file = Path(card.class_path.rpartition(":")[0])
    if "class" in protocol.files and not (file.is_file() and file_sha256(file) == protocol.files["class"]):
        raise ConfigError(f"{folder}: {file} was changed or removed after the training; train it again")
    installed = method_cards().get(protocol.method)
    if installed is None or installed.class_path != card.class_path:  # a card given by path
        return
    if installed.version != protocol.method_version:
        raise ConfigError(
            f"{folder}: is a model of version {protocol.method_version} of {protocol.method} (mmrs-bench "
            f"{protocol.code_version}), and installed is version {installed.version}; train it again"
        )


def _check_channels(folder: Path, card: ModelCard, manifest: Manifest, drop: Collection[str]) -> None:
    found: dict[str, int] = {modality.name: modality.bands for modality in manifest.modalities}
    wrong = {name for name, bands in card.bands.items() if found.get(name) != bands}
    if wrong - set(drop):
        lacking = [name for name in card.bands if name not in found and len(card.bands) > 1]
        raise ConfigError(
            f"{folder}: was trained on {_bands(card.bands)}, but {manifest.tag} has {_bands(found)}; use a scene with "
            "these bands, or train on this one"
            + (f", or predict without {' and '.join(lacking)} (--drop {' '.join(lacking)})" if lacking else "")
        )

    for modality in manifest.modalities:
        if modality.name not in drop and (fault := _other_bands(card, modality)):
            raise ConfigError(f"{folder}: {fault}; use a scene with the same bands in the same order")


def _other_bands(card: ModelCard, modality: Modality) -> str:
    """How the bands of a scene differ from those of the model, as far as both manifests describe them."""
    name = modality.name
    trained, found = card.channel_names.get(name, ()), modality.channel_names
    if trained and found and trained != found:
        return f"was trained on {name} with the channels {', '.join(trained)}, but the scene has {', '.join(found)}"
    centres, others = card.wavelengths_nm.get(name, ()), modality.wavelengths_nm or ()
    shift = max((abs(one - other) for one, other in zip(centres, others, strict=False)), default=0.0)
    if shift > MAX_SHIFT_NM:
        return f"the band centres of {name} differ from those of the training by up to {shift:g} nm"
    return ""


def _bands(bands: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in bands.items())


def _as_trained(scene: Scene, card: ModelCard) -> Scene:
    """The scene without labels, with the classes of the model."""
    manifest = scene.manifest.model_copy(update={"classes": card.classes}).with_path(scene.manifest.path)
    return replace(scene, manifest=manifest, ground_truth=np.zeros_like(scene.ground_truth))


def _label(card: ModelCard) -> str:
    return method_label(card.protocol.method, card.protocol.variant)


def _title(card: ModelCard) -> str:
    data = card.protocol.data
    return f"{_label(card)} {data.split} {data.shots}-shot draw {data.draw}"
