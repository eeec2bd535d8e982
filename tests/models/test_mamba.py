"""Mamba blocks against slow loops over pixels: coefficients, orders, directions, scales, the steering modality."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.models import selective_scan as scan_module
from mmrs_bench.models.mamba import (
    BIDIRECTIONAL,
    DIRECTIONS,
    FusionBlock,
    MambaBlock,
    MultiScaleScan,
    StateSpace,
    WindowScan,
    inner_channels,
    scan_order,
)

CHANNELS, STATES, RANK = 6, 4, 2
SCANS = {
    "window": WindowScan,
    "sequence": partial(WindowScan, directions=BIDIRECTIONAL),
    "multi-scale": MultiScaleScan,
}


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.manual_seed(0)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def slow_space(space: StateSpace, path: list[Tensor], steering: list[Tensor]) -> list[Tensor]:
    """One sample's vectors, one place after the other: (e,) each, with coefficients made of other vectors."""
    a, rank = -space.log_rates.exp(), space.delta.in_features
    h = torch.zeros_like(a)
    out = []
    for x, source in zip(path, steering, strict=True):
        made = space.coefficients.weight @ source
        low, b, c = made[:rank], made[rank : rank + STATES], made[rank + STATES :]
        delta = torch.log(1 + torch.exp(space.delta.weight @ low + space.delta.bias))
        h = torch.exp(delta[:, None] * a) * h + (delta * x)[:, None] * b
        out.append(h @ c + space.skip * x)
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
            path, steering = ([image[sample, :, r, c] for r, c in places] for image in (x, source))
            for (row, column), value in zip(places, slow_space(space, path, steering), strict=True):
                total[sample, :, row, column] += value
    return total


def slow_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]


def perturb(module: nn.Module) -> nn.Module:
    """Give all parameters, also those that start at 0 or 1, values of their own."""
    with torch.no_grad():
        for seed, values in enumerate(module.parameters()):
            values += 0.1 * normal(*values.shape, seed=seed).to(values.dtype)
    return module


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 4), (1, 7), (11, 11)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_scan_visits_every_pixel_once_in_its_order(direction: str, height: int, width: int) -> None:
    order = scan_order(direction, height, width)
    assert sorted(order.tolist()) == list(range(height * width))
    assert order.tolist() == [row * width + column for row, column in slow_paths(height, width)[direction]]
    pixels = normal(height * width)
    assert torch.equal(pixels[order][order.argsort()], pixels)


def test_unknown_directions_are_named() -> None:
    with pytest.raises(ValueError, match=r"^unknown direction 'diagonal' of a scan; choose from rows, columns, rows-b"):
        WindowScan(CHANNELS, STATES, RANK, directions=("rows", "diagonal"))


def test_a_state_space_starts_as_the_paper_says() -> None:
    space = StateSpace(4000, STATES, RANK)
    assert torch.allclose(-space.log_rates.exp(), -torch.arange(1.0, STATES + 1).expand(4000, -1))
    assert torch.equal(space.skip, torch.ones(4000))
    delta = F.softplus(space.delta.bias)
    assert 0.9999e-3 < delta.min() < 1.01e-3
    assert 0.099 < delta.max() < 0.10001
    # Log-uniform: a quarter of the values in each quarter of the logarithms, to within five standard errors.
    share = torch.histc(delta.detach().log10(), bins=4, min=-3, max=-1) / 4000
    assert (share - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 4000)
    assert space.delta.weight.abs().max() <= RANK**-0.5


def test_a_state_space_is_a_loop_over_places() -> None:
    space, x = perturb(StateSpace(CHANNELS, STATES, RANK).double()), normal(2, CHANNELS, 5)
    for sample, found in zip(x, space(x), strict=True):
        path = list(sample.T)
        torch.testing.assert_close(found, torch.stack(slow_space(space, path, path), dim=1))


def test_a_state_space_can_be_steered_by_another_sequence() -> None:
    space, x, source = perturb(StateSpace(CHANNELS, STATES, RANK, 3).double()), normal(1, CHANNELS, 5), normal(1, 3, 5)
    expected = torch.stack(slow_space(space, list(x[0].T), list(source[0].T)), dim=1)
    torch.testing.assert_close(space(x, source)[0], expected)


@pytest.mark.parametrize("directions", [*((d,) for d in DIRECTIONS), BIDIRECTIONAL, DIRECTIONS])
def test_a_window_scan_is_a_loop_over_pixels(directions: tuple[str, ...]) -> None:
    scan = perturb(WindowScan(CHANNELS, STATES, RANK, directions=directions).double())
    x = normal(2, CHANNELS, 3, 4)
    torch.testing.assert_close(scan(x), slow_window_scan(scan, x, x))
    assert torch.equal(scan(x), scan(x, x))


def test_a_steered_window_scan_is_a_loop_over_pixels() -> None:
    scan = perturb(WindowScan(CHANNELS, STATES, RANK, 3).double())
    x, source = normal(2, CHANNELS, 3, 4), normal(2, 3, 3, 4, seed=1)
    torch.testing.assert_close(scan(x, source), slow_window_scan(scan, x, source))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_pixel_is_heard_only_by_those_after_it(direction: str) -> None:
    scan = WindowScan(CHANNELS, STATES, RANK, directions=(direction,)).double()
    x = normal(1, CHANNELS, 3, 4)
    changed = x.clone()
    changed[:, :, 1, 2] += 1
    differs = (scan(x) != scan(changed)).any(1)[0]
    places = slow_paths(3, 4)[direction]
    reached = set(places[places.index((1, 2)) :])
    assert {(row, column) for row, column in places if differs[row, column]} == reached


@pytest.mark.parametrize(("height", "width"), [(5, 5), (4, 6), (1, 1), (1, 8), (11, 11)])
def test_a_multi_scale_scan_is_the_sum_of_its_scales(height: int, width: int) -> None:
    scan = perturb(MultiScaleScan(CHANNELS, STATES, RANK).double())
    x = normal(2, CHANNELS, height, width)
    assert scan.fine.directions == ("rows", "columns")
    assert scan.coarse.directions == ("rows-back", "columns-back")
    smooth = F.conv2d(x, scan.smooth.weight, scan.smooth.bias, padding=1, groups=CHANNELS)
    shrunk = F.conv2d(x, scan.shrink.weight, scan.shrink.bias, padding=2, groups=CHANNELS)[:, :, ::2, ::2]
    coarse = slow_window_scan(scan.coarse, shrunk, shrunk)
    grown = scan.grow.bias[:, None, None].expand(2, -1, height + 4, width + 4).clone()
    for row in range(coarse.shape[2]):
        for column in range(coarse.shape[3]):
            patch = torch.einsum("be,efhw->bfhw", coarse[:, :, row, column], scan.grow.weight)
            target = grown[:, :, 2 * row : 2 * row + 5, 2 * column : 2 * column + 5]
            target += patch[:, :, : target.shape[2], : target.shape[3]]
    expected = slow_window_scan(scan.fine, smooth, smooth) + grown[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(scan(x), expected)


@pytest.mark.parametrize("expand", [0.75, 2.0])
def test_a_block_is_what_its_parts_make(expand: float) -> None:
    block = perturb(MambaBlock(8, states=STATES, expand=expand).double())
    x = normal(2, 8, 3, 4)
    inner = int(expand * 8)
    wide = torch.einsum("fd,bdhw->bfhw", block.widen.weight[:, :, 0, 0], slow_norm(block.norm, x))
    features = torch.zeros(2, inner, 3, 4, dtype=torch.float64)
    for row in range(3):
        for column in range(4):
            value = block.convolve.bias.repeat(2, 1)
            for i in range(-1, 2):
                for j in range(-1, 2):
                    if 0 <= row + i < 3 and 0 <= column + j < 4:
                        value = value + block.convolve.weight[:, 0, 1 + i, 1 + j] * wide[:, :inner, row + i, column + j]
            features[:, :, row, column] = value * torch.sigmoid(value)
    gate = wide[:, inner:] * torch.sigmoid(wide[:, inner:])
    gated = slow_norm(block.scan_norm, block.scan(features)) * gate
    expected = x + torch.einsum("de,behw->bdhw", block.narrow.weight[:, :, 0, 0], gated)
    torch.testing.assert_close(block(x), expected)


def test_a_block_for_sequences_has_a_kernel_without_idle_weights() -> None:
    block = MambaBlock(8, states=STATES, scan=SCANS["sequence"], kernel=(1, 3))
    sequence = normal(2, 8, 1, 9, dtype=torch.float32)
    out = block(sequence)
    assert out.shape == sequence.shape
    out.square().sum().backward()
    assert block.convolve.weight.grad.shape[2:] == (1, 3)
    assert block.convolve.weight.grad.all()


@pytest.mark.parametrize(("width", "rank"), [(8, 1), (16, 1), (17, 2), (64, 4)])
def test_the_rank_of_delta_is_a_sixteenth_of_the_width(width: int, rank: int) -> None:
    assert MambaBlock(width, states=STATES).scan.spaces[0].delta.in_features == rank


def test_fusion_crosses_the_modalities_coefficients() -> None:
    fusion = perturb(FusionBlock((8, 5), states=STATES, expand=0.75).double())
    x, y = normal(2, 8, 3, 4), normal(2, 5, 3, 4, seed=1)
    (x_features, x_gate), (y_features, y_gate) = fusion.first.enter(x), fusion.second.enter(y)
    found_x, found_y = fusion(x, y)
    x_scanned = slow_window_scan(fusion.first.scan, x_features, y_features)
    y_scanned = slow_window_scan(fusion.second.scan, y_features, x_features)
    torch.testing.assert_close(found_x, fusion.first.leave(x, x_scanned, x_gate))
    torch.testing.assert_close(found_y, fusion.second.leave(y, y_scanned, y_gate))


def test_inner_channels_are_rounded_down_but_at_least_one() -> None:
    assert [inner_channels(10, expand) for expand in (0.01, 0.75, 1.0, 2.0)] == [1, 7, 10, 20]


@pytest.mark.parametrize("scan", SCANS)
def test_a_gradient_reaches_every_parameter(scan: str) -> None:
    block = MambaBlock(8, states=STATES, scan=SCANS[scan])
    block(normal(2, 8, 5, 5, dtype=torch.float32)).square().sum().backward()
    assert [name for name, values in block.named_parameters() if values.grad is None or not values.grad.any()] == []


def test_a_gradient_reaches_every_parameter_of_both_modalities() -> None:
    fusion = FusionBlock((8, 5), states=STATES)
    x, y = fusion(normal(2, 8, 5, 5, dtype=torch.float32), normal(2, 5, 5, 5, dtype=torch.float32))
    (x.square().sum() + y.square().sum()).backward()
    assert [name for name, values in fusion.named_parameters() if values.grad is None or not values.grad.any()] == []


@pytest.mark.parametrize("scan", SCANS)
def test_weights_do_not_depend_on_the_back_end(scan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one back end has learned, another one loads and goes on with."""
    x = normal(2, 8, 5, 5, dtype=torch.float32)
    block = MambaBlock(8, states=STATES, scan=SCANS[scan])
    expected = block(x)
    monkeypatch.setattr(scan_module, "_numba_scan", lambda: None)
    other = MambaBlock(8, states=STATES, scan=SCANS[scan])
    assert scan_module.scan_backend("cpu") == "torch"
    other.load_state_dict(block.state_dict(), strict=True)
    torch.testing.assert_close(other(x), expected)


@pytest.mark.parametrize("scan", SCANS)
def test_autocast_stays_close(scan: str) -> None:
    block, x = MambaBlock(8, states=STATES, scan=SCANS[scan]), normal(2, 8, 5, 5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rough = block(x)
    torch.testing.assert_close(rough.float(), block(x), atol=0.05, rtol=0.05)


def test_torch_compile_in_one_graph() -> None:
    block, x = MambaBlock(8, states=STATES), normal(2, 8, 3, 3, dtype=torch.float32)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x))
