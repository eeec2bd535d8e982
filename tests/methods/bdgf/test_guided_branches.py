"""The guided branches against slow loops, their gradients, sizes and inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.network_helpers import without_gradient
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.methods.bdgf.guided_branches import (
    BRANCHES,
    AttentionLevel,
    BranchName,
    BranchOutput,
    CrossAttention,
    FeatureFusion,
    GroupChannelAttention,
    GuidedBranch,
    GuidedEnsemble,
    distance_bias,
    ensemble_probabilities,
    head_count,
)

pytestmark = pytest.mark.usefixtures("same_start")
CHANNELS = {"hsi": 7, "lidar": 2}
LEVELS = (6, 5, 3)
TARGET = torch.tensor([0, 1, 2, 0])
REACH = (0.5, 2.0)
every_branch = pytest.mark.parametrize("kind", BRANCHES)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inputs(channels: dict[str, int] = CHANNELS, side: int = 5) -> tuple[dict[str, Tensor], list[Tensor]]:
    windows = {name: normal(4, count, side, side, dtype=torch.float32) for name, count in channels.items()}
    return windows, [normal(4, count, side, side, seed=i, dtype=torch.float32) for i, count in enumerate(LEVELS, 1)]


def branch(kind: BranchName, **settings: Any) -> GuidedBranch:
    return GuidedBranch(
        kind, CHANNELS, LEVELS, 3, **{"width": 16, "common": 6, "dropout": 0.0, "reach": REACH, **settings}
    )


def ensemble(*branches: BranchName, channels: dict[str, int] = CHANNELS, width: int = 16) -> GuidedEnsemble:
    return GuidedEnsemble(channels, LEVELS, 3, branches=branches or BRANCHES, width=width, dropout=0.0, reach=REACH)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer or 1 x 1 convolution on one vector."""
    out = layer.weight.reshape(len(layer.weight), -1) @ x
    return out if layer.bias is None else out + layer.bias


def slow_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return (x - x.mean()) / (x.var(correction=0) + norm.eps).sqrt() * norm.weight + norm.bias


def test_feature_fusion_equals_a_loop_over_pixels() -> None:
    fusion, h, guide = FeatureFusion(8).double(), normal(2, 8, 3, 4), normal(2, 8, 3, 4, seed=1)
    expected = torch.empty_like(h)
    for s in range(2):
        for row in range(3):
            for column in range(4):
                both = torch.cat([h[s, :, row, column], guide[s, :, row, column]])
                expected[s, :, row, column] = h[s, :, row, column] + linear(fusion.mix, both)
    torch.testing.assert_close(fusion(h, guide), expected)


@pytest.mark.parametrize(("width", "groups", "reduction"), [(16, 4, 4), (12, 3, 2), (4, 4, 4)])
def test_group_channel_attention_equals_a_loop_over_groups(width: int, groups: int, reduction: int) -> None:
    attention = GroupChannelAttention(width, groups, reduction).double()
    h, guide = normal(2, width, 3, 4), normal(2, width, 3, 4, seed=1)
    first, _, second = attention.mlp
    size = width // groups
    hidden = max(1, 2 * size // reduction)
    expected = torch.empty_like(h)
    for s in range(2):
        for g in range(groups):
            own, units = slice(g * size, (g + 1) * size), slice(g * hidden, (g + 1) * hidden)
            squeezed = torch.stack([image[s, c].mean() for image in (h, guide) for c in range(width)[own]])
            inner = (first.weight[units, :, 0] @ squeezed + first.bias[units]).clamp(min=0)
            a = 1 / (1 + torch.exp(-(second.weight[own, :, 0] @ inner + second.bias[own])))
            expected[s, own] = h[s, own] * (1 + a[:, None, None])
    torch.testing.assert_close(attention(h, guide), expected)


def test_cross_attention_equals_a_loop_over_queries_and_heads() -> None:
    """Two heads of 16 channels."""
    attention, h, guide = CrossAttention(32, REACH).double(), normal(2, 32, 3, 2), normal(2, 32, 3, 2, seed=1)
    expected = torch.empty_like(h)
    places = [(row, column) for row in range(3) for column in range(2)]
    sigmas = (0.5 * 4**0.25, 0.5 * 4**0.75)  # in pixels: a quarter and three quarters of the way from 0.5 to 2
    for s in range(2):
        keys = [linear(attention.k_proj, guide[s, :, r, c]) for r, c in places]
        values = [linear(attention.v_proj, guide[s, :, r, c]) for r, c in places]
        for row, column in places:
            query = linear(attention.q_proj, slow_norm(attention.norm, h[s, :, row, column]))
            squared = torch.tensor([(row - r) ** 2 + (column - c) ** 2 for r, c in places])
            attended = []
            for head, sigma in zip((slice(0, 16), slice(16, 32)), sigmas, strict=True):
                weights = torch.stack([(query[head] @ key[head] / 4).exp() for key in keys])
                weights = weights * torch.exp(-squared / (2 * sigma**2))
                attended.append(sum(w * value[head] for w, value in zip(weights / weights.sum(), values, strict=True)))
            expected[s, :, row, column] = h[s, :, row, column] + linear(attention.out_proj, torch.cat(attended))
    torch.testing.assert_close(attention(h, guide), expected)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_the_distance_bias_is_a_gaussian_whose_reach_grows_from_head_to_head(heads: int) -> None:
    height, width = 5, 4
    bias = distance_bias(height, width, heads, (0.8, 3.0))
    assert bias.shape == (heads, height * width, height * width)
    previous = 0.8
    for head in range(heads):
        sigma = 0.8 * (3.0 / 0.8) ** ((head + 0.5) / heads)
        assert previous < sigma < 3.0
        previous = sigma
        for one in range(height * width):
            for other in range(height * width):
                down, right = one // width - other // width, one % width - other % width
                score = -(down**2 + right**2) / (2 * sigma**2)
                found = float(bias[head, one, other])
                assert found == pytest.approx(score) if score > -16 else found == -torch.inf


def test_each_pixel_is_a_token_of_an_attention_level() -> None:
    level, h = AttentionLevel(8, REACH).double(), normal(1, 8, 2, 3)
    tokens = torch.stack([h[0, :, row, column] for row in range(2) for column in range(3)])[None]
    out = level.block(tokens, bias=distance_bias(2, 3, 1, REACH))
    assert torch.equal(level(h)[0, :, 1, 0], out[0, 3])
    assert torch.equal(level(h)[0, :, 0, 2], out[0, 2])


@every_branch
def test_a_branch_equals_the_sequence_of_its_parts(kind: BranchName) -> None:
    model, (windows, features) = branch(kind).eval(), inputs()
    h = model.stem(torch.cat([windows["hsi"], windows["lidar"]], dim=1))
    side = h.shape[-1]
    for level in range(3):
        mix, norm = model.projections[level]
        guide = torch.einsum("df,bfhw->bdhw", mix.weight[:, :, 0, 0], features[level]) + mix.bias[:, None, None]
        guide = (guide - guide.mean(1, keepdim=True)) / (guide.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
        h = model.guidances[level](model.levels[level](h), guide)  # the norm's weights start at 1 and 0
    squared = torch.tensor([[(i - side // 2) ** 2 + (j - side // 2) ** 2 for j in range(side)] for i in range(side)])
    weights = torch.exp(-squared / (2 * 1.5**2))
    pooled = torch.einsum("bdhw,hw->bd", h, weights) / weights.sum()
    found = model(windows, features)
    torch.testing.assert_close(found.logits, torch.stack([linear(model.head, row) for row in pooled]))
    torch.testing.assert_close(found.features, torch.stack([linear(model.compare, row) for row in pooled]))


@pytest.mark.parametrize("kinds", [("transformer", "cnn"), ("cnn", "mamba"), *((kind,) for kind in BRANCHES)])
def test_an_ensemble_runs_the_requested_branches_and_trains_all_their_parameters(kinds: tuple[BranchName, ...]) -> None:
    """A single branch has no projection, which only mutual terms would train."""
    model, together = ensemble(*kinds), len(kinds) > 1
    out = model(*inputs())
    assert list(out) == [*kinds]
    parts = [F.cross_entropy(o.logits, TARGET) + together * o.features.square().sum() for o in out.values()]
    torch.stack(parts).sum().backward()
    assert without_gradient(model) == []


@pytest.mark.parametrize("side", [1, 5, 7, 11])
@pytest.mark.parametrize("channels", [{"hsi": 1}, {"hsi": 7}, CHANNELS, {"hsi": 5, "sar": 3, "dsm": 1}])
def test_windows_can_have_any_odd_side_and_one_to_three_modalities(channels: dict[str, int], side: int) -> None:
    model = ensemble(channels=channels, width=8).eval()
    with torch.no_grad():
        out = model(*inputs(channels, side))
    assert all(o.logits.shape == (4, 3) and o.features.shape == (4, 64) for o in out.values())
    assert all(o.logits.isfinite().all() for o in out.values())


@pytest.mark.parametrize(("width", "common", "levels"), [(16, 6, LEVELS), (32, None, (9,))])
@every_branch
def test_parameter_counts_match_the_documented_formulas(
    kind: BranchName, width: int, common: int | None, levels: tuple[int, ...]
) -> None:
    d, n = width, len(levels)
    level = {"cnn": 20 * d**2 + 5 * d, "mamba": 3.875 * d**2 + 215.5 * d, "transformer": 12 * d**2 + 16 * d}[kind]
    documented = d * (9 + 1) + 3 * n * d + d * sum(levels) + (d + 1) * (5 + (common or 0)) + n * level
    model = GuidedBranch(kind, CHANNELS, levels, 5, width=width, common=common, dropout=0.0, reach=REACH)
    assert sum(values.numel() for values in model.parameters()) == documented


def test_the_probabilities_of_an_ensemble_are_the_mean_of_softmaxes() -> None:
    logits = [3 * normal(4, 3, seed=i, dtype=torch.float32) for i in range(3)]
    found = ensemble_probabilities(BranchOutput(torch.empty(4, 0), values) for values in logits)
    for sample in range(4):
        softmaxes = [values[sample].exp() / values[sample].exp().sum() for values in logits]
        torch.testing.assert_close(found[sample], sum(softmaxes) / 3)
    rough = ensemble_probabilities([BranchOutput(torch.empty(4, 0), logits[0].bfloat16())])
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.sum(1), torch.ones(4))


def test_widths_that_heads_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^width 52 is not a multiple of its 3 heads; use a multiple of 16$"):
        branch("transformer", width=52)
    assert [head_count(width) for width in (4, 16, 28, 32, 64)] == [1, 1, 1, 2, 4]


@every_branch
@pytest.mark.parametrize("fault", ["level", "side", "batch", "channels"])
def test_features_that_do_not_match_the_windows_are_refused(kind: BranchName, fault: str) -> None:
    model, (windows, features) = branch(kind), inputs()
    if fault == "level":
        features.pop()
    else:
        wrong = {"side": (4, 6, 7, 7), "batch": (1, 6, 5, 5), "channels": (4, 7, 5, 5)}[fault]
        features[0] = torch.zeros(wrong)
    with pytest.raises(ValueError, match=r"these windows need \[\(4, 6, 5, 5\), \(4, 5, 5, 5\), \(4, 3, 5, 5\)\]"):
        model(windows, features)


def test_dropout_drops_pooled_features_in_training_only() -> None:
    windows, features = inputs()
    model = branch("cnn", dropout=0.9, width=64)
    pooled: list[Tensor] = []
    model.head.register_forward_hook(lambda module, arguments, output: pooled.append(arguments[0]))
    model(windows, features)
    model.eval()(windows, features)
    training, evaluation = ((values == 0).float().mean() for values in pooled)
    assert training > 0.7
    assert evaluation < 0.2
