"""The denoiser of several modalities: noise, loss, padding, features, gradients, sizes and errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.bdgf_helpers import random
from helpers.network_helpers import random_windows
from torch import Tensor
from torch.nn import functional as F

from mmrs_bench.methods.bdgf import multimodal_ddpm
from mmrs_bench.methods.bdgf.multimodal_ddpm import MultimodalDenoiser, modality_losses, norm_groups, padded_side

pytestmark = pytest.mark.usefixtures("same_start")
CHANNELS = {"hsi": 3, "sar": 2}
SIDE = 7


def windows(batch: int, side: int = SIDE) -> dict[str, Tensor]:
    return random_windows(CHANNELS, batch, side)


def denoiser(side: int = SIDE, **sizes: Any) -> MultimodalDenoiser:
    return MultimodalDenoiser(CHANNELS, side, **{"base": 8, "multipliers": (1, 2, 2), "blocks": 1, **sizes})


# Noise and loss


def test_noised_windows_follow_the_equation() -> None:
    """The noise has the order of the channels for any order of the windows."""
    clean, timesteps = windows(3), torch.tensor([0, 500, 999])
    noised, noises = denoiser().add_noise(dict(reversed(clean.items())), timesteps, random(7))
    g = random(7)
    for name, x in clean.items():
        noise = g.normal(*x.shape)
        assert torch.equal(noises[name], noise)
        for b, t in enumerate(timesteps.tolist()):
            kept = math.prod(1 - (1e-4 + (0.02 - 1e-4) * step / 999) for step in range(t + 1))
            expected = math.sqrt(kept) * x[b] + math.sqrt(1 - kept) * noise[b]
            torch.testing.assert_close(noised[name][b], expected, atol=1e-5, rtol=1e-4)


def test_noise_of_another_shape_is_refused() -> None:
    """Otherwise broadcasting would compute a loss."""
    with pytest.raises(ValueError, match="predicted noise of shape"):
        modality_losses({"hsi": torch.zeros(2, 1, 3, 3)}, {"hsi": torch.zeros(2, 4, 3, 3)})


# Padding


@pytest.mark.parametrize(("side", "padded"), [(5, 8), (7, 8), (8, 8), (9, 12), (11, 12), (12, 12)])
def test_windows_are_reflected_and_cropped_back(side: int, padded: int) -> None:
    model = denoiser(side)
    seen: list[Tensor] = []

    def through(sample: Tensor, _timesteps: Tensor, *, return_dict: bool) -> tuple[Tensor]:
        assert not return_dict
        seen.append(sample)
        return (sample,)

    model.unet.forward = through
    given = windows(2, side)
    returned = model(given, torch.tensor([1, 2]))
    before = (padded - side) // 2
    after = padded - side - before
    joined = torch.cat(list(given.values()), dim=1)
    assert torch.equal(seen[0], F.pad(joined, (before, after, before, after), mode="reflect"))
    assert list(returned) == list(CHANNELS)
    for name in CHANNELS:
        assert torch.equal(returned[name], given[name])


def test_the_order_of_the_input_has_no_effect() -> None:
    model, given, t = denoiser(), windows(2), torch.tensor([5, 6])
    reordered = {name: given[name] for name in reversed(given)}
    for name in CHANNELS:
        assert torch.equal(model(given, t)[name], model(reordered, t)[name])


def test_a_window_of_one_pixel_fits_no_number_of_levels() -> None:
    with pytest.raises(ValueError, match=r"use a window of 2 x 2 or larger$"):
        padded_side(1, 1)


@pytest.mark.parametrize("side", range(2, 20))
def test_the_sizes_named_in_the_error_work(side: int) -> None:
    for levels in range(1, 6):
        fits = levels <= (side - 1).bit_length()
        if not fits:
            with pytest.raises(
                ValueError, match=rf"{2 ** (levels - 1) + 1} x .* at most {(side - 1).bit_length()} level"
            ):
                padded_side(side, levels)
            continue
        padded, factor = padded_side(side, levels), 2 ** (levels - 1)
        assert padded % factor == 0
        assert padded // factor >= 2
        assert 0 <= padded - side < factor
        # A reflection reaches no farther than the window.
        assert padded - side - (padded - side) // 2 < side


# Features


def test_features_are_decoder_activations_averaged_over_timesteps() -> None:
    """Against diffusers' own blocks, called one after the other."""
    model, clean, timesteps, seed = denoiser(), windows(2), (10, 400), 3
    g = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(1, c, SIDE, SIDE, generator=g) for name, c in CHANNELS.items()}
    sums = [torch.zeros(2, d, SIDE, SIDE) for d in model.feature_channels]
    for t in timesteps:
        kept = math.prod(1 - (1e-4 + (0.02 - 1e-4) * step / 999) for step in range(t + 1))
        x = torch.cat([math.sqrt(kept) * clean[n] + math.sqrt(1 - kept) * noise[n] for n in CHANNELS], dim=1)
        x = F.pad(x, (0, 1, 0, 1), mode="reflect")
        unet = model.unet
        with torch.no_grad():
            emb = unet.time_embedding(unet.time_proj(torch.tensor([t, t])))
            h = unet.conv_in(x)
            skips = [h]
            for down in unet.down_blocks:
                h, new = down(h, emb)
                skips.extend(new)
            h = unet.mid_block(h, emb)
            for level, up in enumerate(unet.up_blocks):
                count = len(up.resnets)
                h = up(h, tuple(skips[-count:]), emb)
                skips = skips[:-count]
                resized = F.interpolate(h, size=(8, 8), mode="bilinear", align_corners=False)
                sums[level] += resized[:, :, :SIDE, :SIDE]
    for found, total in zip(model.decoder_features(clean, timesteps=timesteps, seed=seed), sums, strict=True):
        torch.testing.assert_close(found, total / 2, atol=1e-4, rtol=1e-4)


def test_hooks_keep_nothing_outside_of_features_also_after_an_error() -> None:
    model = denoiser()
    model.decoder_features(windows(1), timesteps=(50,))
    assert multimodal_ddpm._features.levels is None
    model.unet.conv_out.weight.data = torch.zeros(1)  # a U-Net that fails after its decoder
    with pytest.raises(RuntimeError):
        model.decoder_features(windows(1), timesteps=(50,))
    assert multimodal_ddpm._features.levels is None


# Sizes


def test_the_parameter_count_is_the_documented_one() -> None:
    model = MultimodalDenoiser({"hsi": 30, "sar": 4}, 11, base=64, multipliers=(1, 2, 4), blocks=2)
    assert sum(p.numel() for p in model.parameters()) == 16_428_224 + 1_153 * 34
    assert model.feature_channels == (256, 128, 64)


@pytest.mark.parametrize(("base", "groups"), [(64, 32), (8, 4), (6, 3), (48, 24), (1, 1), (7, 1), (96, 32)])
def test_groups_divide_the_channels_and_have_at_least_two(base: int, groups: int) -> None:
    assert norm_groups(base) == groups


def test_attention_is_at_the_lowest_level_only() -> None:
    model = denoiser()
    assert [hasattr(block, "attentions") for block in model.unet.down_blocks] == [False, False, True]
    assert [hasattr(block, "attentions") for block in model.unet.up_blocks] == [True, False, False]


def test_windows_of_other_modalities_channels_or_sides_are_refused() -> None:
    model, t = denoiser(), torch.tensor([1, 1])
    for given in (windows(2, side=8), {"hsi": windows(2)["hsi"]}, {**windows(2), "sar": windows(2)["hsi"]}):
        with pytest.raises(ValueError, match="the network was built for"):
            model(given, t)
