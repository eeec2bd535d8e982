"""CNN: a small window network trained from scratch on the support set, the plain deep baseline.

Few labels, so the care goes into regularisation: flips and rotations of whole windows (the data module's), dropout,
label smoothing, weight decay, a cosine schedule to zero and a fixed number of steps.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from pydantic import Field
from torch.nn import functional

from mmrs_bench.methods.base import Method, MethodConfig, ParameterCounts
from mmrs_bench.methods.cnn.network import WindowCNN
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.network_method import Blueprint, load_network, save_network
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray

NAME = "cnn"
VALIDATION_METRIC = "validation_accuracy"


class CnnConfig(MethodConfig):
    """Settings of `Cnn`.

    Attributes:
        width: Channels of a modality's stem; the fusion has twice as many.
        dropout: See `mmrs_bench.methods.cnn.network.WindowCNN`.
        steps: Optimiser steps, rounded up to whole epochs.
        learning_rate: AdamW's at the first step; falls to 0 along a half cosine.
        weight_decay: AdamW's.
        label_smoothing: Share of the target's weight that is spread over all classes.
    """

    width: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    steps: int = Field(default=300, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)


class CnnModule(L.LightningModule):
    """Trains a `WindowCNN` by cross-entropy.

    Args:
        network: The network.
        config: Settings.
        epochs: Length of the schedule.
    """

    def __init__(self, network: WindowCNN, config: CnnConfig, epochs: int) -> None:
        super().__init__()
        self.network = network
        self._config = config
        self._epochs = epochs

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """Cross-entropy (scalar) of a batch with ``windows`` and ``target`` (b,)."""
        logits = self.network(batch["windows"])
        loss = functional.cross_entropy(logits, batch["target"], label_smoothing=self._config.label_smoothing)
        self.log("loss", loss, batch_size=len(logits))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the accuracy; runs only under the selection rule ``paper-val``."""
        correct = self.predict_step(batch, batch_idx) == batch["target"]
        self.log(VALIDATION_METRIC, correct.float().mean(), batch_size=len(correct))

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """Targets (b,) of a batch with ``windows``."""
        logits: torch.Tensor = self.network(batch["windows"])
        return logits.argmax(dim=1)

    def configure_optimizers(self) -> Any:
        """AdamW with a cosine schedule over the epochs."""
        config = self._config
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._epochs),
        }


class Cnn(Method):
    """Window CNN with one branch per modality."""

    Config = CnnConfig

    _network: WindowCNN
    _blueprint: Blueprint

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`; under ``paper-val`` the epoch with the best validation accuracy is kept."""
        self._blueprint = Blueprint.of(data, self.config)
        self._network = self._build(self._blueprint)
        epochs = math.ceil(self.config.steps / len(data.train_dataloader()))
        training.fit(
            CnnModule(self._network, self.config, epochs),
            data,
            self.context,
            stage="training",
            epochs=epochs,
            maximise=VALIDATION_METRIC if data.config.selection == "paper-val" else None,
        )

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`.

        Raises:
            ConfigError: If the network was fitted to windows of another side or other channels.
        """
        self._blueprint.check_inputs(Blueprint.of(data, self.config), "CNN")
        return training.predict(CnnModule(self._network, self.config, epochs=1), data, pixels, self.context)

    def parameter_counts(self) -> ParameterCounts:
        """All parameters are trained."""
        count = sum(parameter.numel() for parameter in self._network.parameters())
        return ParameterCounts(count, count)

    def save(self, folder: Path) -> None:
        """See `Method.save`: weights (safetensors) and the sizes that the network is built from (JSON)."""
        save_network(folder, NAME, self._blueprint, self._network)

    def load(self, folder: Path) -> None:
        """See `Method.load`.

        Raises:
            DataError: If a file is absent or damaged, or the weights do not fit the settings or are not numbers.
        """
        self._blueprint, self._network = load_network(
            folder, NAME, self.config, lambda blueprint, weights: self._build(blueprint)
        )

    def _build(self, blueprint: Blueprint) -> WindowCNN:
        config, channels, classes = self.config, dict(blueprint.channels), len(blueprint.class_names)
        return training.initialised(
            lambda: WindowCNN(channels, classes, width=config.width, dropout=config.dropout), self.context, NAME
        )
