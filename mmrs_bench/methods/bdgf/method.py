"""BDGF: features of a diffusion model that is balanced over modalities guide branches that learn from each other.

Stage 1 is `mmrs_bench.methods.bdgf.pretraining`. Stage 2 classifies windows with a CNN, a Mamba and a transformer
branch (or some of them), each guided at each level by features of the frozen denoiser's decoder.

Letters: b batch, d channels of a level's features, w window side, n pixels.

Reference: BDGF (Liu et al. 2025, arXiv 2509.23310), abstract.
Deviation: our reading of the abstract; the authors' code could not be obtained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmrs_bench.methods.bdgf.config import BdgfConfig
from mmrs_bench.methods.bdgf.features import DiffusionFeatures, InMemoryFeatures
from mmrs_bench.methods.bdgf.guided_branches import GuidedEnsemble
from mmrs_bench.methods.bdgf.module import STAGE_2, GuidedLearner, MaskedDenoiser, WindowsWithFeatures
from mmrs_bench.methods.bdgf.multimodal_ddpm import MultimodalDenoiser
from mmrs_bench.methods.bdgf.pretraining import check_modalities, pretrained_denoiser
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.network_method import Blueprint, NetworkMethod
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import Batch, LoaderView
from mmrs_bench.scenes.scene import IntArray
from mmrs_bench.scenes.windows import SYMMETRIES


class BdgfNetwork(nn.Module):
    """The frozen denoiser and the branches that it guides."""

    def __init__(self, denoiser: MultimodalDenoiser, ensemble: GuidedEnsemble) -> None:
        super().__init__()
        self.denoiser = denoiser.requires_grad_(False)
        self.ensemble = ensemble


class Bdgf(NetworkMethod):
    """Branches guided by the features of a balanced multimodal diffusion model."""

    Config = BdgfConfig
    name = "bdgf"
    title = "BDGF"
    stage = shuffle = STAGE_2

    pretrained: MaskedDenoiser

    def pretrain(self, data: SceneDataModule) -> None:
        """See `Method.pretrain`, `check_modalities` and `pretrained_denoiser`."""
        check_modalities(data)
        self.pretrained = pretrained_denoiser(self.config, self.inputs(data), self.context)

    def build(self, blueprint: Blueprint, weights: Mapping[str, Tensor] | None = None) -> BdgfNetwork:
        """See `NetworkMethod.build`; a new network has the pretrained denoiser."""
        config = self.config
        if weights is None:
            denoiser = self.pretrained.denoiser
        else:
            denoiser = MaskedDenoiser(dict(blueprint.channels), blueprint.side, config).denoiser
        options = {name: getattr(config, name) for name in ("branches", "width", "dropout", "reach")}
        classes = len(blueprint.class_names)
        return BdgfNetwork(denoiser, GuidedEnsemble(denoiser.channels, denoiser.feature_channels, classes, **options))

    def fit(self, data: SceneDataModule) -> None:
        """See `NetworkMethod.fit`."""
        config, context, data = self.config, self.context, self.inputs(data)
        self.create(data)
        pool = self._unlabelled_pool(data)
        pixels = np.unique(np.concatenate([data.support, data.validation, pool]))
        gatherer = data.gatherer(torch.device("cpu"))
        features = InMemoryFeatures(self._features(data).load_or_extract(pixels), pixels, gatherer)

        def add_inputs(batch: Batch, *, augment: bool = False) -> dict[str, Any]:
            symmetry = batch.get("symmetry") if augment else None
            return {**data.add_windows(batch, augment=augment), "features": features.read(batch["pixel"], symmetry)}

        def unlabelled(epoch: int, step: int) -> WindowsWithFeatures:
            generator = torch_generator("unlabelled windows", context.draw, context.seed, epoch, step)
            count = (config.unlabelled_windows,)
            chosen = torch.from_numpy(pool)[torch.randint(len(pool), count, generator=generator)]
            symmetry = torch.randint(SYMMETRIES, count, generator=generator) if config.symmetries else None
            return gatherer.gather(chosen, symmetry), features.read(chosen, symmetry)

        plain = self.loaders(data)
        loaders = LoaderView(add_inputs, plain.train_dataloader(), plain.val_dataloader(), None)
        self.train(self.module(unlabelled=unlabelled if len(pool) else None), loaders, data)

    def module(
        self,
        read: Callable[[Tensor], list[Tensor]] | None = None,
        unlabelled: Callable[[int, int], WindowsWithFeatures] | None = None,
    ) -> GuidedLearner:
        """See `NetworkMethod.module`; arguments as of `GuidedLearner`."""
        return GuidedLearner(self.network.ensemble, self.config, read, unlabelled)

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`; features that the cache lacks are computed first.

        Raises:
            ConfigError: If the network was fitted to windows of another side or other channels.
            BenchError: See `mmrs_bench.methods.toolkit.feature_cache.load_or_extract`.
        """
        data = self.inputs(data)
        self.blueprint.check_inputs(self.describe(data), self.title)
        features = self._features(data)
        store = features.load_or_extract(pixels)

        def read(part: Tensor) -> list[Tensor]:
            levels = store.read(part.cpu().numpy())
            return [levels[name].to(part.device).float() for name in features.shapes]

        return training.predict(self.module(read), data, pixels, self.context)

    def _unlabelled_pool(self, data: SceneDataModule) -> IntArray:
        """Unlabelled pixels for the mutual terms; the same for all draws, which share their features."""
        config = self.config
        if len(config.branches) < 2 or not config.unlabelled_windows:
            return np.empty(0, dtype=np.int64)
        order = torch.randperm(len(data.unlabelled), generator=torch_generator("unlabelled pool", self.context.seed))
        pool: IntArray = data.unlabelled[order[: config.unlabelled_pool].numpy()]
        return pool

    def _features(self, data: SceneDataModule) -> DiffusionFeatures:
        return DiffusionFeatures(self.network.denoiser, data, self.config.timesteps, self.context)
