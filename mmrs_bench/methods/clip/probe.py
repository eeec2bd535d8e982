"""Linear probe of DiffCLIP's stage 1: a logistic regression on features of the frozen encoder.

Letters: n windows, m modalities, d width, c channels, w window side, k classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor, nn

from mmrs_bench.methods.clip.config import Stage1Config
from mmrs_bench.methods.clip.method import DiffClipStage1
from mmrs_bench.methods.clip.pretraining import MaskedDiffusionPretrainer
from mmrs_bench.methods.toolkit.masked_diffusion.stage import copy_encoder
from mmrs_bench.methods.toolkit.probes.linear import LinearProbe, ProbeConfig, ProbeModule
from mmrs_bench.models.masked_diffusion.schedules import check_choice
from mmrs_bench.models.masked_diffusion.transformer import (
    Readout,
    TokenEncoder,
    check_sizes,
    clean_timesteps,
    window_pixels,
)


class DiffClipProbeConfig(Stage1Config, ProbeConfig):
    """Settings of stage 1 and of the probe."""


class EncoderProbe(ProbeModule):
    """A linear layer on the tokens that a frozen encoder makes of clean windows, at timestep 0.

    Args:
        channels: Channels by modality.
        num_classes: Number of classes k.
        window: Window side in pixels.
        width, heads, depth, mlp_ratio: Sizes, see `mmrs_bench.models.masked_diffusion.transformer.TokenEncoder`.
        readout: Tokens that the layer reads, see `mmrs_bench.models.masked_diffusion.transformer.Readout`.
        pretrained: Checkpoint of a `MaskedDiffusionPretrainer`, whose tokenizers and encoder are copied; None leaves
            them untrained. It is not saved as a hyperparameter.

    Raises:
        ConfigError: If a setting is impossible, or the checkpoint has other channels or sizes.
        DataError: If ``pretrained`` is missing or damaged.
    """

    cpu_chunk = 32  # so that the tokens of the windows fit the cache of a CPU

    def __init__(
        self,
        channels: dict[str, int],
        num_classes: int,
        window: int = 11,
        *,
        width: int = 128,
        heads: int = 8,
        depth: int = 4,
        mlp_ratio: float = 2.0,
        readout: Readout = "pooled",
        pretrained: str | None = None,
    ) -> None:
        super().__init__(channels, num_classes, window)
        self.save_hyperparameters(ignore=["pretrained"])
        check_choice("readout", readout, get_args(Readout))
        check_sizes(width=width, heads=heads, mlp_ratio=mlp_ratio, depth=depth)
        self.readout = readout
        encoder = TokenEncoder(channels, window, width=width, heads=heads, depth=depth, mlp_ratio=mlp_ratio)
        self.encoder = encoder.requires_grad_(False)
        self.network = nn.Linear(len(channels) * (1 if readout == "class" else 3) * width, num_classes)
        if pretrained is not None:
            with torch.random.fork_rng(devices=[]):
                self.take_encoder(MaskedDiffusionPretrainer.load_from_checkpoint(pretrained))

    def take_encoder(self, stage_1: MaskedDiffusionPretrainer) -> None:
        """Copy tokenizers and encoder of stage 1.

        Raises:
            ConfigError: If they have other channels or sizes.
        """
        copy_encoder(self.encoder, self.hparams, stage_1)

    def frozen_features(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Tokens (n, m d) of ``readout`` class, else (n, 3 m d), of clean windows (n, c, w, w) by modality."""
        self.encoder.eval()  # also while the layer is trained
        with torch.no_grad():
            embedded = self.encoder.embed_pixels(window_pixels(windows))
            return self.encoder.read(embedded, clean_timesteps(embedded), self.readout)


class DiffClipProbe(LinearProbe, DiffClipStage1):
    """A logistic regression on the features that stage 2 of `DiffClip` starts from, with the same pretraining."""

    Config = DiffClipProbeConfig
    Module = EncoderProbe
    name = "diffclip-probe"
    title = "the linear probe of DiffCLIP"
