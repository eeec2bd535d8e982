"""The LightningModule of Coupled CNNs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.coupled_cnn.network import CoupledCNNs, weights_of_outputs
from mmrs_bench.methods.toolkit.supervised import Schedule, SupervisedModule


class CoupledCnnModule(SupervisedModule):
    """Trains `CoupledCNNs` with the cross-entropies of all outputs.

    After each epoch it classifies the training windows, and weighs the outputs by how many of each class they find.

    Args:
        channels: Channels by modality, at least two modalities.
        num_classes: Number of classes.
        dropout: See `mmrs_bench.methods.coupled_cnn.network.CoupledCNNs`.
        single_loss: Factor of the cross-entropy of each modality's output in the loss; that of their sum has 1.
        learning_rate, weight_decay, schedule, decay_every, decay: See
            `mmrs_bench.methods.toolkit.supervised.SupervisedModule`.

    Raises:
        ConfigError: If there is only one modality.
    """

    network: CoupledCNNs

    def __init__(
        self,
        channels: dict[str, int],
        num_classes: int,
        *,
        dropout: float = 0.5,
        single_loss: float = 0.01,
        learning_rate: float = 0.001,
        weight_decay: float = 0.0,
        schedule: Schedule = "constant",
        decay_every: int | None = None,
        decay: float | None = None,
    ) -> None:
        if len(channels) < 2:
            raise ConfigError(
                "Coupled CNNs need two modalities or more, whose networks share layers, but the only one is "
                f"{', '.join(channels)}; add one, or use another method"
            )
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
        self.single_loss = single_loss
        self.network = CoupledCNNs(channels, num_classes, dropout=dropout)
        self._weighed = False

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The weighted cross-entropies of all outputs for a batch with ``windows`` and ``target`` (b,)."""
        target = self.targets_of(batch)
        outputs = self.network.outputs(self.windows_of(batch)).unbind(dim=1)
        *singles, fused = [functional.cross_entropy(output, target) for output in outputs]
        loss = fused + self.single_loss * torch.stack(singles).sum()
        self.log("loss", loss, batch_size=len(target))
        return loss

    def on_train_epoch_start(self) -> None:
        """The weights are of the epoch before."""
        self._weighed = False

    def on_validation_epoch_start(self) -> None:
        """Weigh the outputs before the validation of an epoch."""
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._weigh_outputs()

    def on_train_epoch_end(self) -> None:
        """Weigh the outputs, unless the validation did."""
        self._weigh_outputs()

    @torch.no_grad()
    def _weigh_outputs(self) -> None:
        if self._weighed:
            return
        self._weighed = True
        training = self.network.training
        self.network.eval()
        correct = torch.zeros_like(self.network.weights, dtype=torch.float32)
        loader: Any = copy.copy(self.trainer.train_dataloader)  # the state of the trainer's own pass stays
        precision = self.trainer.precision_plugin
        for batch in loader:
            found = precision.convert_input({name: x.to(self.device) for name, x in batch["windows"].items()})
            target = self.targets_of(batch).to(self.device)
            with precision.forward_context():
                outputs = self.network.outputs(self.windows_of({"windows": found}))
            right = outputs.argmax(dim=2) == target[:, None]  # (b, m + 1)
            correct += right.T.float() @ functional.one_hot(target, self.num_classes).float()
        total: Any = self.trainer.strategy.reduce(correct, reduce_op="sum")
        self.network.weights.copy_(weights_of_outputs(total))
        self.network.train(training)  # Lightning calls this within a validation, too
