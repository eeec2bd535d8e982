"""The slow reference of attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmrs_bench.models.attention import Attention


def slow_attention(attention: Attention, x: Tensor, preference: Tensor | None = None) -> Tensor:
    """Token by token, head by head."""
    n, d = x.shape
    e = d // attention.heads
    weight, bias = attention.qkv.weight, attention.qkv.bias
    q, k, v = (x @ weight[i * d : (i + 1) * d].T + bias[i * d : (i + 1) * d] for i in range(3))
    rows = []
    for i in range(n):
        parts = []
        for head in range(attention.heads):
            at = slice(head * e, (head + 1) * e)
            scores = torch.stack([q[i, at] @ k[j, at] / math.sqrt(e) for j in range(n)])
            share = scores.exp() * (1 if preference is None else preference[head, i].exp())
            share = share / share.sum()
            parts.append(sum(share[j] * v[j, at] for j in range(n)))
        rows.append(torch.cat(parts))
    return torch.stack(rows) @ attention.proj.weight.T + attention.proj.bias
