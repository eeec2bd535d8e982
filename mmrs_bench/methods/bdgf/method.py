"""BDGF: features of a diffusion model that is balanced over modalities guide branches that learn from each other.

Stage 1 is `mmrs_bench.methods.bdgf.pretraining`. Stage 2 classifies windows with a CNN, a Mamba and a transformer
branch (or some of them), each guided at each level by features of the frozen denoiser's decoder.

Reference: BDGF (Liu et al. 2025, arXiv 2509.23310), abstract.
Deviation: our reading of the abstract; the authors' code could not be obtained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mmrs_bench.methods.bdgf.config import BdgfConfig, DenoisingConfig
from mmrs_bench.methods.bdgf.features import DiffusionFeatures, InMemoryFeatures
from mmrs_bench.methods.bdgf.module import STAGE_2, DenoiserClassifier, GuidedLearner
from mmrs_bench.methods.bdgf.pretraining import check_modalities, pretrained_denoiser
from mmrs_bench.methods.bdgf.pretraining_module import MultimodalPretrainer
from mmrs_bench.methods.toolkit.network_method import Blueprint, NetworkMethod
from mmrs_bench.methods.toolkit.training import Loaders
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import Batch, PixelLoader, Unlabelled
from mmrs_bench.scenes.scene import IntArray


class Bdgf(NetworkMethod):
    """Branches guided by the features of a balanced multimodal diffusion model."""

    Config: ClassVar[type[DenoisingConfig]] = BdgfConfig
    Module: ClassVar[type[DenoiserClassifier]] = GuidedLearner
    name = "bdgf"
    title = "BDGF"
    stage = shuffle = STAGE_2

    pretrained: MultimodalPretrainer

    def pretrain(self, data: SceneDataModule) -> None:
        """See `Method.pretrain`, `check_modalities` and `pretrained_denoiser`."""
        check_modalities(data)
        self.pretrained = pretrained_denoiser(self.config, self.inputs(data), self.context)

    def build(self, blueprint: Blueprint, weights: Mapping[str, Tensor] | None = None) -> DenoiserClassifier:
        """See `NetworkMethod.build`; a new module has the pretrained denoiser."""
        module = self.Module(**self.hyperparameters(blueprint))
        if weights is None:
            module.use_denoiser(self.pretrained.denoiser)
        return module

    def loaders(self, data: SceneDataModule) -> Loaders:
        """Loaders of the support with unlabelled windows, and of the validation windows, all with features."""
        config, context = self.config, self.context
        pool = self._unlabelled_pool(data)
        pixels = np.unique(np.concatenate([data.support, data.validation, pool]))
        gatherer = data.gatherer(torch.device("cpu"))
        features = InMemoryFeatures(self._features(data).load_or_extract(pixels), pixels, gatherer)

        def add_inputs(batch: Batch) -> dict[str, Any]:
            return features.add_to(data.add_windows(batch), batch)

        address = (context.draw, context.seed)
        unlabelled = Unlabelled(pool, config.unlabelled_windows, ("unlabelled windows", *address))
        train = data.shuffled_dataloader(
            (self.shuffle, *address),
            data.support,
            data.support_targets,
            batch_size=config.batch_size,
            augment=config.symmetries,
            unlabelled=unlabelled if len(pool) else None,
            add_inputs=add_inputs,
        )
        return Loaders(train, data.pixel_dataloader(data.validation, data.validation_targets, add_inputs=add_inputs))

    def prediction_inputs(self, data: SceneDataModule, pixels: IntArray) -> tuple[PixelLoader, Sequence[Callback]]:
        """See `NetworkMethod.prediction_inputs`; batches have windows and features.

        Features of query pixels that the cache lacks are computed and stored first, because all draws and branches
        share them. Those of other pixels, as of a whole scene, are computed batch by batch and not stored: 15 GB for
        665,000 pixels with budget ``quick``.

        Raises:
            BenchError: See `mmrs_bench.methods.toolkit.feature_cache.load_or_extract`.
        """
        features = self._features(data)
        store = features.load_or_extract(pixels, store=bool(np.isin(pixels, data.query).all()))

        def add_inputs(batch: Batch) -> dict[str, Any]:
            levels = store.read(batch["pixel"].cpu().numpy())
            return {**data.add_windows(batch), "features": [levels[name] for name in features.shapes]}

        return data.pixel_dataloader(pixels, add_inputs=add_inputs), ()

    def _unlabelled_pool(self, data: SceneDataModule) -> IntArray:
        """Unlabelled pixels for the mutual terms; the same for all draws, which share their features."""
        config = self.config
        if len(config.branches) < 2 or not config.unlabelled_windows:
            return np.empty(0, dtype=np.int64)
        order = torch.randperm(len(data.unlabelled), generator=torch_generator("unlabelled pool", self.context.seed))
        pool: IntArray = data.unlabelled[order[: config.unlabelled_pool].numpy()]
        return pool

    def _features(self, data: SceneDataModule) -> DiffusionFeatures:
        return DiffusionFeatures(self.module.denoiser, data, self.config.timesteps, self.context)
