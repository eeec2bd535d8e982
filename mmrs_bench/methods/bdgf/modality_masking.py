"""Adaptive modality masking: random masks for each modality, and the mask ratios.

A modality that is reconstructed well is masked more, so that it cannot dominate.

Letters: b batch, c channels, w window side, m modality, M modalities, r mask ratio.

Reference: BDGF (Liu et al. 2025, arXiv 2509.23310), abstract ("adaptive modality masking").
Deviation: our reading of the abstract; the authors' code could not be obtained. Rules and ratios are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mmrs_bench.randomness import SampleRandom

MaskRule = Literal["none", "fixed", "adaptive", "gradient"]


def random_masks(
    batch: int, side: int, ratios: Mapping[str, float], *, patch: int, whole: float, random: SampleRandom
) -> dict[str, Tensor]:
    """Random masks of square patches, drawn independently for each window and modality.

    The patches of a window start at its top left corner; if ``patch`` does not divide the side, the last ones are
    smaller. Of P patches, a random subset of r P, rounded, is masked. In some windows nothing is masked.

    Deviation: unmasked windows, because features are extracted from such windows, and a network that was trained on
    masked ones only denoises them badly.

    Args:
        batch: b.
        side: w in pixels.
        ratios: r by modality, each in [0, 1]; masks are drawn in this order.
        patch: Side of a patch in pixels, at most ``side``.
        whole: Probability that a window is not masked, in all modalities.
        random: Source of the random numbers, on the device of the masks.

    Returns:
        True where masked (b, 1, w, w), by modality.
    """
    per_side = -(-side // patch)
    masked = random.uniform(batch, 1) >= whole
    masks = {}
    for name, ratio in ratios.items():
        draws = random.uniform(batch, per_side**2)
        rank = draws.argsort(dim=1).argsort(dim=1)
        chosen = (masked & (rank < round(ratio * per_side**2))).reshape(batch, 1, per_side, per_side)
        pixels = chosen.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)
        masks[name] = pixels[:, :, :side, :side]
    return masks


class MaskTokens(nn.Module):
    """Learned values, one per channel, that replace masked pixels; they start at 0, the mean of the noise."""

    def __init__(self, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.tokens = nn.ParameterDict({name: nn.Parameter(torch.zeros(c)) for name, c in channels.items()})

    def forward(self, windows: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Windows (b, c, w, w) and masks (b, 1, w, w), True where masked -> windows with masked pixels replaced."""
        return {
            name: torch.where(masks[name], self.tokens[name].to(window.dtype)[:, None, None], window)
            for name, window in windows.items()
        }


class MaskRatios(nn.Module):
    """The mask ratio of each modality, updated during the training.

    Rules:

    - ``none``: r_m = 0.
    - ``fixed``: r_m = least + (most - least) / M, which masks as much in total as ``adaptive``.
    - ``adaptive``: r_m = least + (most - least) softmax(p / temperature)_m with p_m = k_m / sum over modalities of k
      and k_m = c_m max(0, 1 - EMA(l_m)). l_m is the loss at visible positions relative to the loss of the best guess
      for white noise (`mmrs_bench.methods.bdgf.multimodal_ddpm.white_loss`), so k_m measures how well the modality is
      reconstructed, summed over its c_m channels. If all k_m are 0, all p_m are equal. `observe` receives l_m.
    - ``gradient``: the same with p_m = EMA(g_m) / sum over modalities of EMA(g). g_m is the norm of the gradient of the
      modality's weights in the first layer. `observe` receives g_m.

    EMA starts from the mean over the warm-up, during which all ratios are those of ``fixed``. The ratios always sum to
    M least + most - least. The state dict holds the whole state, in float64, so that a resumed training is identical.

    Deviation: the usual sign of imbalance, how far a loss has fallen since the first steps, fails here: noise is
        learned at once, and masking a modality slows its learning. Sums over channels, because the HSI dominates by its
        many channels.

    Args:
        channels: c_m by modality, at least two unless the rule is ``none``.
        rule: See above.
        least, most: Bounds of the ratios.
        temperature: Softmax temperature; small values enlarge differences between the ratios.
        decay: Weight of the past in EMA.
        warmup, every: Steps before the ratios can change, and between two updates.

    Raises:
        ValueError: If the rule is unknown, there is one modality only, or a setting is out of range.
    """

    step: Tensor
    average: Tensor
    ratio: Tensor
    channels: Tensor

    def __init__(
        self,
        channels: Mapping[str, int],
        rule: MaskRule,
        *,
        least: float,
        most: float,
        temperature: float,
        decay: float,
        warmup: int,
        every: int,
    ) -> None:
        super().__init__()
        if rule not in get_args(MaskRule):
            raise ValueError(f"mask_rule {rule} is unknown; use one of {', '.join(get_args(MaskRule))}")
        if rule != "none" and len(channels) < 2:
            raise ValueError(
                f"mask_rule {rule} has nothing to balance: {', '.join(channels)} is the only modality; add a second "
                "one, or use the variant mask-none (mask_rule: none)"
            )
        if not 0 <= least <= most <= 1:
            raise ValueError(f"mask_least {least} and mask_most {most} must satisfy 0 <= mask_least <= mask_most <= 1")
        if not (temperature > 0 and 0 <= decay < 1 and min(warmup, every) >= 1):
            raise ValueError(
                f"mask_temperature {temperature} must be positive, mask_decay {decay} at least 0 and below 1, "
                f"mask_warmup {warmup} and mask_every {every} at least 1"
            )
        self.modalities = tuple(channels)
        self.rule = rule
        self._least, self._most, self._temperature = least, most, temperature
        self._decay, self._warmup, self._every = decay, warmup, every
        count = len(channels)
        equal = 0.0 if rule == "none" else least + (most - least) / count
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("average", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("ratio", torch.full((count,), equal, dtype=torch.float64))
        self.register_buffer("channels", torch.tensor([*channels.values()], dtype=torch.float64), persistent=False)

    def forward(self) -> dict[str, float]:
        """The current mask ratios by modality."""
        return dict(zip(self.modalities, self.ratio.tolist(), strict=True))

    def largest(self) -> float:
        """The largest ratio that the rule can reach."""
        return self._most if self.rule in ("adaptive", "gradient") else float(self.ratio.max())

    @torch.no_grad()
    def observe(self, signal: Mapping[str, float | Tensor]) -> None:
        """Update the ratios after a training step with l_m, or g_m for the rule ``gradient``, by modality.

        Raises:
            ValueError: If a value is not a positive number; the state then does not change.
        """
        if self.rule in ("none", "fixed"):
            return
        values = [float(signal[name]) for name in self.modalities]
        for name, value in zip(self.modalities, values, strict=True):
            if not 0 < value < math.inf:
                kind = "gradient" if self.rule == "gradient" else "loss"
                raise ValueError(f"mask ratios: the {kind} of modality {name!r} is {value}; it must be positive")
        now = torch.tensor(values, dtype=torch.float64, device=self.average.device)
        self.step += 1
        step = int(self.step)
        if step <= self._warmup:
            self.average += now / self._warmup
        else:
            self.average.mul_(self._decay).add_(now, alpha=1 - self._decay)
        if step >= self._warmup and step % self._every == 0:
            share = (self._shares() / self._temperature).softmax(dim=0)
            self.ratio.copy_(self._least + (self._most - self._least) * share)

    def _shares(self) -> Tensor:
        """The p of each modality (M,)."""
        k = self.average if self.rule == "gradient" else self.channels * (1 - self.average).clamp(min=0)
        return k / k.sum() if k.any() else torch.full_like(k, 1 / len(k))
