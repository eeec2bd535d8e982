"""BDGF: diffusion features that are balanced over modalities guide three branches, which learn from each other.

Stage 1 is `mmrs_bench.methods.bdgf.pretraining`. Stage 2 classifies windows with any of a CNN, a Mamba and a
transformer branch, each guided level by level by the features of the frozen denoiser's decoder.

Letters: b batch, c channels, d channels of a level's features, w window side, n pixels of a window, k classes.

Reference: BDGF (Liu et al. 2025, arXiv 2509.23310), of which only the abstract was at hand: our reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import lightning as L
import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from mmrs_bench.methods.base import Method, ParameterCounts
from mmrs_bench.methods.bdgf.features import DiffusionFeatures, KeptFeatures
from mmrs_bench.methods.bdgf.guided_branches import HEAD_WIDTH, REACH, GuidedEnsemble, ensemble_probabilities, heads_of
from mmrs_bench.methods.bdgf.multimodal_ddpm import FEATURE_TIMESTEPS, MultimodalDenoiser
from mmrs_bench.methods.bdgf.mutual_learning import mutual_loss
from mmrs_bench.methods.bdgf.pretraining import (
    DenoisingConfig,
    MaskedDenoiser,
    check_modalities,
    pretrained_denoiser,
)
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.network_method import Blueprint, load_network, save_network
from mmrs_bench.models.diffusion import TIMESTEPS
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import Batch, LoaderView
from mmrs_bench.scenes.scene import IntArray
from mmrs_bench.scenes.windows import SYMMETRIES

NAME = "bdgf"
VALIDATION_METRIC = "validation_accuracy"
STAGE = "mutual learning"

#: Windows that the branches classify at once, which bounds the memory that their features take.
PREDICTED_AT_ONCE = 64


class BdgfConfig(DenoisingConfig):
    """Settings of `Bdgf`: those of stage 1, and these.

    Attributes:
        components: Principal components of the HSI at most, each with unit variance, that take the place of its bands;
            None keeps the bands.
        timesteps: Timesteps whose features are averaged.
        branches: Of ``cnn``, ``mamba`` and ``transformer``; one of them learns alone, by cross-entropy only.
        width: Channels of a branch.
        reach: How far the heads of the transformer branch look, in pixels: least and largest standard deviation of
            their Gaussians, see `mmrs_bench.methods.bdgf.guided_branches.nearness`.
        dropout: Share of a branch's pooled features that a training step leaves out.
        entropy_weight, similarity_weight, divergence_weight: See `mmrs_bench.methods.bdgf.mutual_learning.mutual_loss`.
        unlabelled_windows: Unlabelled windows beside those of a step, which the mutual terms count as well: labelled
            ones alone leave little to agree on once all branches have learned them.
        unlabelled_pool: Pixels that these are drawn from.
        epochs, batch_size: Passes over the support, and windows of a step.
        learning_rate: AdamW's at the first step; falls to 0 along a half cosine.
        weight_decay: AdamW's.
        symmetries: Whether training windows, and their features with them, get a random symmetry of the square.
    """

    components: int | None = Field(default=10, ge=1)
    timesteps: tuple[Annotated[int, Field(ge=0, lt=TIMESTEPS)], ...] = Field(default=FEATURE_TIMESTEPS, min_length=1)
    branches: tuple[Literal["cnn", "mamba", "transformer"], ...] = Field(
        default=("cnn", "mamba", "transformer"), min_length=1
    )
    width: int = Field(default=64, ge=4, multiple_of=4)
    reach: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = REACH
    dropout: float = Field(default=0.3, ge=0, lt=1)
    entropy_weight: float = Field(default=0.1, ge=0)
    similarity_weight: float = Field(default=0.1, ge=0)
    divergence_weight: float = Field(default=1.0, ge=0)
    unlabelled_windows: int = Field(default=8, ge=0)
    unlabelled_pool: int = Field(default=1024, ge=1)
    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    symmetries: bool = True

    @field_validator("branches")
    @classmethod
    def _each_once(cls, branches: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(branches)) < len(branches):
            raise ValueError("a branch is named twice; name each once")
        return branches

    @field_validator("width")
    @classmethod
    def _has_whole_heads(cls, width: int) -> int:
        if width % heads_of(width):
            raise ValueError(f"{width} does not divide into {heads_of(width)} heads; take a multiple of {HEAD_WIDTH}")
        return width


class Guided(NamedTuple):
    """Windows (b, c, w, w) by modality and their features (b, d, w, w) by level."""

    windows: dict[str, Tensor]
    features: list[Tensor]


class GuidedLearner(L.LightningModule):
    """Stage 2: the branches learn the support together, and predict together.

    Args:
        ensemble: The branches.
        config: Settings.
        read: Gives the features of the pixels (b,) that are to be predicted, by level (b, d, w, w).
        unlabelled: Gives the unlabelled windows (u, c, w, w) of an epoch and step by modality, and their features; None
            if there are none.
    """

    def __init__(
        self,
        ensemble: GuidedEnsemble,
        config: BdgfConfig,
        read: Callable[[Tensor], list[Tensor]],
        unlabelled: Callable[[int, int], Guided] | None = None,
    ) -> None:
        super().__init__()
        self.ensemble = ensemble
        self._config = config
        self._read = read
        self._unlabelled = unlabelled

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss (scalar) of a batch with ``windows``, their ``features`` and ``target`` (b,); logs its parts."""
        config, target = self._config, batch["target"]
        windows, features = batch["windows"], batch["features"]
        if self._unlabelled is not None:
            more, guides = self._unlabelled(self.current_epoch, batch_idx)
            windows = {name: torch.cat([window, more[name].to(window)]) for name, window in windows.items()}
            features = [torch.cat([level, guide.to(level)]) for level, guide in zip(features, guides, strict=True)]
        outputs = list(self.ensemble(windows, features).values())
        loss = mutual_loss(
            outputs,
            target,
            entropy_weight=config.entropy_weight,
            similarity_weight=config.similarity_weight,
            divergence_weight=config.divergence_weight,
        )
        mutual = len(outputs) > 1
        parts = {name: part for name, part in loss._asdict().items() if mutual or name in ("total", "cross_entropy")}
        self.log_dict(parts, on_step=False, on_epoch=True, batch_size=len(target))
        return loss.total

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the ensemble's accuracy; runs only under the selection rule ``paper-val``."""
        correct = self._classify(batch["windows"], batch["features"]) == batch["target"]
        self.log(VALIDATION_METRIC, correct.float().mean(), batch_size=len(correct))

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Targets (b,) of a batch with ``pixel`` (b,) and ``windows``."""
        targets = []
        for part in torch.split(torch.arange(len(batch["pixel"])), PREDICTED_AT_ONCE):
            windows = {name: window[part] for name, window in batch["windows"].items()}
            targets.append(self._classify(windows, self._read(batch["pixel"][part])))
        return torch.cat(targets)

    def _classify(self, windows: dict[str, Tensor], features: list[Tensor]) -> Tensor:
        return ensemble_probabilities(self.ensemble(windows, features).values()).argmax(dim=1)

    def configure_optimizers(self) -> Any:
        """AdamW with a cosine schedule over the epochs."""
        config = self._config
        optimizer = torch.optim.AdamW(
            self.ensemble.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class BdgfNetwork(nn.Module):
    """The frozen denoiser and the branches that it guides.

    Args:
        denoiser: The denoiser.
        ensemble: The branches.
    """

    def __init__(self, denoiser: MultimodalDenoiser, ensemble: GuidedEnsemble) -> None:
        super().__init__()
        self.denoiser = denoiser.requires_grad_(False)
        self.ensemble = ensemble


class Bdgf(Method):
    """Branches guided by the features of a balanced multimodal diffusion model.

    Reference: BDGF, abstract, our reading; the authors' code could not be obtained.

    Deviation: the abstract names no optimiser. AdamW with a falling rate, because few labels make few steps, and the
        last of them is kept.
    """

    Config = BdgfConfig

    _pretrained: MaskedDenoiser
    _network: BdgfNetwork
    _blueprint: Blueprint

    def pretrain(self, data: SceneDataModule) -> None:
        """See `Method.pretrain`; a pretraining that another cell has done is read from the cache.

        Raises:
            DataError: If a modality is constant, or the cache holds a damaged file for this pretraining.
            ConfigError: If the scene has one modality, which masking cannot balance, or the window is too small.
            TrainingError: If a loss is not a number.
        """
        check_modalities(data)
        data = data.with_components(self.config.components)
        self._pretrained = pretrained_denoiser(self.config, data, self.context)

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`; under ``paper-val`` the epoch with the best validation accuracy is kept."""
        config, context, data = self.config, self.context, data.with_components(self.config.components)
        denoiser = self._pretrained.denoiser
        ensemble = training.initialised(lambda: self._ensemble(denoiser, data.num_classes), context, NAME)
        self._network = BdgfNetwork(denoiser, ensemble)
        self._blueprint = Blueprint.of(data, config)
        pool = self._pool(data)
        pixels = np.unique(np.concatenate([data.support, data.validation, pool]))
        store = self._features(data).of(pixels)
        gatherer = data.gatherer(torch.device("cpu"))
        kept = KeptFeatures(store, pixels, gatherer)

        def guided(batch: Batch, *, augment: bool = False) -> dict[str, Any]:
            symmetry = batch.get("symmetry") if augment else None
            return {**data.add_windows(batch, augment=augment), "features": kept.read(batch["pixel"], symmetry)}

        def unlabelled(epoch: int, step: int) -> Guided:
            generator = torch_generator("unlabelled windows", context.draw, context.seed, epoch, step)
            count = (config.unlabelled_windows,)
            chosen = torch.from_numpy(pool)[torch.randint(len(pool), count, generator=generator)]
            symmetry = torch.randint(SYMMETRIES, count, generator=generator) if config.symmetries else None
            return Guided(gatherer.gather(chosen, symmetry), kept.read(chosen, symmetry))

        train = data.shuffled_dataloader(
            ("mutual learning", context.draw, context.seed),
            data.support,
            data.support_targets,
            batch_size=config.batch_size,
            augment=config.symmetries,
        )
        training.fit(
            GuidedLearner(ensemble, config, kept.read, unlabelled if len(pool) else None),
            LoaderView(guided, train, data.val_dataloader(), None),
            context,
            stage=STAGE,
            epochs=config.epochs,
            maximise=VALIDATION_METRIC if data.config.selection == "paper-val" else None,
        )

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`; features that the cache lacks are computed first.

        Raises:
            ConfigError: If the network was fitted to windows of another side or other channels.
            BenchError: See `mmrs_bench.methods.toolkit.feature_cache.load_or_extract`.
        """
        data, read = self._asked(data, pixels)
        return training.predict(GuidedLearner(self._network.ensemble, self.config, read), data, pixels, self.context)

    @torch.inference_mode()
    def branch_targets(self, data: SceneDataModule, pixels: IntArray) -> dict[str, IntArray]:
        """What each branch by itself says of pixels (n,): targets (n,) int64 by branch; for studies, on the CPU.

        Raises:
            ConfigError, BenchError: As `predict`.
        """
        data, read = self._asked(data, pixels)
        gatherer = data.gatherer(torch.device("cpu"))
        found: dict[str, list[IntArray]] = {kind: [] for kind in self.config.branches}
        for part in torch.split(torch.from_numpy(pixels), PREDICTED_AT_ONCE):
            for kind, output in self._network.ensemble(gatherer.gather(part), read(part)).items():
                found[kind].append(output.logits.argmax(dim=1).numpy())
        return {kind: np.concatenate(parts) for kind, parts in found.items()}

    def _asked(
        self, data: SceneDataModule, pixels: IntArray
    ) -> tuple[SceneDataModule, Callable[[Tensor], list[Tensor]]]:
        """The data as the network sees them, and what reads the features of some of the pixels (n,)."""
        data = data.with_components(self.config.components)
        self._blueprint.check_inputs(Blueprint.of(data, self.config), "BDGF")
        features = self._features(data)
        store = features.of(pixels)

        def read(part: Tensor) -> list[Tensor]:
            levels = store.read(part.cpu().numpy())
            return [levels[name].to(part.device).float() for name in features.shapes]

        return data, read

    def parameter_counts(self) -> ParameterCounts:
        """All parameters, and those of the branches: the denoiser is frozen."""
        total = sum(parameter.numel() for parameter in self._network.parameters())
        return ParameterCounts(total, sum(parameter.numel() for parameter in self._network.ensemble.parameters()))

    def save(self, folder: Path) -> None:
        """See `Method.save`: weights, the denoiser's among them (safetensors), and what they belong to (JSON)."""
        save_network(folder, NAME, self._blueprint, self._network)

    def load(self, folder: Path) -> None:
        """See `Method.load`; neither the pretraining nor the feature cache is needed.

        Raises:
            DataError: If a file is absent or damaged, or the weights do not fit the settings or are not numbers.
        """

        def build(blueprint: Blueprint, weights: Mapping[str, Tensor]) -> BdgfNetwork:
            denoiser = MaskedDenoiser(dict(blueprint.channels), blueprint.side, self.config).denoiser
            return BdgfNetwork(denoiser, self._ensemble(denoiser, len(blueprint.class_names)))

        self._blueprint, self._network = load_network(folder, NAME, self.config, build)

    def _ensemble(self, denoiser: MultimodalDenoiser, num_classes: int) -> GuidedEnsemble:
        """The branches, untrained."""
        config = self.config
        return GuidedEnsemble(
            denoiser.channels,
            denoiser.feature_channels,
            num_classes,
            branches=config.branches,
            width=config.width,
            dropout=config.dropout,
            reach=config.reach,
        )

    def _pool(self, data: SceneDataModule) -> IntArray:
        """Unlabelled pixels on which the branches are asked to agree; the same for all draws, which share features."""
        config = self.config
        if len(config.branches) < 2 or not config.unlabelled_windows:
            return np.empty(0, dtype=np.int64)
        order = torch.randperm(len(data.unlabelled), generator=torch_generator("unlabelled pool", self.context.seed))
        pool: IntArray = data.unlabelled[order[: config.unlabelled_pool].numpy()]
        return pool

    def _features(self, data: SceneDataModule) -> DiffusionFeatures:
        return DiffusionFeatures(self._network.denoiser, data, self.config.timesteps, self.context)
