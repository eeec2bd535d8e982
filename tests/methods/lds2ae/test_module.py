"""LDS2AE: the loss of stage 1 against a loop, the number of parameters, both stages together, and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.lds2ae_reference import slow_cross_loss
from helpers.method_helpers import fitted, make, refused, small_data
from helpers.network_helpers import random_windows, silent, without_gradient

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.lds2ae.module import SharedEncoderClassifier
from mmrs_bench.methods.lds2ae.pretraining import SharedSpecificPretrainer

pytestmark = pytest.mark.usefixtures("same_start")
THREE = {"hsi": 4, "lidar": 1, "sar": 2}
TINY: dict[str, Any] = {"width": 8, "heads": 2, "depth": 1}
BRIEF: dict[str, Any] = {"pretrain_epochs": 1, "pretrain_windows": 64, "epochs": 2}


def pretrainer(**options: Any) -> SharedSpecificPretrainer:
    module = SharedSpecificPretrainer(THREE, 5, **{**TINY, "decoder_depth": 1, "crop": "none", "seed": 3, **options})
    silent(module)
    return module


@pytest.mark.parametrize("options", [{}, {"cross_weight": 0.7, "masked_weight": 0.4, "mask_ratio": 0.5}])
@torch.no_grad()
def test_the_loss_of_stage_1_equals_that_of_a_loop(options: dict[str, Any]) -> None:
    module, windows = pretrainer(**options).eval(), random_windows(THREE, 3, 5)
    expected = slow_cross_loss(module, windows, 3, 0, 9)
    assert float(module.training_step({"windows": windows}, 9)) == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_without_cross_weight_it_is_the_loss_of_masked_diffusion_alone() -> None:
    windows = random_windows(THREE, 3, 5)
    alone, crossed = pretrainer(cross_weight=0.0).eval(), pretrainer().eval()
    crossed.load_state_dict(alone.state_dict())
    difference = crossed.training_step({"windows": windows}, 9) - alone.training_step({"windows": windows}, 9)
    assert difference > 0.1
    assert float(alone.training_step({"windows": windows}, 9)) == pytest.approx(
        slow_cross_loss(alone, windows, 3, 0, 9)
    )


def test_both_stages_train_every_parameter() -> None:
    stage_1 = pretrainer()
    stage_1.training_step({"windows": random_windows(THREE, 3, 5)}, 0).backward()
    assert without_gradient(stage_1) == []
    stage_2 = SharedEncoderClassifier(THREE, 4, 5, **TINY, learn_positions=True)
    silent(stage_2)
    stage_2.training_step({"windows": random_windows(THREE, 3, 5), "target": torch.arange(3)}, 0).backward()
    assert set(without_gradient(stage_2)) <= {f"network.tokenizers.{name}.class_position" for name in THREE}


def test_the_released_classifier_for_houston_2013_has_this_number_of_parameters() -> None:
    """Counted layer by layer, without the second encoder that the released code builds and never applies."""

    def linear(inputs: int, outputs: int) -> int:
        return (inputs + 1) * outputs

    stems = sum(linear(count, 128) + linear(128, 128) + 2 * 256 for count in (144, 1))
    tokens = 2 * (linear(128, 128) + 128 + 122 * 128 + linear(256, 128) + linear(128, 128))
    block = 2 * 256 + linear(128, 384) + linear(128, 128) + linear(128, 256) + linear(256, 128)
    with torch.device("meta"):
        module = SharedEncoderClassifier({"hsi": 144, "lidar": 1}, 15, learn_positions=True, readout="class")
    total = stems + tokens + 4 * block + 256 + linear(256, 15)
    assert sum(values.numel() for values in module.parameters()) == total == 750_223


def test_stage_2_starts_from_the_encoder_of_stage_1(tmp_path: Path) -> None:
    data = small_data(2, window=5)
    method = make("lds2ae", tmp_path, **BRIEF)
    method.pretrain(data)
    method.create(method.inputs(data))
    trained, copied = method.pretrained.network.state_dict(), method.module.network.state_dict()
    shared = {name for name in trained if not name.startswith("decoders.")}
    assert shared == {name for name in copied if not name.startswith("head.")}
    assert all(torch.equal(trained[name], copied[name]) for name in shared)
    with refused(ConfigError, "^stage 1 was trained with other width "):
        SharedEncoderClassifier(data.channels, 4, 5, width=12, heads=2, depth=1).take_encoder(method.pretrained)


def test_draws_share_a_pretraining_of_unlabelled_windows_and_release_has_one_for_each_support(tmp_path: Path) -> None:
    states = {}
    for source in ("unlabelled", "support"):
        for draw in (0, 1):
            other = small_data(2, window=5, draw=draw)
            method = fitted("lds2ae", tmp_path, other, draw=draw, **BRIEF, pretrain_source=source)
            states[source, draw] = method.pretrained.network.encoder.norm.weight
    assert torch.equal(states["unlabelled", 0], states["unlabelled", 1])
    assert not torch.equal(states["support", 0], states["support", 1])


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with refused(ConfigError, "^cross_weight is -1"):
        pretrainer(cross_weight=-1)
    with refused(ConfigError, "heads"):
        make("lds2ae", tmp_path, heads=3)


def test_the_variant_release_has_the_released_settings() -> None:
    config = resolve_config(method_card("lds2ae"), "release", "paper")
    released = {"epochs": 141, "batch_size": 1024, "learning_rate": 0.001, "weight_decay": 1e-4, "width": 128}
    released |= {"pretrain_epochs": 401, "pretrain_batch": 1024, "pretrain_rate": 0.001, "mask_ratio": 0.7, "heads": 8}
    released |= {"depth": 4, "decoder_depth": 3, "mlp_ratio": 2.0, "readout": "class", "masked_weight": 0.1}
    assert {name: config[name] for name in released} == released
