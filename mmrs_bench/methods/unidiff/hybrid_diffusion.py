"""The cosine noise schedule, and the hybrid loss of a denoiser that predicts its variance beside the noise.

Letters: n images, c channels, h w space, t timestep (0 the least noise), T number of timesteps, eps noise, v the place
of a log-variance between its bounds.

With a_t = 1 - beta_t and abar_t the product of a_0 ... a_t:

- x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps
- q(x_{t-1} | x_t, x_0) has the mean (x_t - beta_t / sqrt(1 - abar_t) eps) / sqrt(a_t) and the variance
  beta~_t = (1 - abar_{t-1}) / (1 - abar_t) beta_t; p_theta's mean has the predicted noise in eps's place
- log Sigma_theta = v log beta_t + (1 - v) log beta~_t, v = (output + 1) / 2

Reference: Nichol & Dhariwal 2021 (Improved DDPM, arXiv 2102.09672), section 3.1 (learned variance, hybrid loss) and 3.2
(cosine schedule); Ho et al. 2020 (DDPM), equations 11 and 13.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from mmrs_bench.models.diffusion import TIMESTEPS

#: Half the distance between two of 256 grey levels in [-1, 1].
HALF_LEVEL = 1 / 255
#: lambda in L_simple + lambda L_vlb.
BOUND_WEIGHT = 0.001


def cosine_schedule() -> DDPMScheduler:
    """The cosine schedule of 1000 steps: abar(t) = cos^2((t / T + 0.008) / 1.008 pi / 2) / abar(0), beta at most 0.999.

    For a model that predicts noise and the place of its variance between the bounds, as ADM does.

    Reference: Improved DDPM, section 3.2.
    """
    return DDPMScheduler(  # type: ignore[no-untyped-call]
        num_train_timesteps=TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="epsilon",
        variance_type="learned_range",
        clip_sample=False,
    )


class HybridTerms(NamedTuple):
    """The loss of each image, all (n,).

    Attributes:
        simple: L_simple, the mean squared error of the noise. What is left when nothing but denoising counts.
        bound: L_t, the variational bound's term of the image's timestep, in bits per dimension. Never negative.
        total: ``simple + bound_weight * T * bound``.
    """

    simple: Tensor
    bound: Tensor
    total: Tensor


class HybridDiffusion(nn.Module):
    """Noises images and scores the output of a denoiser with learned variance.

    L_hybrid = L_simple + lambda L_vlb, each image at one timestep. L_vlb is a sum over T timesteps, so a term of it
    that is drawn uniformly counts T times: with lambda = 0.001 and T = 1000 it enters with weight 1. Its gradient
    reaches the variance only; the mean is learned from L_simple.

    L_t is KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t)) for t > 0, and -log p_theta(x_0 | x_1) of 256 grey levels
    for t = 0, both averaged over channels and positions. What is left of the signal at T - 1 (L_T) has no parameters.

    Reference: Improved DDPM, section 3.1; its released code for the unit (bits per dimension) and for the lower bound
        of the log-variance at t = 0, where beta~ is zero: that of t = 1. UniDiff adapts with this loss.

    Deviation: distributions of the normal are exact where the released code approximates them. The two means differ by
        beta_t / sqrt(a_t (1 - abar_t)) times the error of the noise, which is how their distance is computed, instead
        of by way of a predicted x_0, which would lose all digits at T - 1. Images need not be of 8 bits: a value counts
        as the middle of its grey level.

    Args:
        bound_weight: lambda.
    """

    log_low: Tensor
    log_range: Tensor
    noise_in_mean: Tensor
    mean_scale: Tensor

    def __init__(self, bound_weight: float = BOUND_WEIGHT) -> None:
        super().__init__()
        self.bound_weight = bound_weight
        self._schedule = cosine_schedule()
        beta: Tensor = self._schedule.betas.double()  # type: ignore[attr-defined]
        kept = torch.cumprod(1 - beta, dim=0)  # abar_t
        kept_before = torch.cat([kept.new_ones(1), kept[:-1]])
        posterior = (1 - kept_before) / (1 - kept) * beta
        log_low = torch.log(torch.cat([posterior[1:2], posterior[1:]]))
        for name, table in (
            ("log_low", log_low),
            ("log_range", beta.log() - log_low),
            ("noise_in_mean", beta / torch.sqrt(1 - kept)),
            ("mean_scale", 1 / torch.sqrt(1 - beta)),
        ):
            self.register_buffer(name, table.float(), persistent=False)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noised images (n, c, h, w).

        Args:
            clean: Images (n, c, h, w) in [-1, 1].
            noise: Standard normal (n, c, h, w).
            timesteps: (n,) int64, from 0 to 999.

        Raises:
            ValueError: If shapes or timesteps are others.
        """
        _check_like("noise", noise, clean)
        check_timesteps(timesteps, len(clean))
        return self._schedule.add_noise(clean, noise, timesteps)  # type: ignore[attr-defined,no-any-return]

    def forward(self, output: Tensor, clean: Tensor, noise: Tensor, timesteps: Tensor) -> HybridTerms:
        """The loss of each image, in float32; take the mean of ``total`` to train.

        Args:
            output: What the denoiser said of ``add_noise(clean, noise, timesteps)``: the noise, then the variance's
                place between its bounds, -1 for the lower and 1 for the upper (n, 2c, h, w).
            clean: Images (n, c, h, w) in [-1, 1].
            noise: The noise in them (n, c, h, w).
            timesteps: (n,) int64, from 0 to 999.

        Raises:
            ValueError: If shapes or timesteps are others; an output of c channels has no variance in it.
        """
        n, c = clean.shape[:2]
        if output.shape != (n, 2 * c, *clean.shape[2:]):
            raise ValueError(
                f"the denoiser's output is {tuple(output.shape)}, expected {(n, 2 * c, *clean.shape[2:])}: the noise "
                "and, in as many channels, the variance (learned_sigma)"
            )
        clean, noise = clean.float(), noise.float()
        noised = self.add_noise(clean, noise, timesteps)
        predicted, place = output.float().chunk(2, dim=1)
        simple = (predicted - noise).square().flatten(1).mean(1)

        mean_noise = predicted.detach()
        above = (place + 1) / 2 * _at(self.log_range, timesteps)  # log-variance above its lower bound
        log_low, noise_in_mean, mean_scale = (
            _at(table, timesteps) for table in (self.log_low, self.noise_in_mean, self.mean_scale)
        )
        distance = mean_scale * noise_in_mean * (mean_noise - noise)  # between the means of q and p_theta
        # KL of two normals; q's variance is the lower bound.
        nats = 0.5 * (above + torch.expm1(-above) + distance.square() * torch.exp(-log_low - above))
        bound = nats.flatten(1).mean(1)
        first = (timesteps == 0).nonzero().squeeze(1)
        if len(first):
            mean = mean_scale[first] * (noised[first] - noise_in_mean[first] * mean_noise[first])
            likelihood = grey_level_log_likelihood(clean[first], mean, (log_low + above)[first])
            bound = bound.index_copy(0, first, -likelihood.flatten(1).mean(1))
        bound = bound / math.log(2)
        return HybridTerms(simple, bound, simple + self.bound_weight * TIMESTEPS * bound)


def grey_level_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-probability, in nats, that a normal falls on a pixel's grey level, one of 256 from -1 to 1.

    The level reaches half a level to either side; the lowest and the highest reach to infinity.

    Args:
        x: Pixels in [-1, 1], of any shape.
        mean: Of the normal, of the same shape.
        log_variance: Of the normal, of the same shape.

    Returns:
        At most 0, of the same shape.

    Reference: DDPM, equation 13.
    """
    precision = torch.exp(-0.5 * log_variance)
    upper, lower = (x + HALF_LEVEL - mean) * precision, (x - HALF_LEVEL - mean) * precision
    # The mass between them is that of the mirrored interval; in the left tail its logarithm keeps all digits.
    mirrored = upper + lower > 0
    far, near = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    log_far, log_near = torch.special.log_ndtr(far), torch.special.log_ndtr(near)
    between = log_near + torch.log(-torch.expm1(log_far - log_near))
    open_below, open_above = x < -1 + HALF_LEVEL, x > 1 - HALF_LEVEL
    below, above = torch.special.log_ndtr(upper), torch.special.log_ndtr(-lower)
    return torch.where(open_below, below, torch.where(open_above, above, between))


def check_timesteps(timesteps: Tensor, n: int) -> None:
    """Refuse what are not n timesteps of the schedule.

    Raises:
        ValueError: If the tensor is not (n,) int64, or a timestep is not from 0 to 999.
    """
    if timesteps.shape != (n,) or timesteps.dtype != torch.int64:
        raise ValueError(f"timesteps are {timesteps.dtype} {tuple(timesteps.shape)}, expected int64 ({n},)")
    if n and bool(((timesteps < 0) | (timesteps >= TIMESTEPS)).any()):
        raise ValueError(f"timesteps from {int(timesteps.min())} to {int(timesteps.max())}: 0 to {TIMESTEPS - 1} exist")


def _check_like(what: str, found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape:
        raise ValueError(f"{what} of shape {tuple(found.shape)}, expected {tuple(expected.shape)} as the images")


def _at(table: Tensor, timesteps: Tensor) -> Tensor:
    """Values of a table at timesteps, to be broadcast over images (n, 1, 1, 1)."""
    return table[timesteps].reshape(-1, 1, 1, 1)
