"""A module that learns in a second, for the tests of interrupted trainings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from helpers.method_helpers import small_data

from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit import training

#: Per epoch: 1440 pixels in batches of 128.
STEPS = 12


class Denoiser(L.LightningModule):
    """Restores centre pixels after dropout; calls ``before_step`` with the number of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(7, 7)
        self.norm = torch.nn.BatchNorm1d(7)  # with an int64 buffer without dimensions
        self.dropout = torch.nn.Dropout(0.5)
        self.before_step: Callable[[int], object] = lambda step: None
        self.steps: list[int] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.before_step(self.global_step)
        self.steps.append(self.global_step)
        centre = torch.cat([w[:, :, 5, 5] for w in batch["windows"].values()], dim=1)
        loss: torch.Tensor = (self.layer(self.dropout(self.norm(centre))) - centre).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.02)


def learn(module: Denoiser, context: RunContext, epochs: int) -> None:
    """A resumable training on all pixels."""
    unlabelled = training.Loaders(small_data().unlabelled_dataloader())
    training.fit(module, unlabelled, context, stage="pretraining", epochs=epochs, resumable=True)
