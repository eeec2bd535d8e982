"""Base of the LightningModules that classify windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.toolkit.scores import score_collection
from mmrs_bench.methods.toolkit.stage import StageModule
from mmrs_bench.models.threads import parallel_map

#: Metric that every classification module logs on validation pixels, for selection and early stopping.
VALIDATION_METRIC = "val/OA"


class ClassificationModule(StageModule):
    """Trains ``network``, which subclasses set, with cross-entropy.

    Logs ``loss`` while training. After a pass over validation (test) pixels it logs ``val/OA``, ``val/AA`` and
    ``val/kappa`` (``test/...``) as fractions.

    Args:
        channels: Channels by modality.
        num_classes: Number of classes k.
        window: Window side in pixels; None accepts every side.
        label_smoothing: Share of the target's weight that is spread over all classes.
    """

    #: Windows per forward pass of a prediction on CPU, for speed; None takes the whole batch. Several passes may run at
    #: once in several threads, so they must not change the module.
    cpu_chunk: ClassVar[int | None] = None
    #: Whether `predict_step` also returns the largest class probability of each pixel.
    with_confidence: bool = False

    #: Maps windows (b, c, w, w) by modality to logits (b, k).
    network: nn.Module

    def __init__(
        self, channels: Mapping[str, int], num_classes: int, window: int | None = None, *, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(channels, window)
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.validation_scores = score_collection(num_classes, "val/")
        self.test_scores = score_collection(num_classes, "test/")

    def forward(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Logits (b, k) of windows (b, c, w, w) by modality."""
        logits: Tensor = self.network(windows)
        return logits

    def logits(self, batch: Mapping[str, Any]) -> Tensor:
        """Logits (b, k) of a batch with ``windows``."""
        return self(self.windows_of(batch))  # type: ignore[no-any-return]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Cross-entropy of a batch with ``windows`` and ``target`` (b,)."""
        target = self.targets_of(batch)
        loss = functional.cross_entropy(self.logits(batch), target, label_smoothing=self.label_smoothing)
        self.log("loss", loss, batch_size=len(target))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Update and log the scores of validation pixels."""
        self.validation_scores.update(self.predicted_targets(batch), self.targets_of(batch))
        self.log_dict(self.validation_scores, on_step=False, on_epoch=True)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Update and log the scores of test pixels."""
        self.test_scores.update(self.predicted_targets(batch), self.targets_of(batch))
        self.log_dict(self.test_scores, on_step=False, on_epoch=True)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """Predicted targets (b,) of a batch with ``windows``; in a pair with (b,) confidences if `with_confidence`."""
        if not self.with_confidence:
            return self.predicted_targets(batch)
        scores = self.class_scores(batch)
        return scores.argmax(dim=1), self.probabilities(scores.float()).amax(dim=1)

    def predicted_targets(self, batch: Mapping[str, Any]) -> Tensor:
        """Predicted targets (b,) of a batch with ``windows``."""
        return self.class_scores(batch).argmax(dim=1)

    def class_scores(self, batch: Mapping[str, Any]) -> Tensor:
        """Logits (b, k) of a batch with ``windows``, in the chunks of a prediction; the largest one is the target."""
        windows = self.windows_of(batch)
        first = next(iter(windows.values()))
        count = len(first)
        chunk = self.cpu_chunk if self.cpu_chunk and first.device.type == "cpu" else max(count, 1)

        def scores_of(start: int) -> Tensor:
            part = {name: window[start : start + chunk] for name, window in windows.items()}
            return self(part)  # type: ignore[no-any-return]

        return torch.cat(parallel_map(scores_of, range(0, count, chunk), first.device))

    def probabilities(self, scores: Tensor) -> Tensor:
        """Class probabilities (b, k) of what `class_scores` returns: their softmax."""
        return scores.softmax(dim=1)

    def targets_of(self, batch: Mapping[str, Any]) -> Tensor:
        """The targets (b,) of a batch.

        Raises:
            ConfigError: If the batch has none.
        """
        if "target" not in batch:
            raise ConfigError(
                f"{type(self).__name__}: training and scores need batches with target (b,), and a batch has "
                f"{', '.join(batch)}; use the train or test loader of the data module, or trainer.predict"
            )
        target: Tensor = batch["target"]
        return target

    def with_cosine_schedule(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimiser with a learning rate that falls to 0 along a half cosine over the trainer's epochs."""
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule}
