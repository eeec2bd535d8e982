"""ADM, the class-conditional U-Net that OpenAI trained on ImageNet, as diffusers' ``UNet2DModel``.

Residual blocks whose second group normalisation is scaled and shifted by time and class, down- and up-sampling inside
residual blocks, self-attention at several resolutions, and the variance predicted beside the noise.

Reference: Dhariwal & Nichol 2021 (ADM, arXiv 2105.05233), section 3 and the hyperparameters in its appendix; Nichol &
Dhariwal 2021 (arXiv 2102.09672) for the learned variance.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from diffusers.models.unets.unet_2d import UNet2DModel  # by the path under which mypy sees a torch module
from torch import Tensor

from mmrs_bench.errors import ConfigError

IMAGE_CHANNELS = 3
#: Groups of every group normalisation.
GROUPS = 32


@dataclass(frozen=True)
class AdmConfig:
    """What decides the weights of an ADM.

    Attributes:
        base_channels: Channels of the first level; the timestep's sinusoid has as many, time and class embeddings four
            times as many.
        multipliers: Channels of each level, in units of ``base_channels``; each level has half the side of the last.
        blocks: Residual blocks of a level (the decoder has one more).
        attention_resolutions: Sides, in pixels, at which every residual block is followed by attention. The middle
            has attention always.
        head_channels: Channels of an attention head.
        classes: Rows of the class embedding.
        image_size: Side of the image in pixels.
        learned_sigma: Whether 3 channels for the variance follow the 3 of the noise.
        dropout: Share of activations dropped in residual blocks, in training mode only.

    Raises:
        ConfigError: If the levels do not fit the image, or the channels do not fit groups and heads.
    """

    base_channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention_resolutions: tuple[int, ...]
    head_channels: int
    classes: int
    image_size: int = 64
    learned_sigma: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.multipliers or min(self.base_channels, self.blocks, self.head_channels, self.classes) < 1:
            raise ConfigError(f"{self}: sizes must be positive, with at least one multiplier; ADM_TINY is an example")
        if self.image_size % 2 ** (len(self.multipliers) - 1):
            raise ConfigError(
                f"ADM of {len(self.multipliers)} levels: an image of {self.image_size} pixels cannot be halved "
                f"{len(self.multipliers) - 1} times; use fewer multipliers or another image_size"
            )
        if not set(self.attention_resolutions) <= set(self.sides):
            raise ConfigError(
                f"ADM: attention_resolutions {self.attention_resolutions} are not all sides of a level; choose from "
                f"{self.sides}"
            )
        for channels, side in zip(self.channels, self.sides, strict=True):
            attends = side in self.attention_resolutions or side == self.sides[-1]
            if channels % GROUPS or (attends and channels % self.head_channels):
                raise ConfigError(
                    f"ADM: {channels} channels at {side} x {side} pixels; use multiples of {GROUPS} (the groups of a "
                    f"normalisation) and, where there is attention, of head_channels {self.head_channels}"
                )

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of each level in pixels, finest first."""
        return tuple(self.image_size >> level for level in range(len(self.multipliers)))

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.base_channels * multiplier for multiplier in self.multipliers)


#: OpenAI's class-conditional ImageNet model at 64 x 64 pixels: 295,904,454 parameters.
ADM_64 = AdmConfig(
    base_channels=192,
    multipliers=(1, 2, 3, 4),
    blocks=3,
    attention_resolutions=(32, 16, 8),
    head_channels=64,
    classes=1000,
    dropout=0.1,
)

#: A scaled-down ADM of 6,340,486 parameters for machines without a GPU; has attention at the same resolutions. Its 8
#: class rows are more than a scene has kinds of images. Sizes are ours.
ADM_TINY = AdmConfig(
    base_channels=64,
    multipliers=(1, 1, 2, 2),
    blocks=1,
    attention_resolutions=(32, 16, 8),
    head_channels=32,
    classes=8,
    dropout=0.1,
)


def build_adm(config: AdmConfig) -> UNet2DModel:
    """An ADM with torch's initial values, in training mode; under ``torch.device("meta")`` without memory for them.

    Called with noised images (b, 3, s, s) in about [-1, 1], timesteps (b,) from 0 to 999 and ``class_labels`` (b,)
    below ``config.classes``, it returns (b, 6, s, s): the noise, then (with ``learned_sigma``) the variance's place
    between its bounds. Sides of the image other than ``config.image_size`` work if the levels can halve them.

    Reference: ADM, section 3; the sinusoid is cosines, then sines, of frequencies from 1 down to almost 1 / 10,000.

    Deviation: none in what is computed. Attention keeps queries, keys and values in three layers where the original
        has one, and takes them from tokens where the original convolves; `mmrs_bench.methods.unidiff.adm_checkpoint` splits.
        Dropout, of which the weights know nothing, is also ADM's.
    """
    attends = [side in config.attention_resolutions for side in config.sides]
    # diffusers' Resnet... blocks are its Attn... blocks without attention.
    unet: UNet2DModel = UNet2DModel(
        sample_size=config.image_size,
        in_channels=IMAGE_CHANNELS,
        out_channels=IMAGE_CHANNELS * (1 + config.learned_sigma),
        block_out_channels=config.channels,
        layers_per_block=config.blocks,
        down_block_types=tuple("AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(attends)),
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        norm_num_groups=GROUPS,
        attn_norm_num_groups=GROUPS,
        norm_eps=1e-5,
        attention_head_dim=config.head_channels,
        num_class_embeds=config.classes,
        flip_sin_to_cos=True,
        freq_shift=0,
        dropout=config.dropout,
    )
    return unet


def zero_last_layers(unet: UNet2DModel) -> None:
    """Set to zero what each residual branch and the network end with, as ADM is before its training.

    Every residual and attention block then adds nothing, and the output is zero. For a training of all parameters from
    scratch only: with these layers frozen at zero, nothing before them has a gradient.

    Reference: ADM's released configuration; Ho et al. 2020 (DDPM) for the same in its residual blocks.
    """
    for name, parameter in unet.named_parameters():
        if re.search(r"(\.conv2|\.to_out\.0|^conv_out)\.(weight|bias)$", name):
            torch.nn.init.zeros_(parameter)


def adm_with_weights(config: AdmConfig, weights: Mapping[str, Tensor], *, own: Collection[str] = ()) -> UNet2DModel:
    """An ADM on given weights, which it shares with whoever else uses them; frozen but for its own.

    Costs the memory of its own parameters only, so that many can stand on one backbone
    (`mmrs_bench.methods.unidiff.adm_checkpoint.pretrained_weights`). Moving it to another device or precision copies.

    Args:
        config: The network that the weights are of.
        weights: All tensors of its ``state_dict``. They must not be changed in place afterwards.
        own: Names of the parameters that this network is to train: copied, with gradient.

    Returns:
        The network, in evaluation mode.

    Raises:
        ValueError: If ``own`` names what is no parameter, or the weights are those of another network.
    """
    with torch.device("meta"):
        unet = build_adm(config)
    expected = {name: parameter.shape for name, parameter in unet.named_parameters()}
    if unknown := sorted(set(own) - expected.keys()):
        raise ValueError(f"{unknown[0]} and {len(unknown) - 1} more to train are no parameters of the ADM")
    if expected != {name: weight.shape for name, weight in weights.items()}:
        raise ValueError(
            "the weights have other names or shapes than this ADM's; use the config that they were made with"
        )
    unet.load_state_dict(
        {name: weight.clone() if name in own else weight for name, weight in weights.items()}, assign=True
    )
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name in own)
    return unet.eval()
