# numba has no types.
# mypy: ignore-errors
"""Attention for narrow heads on a CPU, compiled by numba; see `mmrs_bench.models.attention` for the equation.

A kernel processes one head of one sequence at a time, so that its scores stay in the CPU's cache. Scores are held for
`LANES` queries at once: lane l of vector j is the score of query i + l and key j. So maxima and sums over keys need no
sum over lanes, and queries, keys and values are read as they are.

Letters: s sequence, h head, n tokens, i query, j key, e channels of a head, d = heads e. ``packed`` (s, n, 3 d) are
queries, keys and values. In the working memory, tokens have ``width`` channels: e, padded by zeros.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmrs_bench.models._compiled import LN2, compiled, in_threads
from mmrs_bench.models._lanes import (
    LANES,
    add_outer,
    add_products,
    inverse,
    larger,
    load,
    load_group,
    multiply,
    multiply_add,
    padded,
    power_of_two,
    prefetch,
    repeat,
    scale_group,
    store,
    store_group,
    subtract,
    transposed,
    zero_group,
)

NONE = np.zeros(1, dtype=np.float32)


@compiled
def copy(target, to, source, at, count):
    """Copy ``count`` numbers from source[at:] to target[to:]."""
    whole = count // LANES * LANES
    for x in range(0, whole, LANES):
        store(target, to + x, load(source, at + x))
    for x in range(whole, count):
        target[to + x] = source[at + x]


@compiled
def fetch(array, at, count):
    """Read ``count`` numbers of array[at:] into the cache.

    The rows of a head are far apart, and are waited for one by one; those of all heads follow each other.
    """
    for x in range(at, at + count, LANES):
        prefetch(array, x)


@compiled
def read_rows(work, to, source, at, stride, rows, count, width):
    """Copy rows of ``count`` numbers, ``stride`` apart, to rows of ``width`` numbers."""
    for j in range(rows):
        copy(work, to + j * width, source, at + j * stride, count)


@compiled
def write_rows(target, at, stride, rows, count, group, factor, work, free):
    """Write the first ``count`` numbers of a group's first vectors, times a factor, to rows ``stride`` apart."""
    store_group(work, free, scale_group(group, repeat(factor)))
    for r in range(rows):
        copy(target, at + r * stride, work, free + r * LANES, count)


@compiled
def add_scores(work, scores, queries, keys, n, width):
    """Add the products of `LANES` queries and all keys to the scores."""
    for x in range(0, width, LANES):
        group = transposed(load_group(work, queries + x, width))
        for j in range(n):
            at = scores + j * LANES
            store(work, at, add_products(load(work, at), group, work, keys + j * width + x))


@compiled
def add_weighted(work, group, weights, values, n, width):
    """Add the sum over keys of weights times values to a group; its vector r is channel r."""
    for j in range(n):
        group = add_outer(group, load(work, weights + j * LANES), work, values + j * width)
    return group


@compiled
def add_to_keys(work, sums, weights, queries, n, width):
    """Add the sum over `LANES` queries of weights times queries to the sums of each key."""
    for x in range(0, width, LANES):
        group = load_group(work, queries + x, width)
        for j in range(n):
            at = sums + j * width + x
            store(work, at, add_products(load(work, at), group, work, weights + j * LANES))


@compiled
def first_scores(work, scores, bias, at, stride, n):
    """Set the scores to the bias (in units of ln 2, keys before queries), or to 0 if it is empty."""
    for j in range(n):
        store(work, scores + j * LANES, load(bias, at + j * stride) if bias.size > 1 else repeat(np.float32(0)))


@compiled
def forward_heads(out, largest, shares, packed, bias, scale, shape, work, start, stop):
    """Fill ``out`` (s, n, d), and the largest score and inverse sum (s, h, rows) of each query."""
    heads, n, e, width, rows = shape
    d = heads * e
    keys, values, queries = 0, n * width, 2 * n * width
    scores = queries + rows * width
    free = scores + n * LANES
    one, lowest, zero = repeat(np.float32(1)), repeat(np.float32(-np.inf)), repeat(np.float32(0))
    for unit in range(start, stop):
        s, h = unit // heads, unit % heads
        if h == 0 or unit == start:
            fetch(packed, s * n * 3 * d, n * 3 * d)
            fetch(out, s * n * d, n * d)
        head = s * n * 3 * d + h * e
        read_rows(work, queries, packed, head, 3 * d, n, e, width)
        read_rows(work, keys, packed, head + d, 3 * d, n, e, width)
        read_rows(work, values, packed, head + 2 * d, 3 * d, n, e, width)
        for x in range(queries, queries + n * width, LANES):
            store(work, x, multiply(load(work, x), repeat(scale)))
        for i in range(0, n, LANES):
            first_scores(work, scores, bias, h * n * rows + i, rows, n)
            add_scores(work, scores, queries + i * width, keys, n, width)
            top = lowest
            for j in range(n):
                top = larger(load(work, scores + j * LANES), top)
            total = zero
            for j in range(n):
                weight = power_of_two(subtract(load(work, scores + j * LANES), top))
                store(work, scores + j * LANES, weight)
                total = multiply_add(weight, one, total)
            share = inverse(total)
            store(largest, unit * rows + i, top)
            store(shares, unit * rows + i, share)
            for x in range(0, width, LANES):
                group = scale_group(add_weighted(work, zero_group(), scores, values + x, n, width), share)
                at = (s * n + i) * d + h * e + x
                write_rows(
                    out, at, d, min(LANES, n - i), min(LANES, e - x), transposed(group), np.float32(1), work, free
                )


@compiled
def backward_heads(dpacked, dout, largest, shares, packed, bias, scale, shape, work, start, stop):
    """Fill the gradient of ``packed``; the scores are computed again."""
    heads, n, e, width, rows = shape
    d = heads * e
    keys, values, dkeys, dvalues = 0, n * width, 2 * n * width, 3 * n * width
    queries = 4 * n * width
    douts = queries + rows * width
    scores = douts + rows * width
    dscores = scores + n * LANES
    free = dscores + n * LANES
    zero, ln2 = repeat(np.float32(0)), np.float32(LN2)
    for unit in range(start, stop):
        s, h = unit // heads, unit % heads
        if h == 0 or unit == start:
            fetch(packed, s * n * 3 * d, n * 3 * d)
            fetch(dout, s * n * d, n * d)
            fetch(dpacked, s * n * 3 * d, n * 3 * d)
        head, dhead = s * n * 3 * d + h * e, s * n * d + h * e
        read_rows(work, queries, packed, head, 3 * d, n, e, width)
        read_rows(work, keys, packed, head + d, 3 * d, n, e, width)
        read_rows(work, values, packed, head + 2 * d, 3 * d, n, e, width)
        read_rows(work, douts, dout, dhead, d, n, e, width)
        for x in range(queries, queries + n * width, LANES):
            store(work, x, multiply(load(work, x), repeat(scale)))
        for x in range(dkeys, dkeys + 2 * n * width, LANES):
            store(work, x, zero)
        for i in range(0, n, LANES):
            first_scores(work, scores, bias, h * n * rows + i, rows, n)
            add_scores(work, scores, queries + i * width, keys, n, width)
            first_scores(work, dscores, NONE, 0, 0, n)
            add_scores(work, dscores, douts + i * width, values, n, width)
            top, share, mean = load(largest, unit * rows + i), load(shares, unit * rows + i), zero
            for j in range(n):
                weight = multiply(power_of_two(subtract(load(work, scores + j * LANES), top)), share)
                store(work, scores + j * LANES, weight)
                mean = multiply_add(weight, load(work, dscores + j * LANES), mean)
            for j in range(n):
                centred = subtract(load(work, dscores + j * LANES), mean)
                store(work, dscores + j * LANES, multiply(centred, load(work, scores + j * LANES)))
            for x in range(0, width, LANES):
                group = transposed(add_weighted(work, zero_group(), dscores, keys + x, n, width))
                at = head + i * 3 * d + x
                write_rows(dpacked, at, 3 * d, min(LANES, n - i), min(LANES, e - x), group, scale * ln2, work, free)
            add_to_keys(work, dkeys, dscores, queries + i * width, n, width)
            add_to_keys(work, dvalues, scores, douts + i * width, n, width)
        for x in range(dkeys, dkeys + n * width, LANES):
            store(work, x, multiply(load(work, x), repeat(ln2)))
        for j in range(n):
            copy(dpacked, head + d + j * 3 * d, work, dkeys + j * width, e)
            copy(dpacked, head + 2 * d + j * 3 * d, work, dvalues + j * width, e)


def _bias_of_keys(bias: Tensor | None) -> np.ndarray:
    """Bias (h, n, n) -> (h, key, query) in units of ln 2, with rows padded by 0."""
    if bias is None:
        return NONE
    n = bias.shape[-1]
    transposed_bias = torch.nn.functional.pad(bias.float().transpose(1, 2) / LN2, (0, padded(n) - n))
    return transposed_bias.contiguous().numpy().reshape(-1)


def _run(kernel, outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], heads: int, bias: Tensor | None) -> None:
    s, n, width = inputs[-1].shape
    e = width // 3 // heads
    flat = [tensor.numpy().reshape(-1) for tensor in (*outputs, *inputs)]
    scale, shape = np.float32(e**-0.5 / LN2), (heads, n, e, padded(e), padded(n))
    added = _bias_of_keys(bias)

    def run(start: int, stop: int) -> None:
        # Allocated by torch, which aligns memory to 64 bytes. Zeros, because padding must be 0.
        work = inputs[-1].new_zeros((4 * n + 2 * padded(n)) * padded(e) + 2 * n * LANES + LANES**2).numpy()
        kernel(*flat, added, scale, shape, work, start, stop)

    in_threads(run, s * heads)


def forward(packed: Tensor, heads: int, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Attention (s, n, d) of contiguous float32 ``packed``; largest score and inverse sum of each query."""
    s, n, width = packed.shape
    out = packed.new_empty(s, n, width // 3)
    largest, shares = (packed.new_empty(s, heads, padded(n)) for _ in range(2))
    _run(forward_heads, (out, largest, shares), (packed,), heads, bias)
    return out, largest, shares


def backward(dout: Tensor, largest: Tensor, shares: Tensor, packed: Tensor, heads: int, bias: Tensor | None) -> Tensor:
    """Gradient of ``packed``, from contiguous float32 tensors."""
    dpacked = torch.empty_like(packed)
    _run(backward_heads, (dpacked,), (dout, largest, shares, packed), heads, bias)
    return dpacked
