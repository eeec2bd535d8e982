"""Noised pixels and the errors of visible and masked tokens against slow loops."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.network_helpers import normal

from mmrs_bench.models.diffusion import add_noise, linear_schedule, split_error
from mmrs_bench.randomness import SampleRandom, torch_generator

# Noising


def test_noised_pixels_follow_the_equation() -> None:
    clean, timesteps = normal(4, 3, 2), torch.tensor([0, 1, 500, 999])
    found = add_noise(linear_schedule(), clean, timesteps, SampleRandom("noise"))
    noise = torch.randn(clean.shape, generator=torch_generator("noise"))
    for b, t in enumerate(timesteps.tolist()):
        kept = 1.0
        for step in range(t + 1):
            kept *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
        expected = math.sqrt(kept) * clean[b] + math.sqrt(1 - kept) * noise[b]
        torch.testing.assert_close(found[b], expected, atol=1e-5, rtol=1e-4)


def test_the_last_step_is_almost_pure_noise() -> None:
    kept = linear_schedule().alphas_cumprod
    assert float(kept[0]) == pytest.approx(1 - 1e-4)
    assert float(kept[-1]) == pytest.approx(4.04e-5, rel=0.01)


# The loss of stage 1


def test_errors_of_visible_and_masked_tokens_equal_a_loop() -> None:
    clean, predicted = normal(3, 5, 2), normal(3, 5, 2, seed=1)
    visible = torch.tensor([[0, 2], [4, 1], [3, 0]])
    seen, masked = [], []
    for b in range(3):
        for token in range(5):
            error = sum((float(clean[b, token, c]) - float(predicted[b, token, c])) ** 2 for c in range(2)) / 2
            (seen if token in visible[b].tolist() else masked).append(error)
    found_seen, found_masked = split_error(clean, predicted, visible)
    assert float(found_seen) == pytest.approx(sum(seen) / len(seen), rel=1e-5)
    assert float(found_masked) == pytest.approx(sum(masked) / len(masked), rel=1e-5)
