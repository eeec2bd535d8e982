"""A U-Net that denoises the windows of several modalities together, and the features of its decoder.

Letters: b batch, c channels of a modality, C channels of all, w window side, p padded side, t timestep, l level of the
decoder.

Reference: BDGF (Liu et al. 2025, arXiv 2509.23310), abstract ("multimodal diffusion model"); DDPM (Ho et al. 2020),
equation 14, for the loss; ddpm-segmentation (Baranchuk et al. 2022), section 3, for the features.
Deviation: our reading of the abstract; the authors' code could not be obtained. The modalities are concatenated over
channels.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.models.diffusion import linear_schedule
from mmrs_bench.randomness import SampleRandom

#: Largest number of groups of a group normalisation, as in DDPM.
MOST_GROUPS = 32
#: Seed of the noise of all features, so that predictions are not random.
NOISE_SEED = 0

#: ``levels``, while a thread computes features: the outputs of the decoder so far.
_features = threading.local()


def _keep_level(block: nn.Module, inputs: Any, output: Tensor) -> None:
    """A forward hook of the decoder's levels."""
    levels = getattr(_features, "levels", None)
    if levels is not None:
        levels.append(output.float())


class MultimodalDenoiser(nn.Module):
    """Predicts the noise in the windows of all modalities at once.

    diffusers' U-Net: residual blocks that the timestep scales and shifts, and self-attention at the lowest level, in
    heads as wide as the first level. Windows are padded by reflection to a side that all levels can halve, and the
    prediction is cropped back. Padding follows noise and masks, so that it shows nothing that is masked.

    Parameters: with base 64, multipliers (1, 2, 4) and two blocks, 16,428,224 + 1,153 C.

    Reference: layout after DDPM (Ho et al. 2020), appendix B, with the scale and shift and the heads of 64 channels of
        Dhariwal & Nichol (2021), section 3.

    Args:
        channels: Channels by modality, in the order in which they are concatenated.
        side: Window side w in pixels, even or odd.
        base: Channels of the first level.
        multipliers: Channels of each level, in units of ``base``.
        blocks: Residual blocks per level (the decoder has one more).

    Attributes:
        sizes: The arguments, for comparison; denoisers of equal sizes have the same parameters.

    Raises:
        ValueError: If a size is below 1, or the window is too small for the levels.
    """

    columns: Tensor

    def __init__(
        self, channels: Mapping[str, int], side: int, *, base: int, multipliers: Sequence[int], blocks: int
    ) -> None:
        super().__init__()
        if min(base, blocks, *multipliers, len(multipliers)) < 1:
            raise ValueError(
                f"base {base}, blocks {blocks} and multipliers {tuple(multipliers)} must be at least 1; use the "
                "defaults, or larger sizes"
            )
        named = " ".join(f"{name} {count}" for name, count in channels.items())
        sizes = {"channels": named, "window": side, "base": base, "multipliers": tuple(multipliers), "blocks": blocks}
        self.sizes: dict[str, Any] = sizes
        self.channels = dict(channels)
        self.side = side
        self.feature_channels = tuple(base * multiplier for multiplier in reversed(multipliers))
        padded = padded_side(side, len(multipliers))
        # Not F.pad, whose gradient (the mask tokens need it) has no deterministic kernel on CUDA.
        self.register_buffer("columns", _reflected(side, padded), persistent=False)
        self._before = (padded - side) // 2
        self._schedule = linear_schedule("epsilon")
        plain = len(multipliers) - 1
        # diffusers does not type its models.
        self.unet: Any = UNet2DModel(  # type: ignore[no-untyped-call]
            sample_size=padded,
            in_channels=sum(channels.values()),
            out_channels=sum(channels.values()),
            block_out_channels=tuple(base * multiplier for multiplier in multipliers),
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
            layers_per_block=blocks,
            attention_head_dim=base,
            norm_num_groups=norm_groups(base),
            resnet_time_scale_shift="scale_shift",
        )
        for block in self.unet.up_blocks:  # type: ignore[attr-defined]
            block.register_forward_hook(_keep_level)

    def forward(self, windows: Mapping[str, Tensor], timesteps: Tensor) -> dict[str, Tensor]:
        """Noised windows (b, c, w, w) by modality and their timesteps (b,), 0 the least noise -> predicted noise.

        Raises:
            ValueError: If modalities, channels or side are not those of the network.
        """
        padded = self._padded(windows)
        if padded.device.type == "cpu":  # a fifth less time for a training step
            padded = padded.contiguous(memory_format=torch.channels_last)
        predicted = self._crop(self.unet(padded, timesteps, return_dict=False)[0])  # (b, C, w, w)
        return dict(zip(self.channels, torch.split(predicted, list(self.channels.values()), dim=1), strict=True))

    def add_noise(
        self, clean: Mapping[str, Tensor], timesteps: Tensor, random: SampleRandom
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Noised windows sqrt(abar_t) x + sqrt(1 - abar_t) e and the noise e, standard normal, both by modality.

        Args:
            clean: Clean windows (b, c, w, w) by modality.
            timesteps: A timestep per window (b,), the same for all its modalities.
            random: Source of the noise, on the device of ``clean``; noise is drawn in the order of ``channels``.
        """
        noise, noised = {}, {}
        for name in self.channels:
            x = clean[name]
            noise[name] = random.normal(*x.shape).to(x)
            noised[name] = self._schedule.add_noise(x, noise[name], timesteps)  # type: ignore[attr-defined]
        return noised, noise

    @torch.no_grad()
    def decoder_features(
        self, windows: Mapping[str, Tensor], *, timesteps: Sequence[int], seed: int = NOISE_SEED
    ) -> list[Tensor]:
        """Activations of each decoder level on noised windows, averaged over timesteps; without gradient.

        The same noise, from ``seed``, is added to all windows, so that their features do not depend on the batch or on
        the place in the scene.

        Returns:
            F_l (b, d_l, w, w) from the coarsest level (l = 1) to the finest, d_l as in ``feature_channels``.

        Reference: ddpm-segmentation (Baranchuk et al. 2022), section 3 (activations resized bilinearly).
        Deviation: averaged over timesteps where ddpm-segmentation concatenates them, which keeps the branches narrow.
        """
        generator = torch.Generator().manual_seed(seed)
        shape = (self.side, self.side)
        noise = {name: torch.randn(1, c, *shape, generator=generator) for name, c in self.channels.items()}
        total: list[Tensor] = []
        for timestep in timesteps:
            noised, steps = {}, torch.tensor([timestep], device=self.columns.device)
            for name in self.channels:
                x = windows[name]
                shared = noise[name].to(x).expand_as(x)
                noised[name] = self._schedule.add_noise(x, shared, steps.expand(len(x)))  # type: ignore[attr-defined]
            levels = self._activations(self._padded(noised), steps)
            total = [before + new for before, new in zip(total, levels, strict=True)] if total else levels
        return [self._crop(self._resize(level / len(timesteps))) for level in total]

    def input_gradients(self) -> dict[str, float]:
        """Norm of the gradient of each modality's weights in the first layer, after a backward pass."""
        gradient: Tensor = self.unet.conv_in.weight.grad.float()
        parts = torch.split(gradient, list(self.channels.values()), dim=1)
        return {name: float(part.square().sum().sqrt()) for name, part in zip(self.channels, parts, strict=True)}

    def _activations(self, padded: Tensor, steps: Tensor) -> list[Tensor]:
        """Outputs of the decoder levels, coarsest first, in float32; several threads may call it at once."""
        levels: list[Tensor] = []
        _features.levels = levels
        try:
            self.unet(padded, steps)
        finally:
            _features.levels = None
        return levels

    def _check(self, windows: Mapping[str, Tensor]) -> None:
        found = {name: tuple(window.shape[1:]) for name, window in windows.items()}
        expected = {name: (c, self.side, self.side) for name, c in self.channels.items()}
        if found != expected:
            raise ValueError(f"windows of shape {found}, but the network was built for {expected}")

    def _padded(self, windows: Mapping[str, Tensor]) -> Tensor:
        """All modalities, concatenated and padded (b, C, p, p)."""
        self._check(windows)
        joined = torch.cat([windows[name] for name in self.channels], dim=1)
        return joined.index_select(2, self.columns).index_select(3, self.columns)

    def _resize(self, level: Tensor) -> Tensor:
        """A level (b, d, s, s) at the padded side (b, d, p, p)."""
        padded = len(self.columns)
        if level.shape[-1] == padded:
            return level
        return F.interpolate(level, size=(padded, padded), mode="bilinear", align_corners=False)

    def _crop(self, padded: Tensor) -> Tensor:
        inside = slice(self._before, self._before + self.side)
        return padded[:, :, inside, inside]


def modality_losses(
    predicted: Mapping[str, Tensor], noise: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """L_m, the mean squared error (scalar) of each modality's noise, over all channels and visible positions.

    Predicted noise and noise are (b, c, w, w); ``masks`` (b, 1, w, w) are True where masked, not everywhere. Masked
    positions are left out: their noise cannot be predicted, and would only add variance.

    Reference: DDPM (Ho et al. 2020), equation 14, for each modality. The loss of BDGF is unknown.

    Raises:
        ValueError: If modalities or shapes differ.
    """
    shapes = [{name: tuple(part.shape) for name, part in parts.items()} for parts in (predicted, noise)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"predicted noise of shape {shapes[0]}, but noise of shape {shapes[1]}")
    errors = {name: (predicted[name].float() - noise[name].float()).square().mean(dim=1) for name in predicted}
    if masks is None:
        return {name: error.mean() for name, error in errors.items()}
    return {name: error[~masks[name][:, 0]].mean() for name, error in errors.items()}


def white_loss(timesteps: Tensor) -> Tensor:
    """Loss (scalar) of the best guess of the noise in white data of unit variance: the mean of abar_t.

    Given x_t of such data, the mean of the noise is sqrt(1 - abar_t) x_t, with a mean squared error of abar_t. A lower
    loss shows that the network has learned structure. ``timesteps`` are (b,).
    """
    abar: Tensor = linear_schedule("epsilon").alphas_cumprod  # type: ignore[attr-defined]
    return abar.to(timesteps.device)[timesteps].mean()


def padded_side(side: int, levels: int) -> int:
    """The smallest side, not below ``side``, that all levels but the last can halve; leaves it at least 2 pixels.

    Raises:
        ValueError: If the window is too small.
    """
    factor: int = 2 ** (levels - 1)
    if side <= factor:
        most = max(side - 1, 0).bit_length()
        fewer = f", or at most {most} level{'s' * (most > 1)}" if most else ""
        raise ValueError(
            f"a window of {side} x {side} pixels is too small for {levels} levels, the lowest of which would be one "
            f"pixel wide; use a window of {factor + 1} x {factor + 1} or larger{fewer}"
        )
    return -(-side // factor) * factor


def norm_groups(base: int) -> int:
    """The largest number of groups of a group normalisation with at least two channels, at most `MOST_GROUPS`."""
    return max(
        groups for groups in range(1, MOST_GROUPS + 1) if base % groups == 0 and (groups == 1 or 2 * groups <= base)
    )


def _reflected(side: int, padded: int) -> Tensor:
    """For each column of the padded window, the column of the window that it repeats (p,)."""
    place = (torch.arange(padded) - (padded - side) // 2).abs()
    return torch.where(place < side, place, 2 * (side - 1) - place)
