"""Transformer blocks for narrow heads and few tokens, fast on CPUs too; attention scores may have a bias.

Letters: b batch, n tokens, d width, e channels of a head.

Reference: Vaswani et al. 2017, section 3.2; pre-norm blocks as in the vision transformer (Dosovitskiy et al. 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYER_NORM_EPS = 1e-6
#: Attention scores per chunk of bfloat16 products; 6 MB fit a CPU's cache.
CACHED_SCORES = 1 << 20
#: Most attention scores of a layer that a bfloat16 training on a CPU stores for the gradient (200 MB).
HELD_SCORES = 1 << 25


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of queries, keys and values, each (b, heads, n, e) -> (b, heads, n, e).

    ``bias`` (heads, n, n) is added to the scores, and gets no gradient. For bfloat16 on a CPU, the backward pass of
    torch's fused kernel is several times slower than in float32. There this function uses matrix products on a few
    sequences at a time or, if a training would have to store more than `HELD_SCORES` scores, float32.
    """
    bias = None if bias is None else bias.detach().to(q.device)[None]
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
    b, heads, n, _ = q.shape
    scores = heads * n**2
    with torch.autocast("cpu", enabled=False):
        if torch.is_grad_enabled() and b * scores > HELD_SCORES:
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=bias).to(q.dtype)
        chunks = (torch.split(part, max(1, CACHED_SCORES // scores)) for part in (q, k, v))
        return torch.cat([_attend_by_products(*chunk, bias=bias) for chunk in zip(*chunks, strict=True)])


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None) -> Tensor:
    # Two casts and a float32 softmax are several times faster than torch's bfloat16 softmax.
    scores = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).float()
    weights = (scores if bias is None else scores + bias).softmax(dim=-1).to(v.dtype)
    return torch.matmul(weights, v)


class TokenLinear(nn.Linear):
    """A linear layer that is computed as a 1 x 1 convolution for tokens (b, n, d) on a CPU.

    A convolution uses oneDNN. A float32 linear layer uses MKL, which reaches half the speed on CPUs that are not from
    Intel: 90 against 200 GFLOP/s on one core with AVX-512 (AMD Zen 5).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., e)."""
        if x.device.type != "cpu" or x.dim() != 3:
            return super().forward(x)
        image = x[:, None].permute(0, 3, 1, 2)  # (b, d, 1, n), channels last
        return F.conv2d(image, self.weight[:, :, None, None], self.bias).permute(0, 2, 3, 1).squeeze(1)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = TokenLinear(width, 3 * width)
        self.out_proj = TokenLinear(width, width)

    def forward(self, x: Tensor, *, class_only: bool = False, bias: Tensor | None = None) -> Tensor:
        """Tokens (b, n, d) -> (b, n, d), or (b, 1, d) for the first token with ``class_only``; ``bias`` as of `attend`.

        Raises:
            ValueError: If both ``class_only`` and ``bias`` are given.
        """
        if class_only and bias is not None:
            raise ValueError("class_only supports no bias; leave out one of the two")
        if class_only:
            return self.out_proj(self._first(x))  # type: ignore[no-any-return]
        b, n, d = x.shape
        q, k, v = self.in_proj(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.out_proj(attend(q, k, v, bias).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _first(self, x: Tensor) -> Tensor:
        """Attention of the first token (b, 1, d), before ``out_proj``.

        For one query, keys and values need not be computed: the query is multiplied by the key weights, and the
        weighted mean of the tokens by the value weights. The key bias adds the same to all scores and drops out.
        """
        b, _, d = x.shape
        h, e = self.heads, d // self.heads
        w_q, w_k, w_v = self.in_proj.weight.reshape(3, h, e, d)
        b_q, _, b_v = self.in_proj.bias.reshape(3, h, e)
        q = torch.einsum("bd,hed->bhe", x[:, 0], w_q) + b_q
        scores = torch.einsum("bhe,hed->bhd", q, w_k) * e**-0.5 @ x.transpose(1, 2)  # (b, h, n)
        weights = scores.softmax(dim=-1).to(x.dtype)
        out: Tensor = torch.einsum("bhd,hed->bhe", weights @ x, w_v) + b_v
        return out.reshape(b, 1, d)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a two-layer GELU network, each with a residual."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = nn.Sequential(TokenLinear(width, hidden), nn.GELU(), TokenLinear(hidden, width))

    def forward(self, x: Tensor, *, class_only: bool = False, bias: Tensor | None = None) -> Tensor:
        """See `Attention.forward`."""
        x = (x[:, :1] if class_only else x) + self.attention(self.norm1(x), class_only=class_only, bias=bias)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]
