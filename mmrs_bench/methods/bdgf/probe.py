"""Linear probe of BDGF's stage 1: a logistic regression on features of the frozen denoiser.

Letters: n windows, d channels of a level's features, w window side, k classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.bdgf.config import DenoisingConfig
from mmrs_bench.methods.bdgf.method import Bdgf
from mmrs_bench.methods.bdgf.module import DenoiserClassifier
from mmrs_bench.methods.bdgf.multimodal_ddpm import MultimodalDenoiser
from mmrs_bench.methods.toolkit.probes.linear import LinearProbe, ProbeConfig, ProbeModule
from mmrs_bench.models.diffusion import TIMESTEPS

#: Pixels of the two smaller `means` are at most so far from the centre, in rows and in columns.
MEAN_REACHES = (1, 2)


class BdgfProbeConfig(DenoisingConfig, ProbeConfig):
    """Settings of stage 1 and of the probe.

    Attributes:
        components: Largest number of principal components of the HSI, each with unit variance, that replace its bands;
            None keeps the bands.
        timesteps: Timesteps over which features are averaged.
    """

    components: int | None = Field(ge=1)
    timesteps: tuple[Annotated[int, Field(ge=0, lt=TIMESTEPS)], ...] = Field(min_length=1)


class DenoiserProbe(ProbeModule, DenoiserClassifier):
    """A linear layer on `means` of the features of all decoder levels of the frozen denoiser.

    Args:
        channels: Channels by modality, in the order of the pretraining.
        num_classes: Number of classes k.
        window: Window side in pixels.
        base, multipliers, blocks: Sizes of the denoiser, see
            `mmrs_bench.methods.bdgf.multimodal_ddpm.MultimodalDenoiser`.
        timesteps: Timesteps over which features are averaged.
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
        pretrained: str | None = None,
    ) -> None:
        super().__init__(channels, num_classes, window)
        self.save_hyperparameters(ignore=["pretrained"])
        try:
            denoiser = MultimodalDenoiser(channels, window, base=base, multipliers=multipliers, blocks=blocks)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.network = nn.Linear((len(MEAN_REACHES) + 1) * sum(denoiser.feature_channels), num_classes)
        self.set_denoiser(denoiser, timesteps, pretrained)

    def frozen_features(self, windows: Mapping[str, Tensor]) -> Tensor:
        """`means` of the features of windows (n, c, w, w) by modality."""
        return means(self.features(windows))

    def features_of(self, batch: Mapping[str, Any]) -> Tensor:
        """`means` of the features of a batch with ``windows``, or with ``features`` (n, d, w, w) by level."""
        levels = batch.get("features")
        return super().features_of(batch) if levels is None else means(levels)

    def class_scores(self, batch: Mapping[str, Any]) -> Tensor:
        """See `logits`; also of a batch with ``features``."""
        return self.logits(batch)


def means(levels: Sequence[Tensor]) -> Tensor:
    """Means (n, 3 * sum of d), in float32, of features (n, d, w, w) by level.

    They are over the pixels within 1 pixel of the window's centre, within 2, and over the whole window: where pixels
    are noisy, so are the features of a single one.
    """
    side = levels[0].shape[-1]
    inner = [slice(max(side // 2 - reach, 0), side // 2 + reach + 1) for reach in (*MEAN_REACHES, side)]
    return torch.cat([level[:, :, part, part].float().mean(dim=(2, 3)) for level in levels for part in inner], dim=1)


class BdgfProbe(LinearProbe, Bdgf):
    """A logistic regression on the features that guide the branches of `Bdgf`, with the same pretraining."""

    Config = BdgfProbeConfig
    Module = DenoiserProbe
    name = "bdgf-probe"
    title = "the linear probe of BDGF"
