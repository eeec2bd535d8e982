"""Batches of one size."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def fixed_size_batches(items: Tensor, size: int) -> Iterator[tuple[Tensor, int]]:
    """Cut items into batches of exactly one size.

    Matrix products of another size may use another kernel and round differently. With batches of one size, the
    features of an item do not depend on how many others are requested.

    Args:
        items: (n, ...) on any device.
        size: Items of a batch.

    Yields:
        A batch (size, ...), and how many of its items are real; the rest repeats the first item of the batch.
    """
    for part in torch.split(items, size) if len(items) else ():
        yield torch.cat([part, part[:1].expand(size - len(part), *part.shape[1:])]), len(part)
