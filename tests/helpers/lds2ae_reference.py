"""A slow loss of LDS2AE's first stage, window after window and pixel after pixel, with the decoders of the module.

It draws the random numbers in the documented order: timesteps, the mask of each modality, the noise of each modality.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmrs_bench.models.masked_diffusion.transformer import VisibleTokens
from mmrs_bench.randomness import torch_generator


def slow_cross_loss(module: Any, windows: Mapping[str, Tensor], seed: int, epoch: int, batch: int) -> float:
    """Of a batch of windows (b, c, w, w) by modality without crops."""
    generator, names = torch_generator("pretraining", seed, epoch, batch), list(windows)
    first = windows[names[0]]
    count, n = len(first), first.shape[2] ** 2
    v = math.floor(n * (1 - module.hparams["mask_ratio"]))
    timesteps = torch.randint(1000, (count,), generator=generator).tolist()
    masks = {name: torch.rand(count, n, generator=generator).argsort(dim=1)[:, :v] for name in names}
    noise = {name: torch.randn(count, v, windows[name].shape[1], generator=generator) for name in names}
    total = 0.0
    weights = {"visible": 1.0, "masked": module.hparams["masked_weight"]}
    for i, t in enumerate(timesteps):
        kept = math.prod(1 - (1e-4 + (0.02 - 1e-4) * step / 999) for step in range(t + 1))
        clean = {name: windows[name][i].flatten(1).T for name in names}
        noised = {
            name: (math.sqrt(kept) * clean[name][masks[name][i]] + math.sqrt(1 - kept) * noise[name][i])[None]
            for name in names
        }
        visible = {name: VisibleTokens(masks[name][i : i + 1], masks[name][i : i + 1]) for name in names}
        encoded = module.network.encode(noised, torch.tensor([t]), visible)
        for target in names:
            for source in names:
                predicted = module.network.decoders[target](encoded[source], masks[source][i : i + 1])[0]
                errors: dict[str, list[float]] = {"visible": [], "masked": []}
                for pixel in range(n):
                    kind = "visible" if pixel in masks[target][i].tolist() else "masked"
                    errors[kind].append(float((predicted[pixel] - clean[target][pixel]).square().mean()))
                weight = 1.0 if source == target else module.hparams["cross_weight"]
                total += weight * sum(weights[kind] * sum(e) / len(e) for kind, e in errors.items()) / count
    return total
