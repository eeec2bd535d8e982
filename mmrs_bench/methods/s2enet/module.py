"""The LightningModule of S2ENet."""

from __future__ import annotations

from collections.abc import Mapping

from mmrs_bench.methods.s2enet.network import S2ENet
from mmrs_bench.methods.toolkit.supervised import Schedule, SupervisedModule


class S2ENetModule(SupervisedModule):
    """Trains an `S2ENet` with cross-entropy.

    Args:
        channels: Channels by modality: ``hsi`` and at least one other.
        num_classes: Number of classes.
        window: Window side in pixels.
        learning_rate, weight_decay, schedule, decay_every, decay: See
            `mmrs_bench.methods.toolkit.supervised.SupervisedModule`.

    Raises:
        ConfigError: If there is no HSI or no second modality.
    """

    cpu_chunk = 128

    def __init__(
        self,
        channels: Mapping[str, int],
        num_classes: int,
        window: int = 11,
        *,
        learning_rate: float = 0.01,
        weight_decay: float = 0.0,
        schedule: Schedule = "cosine",
        decay_every: int | None = None,
        decay: float | None = None,
    ) -> None:
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
        self.network = S2ENet(channels, window, num_classes)
