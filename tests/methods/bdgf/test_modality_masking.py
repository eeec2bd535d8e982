"""Masks and mask tokens against slow loops; mask ratios against their equations."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from helpers.bdgf_helpers import mask_ratios, random
from helpers.network_helpers import random_windows

from mmrs_bench.methods.bdgf.modality_masking import MaskRule, MaskTokens, random_masks
from mmrs_bench.methods.bdgf.multimodal_ddpm import MultimodalDenoiser, modality_losses

pytestmark = pytest.mark.usefixtures("same_start")
CHANNELS = {"hsi": 3, "sar": 2}
NAMES = ("hsi", "sar")
THREE = {"hsi": 3, "sar": 2, "dsm": 1}
SIDE = 5


def denoiser() -> MultimodalDenoiser:
    return MultimodalDenoiser(CHANNELS, SIDE, base=8, multipliers=(1, 2), blocks=1)


# Masks


@pytest.mark.parametrize(("side", "patch"), [(11, 1), (11, 2), (12, 3), (5, 5), (7, 4)])
def test_a_mask_covers_the_requested_number_of_whole_patches(side: int, patch: int) -> None:
    per_side = math.ceil(side / patch)
    for ratio in (0.0, 0.3, 0.75, 1.0):
        mask = random_masks(6, side, {"hsi": ratio}, patch=patch, whole=0.0, random=random())["hsi"]
        assert mask.shape == (6, 1, side, side)
        assert mask.dtype == torch.bool
        for window in mask[:, 0]:
            masked = 0
            for i in range(per_side):
                for j in range(per_side):
                    square = window[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
                    assert bool(square.all()) or not bool(square.any())
                    masked += bool(square.all())
            assert masked == round(ratio * per_side**2)


def test_every_pixel_is_masked_equally_often() -> None:
    """Also in the smaller patches at the far border."""
    for whole in (0.0, 0.25):
        mask = random_masks(4000, 5, {"hsi": 4 / 9}, patch=2, whole=whole, random=random())["hsi"]
        share, expected = mask.double().mean(dim=0), 4 / 9 * (1 - whole)
        # Five standard deviations of a share of 4,000.
        assert float((share - expected).abs().max()) < 5 * math.sqrt(expected * (1 - expected) / 4000)


def test_unmasked_windows_are_unmasked_in_all_modalities() -> None:
    masks = random_masks(4000, 6, {"hsi": 0.75, "sar": 0.25}, patch=3, whole=0.3, random=random())
    masked = {name: mask.flatten(1).sum(dim=1) for name, mask in masks.items()}
    whole = masked["hsi"] == 0
    assert float(whole.double().mean()) == pytest.approx(0.3, abs=5 * math.sqrt(0.3 * 0.7 / 4000))
    assert masked["sar"][whole].unique().tolist() == [0]
    assert masked["hsi"][~whole].unique().tolist() == [27]
    assert masked["sar"][~whole].unique().tolist() == [9]


# Tokens


def test_tokens_replace_masked_pixels() -> None:
    tokens, given = MaskTokens(CHANNELS), random_windows(CHANNELS, 3, SIDE)
    for name, c in CHANNELS.items():
        tokens.tokens[name].data = torch.arange(1.0, c + 1)
    masks = random_masks(3, SIDE, {"hsi": 0.6, "sar": 0.2}, patch=2, whole=0.0, random=random())
    found = tokens(given, masks)
    for name, c in CHANNELS.items():
        for b, k, i, j in [(b, k, i, j) for b in range(3) for k in range(c) for i in range(SIDE) for j in range(SIDE)]:
            expected = k + 1 if masks[name][b, 0, i, j] else float(given[name][b, k, i, j])
            assert float(found[name][b, k, i, j].detach()) == expected


def test_only_tokens_and_visible_pixels_get_a_gradient() -> None:
    model, tokens = denoiser(), MaskTokens(CHANNELS)
    clean, t = random_windows(CHANNELS, 2, SIDE), torch.tensor([5, 800])
    noised, noise = model.add_noise(clean, t, random())
    masks = random_masks(2, SIDE, {"hsi": 0.5, "sar": 0.5}, patch=1, whole=0.0, random=random())
    for x in noised.values():
        x.requires_grad_()
    sum(modality_losses(model(tokens(noised, masks), t), noise).values()).backward()  # type: ignore[union-attr]
    for name in NAMES:
        assert bool((tokens.tokens[name].grad != 0).all())
        reached = (noised[name].grad != 0).all(dim=1, keepdim=True)
        assert torch.equal(reached, ~masks[name])


# Ratios


def curves(steps: int, names: tuple[str, ...] = NAMES) -> list[dict[str, float]]:
    """Relative losses with some noise; that of the first modality falls fastest."""
    noise = random().uniform(steps, len(names)).double()
    return [
        {
            name: 2 * math.exp(-step / (40.0 * (1 + 9 * m))) + 0.1 + 0.05 * float(noise[step, m])
            for m, name in enumerate(names)
        }
        for step in range(steps)
    ]


def slow_ratios(
    rule: str, signals: list[dict[str, float]], channels: dict[str, int], warmup: int, every: int
) -> list[list[float]]:
    """Ratios after each step, computed from all steps before."""
    names = tuple(channels)
    least, most, temperature, decay = 0.05, 0.75, 0.1, 0.99
    now = [least + (most - least) / len(names)] * len(names)
    out = []
    for step in range(1, len(signals) + 1):
        if step >= warmup and step % every == 0:
            average = [sum(s[name] for s in signals[:warmup]) / warmup for name in names]
            for s in signals[warmup:step]:
                average = [decay * a + (1 - decay) * s[name] for a, name in zip(average, names, strict=True)]
            known = [channels[name] * (1 - a if a < 1 else 0.0) for name, a in zip(names, average, strict=True)]
            if rule == "gradient":
                known = average
            shares = [k / sum(known) for k in known] if sum(known) else [1 / len(names)] * len(names)
            scores = [math.exp(p / temperature) for p in shares]
            now = [least + (most - least) * score / sum(scores) for score in scores]
        out.append(now)
    return out


@pytest.mark.parametrize("rule", ["adaptive", "gradient"])
@pytest.mark.parametrize(("warmup", "every"), [(100, 100), (30, 7), (7, 30), (1, 1)])
@pytest.mark.parametrize("channels", [CHANNELS, THREE])
def test_ratios_follow_the_equations(rule: MaskRule, warmup: int, every: int, channels: dict[str, int]) -> None:
    names = tuple(channels)
    ratios, signals = mask_ratios(channels, rule, least=0.05, warmup=warmup, every=every), curves(330, names)
    for signal, expected in zip(signals, slow_ratios(rule, signals, channels, warmup, every), strict=True):
        ratios.observe(signal)
        assert ratios() == pytest.approx(dict(zip(names, expected, strict=True)), rel=1e-9)
        assert sum(ratios().values()) == pytest.approx(0.05 * len(names) + 0.7)


def test_the_modality_with_the_larger_gradient_is_masked_more_and_its_ratio_converges() -> None:
    """Between the bounds, if the gradient is proportional to the visible share."""
    ratios = mask_ratios(CHANNELS, "gradient", warmup=10, every=5)
    path = []
    for _ in range(3000):
        ratios.observe({name: norm * (1 - ratios()[name]) for name, norm in (("hsi", 1.3), ("sar", 1.0))})
        path.append(ratios()["hsi"])
    assert 0.375 < path[-1] < 0.75
    assert path[-1] == pytest.approx(path[-500], abs=1e-3)


def test_masking_a_modality_lowers_its_share_of_the_gradient() -> None:
    """The rule ``gradient`` assumes this."""
    model, tokens = denoiser(), MaskTokens(CHANNELS)
    clean, t = random_windows(CHANNELS, 32, SIDE), torch.full((32,), 100)
    shares = []
    for ratio in (0.0, 0.375, 0.75):
        g = random()
        noised, noise = model.add_noise(clean, t, g)
        masks = random_masks(32, SIDE, {"hsi": ratio, "sar": 0.375}, patch=1, whole=0.0, random=g)
        model.zero_grad()
        sum(modality_losses(model(tokens(noised, masks), t), noise).values()).backward()  # type: ignore[union-attr]
        norms = model.input_gradients()
        shares.append(norms["hsi"] / sum(norms.values()))
    assert shares[0] > shares[1] > shares[2]


@pytest.mark.parametrize(("rule", "expected"), [("none", 0.0), ("fixed", 0.25)])
def test_ratios_of_the_rules_none_and_fixed_are_constant(rule: MaskRule, expected: float) -> None:
    ratios = mask_ratios(THREE, rule)
    for signal in curves(210):
        ratios.observe(signal)
        assert ratios() == {"hsi": expected, "sar": expected, "dsm": expected}


@pytest.mark.parametrize("settings", [{"least": 0.8}, {"least": -0.1}, {"most": 1.2}, {"most": math.nan}])
def test_bounds_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must satisfy 0 <= mask_least <= mask_most <= 1"):
        mask_ratios(CHANNELS, **settings)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_a_signal_that_is_not_positive_is_refused_and_the_state_stays(value: float) -> None:
    ratios = mask_ratios(CHANNELS, warmup=2, every=1)
    for signal in curves(5):
        ratios.observe(signal)
    before = copy.deepcopy(ratios.state_dict())
    with pytest.raises(ValueError, match="the loss of modality 'sar' is"):
        ratios.observe({"hsi": 1.0, "sar": value})
    assert all(torch.equal(before[key], tensor) for key, tensor in ratios.state_dict().items())
