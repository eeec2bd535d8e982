"""Random windows, weights and gradients, for the tests of networks and of the modules that train them."""

from __future__ import annotations

from collections.abc import Mapping

import lightning as L
import torch
from torch import Tensor, nn


def random_windows(channels: Mapping[str, int], batch: int, side: int) -> dict[str, Tensor]:
    """Windows (b, c, w, w) by modality."""
    generator = torch.Generator().manual_seed(7)
    return {name: torch.randn(batch, count, side, side, generator=generator) for name, count in channels.items()}


def silent(module: L.LightningModule) -> None:
    """Let a module run its steps without a trainer: it logs nothing."""
    module.log = lambda *args, **options: None  # type: ignore[method-assign,assignment]
    module.log_dict = lambda *args, **options: None  # type: ignore[method-assign,assignment]


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state dict."""
    return {name: values.detach().clone() for name, values in module.state_dict().items()}


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
