"""MSFMamba: its parts against loops; axes, and windows and channels of any size."""

from __future__ import annotations

import pytest
import torch
from helpers.msfmamba_reference import Part, released_msfmamba, spectral
from helpers.network_helpers import normal, perturbed, random_windows, weights, without_gradient

from mmrs_bench.methods.msfmamba.network import MSFMamba, PlainStem, ReleasedMSFMamba, SpectralBlock, SpectralStem

pytestmark = pytest.mark.usefixtures("same_start")
CHANNELS = {"hsi": 12, "sar": 3}


def small(channels: dict[str, int] = CHANNELS, side: int = 7, layers: int = 1) -> MSFMamba:
    return MSFMamba(channels, side, 4, width=6, layers=layers, states=4, expand=0.75)


def test_the_spectral_stem_equals_a_loop_over_channels_and_pixels() -> None:
    """Every value is a sum over a box of 9 x 3 x 3; batch normalisation starts with mean 0 and variance 1."""
    stem, x = SpectralStem(12, 5, 1).eval(), normal(2, 12, 5, 4)
    convolve, norm, _ = stem.volumes
    assert convolve.weight.shape == (8, 1, 9, 3, 3)
    volume = torch.empty(2, 8, 4, 3, 2)
    for depth in range(4):
        for row in range(3):
            for column in range(2):
                box = x[:, depth : depth + 9, row : row + 3, column : column + 3]
                volume[:, :, depth, row, column] = torch.einsum("bcij,mcij->bm", box, convolve.weight[:, 0])
    volume = (volume / (1 + norm.eps) ** 0.5).clamp(min=0)
    # The mixture is per pixel: all depths of map 0, then of map 1, ...
    weight = stem.mix.weight[:, :, 0, 0].reshape(5, 8, 4)
    expected = torch.einsum("dmz,bmzhw->bdhw", weight, volume) + stem.mix.bias[:, None, None]
    torch.testing.assert_close(stem(x), expected)


@pytest.mark.parametrize(
    ("channels", "layers", "spans"), [(30, 2, [9, 7]), (30, 1, [9]), (12, 2, [9, 4]), (5, 2, [5, 1]), (1, 2, [1, 1])]
)
def test_kernels_span_at_most_the_remaining_channels(channels: int, layers: int, spans: list[int]) -> None:
    stem = SpectralStem(channels, 5, layers)
    assert [part.kernel_size for part in stem.volumes if hasattr(part, "kernel_size")] == [(n, 3, 3) for n in spans]
    assert stem(normal(2, channels, 7, 7)).shape == (2, 5, 7 - 2 * layers, 7 - 2 * layers)


def test_each_layer_of_the_plain_stem_removes_a_pixel_at_every_side() -> None:
    assert PlainStem(3, 5, 1)(normal(2, 3, 7, 7)).shape == (2, 5, 5, 5)
    assert PlainStem(3, 5, 2)(normal(2, 3, 7, 7)).shape == (2, 5, 3, 3)


def test_the_spectral_block_scans_the_maps_of_the_channels() -> None:
    block, x = SpectralBlock(6, states=4, expand=0.75), normal(2, 5, 2, 3)
    out = block(x)
    sequence = torch.empty(2, 6, 1, 5)
    for channel in range(5):
        for row in range(2):
            for column in range(3):
                sequence[:, 3 * row + column, 0, channel] = x[:, channel, row, column]
    scanned = block.block(sequence)
    for channel in range(5):
        for row in range(2):
            for column in range(3):
                torch.testing.assert_close(out[:, channel, row, column], scanned[:, 3 * row + column, 0, channel])
    assert block.block.scan.directions == ("rows", "rows-back")


@pytest.mark.parametrize("layers", [1, 2])
def test_the_network_equals_the_sequence_of_its_parts(layers: int) -> None:
    model, inputs = small(layers=layers).eval(), random_windows(CHANNELS, 3, 7)
    x, y = model.first_stem(inputs["hsi"]), model.second_stem(inputs["sar"])
    for layer in model.layers:
        spatial, spectral = layer.first
        x, y = layer.fuse(spectral(spatial(x)), layer.second(y))
    side = 7 - 2 * layers
    weight = model.head.weight.reshape(4, 2, 6, side, side)
    expected = torch.einsum("kmdhw,bmdhw->bk", weight, torch.stack([x, y], dim=1)) + model.head.bias
    torch.testing.assert_close(model(inputs), expected)


@pytest.mark.parametrize(("side", "layers"), [(5, 1), (7, 1), (7, 2), (8, 2), (11, 2)])
def test_windows_can_be_even_odd_and_as_small_as_the_layers_permit(side: int, layers: int) -> None:
    with torch.no_grad():
        logits = small(side=side, layers=layers)(random_windows(CHANNELS, 3, side))
    assert logits.shape == (3, 4)
    assert logits.isfinite().all()


@pytest.mark.parametrize("channels", [{"hsi": 1, "sar": 1}, {"hsi": 31, "lidar": 7}, {"hsi": 13, "sar": 4, "dsm": 1}])
def test_two_or_more_modalities_can_have_any_number_of_channels(channels: dict[str, int]) -> None:
    model, inputs = small(channels).eval(), random_windows(channels, 3, 7)
    before = model(inputs)
    assert before.shape == (3, 4)
    for name in channels:
        changed = {**inputs, name: inputs[name].flip(0)}
        assert (model(changed) - before).abs().max() > 1e-4


def test_further_modalities_are_stacked_on_the_second() -> None:
    three, two = small({"hsi": 12, "sar": 2, "dsm": 1}).eval(), small().eval()
    two.load_state_dict(three.state_dict(), strict=True)
    inputs = random_windows(CHANNELS, 3, 7)
    parts = {"hsi": inputs["hsi"], "sar": inputs["sar"][:, :2], "dsm": inputs["sar"][:, 2:]}
    assert torch.equal(three(parts), two(inputs))


@pytest.mark.parametrize(("side", "layers"), [(7, 1), (8, 2)])
def test_every_parameter_gets_a_gradient(side: int, layers: int) -> None:
    model = small(side=side, layers=layers)
    torch.nn.functional.cross_entropy(model(random_windows(CHANNELS, 3, side)), torch.tensor([0, 1, 2])).backward()
    assert without_gradient(model) == []


@pytest.mark.parametrize(("layers", "count"), [(1, 346_992), (2, 542_942)])
def test_parameter_counts_match_the_documented_example(layers: int, count: int) -> None:
    model = MSFMamba({"hsi": 30, "sar": 4}, 11, 10, width=64, layers=layers, states=16, expand=0.75)
    assert sum(values.numel() for values in model.parameters()) == count
    if layers == 1:
        assert sum(values.numel() for values in model.head.parameters()) == 103_690


# The released layout


@torch.no_grad()
def test_the_spectral_block_equals_the_released_one() -> None:
    """A full linear map in place of a convolution, and the epsilons of both norms."""
    block = perturbed(SpectralBlock(6, states=4, expand=0.75))
    x = 0.01 * normal(2, 5, 2, 3, dtype=torch.float64)  # so small that the epsilons show
    expected = torch.stack([spectral(Part(weights(block)) / "block", window) for window in x])
    torch.testing.assert_close(block(x), expected)
    assert [name for name, _ in block.block.named_parameters() if "conv2d" in name] == ["conv2d.weight"]
    assert (block.block.norm.eps, block.block.out_norm.eps) == (1e-6, 1e-5)


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_the_released_network_equals_a_slow_one(layers: int) -> None:
    network = perturbed(ReleasedMSFMamba({"hsi": 10, "sar": 2}, 7, 3, layers=layers, states=2, expand=0.75))
    inputs = {name: x.double() for name, x in random_windows({"hsi": 10, "sar": 2}, 2, 7).items()}
    expected = [released_msfmamba(weights(network), layers, inputs["hsi"][i], inputs["sar"][i]) for i in range(2)]
    torch.testing.assert_close(network(inputs), torch.stack(expected))


@pytest.mark.parametrize(
    ("second", "classes", "layers", "states", "count"),
    [
        pytest.param(1, 15, 1, 16, 1_077_873, id="houston2013"),
        pytest.param(4, 7, 1, 8, 886_633, id="augsburg"),
        pytest.param(4, 8, 2, 16, 2_744_992, id="berlin"),
        pytest.param(1, 20, 2, 16, 2_969_068, id="houston2018"),
    ],
)
def test_the_released_layout_has_the_released_number_of_parameters(
    second: int, classes: int, layers: int, states: int, count: int
) -> None:
    sizes = {"layers": layers, "states": states, "expand": 0.75}
    with torch.device("meta"):
        network = ReleasedMSFMamba({"hsi": 30, "sar": second}, 11, classes, **sizes)
    assert sum(values.numel() for values in network.parameters()) == count


@pytest.mark.parametrize("channels", [{"hsi": 1, "sar": 1}, {"hsi": 3, "lidar": 1, "dsm": 1}])
def test_the_released_layout_accepts_few_components_and_trains_every_parameter(channels: dict[str, int]) -> None:
    network = ReleasedMSFMamba(channels, 7, 4, layers=2, states=2, expand=0.75)
    torch.nn.functional.cross_entropy(network(random_windows(channels, 3, 7)), torch.tensor([0, 1, 2])).backward()
    assert without_gradient(network) == []
