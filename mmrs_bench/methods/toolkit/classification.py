"""Base of the LightningModules that classify windows."""

from __future__ import annotations

from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional

#: Metric that every classification module logs on validation pixels.
VALIDATION_METRIC = "validation_accuracy"


class WindowClassifier(L.LightningModule):
    """Trains a network with cross-entropy.

    Args:
        network: Maps windows (b, c, w, w) by modality to logits (b, k).
        config: The settings of the method. ``label_smoothing``, if there is such a setting, is the share of the
            target's weight that is spread over all classes.
    """

    #: Windows per forward pass of a prediction on CPU, for speed; None takes the whole batch.
    cpu_chunk: ClassVar[int | None] = None

    def __init__(self, network: nn.Module, config: Any = None) -> None:
        super().__init__()
        self.network, self.config = network, config

    def logits(self, batch: dict[str, Any]) -> Tensor:
        """Logits (b, k) of a batch with ``windows``."""
        logits: Tensor = self.network(batch["windows"])
        return logits

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Cross-entropy of a batch with ``windows`` and ``target`` (b,)."""
        target, smoothing = batch["target"], getattr(self.config, "label_smoothing", 0.0)
        loss = functional.cross_entropy(self.logits(batch), target, label_smoothing=smoothing)
        self.log("loss", loss, batch_size=len(target))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the accuracy; only called with the selection rule ``paper-val``."""
        self.log_accuracy(self.logits(batch).argmax(dim=1), batch["target"])

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Targets (b,) of a batch with ``pixel`` (b,) and ``windows``."""
        count = len(batch["pixel"])
        chunk = self.cpu_chunk if self.cpu_chunk and batch["pixel"].device.type == "cpu" else max(count, 1)
        parts = []
        for start in range(0, count, chunk):
            windows = {name: window[start : start + chunk] for name, window in batch["windows"].items()}
            parts.append(self.logits({"windows": windows}).argmax(dim=1))
        return torch.cat(parts)

    def log_accuracy(self, predicted: Tensor, target: Tensor) -> None:
        """Log the accuracy of predicted targets (b,) as `VALIDATION_METRIC`."""
        self.log(VALIDATION_METRIC, (predicted == target).float().mean(), batch_size=len(target))

    def with_cosine_schedule(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimiser with a learning rate that falls to 0 along a half cosine over the trainer's epochs."""
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs_of(self))
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def epochs_of(module: L.LightningModule) -> int:
    """Number of epochs of a module's trainer."""
    return max(1, module.trainer.max_epochs or 1)
