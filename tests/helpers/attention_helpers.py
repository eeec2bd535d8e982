"""A slow reference of attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmrs_bench.models.attention import Attention


def slow_attention(attention: Attention, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Token by token, head by head."""
    n, inner = len(x), attention.out_proj.in_features
    e = inner // attention.heads
    packed = x @ attention.in_proj.weight.T
    if attention.in_proj.bias is not None:
        packed = packed + attention.in_proj.bias
    q, k, v = (packed[:, i * inner : (i + 1) * inner] for i in range(3))
    rows = []
    for i in range(n):
        parts = []
        for head in range(attention.heads):
            at = slice(head * e, (head + 1) * e)
            scores = torch.stack([q[i, at] @ k[j, at] / math.sqrt(e) for j in range(n)])
            weights = scores.exp() * (1 if bias is None else bias[head, i].exp())
            weights = weights / weights.sum()
            parts.append(sum(weights[j] * v[j, at] for j in range(n)))
        rows.append(torch.cat(parts))
    return torch.stack(rows) @ attention.out_proj.weight.T + attention.out_proj.bias
