"""A scene with pictures, cheap settings and a small backbone for the tests of ``unidiff`` and ``geodiffnet-f``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import striped_map, tiny_scene, with_colours

from mmrs_bench.config import DataConfig
from mmrs_bench.methods.unidiff import adaptation as unidiff_adaptation
from mmrs_bench.methods.unidiff import config as unidiff_config
from mmrs_bench.methods.unidiff.adm import AdmConfig
from mmrs_bench.methods.unidiff.adm_checkpoint import checkpoint_file, original_shapes
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import Scene

#: Stands for `ADM_TINY` or `ADM_64`: two levels, attention at the lower; 4 decoder blocks.
SMALL = AdmConfig(
    base_channels=32,
    multipliers=(1, 1),
    blocks=1,
    attention_resolutions=(8,),
    head_channels=32,
    classes=8,
    image_size=16,
    dropout=0.1,
)
#: Settings of stage A, at sizes that train in a fraction of a second.
STAGE_A: dict[str, Any] = {
    "backbone": "tiny",
    "tile": 16,
    "stride": 8,
    "lora_rank": 2,
    "adapt_epochs": 2,
    "epoch_steps": 2,
    "adapt_batch": 4,
    "adapt_rate": 0.01,
    "source_epochs": 1,
    "source_batch": 4,
    "source_rate": 0.01,
}
BANDS = {"hsi": 5, "sar": 2, "lidar": 2}


def small_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let backbone ``tiny`` be `SMALL`."""
    monkeypatch.setattr(unidiff_config, "ADM_TINY", SMALL)


def small_checkpoint(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let backbone ``imagenet`` be `SMALL`, and put random weights where its checkpoint is looked for."""
    for module in (unidiff_adaptation, unidiff_config):
        monkeypatch.setattr(module, "ADM_64", SMALL)
    generator = torch.Generator().manual_seed(0)
    state = {key: 0.1 * torch.randn(shape, generator=generator) for key, shape in original_shapes(SMALL).items()}
    checkpoint_file().parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, checkpoint_file())
    return checkpoint_file()


def picture_scene(bands: dict[str, int] | None = None, *, seed: int = 0, scene_id: str = "tiny") -> Scene:
    """A noisy scene of 36 x 40 pixels with 4 classes, whose HSI says which bands are colours."""
    return with_colours(tiny_scene(striped_map(36, 40), bands=bands or BANDS, seed=seed, scene_id=scene_id))


def picture_data(shots: int = 2, *, bands: dict[str, int] | None = None, **protocol: Any) -> SceneDataModule:
    """`picture_scene` under a protocol."""
    return SceneDataModule(picture_scene(bands), DataConfig(shots=shots, **protocol))
