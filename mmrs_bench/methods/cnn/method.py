"""CNN baseline: a small window network, trained from scratch on the support set.

Regularised by flips and rotations of windows, dropout, label smoothing and weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from mmrs_bench.methods.base import MethodConfig
from mmrs_bench.methods.cnn.network import WindowCNN
from mmrs_bench.methods.toolkit.classification import WindowClassifier
from mmrs_bench.methods.toolkit.network_method import Blueprint, NetworkMethod
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import LoaderView


class CnnConfig(MethodConfig):
    """Settings of `Cnn`.

    Attributes:
        width, dropout: See `mmrs_bench.methods.cnn.network.WindowCNN`.
        steps: Optimiser steps, rounded up to whole epochs.
        learning_rate: Initial learning rate of AdamW; falls to 0 along a half cosine.
        weight_decay: Weight decay of AdamW.
        label_smoothing: Share of the target's weight that is spread over all classes.
    """

    width: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    label_smoothing: float = Field(ge=0, lt=1)


class CnnModule(WindowClassifier):
    """Trains a `WindowCNN` with cross-entropy."""

    def configure_optimizers(self) -> Any:
        """AdamW with a cosine schedule over the epochs."""
        config = self.config
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        return self.with_cosine_schedule(optimizer)


class Cnn(NetworkMethod):
    """Window CNN with one branch per modality."""

    Config = CnnConfig
    name = "cnn"
    title = "CNN"

    def build(self, blueprint: Blueprint, weights: Mapping[str, Tensor] | None = None) -> WindowCNN:
        """See `NetworkMethod.build`."""
        channels, classes = dict(blueprint.channels), len(blueprint.class_names)
        return WindowCNN(channels, classes, width=self.config.width, dropout=self.config.dropout)

    def module(self) -> CnnModule:
        """See `NetworkMethod.module`."""
        return CnnModule(self.network, self.config)

    def loaders(self, data: SceneDataModule) -> LoaderView:
        """The loaders of the data module."""
        return data.serving(train=data.train_dataloader(), validate=data.val_dataloader())

    def epochs(self, steps_per_epoch: int) -> int:
        """The smallest number of epochs with at least ``steps`` steps."""
        return math.ceil(int(self.config.steps) / steps_per_epoch)
