"""The LightningModule of BDGF's stage 2.

Letters: b batch, c channels, d channels of a level's features, w window side, k classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.bdgf.guided_branches import (
    BRANCHES,
    BranchName,
    BranchOutput,
    GuidedEnsemble,
    ensemble_probabilities,
)
from mmrs_bench.methods.bdgf.multimodal_ddpm import MultimodalDenoiser
from mmrs_bench.methods.bdgf.mutual_learning import mutual_loss
from mmrs_bench.methods.bdgf.pretraining_module import MultimodalPretrainer
from mmrs_bench.methods.toolkit.classification import ClassificationModule
from mmrs_bench.models.diffusion import TIMESTEPS
from mmrs_bench.models.threads import parallel_map

STAGE_2 = "mutual learning"
#: Windows that the branches classify at once; bounds the memory of their features.
PREDICTION_BATCH = 64


class DenoiserClassifier(ClassificationModule):
    """Classifies by features of a frozen denoiser, whose weights are part of its state."""

    timesteps: tuple[int, ...]
    denoiser: MultimodalDenoiser
    _has_denoiser = False

    def set_denoiser(self, denoiser: MultimodalDenoiser, timesteps: Sequence[int], pretrained: str | None) -> None:
        """Set the frozen denoiser and the timesteps of its features.

        Args:
            denoiser: An untrained denoiser.
            timesteps: Timesteps over which features are averaged.
            pretrained: Checkpoint of a `MultimodalPretrainer` with its weights; None leaves it untrained.

        Raises:
            ConfigError: If a timestep is invalid, or see `use_denoiser`.
        """
        if not timesteps or not all(0 <= timestep < TIMESTEPS for timestep in timesteps):
            raise ConfigError(f"timesteps are {list(timesteps)}; use at least one in 0..{TIMESTEPS - 1}")
        self.timesteps = tuple(timesteps)
        self.denoiser = denoiser.requires_grad_(False).eval()
        if pretrained is not None:
            self.use_denoiser(MultimodalPretrainer.load_from_checkpoint(pretrained, map_location="cpu").denoiser)

    def use_denoiser(self, denoiser: MultimodalDenoiser) -> None:
        """Copy the weights of a pretrained denoiser.

        Raises:
            ConfigError: If it has other sizes.
        """
        own, given = self.denoiser.sizes, denoiser.sizes
        different = [name for name in own if own[name] != given[name]]
        if different:
            theirs, ours = (", ".join(f"{name} {sizes[name]}" for name in different) for sizes in (given, own))
            raise ConfigError(
                f"the pretrained denoiser has {theirs}, but {type(self).__name__} was built with {ours}; build it with "
                "those of the pretraining"
            )
        self.denoiser.load_state_dict(denoiser.state_dict())
        self._has_denoiser = True

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """See ``torch.nn.Module``; the denoiser is part of the state."""
        found = super().load_state_dict(state_dict, *args, **options)
        self._has_denoiser = True
        return found

    def train(self, mode: bool = True) -> Self:
        """See ``torch.nn.Module``; the denoiser stays in evaluation mode."""
        super().train(mode)
        self.denoiser.eval()
        return self

    def on_fit_start(self) -> None:
        """Silence Lightning's warning about modules in evaluation mode: the denoiser has to be."""
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")

    def features(self, windows: Mapping[str, Tensor]) -> list[Tensor]:
        """Features (b, d, w, w) by level of the frozen denoiser, in float32 unless its weights are not.

        The runner stores the same features in half precision. In training it rotates and flips those of the original
        window, where this method extracts features of the rotated and flipped one.

        Raises:
            ConfigError: If there is no pretrained denoiser.
        """
        if not self._has_denoiser:
            raise ConfigError(
                f"{type(self).__name__} has no pretrained denoiser; build it with pretrained=PATH, a checkpoint of a "
                "MultimodalPretrainer, or load a checkpoint of its own"
            )
        with torch.autocast(next(iter(windows.values())).device.type, enabled=False):
            return self.denoiser.decoder_features(windows, timesteps=self.timesteps)


class GuidedLearner(DenoiserClassifier):
    """Stage 2: branches learn the support together, guided by features of the frozen denoiser, and predict together.

    A training batch may hold ``unlabelled``, a batch of unlabelled windows (``SceneDataModule(...,
    unlabelled_per_batch=8)``), which count in the mutual terms only. Batches may also hold ``features`` (b, d, w, w) by
    level; otherwise they are extracted from the windows. Logs the parts of the loss.

    Deviation: the abstract names no optimiser; AdamW with a falling rate is ours.

    Args:
        channels: Channels by modality, in the order of the pretraining.
        num_classes: Number of classes k.
        window: Window side in pixels.
        base, multipliers, blocks: Sizes of the denoiser, see
            `mmrs_bench.methods.bdgf.multimodal_ddpm.MultimodalDenoiser`.
        timesteps: Timesteps over which features are averaged.
        branches: Branches of the ensemble; a single one is trained by cross-entropy only.
        width, dropout, reach: See `mmrs_bench.methods.bdgf.guided_branches.GuidedBranch`.
        entropy_weight, similarity_weight, divergence_weight: See `mmrs_bench.methods.bdgf.mutual_learning.mutual_loss`.
        learning_rate: Initial rate of AdamW; falls to 0 along a half cosine over the trainer's epochs.
        weight_decay: Weight decay of AdamW.
        pretrained: Checkpoint of a `MultimodalPretrainer`; a checkpoint of this module contains its denoiser.

    Raises:
        ConfigError: If a setting is invalid, or the pretrained denoiser has other sizes.
        DataError: If ``pretrained`` is no checkpoint of a `MultimodalPretrainer`.
    """

    def __init__(
        self,
        channels: dict[str, int],
        num_classes: int,
        window: int = 11,
        *,
        base: int = 64,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 2,
        timesteps: Sequence[int] = (50, 150, 250),
        branches: Sequence[BranchName] = BRANCHES,
        width: int = 64,
        reach: tuple[float, float] = (0.5, 2.0),
        dropout: float = 0.3,
        entropy_weight: float = 0.1,
        similarity_weight: float = 0.1,
        divergence_weight: float = 1.0,
        learning_rate: float = 0.001,
        weight_decay: float = 0.05,
        pretrained: str | None = None,
    ) -> None:
        super().__init__(channels, num_classes, window)
        self.save_hyperparameters(ignore=["pretrained"])
        self.weights = {
            "entropy_weight": entropy_weight,
            "similarity_weight": similarity_weight,
            "divergence_weight": divergence_weight,
        }
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        levels = [base * multiplier for multiplier in reversed(multipliers)]
        try:
            # The ensemble first: its initial values do not depend on the denoiser.
            self.ensemble = GuidedEnsemble(
                channels, levels, num_classes, branches=branches, width=width, dropout=dropout, reach=reach
            )
            denoiser = MultimodalDenoiser(channels, window, base=base, multipliers=multipliers, blocks=blocks)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.set_denoiser(denoiser, timesteps, pretrained)

    def forward(self, windows: Mapping[str, Tensor], features: Sequence[Tensor] | None = None) -> Tensor:
        """Mean of the branches' softmaxes (b, k); arguments as of `outputs`."""
        return ensemble_probabilities(self.outputs(windows, features).values())

    def outputs(
        self, windows: Mapping[str, Tensor], features: Sequence[Tensor] | None = None
    ) -> dict[str, BranchOutput]:
        """Outputs of the branches by name.

        Args:
            windows: (b, c, w, w) by modality.
            features: (b, d, w, w) by level, of any floating-point type; None extracts them.

        Raises:
            ConfigError: If features are needed, and there is no pretrained denoiser.
        """
        like = next(iter(windows.values()))
        levels = self.features(windows) if features is None else features
        outputs: dict[str, BranchOutput] = self.ensemble(windows, [level.to(like) for level in levels])
        return outputs

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss (scalar) of a batch with ``windows``, ``target`` (b,) and, possibly, ``unlabelled`` windows."""
        windows, target, features = self.windows_of(batch), self.targets_of(batch), batch.get("features")
        mutual = len(self.ensemble.branches) > 1
        if mutual and "unlabelled" in batch:
            more = self.windows_of(batch["unlabelled"])
            windows = {name: torch.cat([window, more[name]]) for name, window in windows.items()}
            if features is not None:
                features = [torch.cat(pair) for pair in zip(features, batch["unlabelled"]["features"], strict=True)]
        loss = mutual_loss(list(self.outputs(windows, features).values()), target, **self.weights)
        parts = {name: getattr(loss, name) for name in (loss._fields if mutual else ("total", "cross_entropy"))}
        self.log_dict(parts, on_step=False, on_epoch=True, batch_size=len(target), sync_dist=True)
        return loss.total

    def logits(self, batch: Mapping[str, Any]) -> Tensor:
        """Mean of the branches' softmaxes (b, k) for a batch with ``windows``."""
        return self(self.windows_of(batch), batch.get("features"))  # type: ignore[no-any-return]

    def class_scores(self, batch: Mapping[str, Any]) -> Tensor:
        """`logits` of a batch, in parts of `PREDICTION_BATCH` windows."""
        windows, features = self.windows_of(batch), batch.get("features")
        first = next(iter(windows.values()))

        def scores_of(start: int) -> Tensor:
            part = slice(start, start + PREDICTION_BATCH)
            levels = None if features is None else [level[part] for level in features]
            return self({name: window[part] for name, window in windows.items()}, levels)  # type: ignore[no-any-return]

        return torch.cat(parallel_map(scores_of, range(0, len(first), PREDICTION_BATCH), first.device))

    def probabilities(self, scores: Tensor) -> Tensor:
        """The scores, which are probabilities."""
        return scores

    def configure_optimizers(self) -> Any:
        """AdamW of the branches with a cosine schedule over the epochs."""
        optimizer = torch.optim.AdamW(
            self.ensemble.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=self.fused
        )
        return self.with_cosine_schedule(optimizer)
