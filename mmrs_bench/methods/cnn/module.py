"""The LightningModule of the CNN baseline."""

from __future__ import annotations

from typing import Any

import torch

from mmrs_bench.methods.cnn.network import WindowCNN
from mmrs_bench.methods.toolkit.classification import ClassificationModule


class CnnModule(ClassificationModule):
    """Trains a `WindowCNN` with cross-entropy.

    Args:
        channels: Channels by modality.
        num_classes: Number of classes.
        width, dropout: See `mmrs_bench.methods.cnn.network.WindowCNN`.
        learning_rate: Initial learning rate of AdamW; falls to 0 along a half cosine over the trainer's epochs.
        weight_decay: Weight decay of AdamW.
        label_smoothing: Share of the target's weight that is spread over all classes.
    """

    def __init__(
        self,
        channels: dict[str, int],
        num_classes: int,
        *,
        width: int = 32,
        dropout: float = 0.3,
        learning_rate: float = 0.002,
        weight_decay: float = 0.05,
        label_smoothing: float = 0.1,
    ) -> None:
        super().__init__(channels, num_classes, label_smoothing=label_smoothing)
        self.save_hyperparameters()
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.network = WindowCNN(channels, num_classes, width=width, dropout=dropout)

    def configure_optimizers(self) -> Any:
        """AdamW with a cosine schedule over the epochs."""
        parameters = self.network.parameters()
        return self.with_cosine_schedule(
            torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        )
