"""ADM against a slow reference under guided-diffusion's names, and networks that share weights."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers.adm_reference import DENSE, PLAIN, SMALL, UsedState, random_state, reference
from torch import Tensor

from mmrs_bench.methods.unidiff.adm import ADM_64, ADM_TINY, AdmConfig, adm_with_weights, build_adm, zero_last_layers
from mmrs_bench.methods.unidiff.adm_checkpoint import convert_adm, original_shapes


def noise(n: int) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("config", [SMALL, PLAIN, DENSE], ids=["small", "plain", "dense"])
@torch.no_grad()
def test_the_converted_network_equals_the_original(config: AdmConfig) -> None:
    """The reference uses every tensor by its published name, so the names and shapes are right too."""
    state = UsedState(random_state(config))
    unet = adm_with_weights(config, convert_adm(random_state(config), config))
    x = noise(4)
    outputs = []
    for steps, labels in (([0, 1, 300, 999], [0, 3, 3, 6]), ([999, 500, 20, 0], [6, 0, 1, 2])):
        t, y = torch.tensor(steps), torch.tensor(labels)
        expected, _ = reference(state, config, x, t, y)
        assert state.used == state.keys()
        found = unet(x, t, class_labels=y).sample
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        outputs.append(found)
    assert 0.1 < float(outputs[0].std()) < 10, "the tolerance has no meaning"
    assert (outputs[0] - outputs[1]).abs().amax(dim=(1, 2, 3)).min() > 0.05, "time and class have no effect"


@pytest.mark.parametrize(("config", "count"), [(ADM_64, 295_904_454), (ADM_TINY, 6_340_486)])
def test_the_network_and_the_original_have_the_stated_parameters(config: AdmConfig, count: int) -> None:
    with torch.device("meta"):
        unet = build_adm(config)
    assert sum(parameter.numel() for parameter in unet.parameters()) == count
    assert sum(math.prod(shape) for shape in original_shapes(config).values()) == count
    # A wrong epsilon is too small a difference for the comparison of outputs, which are without dropout.
    assert {module.eps for module in unet.modules() if isinstance(module, torch.nn.GroupNorm)} == {1e-5}
    assert {module.p for module in unet.modules() if isinstance(module, torch.nn.Dropout)} == {0.0, config.dropout}


def test_half_precision_is_converted_to_single() -> None:
    state = {key: tensor.half() for key, tensor in random_state(DENSE).items()}
    converted = convert_adm(state, DENSE)
    assert {tensor.dtype for tensor in converted.values()} == {torch.float32}
    assert torch.equal(converted["conv_in.weight"], state["input_blocks.0.0.weight"].float())


@torch.no_grad()
def test_dropout_acts_in_training_mode_only() -> None:
    unet, x, t = build_adm(replace(DENSE, dropout=0.5)), noise(1), torch.tensor([3])
    for training in (True, False):
        unet.train(training)
        once, again = (unet(x, t, class_labels=t).sample for _ in range(2))
        assert torch.equal(once, again) != training


@torch.no_grad()
def test_zeroed_last_layers_make_every_branch_zero() -> None:
    unet = build_adm(DENSE).eval()
    zero_last_layers(unet)
    residual, attention = unet.down_blocks[1].resnets[0], unet.down_blocks[1].attentions[0]
    h, t = torch.randn(1, 64, 8, 8), torch.tensor([3])
    assert torch.equal(attention(h), h)
    narrow = torch.randn(1, 32, 8, 8)
    assert torch.equal(residual(narrow, torch.randn(1, 128)), residual.conv_shortcut(narrow))
    assert not unet(torch.randn(1, 3, 16, 16), t, class_labels=t).sample.any()
    zeros = [name for name, p in unet.named_parameters() if name.endswith("weight") and not p.any()]
    assert len(zeros) == 1 + 10 + 7, "the output, 10 residual and 7 attention blocks"


def test_foreign_weights_are_refused() -> None:
    weights = convert_adm(random_state(DENSE), DENSE)
    with pytest.raises(ValueError, match="names or shapes"):
        adm_with_weights(SMALL, weights)
