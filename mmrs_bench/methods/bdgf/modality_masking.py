"""Masks of patches for each modality, and how much of each modality they hide.

Adaptive modality masking: the modality of which more is known is masked more, so that it cannot dominate. Our reading
of BDGF's abstract; the authors' code could not be obtained.

Letters: b batch, c channels, w window side, m modality, M modalities, r mask ratio.

Reference: BDGF (Liu et al. 2025, arXiv 2509.23310), of which only the abstract was at hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

MaskRule = Literal["none", "fixed", "adaptive", "gradient"]


def random_masks(
    batch: int, side: int, ratios: Mapping[str, float], *, patch: int, whole: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Random masks of patches, drawn apart for each window and modality.

    A window's patches are squares from its top left corner; those at the far border are cut where ``patch`` does not
    divide the side. Of P patches, a random subset of r P, rounded, is hidden; but nothing at all in windows that are
    drawn to stay whole, in all modalities.

    Reference: BDGF, abstract ("adaptive modality masking"), our reading; the authors' code could not be obtained.

    Deviation: whole windows, because features are taken from such: a network that only ever saw windows of which most
        is hidden denoises whole ones worse than a guess from their variance.

    Args:
        batch: b.
        side: w in pixels.
        ratios: r by modality, each from 0 to 1; the order is the order of the draws.
        patch: Side of a patch in pixels; 1 masks single pixels.
        whole: How probable it is that a window stays whole, from 0 to below 1.
        generator: Where the masks come from; they lie on its device.

    Returns:
        True where hidden (b, 1, w, w), by modality.

    Raises:
        ValueError: If a ratio is not from 0 to 1, ``whole`` is out of range, or the patch is not from 1 to ``side``.
    """
    if not 1 <= patch <= side:
        raise ValueError(f"patches of {patch} pixels do not fit windows of {side}; use 1 to {side}")
    if not 0 <= whole < 1:
        raise ValueError(f"whole is {whole}; the share of windows that stay whole must be from 0 to below 1")
    per_side = -(-side // patch)
    masked = torch.rand(batch, 1, generator=generator, device=generator.device) >= whole
    masks = {}
    for name, ratio in ratios.items():
        if not 0 <= ratio <= 1:
            raise ValueError(f"the mask ratio of modality {name!r} is {ratio}; it must be from 0 to 1")
        draws = torch.rand(batch, per_side**2, generator=generator, device=generator.device)
        rank = draws.argsort(dim=1).argsort(dim=1)
        hidden = (masked & (rank < round(ratio * per_side**2))).reshape(batch, 1, per_side, per_side)
        pixels = hidden.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)
        masks[name] = pixels[:, :, :side, :side]
    return masks


class MaskTokens(nn.Module):
    """The learned values, one for each channel of a modality, that stand where pixels are hidden.

    They start at 0, the mean of the noise.

    Args:
        channels: Channels by modality.
    """

    def __init__(self, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.tokens = nn.ParameterDict({name: nn.Parameter(torch.zeros(c)) for name, c in channels.items()})

    def forward(self, windows: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Windows with their hidden pixels replaced.

        Args:
            windows: Noised windows (b, c, w, w) by modality.
            masks: True where hidden (b, 1, w, w), by modality, as `random_masks` makes them.

        Returns:
            (b, c, w, w) by modality.

        Raises:
            ValueError: If windows, masks and tokens are not of the same modalities.
        """
        if not windows.keys() == masks.keys() == self.tokens.keys():
            raise ValueError(
                f"windows of {sorted(windows)} and masks of {sorted(masks)}, but mask tokens of {sorted(self.tokens)}"
            )
        return {
            name: torch.where(masks[name], self.tokens[name].to(window.dtype)[:, None, None], window)
            for name, window in windows.items()
        }


class MaskRatios(nn.Module):
    """The mask ratio of each modality, kept up to date from what the training shows.

    Rules:

    - ``none``: r_m = 0.
    - ``fixed``: r_m = least + (most - least) / M, the ratio of ``adaptive`` when all modalities are learned alike, so
      that both hide as much in total.
    - ``adaptive``: r_m = least + (most - least) softmax(p / temperature)_m with p_m = k_m / sum over modalities of k,
      what is known of the modality as a share of all that is known, and k_m = c_m max(0, 1 - EMA(l_m)): the error that
      structure saves in all of its c_m channels, l_m being the loss of what is visible of it, relative to what it costs
      when nothing but the variance is known (`mmrs_bench.methods.bdgf.multimodal_ddpm.white_loss`). `observe` takes l_m.
      While nothing is known, all p_m are alike.
    - ``gradient``: the same, but with p_m = EMA(g_m) / sum over modalities of EMA(g), g_m how hard a modality pulls at
      the first layer; `observe` takes what `MultimodalDenoiser.input_gradients` gives.

    The moving average starts, and the ratios can first change, at the end of the warm-up; until then all ratios are
    those of ``fixed``. The ratios add up to M least + most - least at every step. The whole state lies in the state
    dict, in float64, so that a resumed training repeats an uninterrupted one.

    Reference: BDGF, abstract ("adaptive modality masking", for a distribution that is "modality-balanced"), our
        reading; the authors' code could not be obtained.

    Deviation: the abstract names neither signal, rule nor ratios; sizes are ours. The usual sign of imbalance, how far
        a loss has fallen since the first steps, misleads here: white noise is learned at once and then never more, and
        a modality of which more is hidden seems to be learned less. So the loss counts from what noise would cost, at
        visible positions. It counts for all channels, because it is by its many that the spectral image dominates.

    Args:
        channels: c_m by modality, at least two but for ``none``.
        rule: See above.
        least: Smallest ratio.
        most: Largest ratio.
        temperature: The smaller, the more a small difference in progress matters.
        decay: Weight of the past in the moving average.
        warmup: Steps until the ratios may change; the moving average starts from their mean.
        every: Steps between two updates of the ratios.

    Raises:
        ValueError: If there is one modality only, which leaves nothing to balance, or a setting is out of range.
    """

    step: Tensor
    average: Tensor
    ratio: Tensor
    channels: Tensor

    def __init__(
        self,
        channels: Mapping[str, int],
        rule: MaskRule = "adaptive",
        *,
        least: float = 0.0,
        most: float = 0.75,
        temperature: float = 0.1,
        decay: float = 0.99,
        warmup: int = 100,
        every: int = 100,
    ) -> None:
        super().__init__()
        if rule not in get_args(MaskRule):
            raise ValueError(f"unknown mask rule {rule!r}; known: {', '.join(get_args(MaskRule))}")
        if rule != "none" and len(channels) < 2:
            raise ValueError(
                f"modality masking has nothing to balance with {len(channels)} modality ({', '.join(channels)}); "
                "give it a second one, or use the rule 'none'"
            )
        if not 0 <= least <= most <= 1:
            raise ValueError(f"mask ratios from {least} to {most}; they must rise, and lie from 0 to 1")
        if not (0 < temperature < math.inf and 0 <= decay < 1 and warmup >= 1 and every >= 1):
            raise ValueError(
                f"temperature {temperature} must be above 0, decay {decay} from 0 to below 1, warmup {warmup} and "
                f"every {every} at least 1"
            )
        self.modalities = tuple(channels)
        self.rule = rule
        self._least, self._most, self._temperature = least, most, temperature
        self._decay, self._warmup, self._every = decay, warmup, every
        count = len(channels)
        even = 0.0 if rule == "none" else least + (most - least) / count
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("average", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("ratio", torch.full((count,), even, dtype=torch.float64))
        self.register_buffer("channels", torch.tensor([*channels.values()], dtype=torch.float64), persistent=False)

    def forward(self) -> dict[str, float]:
        """The present mask ratios by modality."""
        return dict(zip(self.modalities, self.ratio.tolist(), strict=True))

    @torch.no_grad()
    def observe(self, signal: Mapping[str, float | Tensor]) -> None:
        """Take in what one training step showed.

        Args:
            signal: By modality, the relative loss, or for the rule ``gradient`` the gradient; ``none`` and ``fixed``
                ignore it.

        Raises:
            ValueError: If a modality is missing or too many, or a value is not a positive number; the state then stays
                as it was.
        """
        if self.rule in ("none", "fixed"):
            return
        if signal.keys() != set(self.modalities):
            raise ValueError(f"values of {sorted(signal)}, but mask ratios of {sorted(self.modalities)}")
        values = {name: float(signal[name]) for name in self.modalities}
        for name, value in values.items():
            if not 0 < value < math.inf:
                raise ValueError(
                    f"mask ratios: the {'gradient' if self.rule == 'gradient' else 'loss'} of modality {name!r} is "
                    f"{value}; only a positive number says how far it was learned"
                )
        now = torch.tensor(list(values.values()), dtype=torch.float64, device=self.average.device)
        self.step += 1
        step = int(self.step)
        if step <= self._warmup:
            self.average += now / self._warmup
        else:
            self.average.mul_(self._decay).add_(now, alpha=1 - self._decay)
        if step >= self._warmup and step % self._every == 0:
            share = (self._dominance() / self._temperature).softmax(dim=0)
            self.ratio.copy_(self._least + (self._most - self._least) * share)

    def _dominance(self) -> Tensor:
        """The p of each modality (M,), which add up to 1."""
        known = self.average if self.rule == "gradient" else self.channels * (1 - self.average).clamp(min=0)
        return known / known.sum() if known.any() else torch.full_like(known, 1 / len(known))
