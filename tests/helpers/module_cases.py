"""A tiny example of every LightningModule with data for it, for the tests that all modules have to pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from helpers.method_helpers import small_data

from mmrs_bench.methods.clip.module import LanguageAlignedClassifier
from mmrs_bench.methods.clip.pretraining import MaskedDiffusionPretrainer
from mmrs_bench.methods.cnn.module import CnnModule
from mmrs_bench.methods.msfmamba.module import MsfMambaModule
from mmrs_bench.methods.toolkit.stage import StageModule
from mmrs_bench.scenes.datamodule import SceneDataModule

QUIET = dict.fromkeys(("enable_progress_bar", "enable_model_summary"), False)


def scene_data(window: int = 7, **options: Any) -> SceneDataModule:
    """20 support windows of a small scene, in batches of 5."""
    settings = {"window": window, "shots": 5, "query_limit": 60, "batch_size": 5, **options}
    return SceneDataModule(small_data().scene, **settings)


@dataclass(frozen=True)
class ModuleCase:
    """A module and its data.

    Attributes:
        name: Name of the test.
        module: Class of the module.
        card: Card of the method whose settings are the defaults of the module.
        settings: Tiny hyperparameters.
        renamed: Names of settings in the card, by hyperparameter, where they differ.
        classifies: Whether the module predicts targets.
        data: Builds the data module; keywords change the protocol and ``batch_size``.
        exact: Settings without which the losses of two processes differ from those of one, such as dropout.
    """

    name: str
    module: type[StageModule]
    card: str
    settings: dict[str, Any] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    classifies: bool = True
    data: Callable[..., Any] = scene_data
    exact: dict[str, Any] = field(default_factory=dict)

    def build(self, data: Any, **changes: Any) -> Any:
        """An untrained module for ``data`` with the weights of seed 0."""
        classes = {"num_classes": data.num_classes} if self.classifies else {}
        if "class_names" in inspect.signature(self.module).parameters:
            classes["class_names"] = data.class_names
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.module(channels=data.channels, **{**classes, **self.settings, **changes})


def unlabelled_data(window: int = 7, **options: Any) -> SceneDataModule:
    """As `scene_data`, but 20 unlabelled windows an epoch."""
    return scene_data(window, train_on="unlabelled", windows_per_epoch=20, **options)


#: Tiny sizes of DiffCLIP's encoder.
ENCODER = {"window": 7, "width": 8, "heads": 2, "depth": 1}
PRETRAINING = {"learning_rate": "pretrain_rate"}

CASES = (
    ModuleCase("cnn", CnnModule, "cnn", {"width": 4}, exact={"dropout": 0.0}),
    ModuleCase(
        "diffclip-stage1",
        MaskedDiffusionPretrainer,
        "diffclip",
        {**ENCODER, "decoder_depth": 1},
        {**PRETRAINING, "weight_decay": "pretrain_decay", "schedule": "pretrain_schedule", "crop": "pretrain_crop"},
        classifies=False,
        data=unlabelled_data,
    ),
    ModuleCase("diffclip-stage2", LanguageAlignedClassifier, "diffclip", {**ENCODER, "text_layers": 1}),
    ModuleCase("msfmamba", MsfMambaModule, "msfmamba", {"window": 7, "width": 4, "states": 2}),
)


class Losses(L.Callback):
    """Records the training loss of every step, averaged over processes."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs["loss"].detach()
        self.values.append(float(trainer.strategy.reduce(loss, reduce_op="mean")))


def trainer(folder: Path, epochs: int = 2, **options: Any) -> L.Trainer:
    """A quiet trainer on the CPU without logs."""
    options = {"logger": False, "enable_checkpointing": False, "devices": 1, **QUIET, **options}
    return L.Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=folder, **options)
