"""Transformer blocks whose heads are narrow and whose tokens are few, fast on CPUs too; scores may be biased.

Letters: b batch, n tokens, d width, e channels of a head.

Reference: Vaswani et al. 2017, section 3.2; pre-norm blocks as in the vision transformer (Dosovitskiy et al. 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYER_NORM_EPS = 1e-6
#: Attention scores that bfloat16 products work on at once, so that they stay in a CPU's cache (6 MB).
CACHED_SCORES = 1 << 20
#: Attention scores of a layer up to which a training in bfloat16 on a CPU keeps them for the gradient (200 MB).
HELD_SCORES = 1 << 25


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (b, heads, n, e), the fastest way torch has for heads this narrow.

    ``bias`` (heads, n, n) is added to the scores of all sequences; no gradient flows into it.

    That is torch's fused kernel, but for bfloat16 on a CPU, where that kernel's gradient takes several times as long as
    in float32. There plain matrix products do it, few sequences at a time; if a training would have to keep more scores
    than memory should hold, the fused kernel works in float32.
    """
    bias = None if bias is None else bias.detach().to(q.device)[None]
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
    b, heads, n, _ = q.shape
    scores = heads * n**2
    with torch.autocast("cpu", enabled=False):
        if torch.is_grad_enabled() and b * scores > HELD_SCORES:
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=bias).to(q.dtype)
        turns = (torch.split(part, max(1, CACHED_SCORES // scores)) for part in (q, k, v))
        return torch.cat([_attend_by_products(*turn, bias=bias) for turn in zip(*turns, strict=True)])


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None) -> Tensor:
    # Two casts and a softmax in float32 take a fraction of the time of torch's softmax of bfloat16 values.
    scores = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).float()
    share = (scores if bias is None else scores + bias).softmax(dim=-1).to(v.dtype)
    return torch.matmul(share, v)


class TokenLinear(nn.Linear):
    """A linear layer; tokens (b, n, d) on a CPU pass it as the convolution of a 1 x n image that it also is.

    oneDNN then computes it. A linear layer in float32 goes to MKL, which on a processor that is not Intel's leaves half
    of its width unused: 90 GFLOP/s against 200 on a core with AVX-512 (AMD Zen 5).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., e)."""
        if x.device.type != "cpu" or x.dim() != 3:
            return super().forward(x)
        image = x[:, None].permute(0, 3, 1, 2)  # (b, d, 1, n), channels last
        return F.conv2d(image, self.weight[:, :, None, None], self.bias).permute(0, 2, 3, 1).squeeze(1)


class Attention(nn.Module):
    """Multi-head self-attention; optionally only the class token asks, or scores are biased (see `attend`)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = TokenLinear(width, 3 * width)
        self.proj = TokenLinear(width, width)

    def forward(self, x: Tensor, *, class_only: bool = False, bias: Tensor | None = None) -> Tensor:
        """Attend from all tokens of ``x`` (b, n, d), or only from the first, to all of them: (b, n or 1, d).

        Raises:
            ValueError: If scores are to be biased, but only the first token asks.
        """
        if class_only and bias is not None:
            raise ValueError("biased scores need the questions of all tokens; leave out class_only or bias")
        if class_only:
            return self.proj(self._first(x))  # type: ignore[no-any-return]
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v, bias).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _first(self, x: Tensor) -> Tensor:
        """What the heads hand to the first token (b, 1, d).

        Keys and values of one query need not be computed: the query goes through the key weights instead, and the
        weighted mean of the tokens through the value weights. The bias of the keys shifts all scores of a query alike
        and so drops out.
        """
        b, _, d = x.shape
        h, e = self.heads, d // self.heads
        to_q, to_k, to_v = self.qkv.weight.reshape(3, h, e, d)
        q_bias, _, v_bias = self.qkv.bias.reshape(3, h, e)
        q = torch.einsum("bd,hed->bhe", x[:, 0], to_q) + q_bias
        asked = torch.einsum("bhe,hed->bhd", q, to_k) * e**-0.5
        share = (asked @ x.transpose(1, 2)).softmax(dim=-1)  # (b, h, n)
        heard: Tensor = torch.einsum("bhd,hed->bhe", share.to(x.dtype) @ x, to_v) + v_bias
        return heard.reshape(b, 1, d)


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
        """(b, n, d) -> (b, n, d), or only the first token (b, 1, d); ``bias`` as of `attend`, for all tokens only."""
        x = (x[:, :1] if class_only else x) + self.attention(self.norm1(x), class_only=class_only, bias=bias)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]
