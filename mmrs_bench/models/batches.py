"""Batches of one size."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def fixed_size_batches(items: Tensor, size: int) -> Iterator[tuple[Tensor, int]]:
    """Split items into batches of exactly one size.

    Matrix products of another size may round differently. In batches of one size, the result of an item does not
    depend on the number of items.

    Args:
        items: (n, ...).
        size: Items per batch.

    Yields:
        A batch (size, ...) and the number of its valid items; the rest repeats its first item.
    """
    for part in torch.split(items, size) if len(items) else ():
        yield torch.cat([part, part[:1].expand(size - len(part), *part.shape[1:])]), len(part)
