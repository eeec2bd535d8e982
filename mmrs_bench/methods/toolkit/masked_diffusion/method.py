"""Bases of the methods whose encoder is trained by masked diffusion, as DiffCLIP's and LDS2AE's."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from mmrs_bench.methods.toolkit.masked_diffusion.stage import MaskedDiffusionStage, visible_count
from mmrs_bench.methods.toolkit.network_method import NetworkMethod
from mmrs_bench.methods.toolkit.pretraining import pretrain_on_windows
from mmrs_bench.scenes.datamodule import SceneDataModule


class EncoderMethod(NetworkMethod):
    """Base of the methods with this encoder, pretrained or not."""

    def inputs(self, data: SceneDataModule) -> SceneDataModule:
        """See `NetworkMethod.inputs`; with ``input_scale`` cube, other than the protocol's normalisation."""
        data = super().inputs(data)
        return data.with_normalisation("cube") if self.config.input_scale == "cube" else data


class PretrainedEncoderMethod(EncoderMethod):
    """Base of the methods that start from stage 1; their module has ``take_encoder``."""

    #: The module of stage 1.
    Stage: ClassVar[type[MaskedDiffusionStage]]
    #: Name of the pretraining in the cache.
    pretraining: ClassVar[str]
    #: Increment when the pretraining changes, so that old caches are ignored.
    pretraining_version: ClassVar[int]
    #: Settings that stage 1 receives under the same name.
    stage_settings: ClassVar[tuple[str, ...]]
    #: Settings that decide the weights of stage 1, besides those that change the images.
    pretraining_settings: ClassVar[tuple[str, ...]]

    pretrained: Any

    def stage_options(self) -> dict[str, Any]:
        """Arguments of stage 1 besides channels, window, optimisation, crops and seed."""
        return {name: getattr(self.config, name) for name in self.stage_settings}

    def pretrain(self, data: SceneDataModule) -> None:
        """See `Method.pretrain`; cells with the same images, pixels, settings and seed share one pretraining.

        Raises:
            ConfigError: If the mask leaves no pixel or every pixel visible.
            BenchError: See `pretrain_on_windows`.
        """
        config, window = self.config, data.config.window
        visible_count(window, config.mask_ratio)
        data = self.inputs(data)

        def build(seed: int) -> MaskedDiffusionStage:
            return self.Stage(
                data.channels,
                window,
                **self.stage_options(),
                learning_rate=config.pretrain_rate,
                weight_decay=config.pretrain_decay,
                schedule=config.pretrain_schedule,
                crop=config.pretrain_crop,
                seed=seed,
            )

        self.pretrained = pretrain_on_windows(
            build,
            data,
            self.context,
            config=config,
            settings=self.pretraining_settings,
            method=self.pretraining,
            version=self.pretraining_version,
            pixels=np.sort(data.support) if config.pretrain_source == "support" else None,
        )

    def create(self, data: SceneDataModule) -> None:
        """See `NetworkMethod.create`; tokenizers and encoder get the weights of stage 1."""
        super().create(data)
        self.module.take_encoder(self.pretrained)
