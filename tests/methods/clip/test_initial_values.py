"""Initial values of the released code, against their formulas, for every parameter of both stages."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from helpers.network_helpers import same, weights
from torch import Tensor, nn

from mmrs_bench.models.masked_diffusion.initial_values import use_released_values
from mmrs_bench.models.masked_diffusion.transformer import ImageEncoder, MaskedDiffusionTransformer, TokenEncoder

CHANNELS = {"hsi": 63, "lidar": 2}
#: The released ones.
SIZES: dict[str, Any] = {"width": 128, "heads": 8, "depth": 4, "mlp_ratio": 2.0}


def seeded(released: bool, **options: Any) -> TokenEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        stage_2 = "readout" in options
        network = (ImageEncoder if stage_2 else MaskedDiffusionTransformer)(CHANNELS, 11, **SIZES, **options)
        if released:
            use_released_values(network)
    return network


def xavier(values: Tensor) -> float:
    """Largest value of a uniform distribution with variance 2 / (inputs + outputs)."""
    return float((6 / (values.shape[0] + values.shape[1])) ** 0.5)


def check(name: str, values: Tensor, networks: dict[str, Tensor]) -> None:
    """Compare the values of a parameter with those that the released code gives it."""
    layer, kind = name.rsplit(".", 1)
    if re.search(r"norm\d?$|\.norm$", layer):
        assert torch.equal(values, torch.full_like(values, kind == "weight")), name
    elif kind == "class_token":
        assert float(values.std()) == pytest.approx(0.02, rel=0.2), name
    elif kind == "mask_token" or (kind == "bias" and not re.search(r"stem|embed|output_projection\.2|head", layer)):
        assert not values.any(), name
    elif kind == "bias":  # of a 1 x 1 convolution, or the head: uniform up to 1 / sqrt(inputs)
        bound = networks[f"{layer}.weight"].shape[1] ** -0.5
        assert 0.9 * bound < float(values.abs().max()) <= bound or values.numel() < 9, name
        assert values.any(), name
    elif layer == "head":
        assert float(values.std()) == pytest.approx(2e-5, rel=0.05), name
    else:
        convolution = re.search(r"stem|output_projection\.2", layer)
        bound = values.shape[1] ** -0.5 if convolution else xavier(values)
        assert 0.97 * bound < float(values.abs().max()) <= bound, name
        assert float(values.std()) == pytest.approx(bound / 3**0.5, rel=0.1), name


@pytest.mark.parametrize("options", [{"decoder_depth": 3}, {"readout": "class"}], ids=["stage 1", "stage 2"])
def test_every_parameter_starts_as_in_the_released_code(options: dict[str, Any]) -> None:
    state = {name: values.detach() for name, values in seeded(True, **options).named_parameters()}
    for name, values in state.items():
        check(name, values, state)
    deviations = {
        "encoder.blocks.0.attention.in_proj": 0.0625,
        "tokenizers.hsi.time.linear_1": 0.072,
        **({"decoders.lidar.output_projection.1": 0.088} if "decoder_depth" in options else {}),
    }
    for layer, expected in deviations.items():
        assert float(state[f"{layer}.weight"].std()) == pytest.approx(expected, rel=0.02)


def test_other_readouts_keep_their_head_and_torch_values_do_not_change() -> None:
    plain, released = weights(seeded(False, readout="tokens")), weights(seeded(True, readout="tokens"))
    assert same(
        {"w": plain["head.weight"], "b": plain["head.bias"]}, {"w": released["head.weight"], "b": released["head.bias"]}
    )
    assert not torch.equal(plain["encoder.blocks.0.mlp.0.weight"], released["encoder.blocks.0.mlp.0.weight"])
    first = MaskedDiffusionTransformer(CHANNELS, 11, **SIZES, decoder_depth=1)
    assert all(bool(decoder.mask_token.any()) for decoder in first.decoders.values())
    assert isinstance(first.decoders["hsi"].output_projection[-1], nn.Linear)
