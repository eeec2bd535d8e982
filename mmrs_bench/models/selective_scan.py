"""The selective scan of Mamba (S6) with an analytic gradient.

Back ends; the first one that is available is used (see `scan_backend`):

- ``mamba-ssm``: its CUDA kernel, for CUDA tensors where the package is installed (extra ``cuda``).
- ``numba``: the compiled kernels of `mmrs_bench.models._scan_numba`, for CPU tensors with numba (extra ``fast``).
- ``torch``: plain tensor operations; equal up to rounding, several times slower. Always used in float64.

Letters: b batch, c channels, s states, t place in the sequence.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from mmrs_bench.models.kernels import compiled_kernels

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def selective_scan(
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """A linear recurrence along a sequence, with coefficients that depend on the place in it.

    Per channel, from a state of zeros: h_t = exp(delta_t a) h_(t-1) + delta_t u_t b_t, y_t = c_t . h_t + d u_t.

    Args:
        u: Input (batch, channels, length).
        delta: Step sizes (batch, channels, length), usually positive; with ``delta_bias`` any numbers.
        a: Rates (channels, states), usually negative.
        b: Input coefficients (batch, states, length).
        c: Output coefficients (batch, states, length).
        d: Skip weights (channels,), or None for no skip.
        delta_bias: If given, (channels,), the step sizes are softplus(delta + delta_bias).
        reverse: Whether the recurrence starts at the last place; h_(t+1) then takes the part of h_(t-1).

    Returns:
        y (batch, channels, length) of u's type, computed in float64 if any argument is float64, else in float32.

    Raises:
        ValueError: If shapes or devices do not match, or a size other than the batch is 0.
        TypeError: If an argument is not real floating-point.

    Reference: Mamba (Gu & Dao 2023), equations 2 and 4 and algorithm 2.
    Deviation: b is discretised as delta b (Euler), not by the paper's equation 4; its released kernels do the same.
    """
    d = u.new_zeros(u.shape[1:2]) if d is None else d
    tensors = {"u": u, "delta": delta, "a": a, "b": b, "c": c, "d": d}
    if delta_bias is not None:
        tensors["delta_bias"] = delta_bias
    _check(tensors)
    double = any(tensor.dtype == torch.float64 for tensor in tensors.values())
    tensors = {name: tensor.to(torch.float64 if double else torch.float32) for name, tensor in tensors.items()}
    bias = tensors.pop("delta_bias", None)
    if u.is_cuda and not double and scan_backend(u.device) == "mamba-ssm":
        options = {"delta_bias": bias, "delta_softplus": bias is not None}
        y = _cuda_scan()(*_in_order(tensors.values(), reverse), **options)  # type: ignore[misc]
        (y,) = _in_order([y], reverse)
    else:
        y = _scan(*tensors.values(), tensors["u"].new_empty(0) if bias is None else bias, reverse)
    return y.to(u.dtype)


def scan_backend(device: torch.device | str) -> Literal["mamba-ssm", "numba", "torch"]:
    """Back end of `selective_scan` on a device; in float64 it is always ``torch``."""
    kind = torch.device(device).type
    if kind == "cuda" and _cuda_scan() is not None:
        return "mamba-ssm"
    return "numba" if kind == "cpu" and _numba_scan() is not None else "torch"


@functools.cache
def _cuda_scan() -> Callable[..., Tensor] | None:
    try:
        interface = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except ImportError:
        return None
    scan: Callable[..., Tensor] = interface.selective_scan_fn
    return scan


def _numba_scan() -> ModuleType | None:
    return compiled_kernels("_scan_numba")


def _check(tensors: Mapping[str, Tensor]) -> None:
    u, a = tensors["u"], tensors["a"]
    batch, channels, length = u.shape if u.dim() == 3 else (0, 0, 0)
    states = a.shape[1] if a.dim() == 2 else 0
    expected = {
        "u": (batch, channels, length),
        "delta": (batch, channels, length),
        "a": (channels, states),
        "b": (batch, states, length),
        "c": (batch, states, length),
        "d": (channels,),
        "delta_bias": (channels,),
    }
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name]:
            raise ValueError(
                f"selective_scan: {name} has shape {tuple(tensor.shape)}; expected u and delta (batch, channels, "
                f"length), a (channels, states), b and c (batch, states, length), d and delta_bias (channels,)"
            )
        if not tensor.is_floating_point():
            raise TypeError(f"selective_scan: {name} holds {tensor.dtype}; convert it to float32 or float64")
        if tensor.device != u.device:
            raise ValueError(f"selective_scan: {name} is on {tensor.device}, u on {u.device}; move them to one device")
    if not (channels and states and length):
        raise ValueError(
            f"selective_scan: {channels} channels, {states} states and length {length}; each must be at least 1"
        )


def _in_order(tensors: Iterable[Tensor], reverse: bool) -> list[Tensor]:
    """The tensors in the order of the scan; those that have places have three dimensions."""
    return [tensor.flip(2) if reverse and tensor.dim() == 3 else tensor for tensor in tensors]


def _kernels(u: Tensor) -> ModuleType | None:
    return _numba_scan() if u.dtype == torch.float32 and scan_backend(u.device) == "numba" else None


# In all functions below, an empty delta_bias is none.


@torch.library.custom_op("mmrs_bench::selective_scan", mutates_args=())
def _scan(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, delta_bias: Tensor, reverse: bool
) -> Tensor:
    inputs = [tensor.contiguous() for tensor in (u, delta, a, b, c, d, delta_bias)]
    kernels = _kernels(u)
    if kernels is not None:
        return cast(Tensor, kernels.forward(*inputs, reverse=reverse))
    (y,) = _in_order([_forward_in_torch(*_in_order(inputs, reverse))], reverse)
    return y


@torch.library.custom_op("mmrs_bench::selective_scan_backward", mutates_args=())
def _scan_backward(
    dy: Tensor,
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    delta_bias: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # torch 2.6 refuses an alias
    inputs = [tensor.contiguous() for tensor in (dy, u, delta, a, b, c, d, delta_bias)]
    kernels = _kernels(u)
    if kernels is not None:
        return cast(Gradients, kernels.backward(*inputs, reverse=reverse))
    return cast(Gradients, tuple(_in_order(_backward_in_torch(*_in_order(inputs, reverse)), reverse)))


@_scan.register_fake
def _(u: Tensor, *inputs: Any) -> Tensor:
    return u.new_empty(u.shape)


@_scan_backward.register_fake
def _(dy: Tensor, *inputs: Any) -> Gradients:
    return cast(Gradients, tuple(tensor.new_empty(tensor.shape) for tensor in inputs[:-1]))


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)


_scan.register_autograd(
    lambda ctx, dy: (*_scan_backward(dy, *ctx.saved_tensors, ctx.reverse), None), setup_context=_keep_inputs
)


def _states(u: Tensor, delta: Tensor, a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """The states (b, c, s) after each place."""
    h = u.new_zeros(u.shape[0], *a.shape)
    drive = delta * u
    for t in range(u.shape[2]):
        h = torch.addcmul(drive[:, :, t, None] * b[:, None, :, t], (delta[:, :, t, None] * a).exp_(), h)
        yield h


def _forward_in_torch(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, delta_bias: Tensor
) -> Tensor:
    y = d[:, None] * u
    with torch.autocast(u.device.type, enabled=False):
        delta = F.softplus(delta + delta_bias[:, None]) if len(delta_bias) else delta
        for t, h in enumerate(_states(u, delta, a, b)):
            y[:, :, t] += (h @ c[:, :, t, None]).squeeze(2)
    return y


def _backward_in_torch(
    dy: Tensor, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, delta_bias: Tensor
) -> Gradients:
    du, ddelta, da = d[:, None] * dy, torch.empty_like(delta), torch.zeros_like(a)
    db, dc, dd = torch.empty_like(b), torch.empty_like(c), (dy * u).sum((0, 2))
    with torch.autocast(u.device.type, enabled=False):
        before = delta + delta_bias[:, None] if len(delta_bias) else None
        delta = delta if before is None else F.softplus(before)
        drive = delta * u
        states = [u.new_zeros(u.shape[0], *a.shape), *_states(u, delta, a, b)]
        dh = torch.zeros_like(states[0])
        for t in range(u.shape[2] - 1, -1, -1):
            dy_t, delta_t = dy[:, :, t, None], delta[:, :, t, None]
            dh = torch.addcmul(dh, dy_t, c[:, None, :, t])
            dc[:, :, t] = (states.pop().transpose(1, 2) @ dy_t).squeeze(2)
            db[:, :, t] = (dh.transpose(1, 2) @ drive[:, :, t, None]).squeeze(2)
            ddrive = (dh @ b[:, :, t, None]).squeeze(2)
            dh *= (delta_t * a).exp_()
            dexponent = dh * states[-1]
            da += (delta_t * dexponent).sum(0)
            du[:, :, t] += delta[:, :, t] * ddrive
            ddelta[:, :, t] = u[:, :, t] * ddrive + (dexponent * a).sum(2)
    if before is None:
        return du, ddelta, da, db, dc, dd, torch.zeros_like(delta_bias)
    ddelta *= before.sigmoid()
    return du, ddelta, da, db, dc, dd, ddelta.sum((0, 2))
