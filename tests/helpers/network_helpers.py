"""Random numbers and windows, weights and gradients, for the tests of networks and of the modules that train them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import lightning as L
import torch
from torch import Tensor, nn


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal random numbers, the same for the same arguments."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_windows(channels: Mapping[str, int], batch: int, side: int) -> dict[str, Tensor]:
    """Windows (b, c, w, w) by modality."""
    generator = torch.Generator().manual_seed(7)
    return {name: torch.randn(batch, count, side, side, generator=generator) for name, count in channels.items()}


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    """Values (c,) of an image (c, h, w) at a place between pixel centres; beyond the borders, those of the border."""
    height, width = image.shape[1:]
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    total = torch.zeros(len(image))
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            share = (1 - abs(y - i)) * (1 - abs(x - j))
            total += share * image[:, min(i, height - 1), min(j, width - 1)].float()
    return total


def silent(module: L.LightningModule) -> None:
    """Let a module run its steps without a trainer: it logs nothing."""
    module.log = lambda *args, **options: None  # type: ignore[method-assign,assignment]
    module.log_dict = lambda *args, **options: None  # type: ignore[method-assign,assignment]


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state dict."""
    return {name: values.detach().clone() for name, values in module.state_dict().items()}


def perturbed(network: nn.Module) -> nn.Module:
    """A network for evaluation in float64, with random values added to all weights and statistics.

    The initial values of norms, biases and the like would hide errors.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for values in network.double().state_dict().values():
            if values.is_floating_point():
                values.add_(0.2 * torch.rand(values.shape, generator=generator, dtype=values.dtype))
    return network.eval()


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts are equal to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have equal weights to the last bit."""
    return same(one.state_dict(), other.state_dict())


def without_gradient(module: nn.Module) -> list[str]:
    """Names of the trainable parameters that have no gradient, or one of zeros."""
    return [
        name
        for name, values in module.named_parameters()
        if values.requires_grad and (values.grad is None or not values.grad.any())
    ]
