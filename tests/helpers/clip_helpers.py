"""Small settings, text files and slow references for the tests of ``clip`` and ``diffclip``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import numpy as np
import torch
import yaml
from helpers.method_helpers import make
from helpers.network_helpers import silent
from torch import Tensor
from torch.nn import functional as F

from mmrs_bench.methods.base import Method
from mmrs_bench.methods.clip.module import LanguageAlignedClassifier
from mmrs_bench.methods.clip.pretraining import MaskedDiffusionPretrainer

STAGE_2 = {"components": None, "width": 8, "heads": 2, "depth": 1, "text_layers": 1, "epochs": 2}
STAGE_1 = {"decoder_depth": 1, "pretrain_epochs": 2, "pretrain_windows": 48, "pretrain_batch": 24}
SMALL: dict[str, dict[str, Any]] = {"clip": STAGE_2, "diffclip": {**STAGE_2, **STAGE_1}}
#: Enough to separate classes with very different texts, such as those of `text_file`.
LEARNING = {"width": 16, "epochs": 40, "learning_rate": 0.005}
SIZES = {"width": 8, "heads": 2, "depth": 2}


def pretrainer(channels: Mapping[str, int], side: int, **options: Any) -> MaskedDiffusionPretrainer:
    """A small module of stage 1 that logs nothing."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        module = MaskedDiffusionPretrainer(dict(channels), side, **{**SIZES, "decoder_depth": 1, **options})
    silent(module)
    return module


def classifier(channels: Mapping[str, int], side: int, names: Sequence[str], **options: Any) -> Any:
    """A small module of stage 2 that logs nothing, with a head large enough for a difference to show in any readout."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        settings = {**SIZES, "text_layers": 1, "class_names": names, **options}
        module = LanguageAlignedClassifier(dict(channels), len(names), side, **settings)
        torch.nn.init.normal_(module.network.image.head.weight)
    silent(module)
    return module


def small_method(name: str, folder: Path, **options: Any) -> Method:
    """`method_helpers.make` with sizes that train in a fraction of a second."""
    return make(name, folder, **{**SMALL[name], **options})


def optimizer_of(module: L.LightningModule, epochs: int = 10) -> torch.optim.Optimizer:
    """The optimiser that a module configures for a trainer of some epochs."""
    module.trainer = cast(Any, SimpleNamespace(max_epochs=epochs))
    return cast(Any, module.configure_optimizers())["optimizer"]  # type: ignore[no-any-return]


def quiet_trainer(**options: Any) -> L.Trainer:
    """A trainer without logs, files and progress."""
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return L.Trainer(accelerator="cpu", **dict.fromkeys(off, False), **options)  # type: ignore[arg-type]


def saved(module: L.LightningModule, folder: Path) -> Path:
    """A checkpoint of a module."""
    trainer = quiet_trainer()
    trainer.strategy.connect(module)
    trainer.save_checkpoint(folder / "module.ckpt", weights_only=True)
    return folder / "module.ckpt"


def text_file(folder: Path, classes: Mapping[str, str | Sequence[str]] | None = None) -> str:
    """A ``precomputed:`` tower of six random vectors, by default for the classes of `method_helpers.small_data`."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = np.random.default_rng(0).normal(size=(6, 12)).astype(np.float32)
    np.save(folder / "vectors.npy", vectors)
    (folder / "names.json").write_text(json.dumps(list("abcdef")))
    mapping = classes or {"class 1": "e", "class 2": ["a", "b"], "class 3": "f", "class 4": "d"}
    fields = {"vectors": "vectors.npy", "names": "names.json", "classes": dict(mapping)}
    (folder / "text.yaml").write_text(yaml.safe_dump(fields))
    return f"precomputed:{folder / 'text.yaml'}"


def slow_crops(windows: Mapping[str, Tensor], crop: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Window after window: a coin for it, or for each of its modalities, decides on the enlargement of its centre."""
    batch = len(next(iter(windows.values())))
    coins = torch.rand(batch, generator=generator) < 0.5 if crop == "joint" else torch.zeros(batch, dtype=torch.bool)
    result = {name: images.clone() for name, images in windows.items()}
    for images in result.values():
        if crop == "independent":
            coins = torch.rand(batch, generator=generator) < 0.5
        for i in coins.nonzero().flatten():
            images[i] = F.interpolate(images[i][None, :, 1:-1, 1:-1], images.shape[-2:], mode="bilinear")[0]
    return result


def pixels_of(windows: Mapping[str, Tensor], at: int) -> dict[str, Tensor]:
    """The pixels (1, n, c) of one window, in raster order."""
    return {name: x[at].flatten(1).T[None] for name, x in windows.items()}
