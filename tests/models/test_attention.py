"""Attention against a loop over tokens and heads: narrow heads, bfloat16, a bias of the scores."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.attention_helpers import slow_attention
from helpers.network_helpers import normal
from helpers.short_registers import run_with_short_registers
from torch import Tensor, nn

from mmrs_bench.models import attention as attention_file
from mmrs_bench.models.attention import Attention, Block, attend

WIDTH, HEADS = 16, 2
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba (extra fast) is absent")


@pytest.fixture(params=[pytest.param("numba", marks=needs_numba), "torch"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to compute attention on a CPU; that of numba is skipped without numba."""
    if request.param == "torch":
        monkeypatch.setattr(attention_file, "_kernels", lambda: None)
    return str(request.param)


@pytest.fixture
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("options", [{}, {"head_width": 6, "input_bias": False}], ids=["usual", "other-width-no-bias"])
def test_attention_equals_a_loop(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    attention, x = Attention(WIDTH, HEADS, **options), normal(2, 5, WIDTH)
    if not options:
        nn.init.normal_(attention.in_proj.bias)
    expected = torch.stack([slow_attention(attention, sample) for sample in x])
    for class_only, some in ((False, expected), (True, expected[:, :1])):
        torch.testing.assert_close(attention(x, class_only=class_only), some, atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(attention(x, class_only=class_only).float(), some, atol=0.03, rtol=0.03)


@pytest.mark.usefixtures("kernels")
def test_attention_with_a_bias_equals_a_loop() -> None:
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


def plain_attention(packed: Tensor, heads: int, bias: Tensor | None) -> Tensor:
    """Attention by one softmax over all scores."""
    q, k, v = (x.unflatten(2, (heads, -1)) for x in packed.chunk(3, dim=2))
    scores = torch.einsum("bihe,bjhe->bhij", q, k) / q.shape[-1] ** 0.5
    weights = (scores if bias is None else scores + bias.double()).softmax(dim=-1)
    return torch.einsum("bhij,bjhe->bihe", weights, v).flatten(2)


def outcome(packed: Tensor, heads: int, bias: Tensor | None, *, plain: bool = False) -> list[Tensor]:
    """Attention and the gradient of its weighted sum."""
    leaf = packed.double().requires_grad_() if plain else packed.clone().requires_grad_()
    out = (plain_attention if plain else attend)(leaf, heads, bias)
    (gradient,) = torch.autograd.grad(out, leaf, normal(*out.shape, seed=2).to(out.dtype))
    return [out.detach().to(packed.dtype), gradient.to(packed.dtype)]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("b", "n", "heads", "e"),
    [(1, 1, 1, 1), (2, 3, 2, 4), (2, 16, 1, 16), (2, 17, 3, 20), (1, 37, 8, 16), (1, 9, 2, 64)],
)
def test_attention_and_its_gradient_for_any_number_of_tokens_and_channels(
    b: int, n: int, heads: int, e: int, biased: bool
) -> None:
    packed = 2 * normal(b, n, 3 * heads * e)
    bias = normal(heads, n, n, seed=1) if biased else None
    for found, expected in zip(outcome(packed, heads, bias), outcome(packed, heads, bias, plain=True), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.usefixtures("kernels")
def test_attention_of_large_scores_neither_overflows_nor_vanishes() -> None:
    packed = 100 * normal(1, 7, 3 * WIDTH)
    for found, expected in zip(outcome(packed, HEADS, None), outcome(packed, HEADS, None, plain=True), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-3)


@pytest.mark.usefixtures("kernels")
def test_a_nan_reaches_every_query_that_attends_to_it_and_no_other_sequence() -> None:
    packed = normal(2, 5, 3 * WIDTH)
    packed[1, 2, WIDTH] = torch.nan  # a key of the first head
    out = attend(packed, HEADS).isnan()
    assert not out[0].any()
    assert out[1, :, : WIDTH // HEADS].all()
    assert not out[1, :, WIDTH // HEADS :].any()


@needs_numba
@pytest.mark.usefixtures("threads_as_before")
def test_attention_does_not_depend_on_the_number_of_threads() -> None:
    packed, outcomes = normal(3, 21, 3 * WIDTH), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        outcomes.append(outcome(packed, HEADS, None))
    assert all(torch.equal(a, b) for other in outcomes[1:] for a, b in zip(outcomes[0], other, strict=True))


@needs_numba
def test_the_compiled_attention_is_a_valid_operator_of_torch() -> None:
    for bias in (None, normal(HEADS, 5, 5)):
        packed = normal(2, 5, 3 * WIDTH).requires_grad_()
        torch.library.opcheck(torch.ops.mmrs_bench.attend.default, (packed, HEADS, bias))


@pytest.mark.slow
@needs_numba
def test_the_kernels_are_right_on_cpus_with_short_registers(tmp_path: Path) -> None:
    code = """
from helpers.network_helpers import normal
from models.test_attention import outcome
import torch
for n, e in ((3, 4), (17, 20), (8, 16)):
    packed, bias = normal(2, n, 6 * e), normal(2, n, n, seed=1)
    for found, expected in zip(outcome(packed, 2, bias), outcome(packed, 2, bias, plain=True)):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
"""
    run_with_short_registers(code, tmp_path)


def test_attention_of_the_first_token_only_supports_no_bias() -> None:
    with pytest.raises(ValueError, match=r"^class_only supports no bias; leave out one of the two"):
        Block(WIDTH, HEADS, 2.0)(normal(2, 5, WIDTH), class_only=True, bias=torch.zeros(HEADS, 5, 5))


def test_dropout_applies_behind_each_layer_while_training_only() -> None:
    block, x = Block(WIDTH, HEADS, 2.0, dropout=1.0), normal(2, 5, WIDTH)
    assert torch.equal(block(x), x)
    plain = Block(WIDTH, HEADS, 2.0)
    plain.load_state_dict(block.state_dict())
    assert torch.equal(block.eval()(x), plain(x))
