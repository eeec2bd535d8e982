"""The cosine noise schedule, and the hybrid loss of a denoiser that predicts noise and variance.

Letters: n images, c channels, h w space, t timestep, T number of timesteps, eps noise, v position of a log-variance
between its bounds.

With a_t = 1 - beta_t and abar_t the product of a_0 ... a_t:

- x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps
- q(x_{t-1} | x_t, x_0) has the mean (x_t - beta_t / sqrt(1 - abar_t) eps) / sqrt(a_t) and the variance
  beta~_t = (1 - abar_{t-1}) / (1 - abar_t) beta_t; the mean of p_theta has the predicted noise in place of eps
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
from mmrs_bench.randomness import SampleRandom

#: Half the distance between two of 256 grey levels in [-1, 1].
HALF_LEVEL = 1 / 255
#: lambda in L_simple + lambda L_vlb.
BOUND_WEIGHT = 0.001
#: Noise levels of `denoising_losses`, and tiles of a forward pass.
DRIFT_TIMESTEPS = (125, 375, 625, 875)
DRIFT_BATCH = 16


def cosine_schedule() -> DDPMScheduler:
    """The cosine schedule of 1000 steps: abar(t) = cos^2((t / T + 0.008) / 1.008 pi / 2) / abar(0), beta at most 0.999.

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
    """The loss of each image, all (n,)."""

    simple: Tensor  # L_simple, the mean squared error of the noise
    bound: Tensor  # L_t, the term of the variational bound, in bits per dimension; never negative
    total: Tensor  # simple + BOUND_WEIGHT * T * bound


class HybridDiffusion(nn.Module):
    """Adds noise to images, and computes the loss of a denoiser with learned variance.

    L_hybrid = L_simple + lambda L_vlb. L_vlb is a sum over T timesteps, so its term at one random timestep counts T
    times. Its gradient trains the variance only.

    L_t is KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t)) for t > 0, and -log p_theta(x_0 | x_1) of 256 grey levels
    for t = 0, both averaged over channels and positions.

    Reference: Improved DDPM, section 3.1; its released code for the unit (bits per dimension), and for the lower bound
        of the log-variance at t = 0, which is that of t = 1.
    Deviation: normal distributions are exact, the released code approximates them. The distance of the two means is
        beta_t / sqrt(a_t (1 - abar_t)) times the error of the noise; by way of a predicted x_0 it would lose all digits
        at T - 1. Images need not have 8 bits: a value counts as the middle of its grey level.
    """

    log_low: Tensor
    log_range: Tensor
    noise_in_mean: Tensor
    mean_scale: Tensor

    def __init__(self) -> None:
        super().__init__()
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
        """Noised images (n, c, h, w); arguments as in `forward`."""
        return self._schedule.add_noise(clean, noise, timesteps)  # type: ignore[attr-defined,no-any-return]

    def forward(self, output: Tensor, clean: Tensor, noise: Tensor, timesteps: Tensor) -> HybridTerms:
        """The loss of each image in float32; train with the mean of ``total``.

        Args:
            output: Of the denoiser for ``add_noise(clean, noise, timesteps)`` (n, 2c, h, w): the noise, then the
                position of the variance, from -1 for the lower bound to 1 for the upper bound.
            clean: Images (n, c, h, w) in [-1, 1].
            noise: The added noise (n, c, h, w).
            timesteps: (n,) int64, from 0 to 999.

        Raises:
            ValueError: If the output has another shape, for example without variance.
        """
        n, c = clean.shape[:2]
        expected = (n, 2 * c, *clean.shape[2:])
        if output.shape != expected:
            raise ValueError(
                f"the denoiser's output is {tuple(output.shape)}, expected {expected}: noise and variance "
                "(learned_sigma)"
            )
        clean, noise = clean.float(), noise.float()
        noised = self.add_noise(clean, noise, timesteps)
        predicted, place = output.float().chunk(2, dim=1)
        simple = (predicted - noise).square().flatten(1).mean(1)

        mean_noise = predicted.detach()
        log_low, log_range, noise_in_mean, mean_scale = (
            table[timesteps].reshape(-1, 1, 1, 1)
            for table in (self.log_low, self.log_range, self.noise_in_mean, self.mean_scale)
        )
        above = (place + 1) / 2 * log_range  # log-variance minus its lower bound
        distance = mean_scale * noise_in_mean * (mean_noise - noise)  # between the means of q and p_theta
        # KL of two normal distributions; the variance of q is the lower bound.
        nats = 0.5 * (above + torch.expm1(-above) + distance.square() * torch.exp(-log_low - above))
        bound = nats.flatten(1).mean(1)
        first = (timesteps == 0).nonzero().squeeze(1)
        if len(first):
            mean = mean_scale[first] * (noised[first] - noise_in_mean[first] * mean_noise[first])
            likelihood = grey_level_log_likelihood(clean[first], mean, (log_low + above)[first])
            bound = bound.index_copy(0, first, -likelihood.flatten(1).mean(1))
        bound = bound / math.log(2)
        return HybridTerms(simple, bound, simple + BOUND_WEIGHT * TIMESTEPS * bound)


@torch.no_grad()
def denoising_losses(denoiser: nn.Module, tiles: Tensor, rows: Tensor, random: SampleRandom) -> Tensor:
    """L_simple of tiles at `DRIFT_TIMESTEPS`, without dropout.

    The noise depends on ``random`` only, so that denoisers are compared on the same inputs.

    Args:
        denoiser: Maps noised tiles, timesteps and rows to noise and variance; on the device of the tiles.
        tiles: (n, 3, s, s) float32 in [-1, 1].
        rows: Rows of the class embedding (n,).
        random: Of the noise, on the CPU.

    Returns:
        (4 n,) float32.
    """
    schedule, was_training, losses = cosine_schedule(), denoiser.training, []
    denoiser.eval()
    for timestep in DRIFT_TIMESTEPS:
        noises = random.normal(*tiles.shape).to(tiles.device)
        for start in range(0, len(tiles), DRIFT_BATCH):
            part = slice(start, start + DRIFT_BATCH)
            clean, noise, steps = tiles[part], noises[part], torch.full_like(rows[part], timestep)
            noised: Tensor = schedule.add_noise(clean, noise, steps)  # type: ignore[attr-defined]
            output = denoiser(noised, steps, rows[part]).float()
            losses.append((output[:, : clean.shape[1]] - noise).square().flatten(1).mean(1))
    denoiser.train(was_training)
    return torch.cat(losses)


def grey_level_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-probability in nats of a pixel's grey level, one of 256 from -1 to 1, under a normal distribution.

    The lowest and the highest level include the tails. All arguments have the same shape; ``x`` is in [-1, 1].

    Reference: DDPM, equation 13.
    """
    precision = torch.exp(-0.5 * log_variance)
    upper, lower = (x + HALF_LEVEL - mean) * precision, (x - HALF_LEVEL - mean) * precision
    # Mirror the interval into the left tail, where its logarithm keeps all digits.
    mirrored = upper + lower > 0
    far, near = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    log_far, log_near = torch.special.log_ndtr(far), torch.special.log_ndtr(near)
    between = log_near + torch.log(-torch.expm1(log_far - log_near))
    open_below, open_above = x < -1 + HALF_LEVEL, x > 1 - HALF_LEVEL
    below, above = torch.special.log_ndtr(upper), torch.special.log_ndtr(-lower)
    return torch.where(open_below, below, torch.where(open_above, above, between))
