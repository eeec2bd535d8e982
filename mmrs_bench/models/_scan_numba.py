# numba has no types.
# mypy: ignore-errors
"""The selective scan on a CPU in float32, compiled by numba; see `mmrs_bench.models.selective_scan` for the equations.

The kernels process `LANES` channels and as many states of one sample at a time: a group (see
`mmrs_bench.models._lanes`) has a vector of channels for each state. So the sum over states is one of vectors, and the
states stay in registers. The forward pass stores no states; the backward pass computes them again, which costs less
than reading those of all channels from memory (127 MB for batch 64, length 121, 128 channels and 16 states).

Letters: s sample, j first channel of a block, n first state of a block, t place in memory, k place in the order of the
scan. In the working memory, a sequence of vectors has the vector of place t at t * `LANES`; missing channels and states
are 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmrs_bench.models._compiled import LN2, compiled, in_threads
from mmrs_bench.models._lanes import (
    LANES,
    add,
    add_outer,
    add_products,
    add_scaled,
    dot,
    lane_sums,
    load,
    load_group,
    logistic,
    multiply,
    multiply_add,
    multiply_groups,
    padded,
    powers_of_two,
    repeat,
    scale_group,
    softplus,
    store,
    store_group,
    transposed,
    zero_group,
)

#: Numbers of a group.
SQUARE = LANES**2


@compiled
def read_square(source, at, stride, rows, columns, free, work):
    """The group of rows that are ``stride`` apart; further rows and columns are 0."""
    if rows >= LANES and columns >= LANES:
        return load_group(source, at, stride)
    store_group(work, free, zero_group())
    for r in range(min(rows, LANES)):
        for x in range(min(columns, LANES)):
            work[free + r * LANES + x] = source[at + r * stride + x]
    return load_group(work, free, LANES)


@compiled
def write_square(target, at, stride, rows, columns, group, free, work):
    """Write the first rows and columns of a group to rows that are ``stride`` apart."""
    store_group(work, free, group)
    for r in range(min(rows, LANES)):
        if columns >= LANES:
            store(target, at + r * stride, load(work, free + r * LANES))
        else:
            for x in range(columns):
                target[at + r * stride + x] = work[free + r * LANES + x]


@compiled
def read_sequences(work, to, source, at, rows, length, free):
    """Copy `LANES` sequences that follow each other, of which ``rows`` exist, to a sequence of vectors."""
    for t in range(0, length, LANES):
        group = transposed(read_square(source, at + t, length, rows, length - t, free, work))
        store_group(work, to + t * LANES, group)


@compiled
def write_sequences(target, at, rows, length, work, source, free):
    """The inverse of `read_sequences`."""
    for t in range(0, length, LANES):
        group = transposed(load_group(work, source + t * LANES, LANES))
        write_square(target, at + t, length, rows, length - t, group, free, work)


@compiled
def read_rates(a, j, n, channels, states, free, work):
    """The group of rates in units of ln 2."""
    rates = transposed(read_square(a, j * states + n, states, channels - j, states - n, free, work))
    return scale_group(rates, repeat(np.float32(1 / LN2)))


@compiled
def to_steps(work, deltas, bias, length):
    """Replace delta by softplus(delta + bias)."""
    for x in range(deltas, deltas + length * LANES, LANES):
        store(work, x, softplus(add(load(work, x), bias)))


@compiled
def to_slopes(work, slopes, deltas, bias, length):
    """Write the slopes of softplus at delta + bias."""
    for x in range(0, length * LANES, LANES):
        store(work, slopes + x, logistic(add(load(work, deltas + x), bias)))


@compiled
def through_slopes(work, ddeltas, slopes, length):
    """Multiply the gradients of steps by the slopes; return the sum over places."""
    total = repeat(np.float32(0))
    for x in range(0, length * LANES, LANES):
        ddelta = multiply(load(work, ddeltas + x), load(work, slopes + x))
        store(work, ddeltas + x, ddelta)
        total = add(total, ddelta)
    return total


@compiled
def forward_samples(y, u, delta, a, b, c, d, bias, shape, reverse, work, start, stop):
    """Fill y (batch, channels, length) for samples start..stop - 1."""
    channels, states, length, places, passes = shape
    us, deltas, ys, free = 0, places, 2 * places, 3 * places
    bs = free + SQUARE
    cs = bs + passes * places
    for s in range(start, stop):
        for i in range(passes):
            rows, at = states - i * LANES, (s * states + i * LANES) * length
            read_sequences(work, bs + i * places, b, at, rows, length, free)
            read_sequences(work, cs + i * places, c, at, rows, length, free)
        for j in range(0, channels, LANES):
            at = (s * channels + j) * length
            read_sequences(work, us, u, at, channels - j, length, free)
            read_sequences(work, deltas, delta, at, channels - j, length, free)
            if bias.size:
                to_steps(work, deltas, load(bias, j), length)
            skip = load(d, j)
            for x in range(0, length * LANES, LANES):
                store(work, ys + x, multiply(skip, load(work, us + x)))
            for i in range(passes):
                rates = read_rates(a, j, i * LANES, channels, states, free, work)
                h = zero_group()
                for k in range(length):
                    x = (length - 1 - k if reverse else k) * LANES
                    step = load(work, deltas + x)
                    drive = multiply(step, load(work, us + x))
                    h = add_outer(multiply_groups(powers_of_two(rates, step), h), drive, work, bs + i * places + x)
                    store(work, ys + x, add_products(load(work, ys + x), h, work, cs + i * places + x))
            write_sequences(y, at, channels - j, length, work, ys, free)


@compiled
def backward_samples(
    du, ddelta, da, db, dc, dd, dbias, dy, u, delta, a, b, c, d, bias, shape, reverse, work, start, stop
):
    """Fill the gradients for samples start..stop - 1.

    da (batch, channels, states), dd and dbias (batch, channels of whole blocks).
    """
    channels, states, length, places, passes = shape
    us, deltas, slopes = 0, places, 2 * places
    dys, dus, ddeltas, free = 3 * places, 4 * places, 5 * places, 6 * places
    bs = free + SQUARE
    cs, dbs = bs + passes * places, bs + 2 * passes * places
    dcs, hs = dbs + passes * places, dbs + 2 * passes * places
    decays = hs + (length + 1) * SQUARE
    zero, ln2 = repeat(np.float32(0)), repeat(np.float32(LN2))
    blocks = -(-channels // LANES)
    for s in range(start, stop):
        for i in range(passes):
            rows, at = states - i * LANES, (s * states + i * LANES) * length
            read_sequences(work, bs + i * places, b, at, rows, length, free)
            read_sequences(work, cs + i * places, c, at, rows, length, free)
        for x in range(dbs, hs, LANES):
            store(work, x, zero)
        for j in range(0, channels, LANES):
            at = (s * channels + j) * length
            read_sequences(work, us, u, at, channels - j, length, free)
            read_sequences(work, deltas, delta, at, channels - j, length, free)
            read_sequences(work, dys, dy, at, channels - j, length, free)
            if bias.size:
                to_slopes(work, slopes, deltas, load(bias, j), length)
                to_steps(work, deltas, load(bias, j), length)
            skip, total = load(d, j), zero
            for x in range(0, length * LANES, LANES):
                store(work, dus + x, multiply(skip, load(work, dys + x)))
                store(work, ddeltas + x, zero)
                total = multiply_add(load(work, dys + x), load(work, us + x), total)
            store(dd, s * blocks * LANES + j, total)
            for i in range(passes):
                rates = read_rates(a, j, i * LANES, channels, states, free, work)
                h = zero_group()
                store_group(work, hs, h)
                for k in range(length):
                    x = (length - 1 - k if reverse else k) * LANES
                    step = load(work, deltas + x)
                    drive = multiply(step, load(work, us + x))
                    decay = powers_of_two(rates, step)
                    store_group(work, decays + k * SQUARE, decay)
                    h = add_outer(multiply_groups(decay, h), drive, work, bs + i * places + x)
                    store_group(work, hs + (k + 1) * SQUARE, h)
                dh, drates = zero_group(), zero_group()
                for k in range(length - 1, -1, -1):
                    x = (length - 1 - k if reverse else k) * LANES
                    bx, cx = bs + i * places + x, cs + i * places + x
                    dbx, dcx = dbs + i * places + x, dcs + i * places + x
                    step, u_t, dy_t = load(work, deltas + x), load(work, us + x), load(work, dys + x)
                    dh = add_outer(dh, dy_t, work, cx)
                    after = load_group(work, hs + (k + 1) * SQUARE, LANES)
                    store(work, dcx, add(load(work, dcx), lane_sums(scale_group(after, dy_t))))
                    store(work, dbx, add(load(work, dbx), lane_sums(scale_group(dh, multiply(step, u_t)))))
                    through_drive = add_products(zero, dh, work, bx)
                    dh = multiply_groups(dh, load_group(work, decays + k * SQUARE, LANES))
                    dexponent = multiply_groups(dh, load_group(work, hs + k * SQUARE, LANES))
                    drates = add_scaled(drates, dexponent, step)
                    through_decay = multiply(dot(dexponent, rates), ln2)
                    store(work, dus + x, multiply_add(step, through_drive, load(work, dus + x)))
                    ddelta_t = add(load(work, ddeltas + x), through_decay)
                    store(work, ddeltas + x, multiply_add(u_t, through_drive, ddelta_t))
                n = i * LANES
                rows, columns = channels - j, states - n
                write_square(da, (s * channels + j) * states + n, states, rows, columns, transposed(drates), free, work)
            if bias.size:
                store(dbias, s * blocks * LANES + j, through_slopes(work, ddeltas, slopes, length))
            write_sequences(du, at, channels - j, length, work, dus, free)
            write_sequences(ddelta, at, channels - j, length, work, ddeltas, free)
        for i in range(passes):
            rows, at = states - i * LANES, (s * states + i * LANES) * length
            write_sequences(db, at, rows, length, work, dbs + i * places, free)
            write_sequences(dc, at, rows, length, work, dcs + i * places, free)


def over_batch(kernel: Callable, outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], reverse: bool) -> None:
    """Run a kernel over all samples; results do not depend on the number of threads."""
    batch, channels, length = outputs[0].shape
    *sequences, d, bias = inputs
    states = sequences[-1].shape[1]
    places, passes = padded(length) * LANES, padded(states) // LANES
    d, bias = (functional.pad(x, (0, padded(len(x)) - len(x))) for x in (d, bias))
    arrays = [tensor.numpy().reshape(-1) for tensor in (*outputs, *sequences, d, bias)]
    shape = channels, states, length, places, passes
    squares = 2 * length + 2 if kernel is backward_samples else 1

    def run(start: int, stop: int) -> None:
        # Allocated by torch, which aligns memory to 64 bytes.
        work = torch.zeros((6 + 4 * passes) * places + squares * SQUARE, dtype=torch.float32).numpy()
        kernel(*arrays, shape, reverse, work, start, stop)

    in_threads(run, batch)


def forward(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, delta_bias: Tensor, *, reverse: bool
) -> Tensor:
    """The scan of contiguous float32 tensors on a CPU; an empty ``delta_bias`` is none."""
    y = torch.empty_like(u)
    over_batch(forward_samples, (y,), (u, delta, a, b, c, d, delta_bias), reverse)
    return y


def backward(
    dy: Tensor,
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    delta_bias: Tensor,
    *,
    reverse: bool,
) -> tuple[Tensor, ...]:
    """Gradients of the arguments of `forward`."""
    du, ddelta, db, dc = (torch.empty_like(x) for x in (u, delta, b, c))
    counts = a.numel(), padded(len(d)), padded(len(delta_bias))
    sums = [u.new_empty(len(u), count) for count in counts]
    inputs = (dy, u, delta, a, b, c, d, delta_bias)
    over_batch(backward_samples, (du, ddelta, sums[0], db, dc, *sums[1:]), inputs, reverse)
    # Summed by numpy, because torch's order of summation depends on the number of threads.
    da, dd, dbias = (torch.from_numpy(x.numpy().sum(0)) for x in sums)
    return du, ddelta, da.reshape(a.shape), db, dc, dd[: len(d)], dbias[: len(delta_bias)]
