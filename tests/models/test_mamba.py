"""Mamba blocks against slow loops over places: state dicts of mamba-ssm, scan orders, scales, a second modality."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from helpers.network_helpers import without_gradient
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.models import selective_scan as scan_module
from mmrs_bench.models.mamba import (
    BIDIRECTIONAL,
    DIRECTIONS,
    FusionBlock,
    Mamba,
    MambaBlock,
    MultiScaleScan,
    StateSpace,
    WindowScan,
    inner_channels,
    to_sequence,
    to_windows,
)

pytestmark = pytest.mark.usefixtures("same_start")
CHANNELS, STATES, RANK = 6, 4, 2
SCANS = {
    "window": WindowScan,
    "sequence": partial(WindowScan, directions=BIDIRECTIONAL),
    "multi-scale": MultiScaleScan,
}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def slow_space(space: StateSpace, path: list[Tensor], sources: list[Tensor]) -> list[Tensor]:
    """The vectors (e,) of one sample, place after place, with coefficients computed from the vectors of ``sources``."""
    a, rank = -space.A_log.exp(), space.dt_proj.in_features
    h = torch.zeros_like(a)
    out = []
    for x, source in zip(path, sources, strict=True):
        projected = space.x_proj.weight @ source
        dt, b, c = projected[:rank], projected[rank : rank + STATES], projected[rank + STATES :]
        delta = torch.log(1 + torch.exp(space.dt_proj.weight @ dt + space.dt_proj.bias))
        h = torch.exp(delta[:, None] * a) * h + (delta * x)[:, None] * b
        out.append(h @ c + space.D * x)
    return out


def slow_paths(height: int, width: int) -> dict[str, list[tuple[int, int]]]:
    by_row = [(row, column) for row in range(height) for column in range(width)]
    by_column = [(row, column) for column in range(width) for row in range(height)]
    return {
        "rows": by_row,
        "columns": by_column,
        "rows-back": list(reversed(by_row)),
        "columns-back": list(reversed(by_column)),
    }


def slow_window_scan(scan: WindowScan, x: Tensor, source: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for sample in range(x.shape[0]):
        for direction, space in zip(scan.directions, scan.spaces, strict=True):
            places = slow_paths(*x.shape[2:])[direction]
            path, sources = ([image[sample, :, r, c] for r, c in places] for image in (x, source))
            for (row, column), value in zip(places, slow_space(space, path, sources), strict=True):
                total[sample, :, row, column] += value
    return total


def slow_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]


def perturb(module: nn.Module) -> nn.Module:
    """Add noise to all parameters, because some start at 0 or 1."""
    with torch.no_grad():
        for seed, values in enumerate(module.parameters()):
            values += 0.1 * normal(*values.shape, seed=seed).to(values.dtype)
    return module


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 4), (1, 7), (11, 11)])
@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_a_sequence_has_every_pixel_once_in_its_order(axis: str, height: int, width: int) -> None:
    pixels = torch.arange(2 * height * width).reshape(2, 1, height, width)
    sequence = to_sequence(pixels, axis)
    assert sequence[0, 0].tolist() == [row * width + column for row, column in slow_paths(height, width)[axis]]
    assert torch.equal(to_windows(sequence, axis, height, width), pixels)


def test_unknown_directions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^unknown scan direction diagonal; choose from rows, columns, rows-back,"):
        WindowScan(CHANNELS, STATES, RANK, directions=("rows", "diagonal"))


def test_initial_values_of_a_state_space_are_those_of_the_paper() -> None:
    space = StateSpace(4000, STATES, RANK)
    assert torch.allclose(-space.A_log.exp(), -torch.arange(1.0, STATES + 1).expand(4000, -1))
    assert torch.equal(space.D, torch.ones(4000))
    delta = F.softplus(space.dt_proj.bias)
    assert 0.9999e-3 < delta.min() < 1.01e-3
    assert 0.099 < delta.max() < 0.10001
    # Log-uniform: a quarter of the values in each quarter of the logarithms, within five standard errors.
    share = torch.histc(delta.detach().log10(), bins=4, min=-3, max=-1) / 4000
    assert (share - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 4000)
    assert space.dt_proj.weight.abs().max() <= RANK**-0.5


def test_a_state_space_equals_a_loop_over_places() -> None:
    """Also with coefficients from another sequence."""
    space, x = perturb(StateSpace(CHANNELS, STATES, RANK).double()), normal(2, CHANNELS, 5)
    other, source = perturb(StateSpace(CHANNELS, STATES, RANK, 3).double()), normal(2, 3, 5)
    for i, path in enumerate(map(list, x.transpose(1, 2))):
        torch.testing.assert_close(space(x)[i], torch.stack(slow_space(space, path, path), dim=1))
        expected = torch.stack(slow_space(other, path, list(source[i].T)), dim=1)
        torch.testing.assert_close(other(x, source)[i], expected)


def mamba_ssm_state(d_model: int, d_state: int, d_conv: int, expand: int) -> dict[str, Tensor]:
    """A state dict as mamba-ssm's ``Mamba(d_model, d_state, d_conv, expand)`` writes it, with random values."""
    d_inner, dt_rank = expand * d_model, math.ceil(d_model / 16)
    shapes = {
        "A_log": (d_inner, d_state),
        "D": (d_inner,),
        "in_proj.weight": (2 * d_inner, d_model),
        "conv1d.weight": (d_inner, 1, d_conv),
        "conv1d.bias": (d_inner,),
        "x_proj.weight": (dt_rank + 2 * d_state, d_inner),
        "dt_proj.weight": (d_inner, dt_rank),
        "dt_proj.bias": (d_inner,),
        "out_proj.weight": (d_model, d_inner),
    }
    return {name: 0.5 * normal(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}


def slow_mamba(state: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The forward pass of mamba-ssm's ``Mamba`` for one sample (n, d), place after place."""
    d_inner, d_state = state["A_log"].shape
    dt_rank, d_conv = state["dt_proj.weight"].shape[1], state["conv1d.weight"].shape[2]
    projected = tokens @ state["in_proj.weight"].T
    h, out = torch.zeros(d_inner, d_state, dtype=tokens.dtype), []
    for t in range(len(tokens)):
        u = state["conv1d.bias"].clone()
        for lag in range(min(d_conv, t + 1)):
            u += state["conv1d.weight"][:, 0, d_conv - 1 - lag] * projected[t - lag, :d_inner]
        u = u / (1 + torch.exp(-u))
        coefficients = state["x_proj.weight"] @ u
        b, c = coefficients[dt_rank : dt_rank + d_state], coefficients[dt_rank + d_state :]
        delta = torch.log(1 + torch.exp(state["dt_proj.weight"] @ coefficients[:dt_rank] + state["dt_proj.bias"]))
        h = torch.exp(-delta[:, None] * state["A_log"].exp()) * h + torch.outer(delta * u, b)
        z = projected[t, d_inner:]
        out.append(state["out_proj.weight"] @ ((h @ c + state["D"] * u) * z / (1 + torch.exp(-z))))
    return torch.stack(out)


@pytest.mark.parametrize(("d_model", "d_state", "d_conv", "expand"), [(8, 16, 4, 2), (20, 3, 2, 1)])
def test_state_dicts_of_mamba_ssm_load_into_mamba(d_model: int, d_state: int, d_conv: int, expand: int) -> None:
    state = mamba_ssm_state(d_model, d_state, d_conv, expand)
    block = Mamba(d_model, states=d_state, kernel=d_conv, expand=expand).double()
    block.load_state_dict(state, strict=True)
    x = normal(2, 7, d_model, seed=9)
    torch.testing.assert_close(block(x), torch.stack([slow_mamba(state, sample) for sample in x]))
    assert {name: values.shape for name, values in Mamba(16).state_dict().items()} == {
        name: values.shape for name, values in mamba_ssm_state(16, 16, 4, 2).items()
    }, "the defaults are those of mamba-ssm"


@pytest.mark.parametrize("directions", [*((d,) for d in DIRECTIONS), BIDIRECTIONAL, DIRECTIONS])
def test_a_window_scan_equals_a_loop_over_pixels(directions: tuple[str, ...]) -> None:
    """Also with another source."""
    scan, other = (
        perturb(WindowScan(CHANNELS, STATES, RANK, *sources, directions=directions).double()) for sources in ((), (3,))
    )
    x, source = normal(2, CHANNELS, 3, 4), normal(2, 3, 3, 4, seed=1)
    torch.testing.assert_close(scan(x), slow_window_scan(scan, x, x))
    torch.testing.assert_close(other(x, source), slow_window_scan(other, x, source))


@pytest.mark.parametrize(("height", "width"), [(5, 5), (4, 6), (1, 1), (1, 8), (11, 11)])
def test_a_multi_scale_scan_equals_the_sum_of_its_scales(height: int, width: int) -> None:
    scan = perturb(MultiScaleScan(CHANNELS, STATES, RANK).double())
    x = normal(2, CHANNELS, height, width)
    assert scan.fine.directions == ("rows", "columns")
    assert scan.coarse.directions == ("rows-back", "columns-back")
    convolved = F.conv2d(x, scan.conv2d.weight, scan.conv2d.bias, padding=1, groups=CHANNELS)
    shrunk = F.conv2d(x, scan.downsample.weight, scan.downsample.bias, padding=2, groups=CHANNELS)[:, :, ::2, ::2]
    coarse = slow_window_scan(scan.coarse, shrunk, shrunk)
    grown = scan.upsample.bias[:, None, None].expand(2, -1, height + 4, width + 4).clone()
    for row in range(coarse.shape[2]):
        for column in range(coarse.shape[3]):
            patch = torch.einsum("be,efhw->bfhw", coarse[:, :, row, column], scan.upsample.weight)
            target = grown[:, :, 2 * row : 2 * row + 5, 2 * column : 2 * column + 5]
            target += patch[:, :, : target.shape[2], : target.shape[3]]
    expected = slow_window_scan(scan.fine, convolved, convolved) + grown[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(scan(x), expected)


@pytest.mark.parametrize("expand", [0.75, 2.0])
def test_a_window_block_equals_a_loop_over_pixels(expand: float) -> None:
    block = perturb(MambaBlock(8, states=STATES, expand=expand).double())
    x = normal(2, 8, 3, 4)
    inner = int(expand * 8)
    wide = torch.einsum("fd,bdhw->bfhw", block.in_proj.weight, slow_norm(block.norm, x))
    features = torch.zeros(2, inner, 3, 4, dtype=torch.float64)
    for row in range(3):
        for column in range(4):
            value = block.conv2d.bias.repeat(2, 1)
            for i in range(-1, 2):
                for j in range(-1, 2):
                    if 0 <= row + i < 3 and 0 <= column + j < 4:
                        value = value + block.conv2d.weight[:, 0, 1 + i, 1 + j] * wide[:, :inner, row + i, column + j]
            features[:, :, row, column] = value * torch.sigmoid(value)
    gate = wide[:, inner:] * torch.sigmoid(wide[:, inner:])
    gated = slow_norm(block.out_norm, block.scan(features)) * gate
    expected = x + torch.einsum("de,behw->bdhw", block.out_proj.weight, gated)
    torch.testing.assert_close(block(x), expected)


def test_a_pointwise_block_maps_the_inner_channels_of_each_place_linearly() -> None:
    block = perturb(MambaBlock(8, states=STATES, scan=SCANS["sequence"], pointwise=True, norm_eps=0.1).double())
    x = normal(2, 8, 1, 9)
    wide = torch.einsum("fd,bdhw->bfhw", block.in_proj.weight, slow_norm(block.norm, x))
    assert block.norm.eps == 0.1
    assert block.conv2d.bias is None
    mapped = torch.einsum("fe,behw->bfhw", block.conv2d.weight[:, :, 0, 0], wide[:, :8])
    gated = slow_norm(block.out_norm, block.scan(mapped * torch.sigmoid(mapped))) * F.silu(wide[:, 8:])
    torch.testing.assert_close(block(x), x + torch.einsum("de,behw->bdhw", block.out_proj.weight, gated))


@pytest.mark.parametrize(("width", "rank"), [(8, 1), (16, 1), (17, 2), (64, 4)])
def test_the_rank_of_delta_is_a_sixteenth_of_the_width(width: int, rank: int) -> None:
    assert MambaBlock(width, states=STATES).scan.spaces[0].dt_proj.in_features == rank


@pytest.mark.parametrize("other", [None, 20])
def test_fusion_computes_coefficients_from_the_other_modality(other: int | None) -> None:
    fusion = perturb(FusionBlock(8, other, states=STATES, expand=0.75).double())
    x, y = normal(2, 8, 3, 4), normal(2, other or 8, 3, 4, seed=1)
    if other:
        assert [block.scan.spaces[0].dt_proj.in_features for block in (fusion.first, fusion.second)] == [2, 1]
    (x_features, x_gate), (y_features, y_gate) = fusion.first.before_scan(x), fusion.second.before_scan(y)
    found_x, found_y = fusion(x, y)
    x_scanned = slow_window_scan(fusion.first.scan, x_features, y_features)
    y_scanned = slow_window_scan(fusion.second.scan, y_features, x_features)
    torch.testing.assert_close(found_x, fusion.first.after_scan(x, x_scanned, x_gate))
    torch.testing.assert_close(found_y, fusion.second.after_scan(y, y_scanned, y_gate))


def test_inner_channels_are_rounded_down_but_at_least_one() -> None:
    assert [inner_channels(10, expand) for expand in (0.01, 0.75, 1.0, 2.0)] == [1, 7, 10, 20]


@pytest.mark.parametrize("scan", SCANS)
def test_every_parameter_gets_a_gradient(scan: str) -> None:
    block = MambaBlock(8, states=STATES, scan=SCANS[scan])
    block(normal(2, 8, 5, 5, dtype=torch.float32)).square().sum().backward()
    assert without_gradient(block) == []


def test_every_parameter_of_a_fusion_block_gets_a_gradient() -> None:
    fusion = FusionBlock(8, states=STATES, expand=1.0)
    x, y = fusion(normal(2, 8, 5, 5, dtype=torch.float32), normal(2, 8, 5, 5, seed=1, dtype=torch.float32))
    (x.square().sum() + y.square().sum()).backward()
    assert without_gradient(fusion) == []


@pytest.mark.parametrize("scan", SCANS)
def test_weights_can_be_used_with_another_back_end(scan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(2, 8, 5, 5, dtype=torch.float32)
    block = MambaBlock(8, states=STATES, scan=SCANS[scan])
    expected = block(x)
    monkeypatch.setattr(scan_module, "_numba_scan", lambda: None)
    other = MambaBlock(8, states=STATES, scan=SCANS[scan])
    assert scan_module.scan_backend("cpu") == "torch"
    other.load_state_dict(block.state_dict(), strict=True)
    torch.testing.assert_close(other(x), expected)


@pytest.mark.parametrize("scan", SCANS)
def test_output_under_autocast_is_close(scan: str) -> None:
    block, x = MambaBlock(8, states=STATES, scan=SCANS[scan]), normal(2, 8, 5, 5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rough = block(x)
    torch.testing.assert_close(rough.float(), block(x), atol=0.05, rtol=0.05)


def test_a_block_compiles_to_one_graph() -> None:
    block, x = MambaBlock(8, states=STATES), normal(2, 8, 3, 3, dtype=torch.float32)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x))
