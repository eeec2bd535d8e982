"""The LightningModule of MIViT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.mivit.network import MIViT, divergence
from mmrs_bench.methods.toolkit.supervised import Schedule, SupervisedModule, hsi_and_others, stacked_others

#: Exponent of the focal loss.
FOCUS = 2


class MivitModule(SupervisedModule):
    """Trains a `MIViT` with all of its losses.

    L = focal(fused) + ``part_weight`` * sum focal(part) + ``distillation_weight`` * sum KL(fused || part)
    + ``reconstruction_weight`` * error of decoded windows + ``redundancy_weight`` * redundancy. The parts are the
    classifiers of the HSI, of the other modalities and of the pyramid.

    Args:
        channels: Channels by modality: ``hsi`` and at least one other; all others are stacked.
        num_classes: Number of classes.
        window: Window side in pixels.
        width, depth, dropout, unit: See `mmrs_bench.methods.mivit.network.MIViT`.
        part_weight, distillation_weight, reconstruction_weight, redundancy_weight: Weights of the losses.
        learning_rate, weight_decay, schedule, decay_every, decay: See `SupervisedModule`.

    Raises:
        ConfigError: If there is no HSI or no second modality, or the width is odd.
    """

    cpu_chunk = 64

    network: MIViT
    #: Position of the only modality that predictions read, 0 for the HSI; None for all.
    only: int | None = None

    def __init__(
        self,
        channels: dict[str, int],
        num_classes: int,
        window: int = 11,
        *,
        width: int = 64,
        depth: int = 5,
        dropout: float = 0.1,
        unit: bool = False,
        part_weight: float = 0.3,
        distillation_weight: float = 1.0,
        reconstruction_weight: float = 0.1,
        redundancy_weight: float = 0.1,
        learning_rate: float = 0.001,
        weight_decay: float = 0.001,
        schedule: Schedule = "cosine",
        decay_every: int | None = None,
        decay: float | None = None,
    ) -> None:
        streams = hsi_and_others(channels, "MIViT")
        if width % 2:
            raise ConfigError(f"width is {width}; MIViT halves it, so use an even number")
        super().__init__(
            channels,
            num_classes,
            window,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            schedule=schedule,
            decay_every=decay_every,
            decay=decay,
        )
        self.save_hyperparameters()
        self.part_weight, self.distillation_weight = part_weight, distillation_weight
        self.reconstruction_weight, self.redundancy_weight = reconstruction_weight, redundancy_weight
        sizes: dict[str, Any] = {"width": width, "depth": depth, "dropout": dropout, "unit": unit}
        self.network = MIViT(streams, window, num_classes, **sizes)

    def forward(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Logits (b, k) of windows (b, c, w, w) by modality; with ``only`` the class probabilities of one modality."""
        if self.only is None:
            return self.network(windows["hsi"], stacked_others(windows))  # type: ignore[no-any-return]
        return self.network.part(self.only, stacked_others(windows) if self.only else windows["hsi"])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss (scalar) of a batch with ``windows`` and ``target`` (b,)."""
        target, windows = self.targets_of(batch), self.windows_of(batch)
        outputs = self.network.outputs(windows["hsi"], stacked_others(windows))
        loss = focal_loss(outputs.fused, target)
        for part in outputs.parts:
            loss = loss + self.part_weight * focal_loss(part, target)
            loss = loss + self.distillation_weight * divergence(part, outputs.fused)
        loss = loss + self.reconstruction_weight * outputs.reconstruction + self.redundancy_weight * outputs.redundancy
        self.log("loss", loss, batch_size=len(target))
        return loss


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of (1 - p)^2 (-log p), p the softmax of the target (b,) in logits (b, k)."""
    loss = F.cross_entropy(logits.float(), target, reduction="none")
    return torch.mean((1 - torch.exp(-loss)) ** FOCUS * loss)
