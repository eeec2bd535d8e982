"""Adding noise to pixels, and the loss of masked diffusion.

Letters: b batch, n tokens of a window, v visible tokens, c channels, t timestep.

Reference: DDPM (Ho et al. 2020), equation 4, for the noise; MaskDiT (Zheng et al. 2023) for separate losses of visible
and masked tokens; DiffCLIP (AAAI 2025) for the schedule and the prediction of clean pixels.
"""

from __future__ import annotations

from typing import Literal

from diffusers import DDPMScheduler
from torch import Tensor

from mmrs_bench.randomness import SampleRandom

TIMESTEPS = 1000
BETA_FIRST, BETA_LAST = 1e-4, 0.02


def linear_schedule(prediction_type: Literal["sample", "epsilon"] = "sample") -> DDPMScheduler:
    """The linear schedule of 1000 steps, for a model that predicts clean pixels ("sample") or noise ("epsilon")."""
    return DDPMScheduler(  # type: ignore[no-untyped-call]
        num_train_timesteps=TIMESTEPS,
        beta_start=BETA_FIRST,
        beta_end=BETA_LAST,
        beta_schedule="linear",
        prediction_type=prediction_type,
    )


def add_noise(schedule: DDPMScheduler, clean: Tensor, timesteps: Tensor, random: SampleRandom) -> Tensor:
    """Noised pixels (b, v, c): sqrt(abar_t) x + sqrt(1 - abar_t) e, e standard normal.

    Args:
        schedule: Provides abar.
        clean: Clean pixels (b, v, c).
        timesteps: A timestep per window (b,), 0 the least noise.
        random: Source of the noise, on the device of ``clean``.
    """
    noise = random.normal(*clean.shape).to(clean.dtype)
    return schedule.add_noise(clean, noise, timesteps)  # type: ignore[attr-defined,no-any-return]


def split_error(clean: Tensor, predicted: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared errors (scalars) of predicted clean pixels, over the visible and over the masked tokens.

    Args:
        clean: Clean pixels (b, n, c).
        predicted: Their prediction (b, n, c).
        visible: Indices of the visible tokens (b, v), 0 < v < n.
    """
    error = (predicted.float() - clean).square().mean(dim=2)
    seen = error.gather(1, visible).sum()
    count = visible.numel()
    return seen / count, (error.sum() - seen) / (error.numel() - count)
