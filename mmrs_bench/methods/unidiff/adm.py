"""ADM, the class-conditional U-Net that OpenAI trained on ImageNet, as diffusers' ``UNet2DModel``.

Reference: Dhariwal & Nichol 2021 (ADM, arXiv 2105.05233), section 3 and the hyperparameters in its appendix; Nichol &
Dhariwal 2021 (arXiv 2102.09672) for the learned variance.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel  # by the path under which mypy sees a torch module
from torch import Tensor

from mmrs_bench.errors import ConfigError, unknown_name

IMAGE_CHANNELS = 3
#: Groups of every group normalisation.
GROUPS = 32


@dataclass(frozen=True)
class AdmConfig:
    """Sizes of an ADM.

    Attributes:
        base_channels: Channels of the first level; time and class embeddings have four times as many.
        multipliers: Channels of each level, in units of ``base_channels``. Each level halves the resolution.
        blocks: Residual blocks of a level of the encoder; the decoder has one more.
        attention_resolutions: Sides in pixels of the levels with self-attention. The middle block always has it.
        head_channels: Channels of an attention head.
        classes: Rows of the class embedding.
        image_size: Side of the image in pixels.
        learned_sigma: Whether the network predicts the variance, in 3 more output channels.
        dropout: Dropout rate of residual blocks.
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

    @property
    def decoder_blocks(self) -> int:
        """Residual blocks of the decoder."""
        return len(self.multipliers) * (self.blocks + 1)

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

#: A scaled-down ADM of ours for machines without a GPU: 6,340,486 parameters.
ADM_TINY = AdmConfig(
    base_channels=64,
    multipliers=(1, 1, 2, 2),
    blocks=1,
    attention_resolutions=(32, 16, 8),
    head_channels=32,
    classes=8,
    dropout=0.1,
)


def adm_config(backbone: str, sizes: Mapping[str, Any] | None = None) -> AdmConfig:
    """The sizes of a backbone.

    Args:
        backbone: ``imagenet`` or ``tiny``.
        sizes: Fields of `AdmConfig` that replace all sizes of the backbone; None keeps them.

    Raises:
        ConfigError: If the backbone or a field is unknown, or a field is missing.
    """
    known = {"imagenet": ADM_64, "tiny": ADM_TINY}
    if backbone not in known:
        raise unknown_name("backbone", backbone, known)
    if sizes is None:
        return known[backbone]
    try:
        fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list | tuple) else v for n, v in sizes.items()}
        return AdmConfig(**fields)
    except TypeError as error:
        raise ConfigError(f"sizes of the backbone: {error}; use the fields of AdmConfig") from error


def build_adm(config: AdmConfig) -> UNet2DModel:
    """An untrained ADM in training mode.

    The network takes noised images (b, 3, s, s) in about [-1, 1], timesteps (b,) from 0 to 999 and ``class_labels``
    (b,). It returns (b, 6, s, s): the noise, then (with ``learned_sigma``) the position of the variance between its
    bounds. Images of another size than ``config.image_size`` work if every level can halve them.

    Reference: ADM, section 3.
    Deviation: none in the computation. Attention has three layers for queries, keys and values, where the original has
        one, see `mmrs_bench.methods.unidiff.adm_checkpoint`.
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
    """Set the last layer of each residual branch and of the network to zero, for a training from scratch.

    Reference: ADM's released configuration.
    """
    for name, parameter in unet.named_parameters():
        if re.search(r"(\.conv2|\.to_out\.0|^conv_out)\.(weight|bias)$", name):
            torch.nn.init.zeros_(parameter)


def adm_with_weights(
    config: AdmConfig, weights: Mapping[str, Tensor], *, trainable: Collection[str] = ()
) -> UNet2DModel:
    """An ADM in evaluation mode that shares the memory of the given weights and copies only its trainable parameters.

    Moving it to another device or precision copies all of them.

    Args:
        config: Sizes of the network.
        weights: All tensors of its ``state_dict``. They must not be changed in place afterwards.
        trainable: Names of the parameters that get a gradient; all others are frozen.

    Raises:
        ValueError: If the weights belong to another network.
    """
    with torch.device("meta"):
        unet = build_adm(config)
    expected, found = ({name: w.shape for name, w in named} for named in (unet.named_parameters(), weights.items()))
    if expected != found:
        raise ValueError("names or shapes of the weights differ from this ADM's; use the config of their network")
    copied = {name: weight.clone() if name in trainable else weight for name, weight in weights.items()}
    unet.load_state_dict(copied, assign=True)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name in trainable)
    return unet.eval()
