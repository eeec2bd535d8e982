"""Selective scan on a CPU: batch 64, length 121 (windows of 11 x 11), 128 channels, 16 states.

The references are the two usual implementations without CUDA: a loop over places with materialised coefficients and
autograd (like mamba-ssm's reference), and a work-efficient parallel scan (like mambapy).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from work import Work, without_gradients

from mmrs_bench.models.selective_scan import scan_backend, selective_scan

BATCH, CHANNELS, STATES, LENGTH = 64, 128, 16, 121


def scan_place_by_place(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Coefficients of all places at once, then the recurrence, everything by autograd."""
    decay = torch.exp(torch.einsum("bct,cs->bcts", delta, a))
    drive = torch.einsum("bct,bst,bct->bcts", delta, b, u)
    h = decay.new_zeros(u.shape[0], *a.shape)
    places = []
    for t in range(u.shape[2]):
        h = decay[:, :, t] * h + drive[:, :, t]
        places.append(torch.einsum("bcs,bs->bc", h, c[:, :, t]))
    return torch.stack(places, dim=2) + d[:, None] * u


def sweep(decay: Tensor, h: Tensor) -> None:
    """Inclusive scan of h_t = decay_t h_(t-1) + h_t along dimension 1 in place, in 2 log2(t) steps; t a power of two.

    Reference: Blelloch 1990 (up-sweep, down-sweep).
    """

    def combine(left: slice, right: slice) -> None:
        h[:, right] += decay[:, right] * h[:, left]
        decay[:, right] *= decay[:, left]

    length, stride = h.shape[1], 1
    while stride < length:
        combine(slice(stride - 1, None, 2 * stride), slice(2 * stride - 1, None, 2 * stride))
        stride *= 2
    while stride > 1:
        stride //= 2
        combine(slice(2 * stride - 1, length - stride, 2 * stride), slice(3 * stride - 1, None, 2 * stride))


class ParallelScan(torch.autograd.Function):
    """h_t = decay_t h_(t-1) + drive_t for (batch, places, channels, states), both ways by `sweep`."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, drive: Tensor) -> Tensor:
        length = decay.shape[1]
        padding = (0, 0, 0, 0, 0, (1 << (length - 1).bit_length()) - length)
        h = F.pad(drive, padding)
        sweep(F.pad(decay, padding), h)
        h = h[:, :length]
        ctx.save_for_backward(decay, h)
        return h

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor, Tensor]:
        decay, h = ctx.saved_tensors
        length = decay.shape[1]
        padding = (0, 0, 0, 0, 0, (1 << (length - 1).bit_length()) - length)
        following = F.pad(decay[:, 1:], (0, 0, 0, 0, 0, 1))  # the factor from h_t to h_(t+1)
        total = F.pad(dh.flip(1), padding)
        sweep(F.pad(following.flip(1), padding), total)
        total = total[:, :length].flip(1)
        return total * F.pad(h[:, :-1], (0, 0, 0, 0, 1, 0)), total


def scan_in_parallel(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    u, steps = u.transpose(1, 2), delta.transpose(1, 2)
    decay = torch.exp(steps[..., None] * a)
    drive = (steps * u)[..., None] * b.transpose(1, 2)[:, :, None]
    y = (ParallelScan.apply(decay, drive) @ c.transpose(1, 2)[..., None]).squeeze(3)
    return (y + d * u).transpose(1, 2)


def arguments() -> list[Tensor]:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    values = [
        normal(BATCH, CHANNELS, LENGTH),
        F.softplus(normal(BATCH, CHANNELS, LENGTH) - 3),
        -torch.arange(1.0, STATES + 1).repeat(CHANNELS, 1),
        normal(BATCH, STATES, LENGTH),
        normal(BATCH, STATES, LENGTH),
        torch.ones(CHANNELS),
    ]
    return [value.requires_grad_() for value in values]


def forward_and_backward(scan: Any, inputs: list[Tensor]) -> list[Tensor]:
    y = scan(*inputs)
    return [y, *torch.autograd.grad(y, inputs, torch.ones_like(y))]


def works() -> Iterator[Work]:
    inputs = arguments()
    plain = [value.detach() for value in inputs]
    doubles = [value.detach().double().requires_grad_() for value in inputs]
    expected = [values.float() for values in forward_and_backward(scan_place_by_place, doubles)]
    for scan in (selective_scan, scan_place_by_place, scan_in_parallel):
        for values, right in zip(forward_and_backward(scan, inputs), expected, strict=True):
            assert (values - right).abs().max() <= 1e-5 * right.abs().max()
    backend = scan_backend("cpu")
    for name, scan, lead in (("loop over places", scan_place_by_place, 100), ("parallel scan", scan_in_parallel, 25)):
        both = partial(forward_and_backward, inputs=inputs)
        yield Work(
            f"Mamba ({backend})",
            f"scan, forward and backward / {name}",
            partial(both, selective_scan),
            reference=partial(both, scan),
            lead=lead,
            rounds=3,
        )
        yield Work(
            f"Mamba ({backend})",
            f"scan, forward / {name}",
            without_gradients(partial(selective_scan, *plain)),
            reference=without_gradients(partial(scan, *plain)),
            rounds=3,
        )
