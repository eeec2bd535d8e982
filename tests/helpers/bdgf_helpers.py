"""Cheap settings for the tests of ``bdgf``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from helpers.method_helpers import make
from helpers.network_helpers import silent

from mmrs_bench.methods.bdgf.method import Bdgf
from mmrs_bench.methods.bdgf.modality_masking import MaskRatios
from mmrs_bench.methods.bdgf.pretraining_module import MultimodalPretrainer
from mmrs_bench.randomness import SampleRandom

SIDE = 5
STAGE_1 = {
    "base": 4,
    "multipliers": (1, 2),
    "blocks": 1,
    "mask_patch": 2,
    "mask_warmup": 1,
    "mask_every": 1,
    "pretrain_epochs": 2,
    "pretrain_windows": 48,
    "pretrain_batch": 24,
}
STAGE_2 = {
    "components": None,
    "timesteps": (50,),
    "width": 8,
    "unlabelled_windows": 3,
    "unlabelled_pool": 12,
    "epochs": 2,
}
RATIOS = {"least": 0.0, "most": 0.75, "temperature": 0.1, "decay": 0.99, "warmup": 100, "every": 100}


def cheap(folder: Path, name: str = "bdgf", **options: Any) -> Bdgf:
    """`method_helpers.make` with such sizes."""
    method = make(name, folder, **{**STAGE_1, **STAGE_2, **options})
    assert isinstance(method, Bdgf)
    return method


def mask_ratios(channels: dict[str, int], rule: Any = "adaptive", **changes: Any) -> MaskRatios:
    """Mask ratios with the settings `RATIOS`, some of them changed."""
    return MaskRatios(channels, rule, **{**RATIOS, **changes})


def random(seed: int = 0) -> SampleRandom:
    """A stream of random numbers."""
    return SampleRandom("test", seed)


#: Channels, windows and seed of `pretrainer` in the tests of stage 1.
CHANNELS = {"hsi": 5, "sar": 4}
BATCH, SEED = 4, 3


def pretrainer(seed: int = SEED, **changes: Any) -> MultimodalPretrainer:
    """The module of stage 1 with cheap settings, random mask tokens and no logs."""
    options = {name: value for name, value in {**STAGE_1, **changes}.items() if not name.startswith("pretrain_")}
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        made = MultimodalPretrainer(CHANNELS, SIDE, seed=seed, **options)
        for token in made.tokens.tokens.values():
            torch.nn.init.normal_(token)
    silent(made)
    return made
