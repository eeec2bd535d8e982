"""Attention against a loop over tokens and heads: narrow heads, bfloat16, a bias of the scores."""

from __future__ import annotations

import pytest
import torch
from helpers.attention_helpers import slow_attention
from helpers.network_helpers import normal
from torch import nn

from mmrs_bench.models import attention as attention_file
from mmrs_bench.models.attention import Attention, Block

WIDTH, HEADS = 16, 2


@pytest.mark.parametrize("cached", [0, 1 << 30])
def test_attention_equals_a_loop(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_file, "CACHED_SCORES", cached)
    torch.manual_seed(0)
    attention, x = Attention(WIDTH, HEADS), normal(2, 5, WIDTH)
    nn.init.normal_(attention.in_proj.bias)
    expected = torch.stack([slow_attention(attention, sample) for sample in x])
    for class_only, some in ((False, expected), (True, expected[:, :1])):
        torch.testing.assert_close(attention(x, class_only=class_only), some, atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(attention(x, class_only=class_only).float(), some, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("cached", [0, 1 << 30])
@pytest.mark.parametrize("held", [0, 1 << 30])
def test_attention_with_a_bias_equals_a_loop(cached: int, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_file, "CACHED_SCORES", cached)
    monkeypatch.setattr(attention_file, "HELD_SCORES", held)
    torch.manual_seed(0)
    attention, x, bias = Attention(WIDTH, HEADS), normal(2, 5, WIDTH), 2 * normal(HEADS, 5, 5, seed=1)
    bias[0, 1, 3] = bias[1, 4, 0] = -torch.inf
    expected = torch.stack([slow_attention(attention, sample, bias) for sample in x])
    assert (expected - attention(x)).abs().max() > 0.1
    torch.testing.assert_close(attention(x, bias=bias), expected, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attention(x, bias=bias).float(), expected, atol=0.03, rtol=0.03)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        torch.testing.assert_close(attention(x, bias=bias).float(), expected, atol=0.03, rtol=0.03)


def test_attention_of_the_first_token_only_supports_no_bias() -> None:
    with pytest.raises(ValueError, match=r"^class_only supports no bias; leave out one of the two"):
        Block(WIDTH, HEADS, 2.0)(normal(2, 5, WIDTH), class_only=True, bias=torch.zeros(HEADS, 5, 5))
