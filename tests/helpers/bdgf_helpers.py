"""Cheap settings for the tests of ``bdgf``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.method_helpers import make

from mmrs_bench.methods.bdgf.method import Bdgf
from mmrs_bench.methods.bdgf.modality_masking import MaskRatios
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
