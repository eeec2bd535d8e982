# numba has no types.
# mypy: ignore-errors
"""The selective scan on a CPU, compiled by numba; see `mmrs_bench.models.selective_scan` for the equations.

The kernels process one sample and one channel at a time along the whole sequence, so that the states of one channel
stay in the CPU's cache. The forward pass stores no states; the backward pass computes them again, which is as fast as
reading them from memory (127 MB for batch 64, length 121, 128 channels and 16 states).

Letters: s sample, j channel, t place in the order of the scan, n state. ``at`` is the place in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

from mmrs_bench.models._compiled import LN2, compiled, in_threads

#: States per pass; more states take several passes, fewer are padded with zeros.
LANES = 16
#: Fields of a row of the history (one row per place), LANES numbers each. They share one array at constant offsets:
#: for separate arrays LLVM checks for overlaps, and does not vectorise loops with many checks.
B, C, H, DECAY, DB, DC = range(0, 6 * LANES, LANES)
ROW = 6 * LANES
#: The state after a place is the state before the next one, so it is stored in the next row.
NEXT_H = ROW + H
#: Fields per channel: its a (in units of ln 2), and the gradients of a and of the state.
A, DA, DH = range(0, 3 * LANES, LANES)


def power_of_two(x):
    """2 ** x; only for compiled code."""
    return 2**x


# Taylor coefficients of 2 ** x; for |x| <= 1/2 the first omitted term is below a tenth of float32's rounding.
_C1, _C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(LN2**k / math.factorial(k)) for k in range(1, 8))
_ONE, _LOWEST, _HIGHEST = np.float32(1), np.float32(-127), np.float32(128)
_BIAS, _MANTISSA = np.int32(127), np.int32(23)


@overload(power_of_two)
def _power_of_two(x):
    if x != types.float32:
        return lambda x: math.exp(x * LN2)

    def vectorisable(x):
        """Contains no function call, so that the loop around it is vectorised; returns 0 below and inf above."""
        x = _LOWEST if x < _LOWEST else x  # this form keeps NaN
        x = _HIGHEST if x > _HIGHEST else x
        whole = np.rint(x)
        part = x - whole
        power = _ONE + part * (
            _C1 + part * (_C2 + part * (_C3 + part * (_C4 + part * (_C5 + part * (_C6 + part * _C7)))))
        )
        exponent = np.int32(whole if whole > _LOWEST else _LOWEST)  # this form maps NaN to a number
        return power * np.int32(np.int32(exponent + _BIAS) << _MANTISSA).view(np.float32)

    return vectorisable


# In the kernels below `lanes` is always LANES. It is an argument because LLVM unrolls a loop of known length into
# scalar code before it vectorises.


@compiled
def place(t, length, reverse):
    """Where the t-th place of a scan is in memory."""
    return length - 1 - t if reverse else t


@compiled
def load_sample(rows, b, c, reverse):
    """Transpose one sample's b and c (states, length) into rows (passes, length + 1, ROW)."""
    states, length = b.shape
    for n in range(states):
        history, lane = rows[n // LANES], n % LANES
        for t in range(length):
            at = place(t, length, reverse)
            history[t, B + lane] = b[n, at]
            history[t, C + lane] = c[n, at]


@compiled
def load_channel(carried, a, first):
    """Put states ``first`` and following of one channel's a into ``carried``."""
    for n in range(min(LANES, a.size - first)):
        carried[A + n] = a[first + n] / LN2


@compiled
def forward_samples(y, u, delta, a, b, c, d, reverse, rows, carried, start, stop, lanes):
    """Fill y (batch, channels, length) for samples start..stop - 1."""
    _, channels, length = u.shape
    zero = a.dtype.type(0)
    for s in range(start, stop):
        load_sample(rows, b[s], c[s], reverse)
        for j in range(channels):
            y_j, u_j, delta_j = y[s, j], u[s, j], delta[s, j]
            for t in range(length):
                y_j[t] = d[j] * u_j[t]
            for i in range(rows.shape[0]):
                history = rows[i].reshape(-1)
                load_channel(carried, a[j], i * LANES)
                for t in range(length):
                    at = place(t, length, reverse)
                    step, drive = delta_j[at], delta_j[at] * u_j[at]
                    row = history[t * ROW : (t + 2) * ROW]
                    total = zero
                    for n in range(lanes):
                        h = power_of_two(step * carried[A + n]) * row[H + n] + drive * row[B + n]
                        row[NEXT_H + n] = h
                        total += h * row[C + n]
                    y_j[at] += total


@compiled
def backward_samples(du, ddelta, da, db, dc, dd, dy, u, delta, a, b, c, d, reverse, rows, carried, start, stop, lanes):
    """Fill the gradients for samples start..stop - 1; da (batch, channels, states), dd (batch, channels)."""
    _, channels, length = u.shape
    states = a.shape[1]
    zero = a.dtype.type(0)
    ln2 = a.dtype.type(LN2)
    for s in range(start, stop):
        rows[:, :, DB : DC + LANES] = zero
        load_sample(rows, b[s], c[s], reverse)
        for j in range(channels):
            dy_j, u_j, delta_j, du_j, ddelta_j = dy[s, j], u[s, j], delta[s, j], du[s, j], ddelta[s, j]
            total = zero
            for t in range(length):
                du_j[t] = d[j] * dy_j[t]
                ddelta_j[t] = zero
                total += dy_j[t] * u_j[t]
            dd[s, j] = total
            for i in range(rows.shape[0]):
                history = rows[i].reshape(-1)
                load_channel(carried, a[j], i * LANES)
                carried[DA : DH + LANES] = zero
                for t in range(length):
                    at = place(t, length, reverse)
                    step, drive = delta_j[at], delta_j[at] * u_j[at]
                    row = history[t * ROW : (t + 2) * ROW]
                    for n in range(lanes):
                        decay = power_of_two(step * carried[A + n])
                        row[DECAY + n] = decay
                        row[NEXT_H + n] = decay * row[H + n] + drive * row[B + n]
                for t in range(length - 1, -1, -1):
                    at = place(t, length, reverse)
                    step, drive, dy_t = delta_j[at], delta_j[at] * u_j[at], dy_j[at]
                    row = history[t * ROW : (t + 2) * ROW]
                    through_drive, through_decay = zero, zero
                    for n in range(lanes):
                        dh = carried[DH + n] + dy_t * row[C + n]
                        row[DC + n] += dy_t * row[NEXT_H + n]
                        row[DB + n] += drive * dh
                        through_drive += dh * row[B + n]
                        dh *= row[DECAY + n]
                        carried[DH + n] = dh
                        dexponent = dh * row[H + n]
                        carried[DA + n] += step * dexponent
                        through_decay += dexponent * carried[A + n]
                    du_j[at] += step * through_drive
                    ddelta_j[at] += u_j[at] * through_drive + ln2 * through_decay
                for n in range(min(LANES, states - i * LANES)):
                    da[s, j, i * LANES + n] = carried[DA + n]
        for n in range(states):
            history, lane = rows[n // LANES], n % LANES
            for t in range(length):
                at = place(t, length, reverse)
                db[s, n, at] = history[t, DB + lane]
                dc[s, n, at] = history[t, DC + lane]


def over_batch(kernel: Callable, outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], reverse: bool) -> None:
    """Run a kernel over all samples; results do not depend on the number of threads."""
    batch, _, length = outputs[0].shape
    passes = -(-inputs[-4].shape[1] // LANES)
    arrays = [tensor.numpy() for tensor in (*outputs, *inputs)]

    def run(start: int, stop: int) -> None:
        # Allocated by torch, which aligns memory to 64 bytes; numba aligns to 32 (a sixth slower).
        rows, carried = (outputs[0].new_zeros(shape).numpy() for shape in ((passes, length + 1, ROW), 3 * LANES))
        kernel(*arrays, reverse, rows, carried, start, stop, LANES)

    in_threads(run, batch)


def forward(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, *, reverse: bool) -> Tensor:
    """The scan of contiguous CPU tensors of one type."""
    y = torch.empty_like(u)
    over_batch(forward_samples, (y,), (u, delta, a, b, c, d), reverse)
    return y


def backward(
    dy: Tensor, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, *, reverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, a, b, c and d."""
    du, ddelta, db, dc = (torch.empty_like(x) for x in (u, delta, b, c))
    da, dd = a.new_empty(u.shape[0], *a.shape), d.new_empty(u.shape[0], *d.shape)
    over_batch(backward_samples, (du, ddelta, da, db, dc, dd), (dy, u, delta, a, b, c, d), reverse)
    # Summed by numpy, because torch's order of summation depends on the number of threads.
    return du, ddelta, torch.from_numpy(da.numpy().sum(0)), db, dc, torch.from_numpy(dd.numpy().sum(0))
