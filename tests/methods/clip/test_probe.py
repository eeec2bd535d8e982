"""The linear probe of DiffCLIP: its pretraining is that of diffclip, and its features are those of stage 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.clip_helpers import STAGE_1, small_method
from helpers.method_helpers import fitted, refused, small_data
from helpers.module_cases import saved
from helpers.network_helpers import random_windows

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.clip.config import Stage1Config
from mmrs_bench.methods.clip.pretraining import MaskedDiffusionPretrainer
from mmrs_bench.methods.clip.probe import EncoderProbe
from mmrs_bench.paths import cache_root

CHANNELS = {"hsi": 5, "lidar": 2}
SIZES: dict[str, Any] = {"width": 8, "heads": 2, "depth": 1}


@pytest.mark.parametrize("budget", ["smoke", "quick", "paper"])
def test_the_settings_of_the_pretraining_are_those_of_diffclip(budget: str) -> None:
    ours, theirs = (resolve_config(method_card(n), "default", budget) for n in ("diffclip-probe", "diffclip"))  # type: ignore[arg-type]
    for name in Stage1Config.model_fields:
        assert ours[name] == theirs[name], name


def test_diffclip_and_its_probe_share_one_pretraining(tmp_path: Path) -> None:
    data, sizes = small_data(5, window=5), {**SIZES, **STAGE_1, "components": 3}
    probe = fitted("diffclip-probe", tmp_path, data, **sizes)
    small_method("diffclip", tmp_path, **sizes).pretrain(data)
    assert len(list((cache_root() / "pretraining").glob("*.safetensors"))) == 1
    assert (probe.predict(data, data.query) == data.query_targets).mean() > 0.5


def test_features_are_those_of_the_pretrained_encoder_also_while_the_layer_is_trained(tmp_path: Path) -> None:
    stage_1 = MaskedDiffusionPretrainer(CHANNELS, 5, **SIZES, decoder_depth=1)
    windows = random_windows(CHANNELS, 6, 5)
    stage_1.train()
    stage_1.network.embed_pixels({n: x.flatten(2).transpose(1, 2) for n, x in windows.items()})  # changes statistics
    checkpoint = saved(stage_1, tmp_path / "stage1.ckpt")
    probe = EncoderProbe(CHANNELS, 4, 5, **SIZES, readout="tokens", pretrained=checkpoint).train()
    stage_1.eval()
    with torch.no_grad():
        expected = stage_1.features(windows)
    for _ in range(2):  # batch statistics would have changed
        found = probe.frozen_features(windows)
        assert not found.requires_grad
        torch.testing.assert_close(found, expected)


def test_a_stage_1_of_another_size_is_refused(tmp_path: Path) -> None:
    stage_1 = MaskedDiffusionPretrainer(CHANNELS, 5, **{**SIZES, "width": 16}, decoder_depth=1)
    with refused(ConfigError, "stage 1 was trained with other width"):
        EncoderProbe(CHANNELS, 4, 5, **SIZES, pretrained=saved(stage_1, tmp_path / "stage1.ckpt"))
