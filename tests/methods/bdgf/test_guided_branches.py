"""The guided branches against slow loops; guidance matters, gradients arrive, and every branch works alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmrs_bench.methods.bdgf.guided_branches import (
    BRANCHES,
    AttentionLevel,
    BranchOutput,
    ConvLevel,
    CrossAttention,
    FeatureFusion,
    GroupChannelAttention,
    GuidedBranch,
    GuidedEnsemble,
    ensemble_probabilities,
    nearness,
)

CHANNELS = {"hsi": 7, "lidar": 2}
LEVELS = (6, 5, 3)


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.manual_seed(0)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inputs(
    channels: dict[str, int] = CHANNELS, side: int = 5, levels: tuple[int, ...] = LEVELS
) -> tuple[dict[str, Tensor], list[Tensor]]:
    windows = {name: normal(4, count, side, side, dtype=torch.float32) for name, count in channels.items()}
    return windows, [normal(4, count, side, side, seed=i, dtype=torch.float32) for i, count in enumerate(levels, 1)]


def branch(kind: str, channels: dict[str, int] = CHANNELS, **settings: int | None) -> GuidedBranch:
    return GuidedBranch(kind, channels, LEVELS, 3, **{"width": 16, "common": 6, **settings})


def idle(module: nn.Module) -> list[str]:
    return [name for name, values in module.named_parameters() if values.grad is None or not values.grad.any()]


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer or 1 x 1 convolution on one vector."""
    out = layer.weight.reshape(len(layer.weight), -1) @ x
    return out if layer.bias is None else out + layer.bias


def slow_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return (x - x.mean()) / (x.var(correction=0) + norm.eps).sqrt() * norm.weight + norm.bias


def test_feature_fusion_is_a_loop_over_pixels() -> None:
    fusion, h, guide = FeatureFusion(8).double(), normal(2, 8, 3, 4), normal(2, 8, 3, 4, seed=1)
    expected = torch.empty_like(h)
    for s in range(2):
        for row in range(3):
            for column in range(4):
                both = torch.cat([h[s, :, row, column], guide[s, :, row, column]])
                expected[s, :, row, column] = h[s, :, row, column] + linear(fusion.mix, both)
    torch.testing.assert_close(fusion(h, guide), expected)


@pytest.mark.parametrize(("width", "groups", "reduction"), [(16, 4, 4), (12, 3, 2), (4, 4, 4)])
def test_group_channel_attention_is_a_loop_over_groups(width: int, groups: int, reduction: int) -> None:
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


def test_cross_attention_is_a_loop_over_queries_and_heads() -> None:
    attention, h, guide = CrossAttention(8, 2).double(), normal(2, 8, 3, 2), normal(2, 8, 3, 2, seed=1)
    expected = torch.empty_like(h)
    places = [(row, column) for row in range(3) for column in range(2)]
    reach = (0.5 * 4**0.25, 0.5 * 4**0.75)  # of the two heads, in pixels: quarters of the way from 0.5 to 2
    for s in range(2):
        keys = [linear(attention.key, guide[s, :, r, c]) for r, c in places]
        values = [linear(attention.value, guide[s, :, r, c]) for r, c in places]
        for row, column in places:
            query = linear(attention.query, slow_norm(attention.norm, h[s, :, row, column]))
            near = torch.tensor([(row - r) ** 2 + (column - c) ** 2 for r, c in places])
            heard = []
            for head, sigma in zip((slice(0, 4), slice(4, 8)), reach, strict=True):
                weights = torch.stack([(query[head] @ key[head] / 2).exp() for key in keys])
                weights = weights * torch.exp(-near / (2 * sigma**2))
                heard.append(sum(w * value[head] for w, value in zip(weights / weights.sum(), values, strict=True)))
            expected[s, :, row, column] = h[s, :, row, column] + linear(attention.leave, torch.cat(heard))
    torch.testing.assert_close(attention(h, guide), expected)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_heads_look_from_near_to_far_under_a_gaussian(heads: int) -> None:
    height, width = 5, 4
    scores = nearness(height, width, heads, (0.8, 3.0))
    assert scores.shape == (heads, height * width, height * width)
    previous = 0.8
    for head in range(heads):
        sigma = 0.8 * (3.0 / 0.8) ** ((head + 0.5) / heads)
        assert previous < sigma < 3.0
        previous = sigma
        for one in range(height * width):
            for other in range(height * width):
                down, right = one // width - other // width, one % width - other % width
                score = -(down**2 + right**2) / (2 * sigma**2)
                found = float(scores[head, one, other])
                assert found == pytest.approx(score) if score > -16 else found == -torch.inf


def test_no_head_looks_at_pixels_that_float32_could_not_tell_from_none() -> None:
    scores = nearness(11, 11, 1, (0.5, 0.5))
    assert scores[0, 0, 1] == -2
    assert scores[0, 0, 3] == -torch.inf
    assert torch.isfinite(scores[0].diagonal()).all()


def test_an_attention_level_takes_each_pixel_as_a_token() -> None:
    level, h = AttentionLevel(8).double(), normal(1, 8, 2, 3)
    tokens = torch.stack([h[0, :, row, column] for row in range(2) for column in range(3)])[None]
    out = level.block(tokens, bias=nearness(2, 3, 1))
    assert torch.equal(level(h)[0, :, 1, 0], out[0, 3])
    assert torch.equal(level(h)[0, :, 0, 2], out[0, 2])


def test_a_convolution_level_is_two_rounds_of_three_steps() -> None:
    assert [type(layer) for layer in ConvLevel(4)] == 2 * [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]


@pytest.mark.parametrize("kind", BRANCHES)
def test_a_branch_is_what_its_parts_make(kind: str) -> None:
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


@pytest.mark.parametrize(
    ("kind", "level", "guidance"),
    [
        ("cnn", "ConvLevel", FeatureFusion),
        ("mamba", "MambaBlock", GroupChannelAttention),
        ("transformer", "AttentionLevel", CrossAttention),
    ],
)
def test_each_branch_has_its_own_guidance(kind: str, level: str, guidance: type) -> None:
    model = branch(kind)
    assert {type(part).__name__ for part in model.levels} == {level}
    assert {type(part) for part in model.guidances} == {guidance}


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("kind", BRANCHES)
def test_every_level_of_the_diffusion_features_guides(kind: str, level: int) -> None:
    model, (windows, features) = branch(kind).eval(), inputs()
    before = model(windows, features).logits
    features[level] = normal(*features[level].shape, seed=9, dtype=torch.float32)
    assert (model(windows, features).logits - before).abs().max() > 1e-4


@pytest.mark.parametrize("modality", CHANNELS)
@pytest.mark.parametrize("kind", BRANCHES)
def test_every_modality_is_seen(kind: str, modality: str) -> None:
    model, (windows, features) = branch(kind).eval(), inputs()
    before = model(windows, features).logits
    windows[modality] = normal(*windows[modality].shape, seed=9, dtype=torch.float32)
    assert (model(windows, features).logits - before).abs().max() > 1e-4


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_the_diffusion_features_is_arbitrary(scale: float) -> None:
    model, (windows, features) = branch("cnn").eval(), inputs()
    for mix, norm in model.projections:
        nn.init.zeros_(mix.bias)
        norm.eps = 0.0
    torch.testing.assert_close(model(windows, [scale * f for f in features]), model(windows, features))


@pytest.mark.parametrize("kind", BRANCHES)
def test_a_gradient_reaches_every_parameter(kind: str) -> None:
    model, (windows, features) = branch(kind), inputs()
    out = model(windows, features)
    (nn.functional.cross_entropy(out.logits, torch.tensor([0, 1, 2, 0])) + out.features.square().sum()).backward()
    assert idle(model) == []


@pytest.mark.parametrize("kind", BRANCHES)
def test_a_branch_that_learns_alone_has_no_idle_projection(kind: str) -> None:
    model, (windows, features) = GuidedEnsemble(CHANNELS, LEVELS, 3, branches=(kind,), width=16), inputs()
    out = model(windows, features)
    assert list(out) == [kind]
    assert out[kind].features.shape == (4, 16)
    nn.functional.cross_entropy(out[kind].logits, torch.tensor([0, 1, 2, 0])).backward()
    assert idle(model) == []


@pytest.mark.parametrize("side", [1, 5, 7, 11])
@pytest.mark.parametrize("channels", [{"hsi": 1}, {"hsi": 7}, CHANNELS, {"hsi": 5, "sar": 3, "dsm": 1}])
def test_windows_of_every_side_and_one_to_three_modalities(channels: dict[str, int], side: int) -> None:
    model = GuidedEnsemble(channels, LEVELS, 3, width=8, common=6).eval()
    with torch.no_grad():
        out = model(*inputs(channels, side))
    assert list(out) == list(BRANCHES)
    assert all(o.logits.shape == (4, 3) and o.features.shape == (4, 6) for o in out.values())
    assert all(o.logits.isfinite().all() for o in out.values())


@pytest.mark.parametrize("kind", BRANCHES)
def test_samples_of_a_batch_do_not_mix(kind: str) -> None:
    model, (windows, features) = branch(kind).eval(), inputs()
    whole = model(windows, features).logits
    for i in range(4):
        one = slice(i, i + 1)
        alone = model({name: values[one] for name, values in windows.items()}, [level[one] for level in features])
        torch.testing.assert_close(alone.logits, whole[one])


@pytest.mark.parametrize(("width", "common", "levels"), [(16, 6, LEVELS), (32, None, (9,))])
@pytest.mark.parametrize("kind", BRANCHES)
def test_parameter_counts_are_the_documented_formulas(
    kind: str, width: int, common: int | None, levels: tuple[int, ...]
) -> None:
    d, n = width, len(levels)
    level = {"cnn": 20 * d**2 + 5 * d, "mamba": 3.875 * d**2 + 215.5 * d, "transformer": 12 * d**2 + 16 * d}[kind]
    documented = d * (9 + 1) + 3 * n * d + d * sum(levels) + (d + 1) * (5 + (common or 0)) + n * level
    model = GuidedBranch(kind, CHANNELS, levels, 5, width=width, common=common)
    assert sum(values.numel() for values in model.parameters()) == documented


@pytest.mark.parametrize(("kind", "count"), [("cnn", 271_754), ("mamba", 114_026), ("transformer", 175_562)])
def test_parameter_counts_of_the_documented_example(kind: str, count: int) -> None:
    model = GuidedBranch(kind, {"hsi": 48, "lidar": 2}, (128, 64, 64), 10)
    assert sum(values.numel() for values in model.parameters()) == count
    assert sum(values.numel() for values in model.compare.parameters()) == 4160


def test_an_ensemble_runs_the_branches_asked_for() -> None:
    model, (windows, features) = GuidedEnsemble(CHANNELS, LEVELS, 3, branches=("transformer", "cnn")).eval(), inputs()
    out = model(windows, features)
    assert list(out) == ["transformer", "cnn"]
    for kind, found in out.items():
        assert torch.equal(found.logits, model.branches[kind](windows, features).logits)


def test_the_ensemble_says_the_mean_of_the_softmaxes() -> None:
    logits = [3 * normal(4, 3, seed=i, dtype=torch.float32) for i in range(3)]
    found = ensemble_probabilities(BranchOutput(torch.empty(4, 0), values) for values in logits)
    for sample in range(4):
        shares = [values[sample].exp() / values[sample].exp().sum() for values in logits]
        torch.testing.assert_close(found[sample], sum(shares) / 3)
    rough = ensemble_probabilities([BranchOutput(torch.empty(4, 0), logits[0].bfloat16())])
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.sum(1), torch.ones(4))


def test_autocast_stays_close() -> None:
    model, (windows, features) = GuidedEnsemble(CHANNELS, LEVELS, 3, width=16).eval(), inputs()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        rough = ensemble_probabilities(model(windows, features).values())
    exact = ensemble_probabilities(model(windows, features).values())
    torch.testing.assert_close(rough, exact, atol=0.02, rtol=0)


def test_what_cannot_be_built_is_told() -> None:
    with pytest.raises(ValueError, match=r"^unknown branch 'rnn'; choose from cnn, mamba, transformer$"):
        branch("rnn")
    with pytest.raises(ValueError, match=r"^no diffusion features to guide a branch; give the channels"):
        GuidedBranch("cnn", CHANNELS, (), 3)
    with pytest.raises(
        ValueError, match=r"^width 18 of a branch does not divide into 4 groups and 1 heads; take a multiple of 16"
    ):
        branch("cnn", width=18)
    with pytest.raises(ValueError, match=r"^width 8 does not divide into 3 groups"):
        GroupChannelAttention(8, 3)
    with pytest.raises(ValueError, match=r"^width 8 does not divide into 3 heads"):
        CrossAttention(8, 3)


@pytest.mark.parametrize("branches", [(), ("cnn", "cnn")])
def test_an_ensemble_has_each_branch_once(branches: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"name at least one of cnn, mamba, transformer, once$"):
        GuidedEnsemble(CHANNELS, LEVELS, 3, branches=branches)


@pytest.mark.parametrize("kind", BRANCHES)
@pytest.mark.parametrize("fault", ["level", "side", "batch", "channels"])
def test_features_that_do_not_belong_to_the_windows_are_told(kind: str, fault: str) -> None:
    model, (windows, features) = branch(kind), inputs()
    if fault == "level":
        features.pop()
    else:
        wrong = {"side": (4, 6, 7, 7), "batch": (1, 6, 5, 5), "channels": (4, 7, 5, 5)}[fault]
        features[0] = torch.zeros(wrong)
    with pytest.raises(ValueError, match=r"these windows need \[\(4, 6, 5, 5\), \(4, 5, 5, 5\), \(4, 3, 5, 5\)\]"):
        model(windows, features)


def test_dropout_leaves_out_pooled_features_in_training_only() -> None:
    torch.manual_seed(0)
    windows, features = inputs()
    model = GuidedBranch(
        "cnn", {n: w.shape[1] for n, w in windows.items()}, [f.shape[1] for f in features], 3, dropout=0.9
    )
    heard: list[torch.Tensor] = []
    model.head.register_forward_hook(lambda module, arguments, output: heard.append(arguments[0]))
    model(windows, features)
    model.eval()(windows, features)
    trained, told = ((pooled == 0).float().mean() for pooled in heard)
    assert trained > 0.7
    assert told < 0.2
