"""Cheap settings for the tests of ``bdgf``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.method_helpers import make

from mmrs_bench.methods.bdgf.method import Bdgf, BdgfConfig

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


def settings(**changes: Any) -> BdgfConfig:
    """Settings at sizes that train in a fraction of a second."""
    return BdgfConfig.model_validate({**STAGE_1, **STAGE_2, **changes})


def cheap(folder: Path, name: str = "bdgf", **options: Any) -> Bdgf:
    """`method_helpers.make` at such sizes."""
    method = make(name, folder, **{**STAGE_1, **STAGE_2, **options})
    assert isinstance(method, Bdgf)
    return method
