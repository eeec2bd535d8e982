"""The LightningModule of EndNet."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from mmrs_bench.methods.endnet.network import EndNet, centres, reconstruction_error
from mmrs_bench.methods.toolkit.supervised import Schedule, SupervisedModule


class EndNetModule(SupervisedModule):
    """Trains an `EndNet` with cross-entropy and the errors of the reconstructed pixels.

    Also logs ``reconstruction``, the mean squared errors, summed over modalities. The sigmoid of the decoders reaches 0
    to 1 only: use data with normalisation ``minmax``.

    Args:
        channels: Channels by modality, one modality or more.
        num_classes: Number of classes.
        reconstruction: Factor of the errors of reconstruction in the loss.
        learning_rate, weight_decay, schedule, decay_every, decay: See
            `mmrs_bench.methods.toolkit.supervised.SupervisedModule`; the L2 penalty is on weight matrices only.
    """

    network: EndNet

    def __init__(
        self,
        channels: dict[str, int],
        num_classes: int,
        *,
        reconstruction: float = 1.0,
        learning_rate: float = 0.001,
        weight_decay: float = 0.001,
        schedule: Schedule = "step",
        decay_every: int | None = 30,
        decay: float | None = 0.5,
    ) -> None:
        super().__init__(
            channels,
            num_classes,
            None,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            schedule=schedule,
            decay_every=decay_every,
            decay=decay,
        )
        self.save_hyperparameters()
        self.reconstruction = reconstruction
        self.network = EndNet(channels, num_classes)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Cross-entropy and errors of reconstruction of a batch with ``windows`` and ``target`` (b,)."""
        target, pixels = self.targets_of(batch), centres(self.windows_of(batch))
        fused = self.network.fused(pixels)
        error = reconstruction_error(self.network.decoded(fused), pixels)
        loss = functional.cross_entropy(self.network.head(fused), target) + self.reconstruction * error
        self.log_dict({"loss": loss, "reconstruction": error}, batch_size=len(target))
        return loss

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Weight matrices, with the L2 penalty, and all other parameters, without it."""
        matrices = [module.weight for module in self.modules() if isinstance(module, nn.Linear)]
        chosen = {id(matrix) for matrix in matrices}
        others = [values for values in self.parameters() if id(values) not in chosen]
        return [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
