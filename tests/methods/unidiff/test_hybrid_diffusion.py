"""Schedule and hybrid loss against slow loops in float64, written from the equations of the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from mmrs_bench.methods.unidiff.hybrid_diffusion import (
    HybridDiffusion,
    cosine_schedule,
    grey_level_log_likelihood,
)

T = 1000
#: Both ends, their neighbours, the middle, and the first again.
STEPS = [0, 1, 2, 500, 998, 999, 0]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def signal(t: int) -> float:
    return math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2


#: beta_t, and abar_t with abar_{-1} = 1 at the end.
BETA = [min(1 - signal(t + 1) / signal(t), 0.999) for t in range(T)]
KEPT = [*np.cumprod([1 - beta for beta in BETA]).tolist(), 1.0]


def lower_bound(t: int) -> float:
    t = max(t, 1)
    return math.log((1 - KEPT[t - 1]) / (1 - KEPT[t]) * BETA[t])


def posterior_mean(t: int, start: float, noised: float) -> float:
    """Improved DDPM, equation 11."""
    kept, before = KEPT[t], KEPT[t - 1]
    towards = math.sqrt(before) * BETA[t] / (1 - kept) * start
    return towards + math.sqrt(1 - BETA[t]) * (1 - before) / (1 - kept) * noised


def log_probability(x: float, mean: float, deviation: float) -> float:
    """DDPM, equation 13, in the tail that keeps the digits."""
    low, high = (x - 1 / 255 - mean) / deviation, (x + 1 / 255 - mean) / deviation
    if x > 0.999:
        return float(norm.logsf(low))
    if x < -0.999:
        return float(norm.logcdf(high))
    tail, start, end = (norm.logsf, low, high) if low > 0 else (norm.logcdf, high, low)
    return float(tail(start) + np.log1p(-np.exp(tail(end) - tail(start))))


def reference(output: Tensor, clean: Tensor, noise: Tensor, steps: list[int]) -> list[tuple[float, float]]:
    """L_simple and L_t in bits per dimension of each image, pixel by pixel."""
    found = []
    for i, t in enumerate(steps):
        x, eps = (part[i].double().flatten().tolist() for part in (clean, noise))
        out = output[i].double().flatten().tolist()
        guess, place = out[: len(x)], out[len(x) :]
        simple, bound = 0.0, 0.0
        for j in range(len(x)):
            simple += (guess[j] - eps[j]) ** 2 / len(x)
            noised = math.sqrt(KEPT[t]) * x[j] + math.sqrt(1 - KEPT[t]) * eps[j]
            start = (noised - math.sqrt(1 - KEPT[t]) * guess[j]) / math.sqrt(KEPT[t])
            mean = posterior_mean(t, start, noised)
            v = (place[j] + 1) / 2
            log_variance = v * math.log(BETA[t]) + (1 - v) * lower_bound(t)
            if t == 0:
                bound -= log_probability(x[j], mean, math.exp(log_variance / 2)) / len(x)
                continue
            true, log_true = posterior_mean(t, x[j], noised), lower_bound(t)
            ratio = (math.exp(log_true) + (true - mean) ** 2) / (2 * math.exp(log_variance))
            bound += ((log_variance - log_true) / 2 + ratio - 0.5) / len(x)
        found.append((simple, bound / math.log(2)))
    return found


def case(error: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, 8-bit images that include the lowest and highest level, noise and timesteps.

    Some positions of the variance are beyond the bounds.
    """
    g = generator(seed)
    shape = (len(STEPS), 3, 2, 3)
    levels = torch.randint(0, 256, shape, generator=g)
    levels[:, 0, 0, 0], levels[:, 1, 1, 1] = 0, 255
    noise = torch.randn(shape, generator=g)
    output = torch.cat([noise + error * torch.randn(shape, generator=g), 1.2 * torch.randn(shape, generator=g)], dim=1)
    return output, levels / 127.5 - 1, noise, torch.tensor(STEPS)


# Schedule


def test_the_cosine_schedule_equals_the_equation() -> None:
    schedule = cosine_schedule()
    np.testing.assert_allclose(schedule.betas.double().numpy(), BETA, rtol=1e-6)
    assert BETA[-1] == 0.999
    assert max(BETA[:-1]) < 0.999, "only the last is clipped"
    np.testing.assert_allclose(schedule.alphas_cumprod.double().numpy()[:-1], KEPT[:-2], rtol=1e-3)
    unclipped = [signal(t + 1) / signal(0) for t in range(T - 1)]
    np.testing.assert_allclose(KEPT[:-2], unclipped, rtol=1e-9)


# Loss


@pytest.mark.parametrize("error", [0.0, 0.3, 3.0])
def test_the_loss_terms_equal_the_equations(error: float) -> None:
    output, clean, noise, timesteps = case(error)
    terms = HybridDiffusion()(output, clean, noise, timesteps)
    expected = torch.tensor(reference(output, clean, noise, STEPS))
    torch.testing.assert_close(terms.simple, expected[:, 0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(terms.bound, expected[:, 1], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(terms.total, terms.simple + 0.001 * 1000 * terms.bound)
    assert float(terms.bound[0]) > 0.01, "t = 0 is not compared"


def test_the_mean_gets_no_gradient_from_the_bound() -> None:
    output, clean, noise, timesteps = case()
    gradients = []
    for name in ("simple", "bound", "total"):
        leaf = output.clone().requires_grad_()
        getattr(HybridDiffusion()(leaf, clean, noise, timesteps), name).sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    simple, bound, total = gradients
    assert not bound[:, :3].any()
    assert not simple[:, 3:].any()
    torch.testing.assert_close(total, simple + bound)
    per_image = bound[:, 3:].flatten(1).abs().sum(1)
    assert torch.isfinite(bound).all()
    assert (per_image[[0, 1, 2, 3, 6]] > 0).all()
    # At the last steps the bounds of the variance are almost equal.
    assert (per_image[[4, 5]] < 1e-2).all()


def test_the_bound_is_never_negative_and_zero_for_exact_predictions() -> None:
    hybrid = HybridDiffusion()
    g = generator(3)
    n = 4000
    timesteps = torch.randint(0, T, (n,), generator=g)
    timesteps[:2] = torch.tensor([0, 999])
    noise, clean = torch.randn(n, 1, 2, 2, generator=g), torch.rand(n, 1, 2, 2, generator=g) * 2 - 1
    spread = torch.logspace(-4, 1, n).reshape(-1, 1, 1, 1)
    output = torch.cat([noise, torch.zeros_like(noise)], 1) + spread * torch.randn(n, 2, 2, 2, generator=g)
    terms = hybrid(output, clean, noise, timesteps)
    assert torch.isfinite(terms.total).all()
    assert float(terms.bound.min()) >= 0
    exact = torch.cat([noise, -torch.ones_like(noise)], dim=1)
    bound = hybrid(exact, clean, noise, timesteps).bound
    assert not bound[timesteps > 0].any()
    assert (bound[timesteps == 0] > 0).all(), "at t = 0 noise always leaves an uncertainty"


# Grey levels


def test_the_probabilities_of_all_grey_levels_sum_to_one() -> None:
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, deviation in ((0.1, 0.005), (-0.9999, 0.3), (1.4, 0.02), (0.0, 3.0)):
        spread = torch.full_like(levels, 2 * math.log(deviation))
        found = grey_level_log_likelihood(levels, torch.full_like(levels, mean), spread)
        assert float(found.max()) <= 0
        assert float(found.exp().sum()) == pytest.approx(1, abs=1e-9)


def test_the_likelihood_far_from_the_mean_is_small_but_finite() -> None:
    x = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]).mul(127.5).round().div(127.5)
    for mean in (-1.0, -0.3, 0.7):
        leaf = torch.full_like(x, 2 * math.log(0.005)).requires_grad_()
        found = grey_level_log_likelihood(x, torch.full_like(x, mean), leaf)
        expected = [log_probability(value, mean, 0.005) for value in x.double().tolist()]
        torch.testing.assert_close(found.detach().double(), torch.tensor(expected).double(), rtol=1e-3, atol=1e-5)
        found.sum().backward()
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
        assert float(found.detach().min()) < -1000


# Input


def test_an_output_without_variance_is_refused() -> None:
    output, clean, noise, timesteps = case()
    hybrid = HybridDiffusion()
    with pytest.raises(ValueError, match=r"output is \(7, 3, 2, 3\), expected \(7, 6, 2, 3\).*learned_sigma"):
        hybrid(output[:, :3], clean, noise, timesteps)


def test_the_loss_of_half_precision_is_computed_in_single() -> None:
    output, clean, noise, timesteps = case()
    found = HybridDiffusion()(output.bfloat16(), clean, noise, timesteps)
    expected = HybridDiffusion()(output.bfloat16().float(), clean, noise, timesteps)
    assert found.total.dtype == torch.float32
    assert torch.equal(found.total, expected.total)
