"""Transformer blocks for narrow heads and few tokens, fast on CPUs too; attention scores may have a bias.

Letters: b batch, n tokens, d width, e channels of a head.

Reference: Vaswani et al. 2017, section 3.2; pre-norm blocks as in the vision transformer (Dosovitskiy et al. 2021).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.models.kernels import compiled_kernels
from mmrs_bench.models.pointwise import map_channels

LAYER_NORM_EPS = 1e-6


def attend(packed: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of packed queries, keys and values (b, n, 3 d) -> (b, n, d).

    ``bias`` (heads, n, n) is added to the scores, and gets no gradient. On a CPU it is computed in float32 for
    bfloat16, whose softmax is slow there, and by the compiled kernels of `mmrs_bench.models._attention_numba` if numba
    (extra ``fast``) is installed.
    """
    b, n, _ = packed.shape
    bias = None if bias is None else bias.detach().to(packed.device)
    on_cpu = packed.device.type == "cpu"
    computed = packed.float() if on_cpu and packed.dtype == torch.bfloat16 else packed
    if on_cpu and computed.dtype == torch.float32 and _kernels() is not None:
        out: Tensor = _attend(computed, heads, bias)[0]
        return out.to(packed.dtype)
    with torch.autocast(packed.device.type, enabled=False):
        q, k, v = computed.reshape(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
        mask = None if bias is None else bias[None].to(computed.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2).to(packed.dtype)


def _kernels() -> ModuleType | None:
    return compiled_kernels("_attention_numba")


@torch.library.custom_op("mmrs_bench::attend", mutates_args=())
def _attend(packed: Tensor, heads: int, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return _kernels().forward(packed.contiguous(), heads, bias)  # type: ignore[union-attr,no-any-return]


@torch.library.custom_op("mmrs_bench::attend_backward", mutates_args=())
def _attend_backward(
    dout: Tensor, largest: Tensor, shares: Tensor, packed: Tensor, heads: int, bias: Tensor | None
) -> Tensor:
    kernels = _kernels()
    return kernels.backward(  # type: ignore[union-attr,no-any-return]
        dout.contiguous(), largest, shares, packed.contiguous(), heads, bias
    )


@_attend.register_fake
def _(packed: Tensor, heads: int, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    b, n, width = packed.shape
    rows = _kernels().padded(n)  # type: ignore[union-attr]
    largest = packed.new_empty(b, heads, rows)
    return packed.new_empty(b, n, width // 3), largest, torch.empty_like(largest)


@_attend_backward.register_fake
def _(dout: Tensor, largest: Tensor, shares: Tensor, packed: Tensor, heads: int, bias: Tensor | None) -> Tensor:
    return packed.new_empty(packed.shape)


def _save(ctx: Any, inputs: tuple[Tensor, int, Tensor | None], output: tuple[Tensor, Tensor, Tensor]) -> None:
    packed, ctx.heads, ctx.bias = inputs
    ctx.save_for_backward(output[1], output[2], packed)


def _gradient(ctx: Any, dout: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
    return _attend_backward(dout, *ctx.saved_tensors, ctx.heads, ctx.bias), None, None


_attend.register_autograd(_gradient, setup_context=_save)


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
    """Multi-head self-attention.

    Args:
        width: d.
        heads: Number of heads.
        head_width: e; None for d / heads.
        input_bias: Whether queries, keys and values have a bias.
    """

    def __init__(self, width: int, heads: int, *, head_width: int | None = None, input_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        inner = width if head_width is None else heads * head_width
        self.in_proj = TokenLinear(width, 3 * inner, bias=input_bias)
        self.out_proj = TokenLinear(inner, width)

    def forward(self, x: Tensor, *, class_only: bool = False, bias: Tensor | None = None) -> Tensor:
        """Tokens (b, n, d) -> (b, n, d), or (b, 1, d) for the first token with ``class_only``; ``bias`` as of `attend`.

        Raises:
            ValueError: If both ``class_only`` and ``bias`` are given.
        """
        if class_only and bias is not None:
            raise ValueError("class_only supports no bias; leave out one of the two")
        if class_only:
            return self.out_proj(self._first(x))  # type: ignore[no-any-return]
        return self.out_proj(attend(self.in_proj(x), self.heads, bias))  # type: ignore[no-any-return]

    def _first(self, x: Tensor) -> Tensor:
        """Attention of the first token (b, 1, heads e), before ``out_proj``.

        For one query, keys and values need not be computed: the query is multiplied by the key weights, and the
        weighted mean of the tokens by the value weights. The key bias adds the same to all scores and drops out.
        """
        b, _, d = x.shape
        h = self.heads
        w_q, w_k, w_v = self.in_proj.weight.reshape(3, h, -1, d)
        e = w_q.shape[1]
        q = torch.einsum("bd,hed->bhe", x[:, 0], w_q)
        if self.in_proj.bias is not None:
            b_q, _, b_v = self.in_proj.bias.reshape(3, h, e)
            q = q + b_q
        scores = torch.einsum("bhe,hed->bhd", q, w_k) * e**-0.5 @ x.transpose(1, 2)  # (b, h, n)
        weights = scores.softmax(dim=-1).to(x.dtype)
        out: Tensor = torch.einsum("bhd,hed->bhe", weights @ x, w_v)
        if self.in_proj.bias is not None:
            out = out + b_v
        return out.reshape(b, 1, h * e)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a two-layer GELU network, each with a residual.

    Args:
        width: d.
        heads, head_width, input_bias: See `Attention`.
        mlp_ratio: Inner width of the GELU network per d.
        dropout: Share of values dropped behind the attention and behind both layers of the network.
        eps: Epsilon of layer normalisation.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        *,
        head_width: int | None = None,
        input_bias: bool = True,
        dropout: float = 0.0,
        eps: float = LAYER_NORM_EPS,
    ) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = Attention(width, heads, head_width=head_width, input_bias=input_bias)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)
        # The names are those of a network without dropout, whose weights are saved so.
        layers = {
            "0": TokenLinear(width, hidden),
            "1": nn.GELU(),
            "drop": self.dropout,
            "2": TokenLinear(hidden, width),
        }
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, *, class_only: bool = False, bias: Tensor | None = None) -> Tensor:
        """See `Attention.forward`."""
        attended = self.attention(self.norm1(x), class_only=class_only, bias=bias)
        x = (x[:, :1] if class_only else x) + self.dropout(attended)
        return x + self.dropout(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class Tokenizer(nn.Module):
    """Tokens as weighted means of the p pixels: T = softmax(W_A X^T) X W_V, with the softmax over pixels.

    Initial values are normal with variance 2 / ((rows + 1) columns) of a matrix.

    Reference: Multimodal Fusion Transformer (Roy et al. 2023) and HCT (Zhao et al. 2023), released code.
    """

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.W_A, self.W_V = (
            nn.Parameter(torch.randn(rows, width) * math.sqrt(2 / ((rows + 1) * width))) for rows in (tokens, width)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(b, d, h, w) -> (b, n, d)."""
        columns = maps.flatten(2)  # X^T, (b, d, p)
        shares = map_channels(self.W_A, columns).softmax(dim=-1)  # (b, n, p)
        return shares @ columns.transpose(1, 2) @ self.W_V
