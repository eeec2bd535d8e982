"""Small settings, text files and slow references for the tests of ``clip``, ``diffclip`` and ``mae``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from helpers.method_helpers import make
from torch import Tensor
from torch.nn import functional as F

from mmrs_bench.methods.clip.prompts import class_prompts

STAGE_2 = {"components": None, "width": 8, "heads": 2, "depth": 1, "text_layers": 1, "epochs": 2}
STAGE_1 = {"decoder_depth": 1, "pretrain_epochs": 2, "pretrain_windows": 48, "pretrain_batch": 24}
BOTH_STAGES = {**STAGE_2, **STAGE_1}
SMALL: dict[str, dict[str, Any]] = {"clip": STAGE_2, "diffclip": BOTH_STAGES, "mae": BOTH_STAGES}
#: Three classes and their prompts.
NAMES = ("Road", "Water", "Apple trees")
TEMPLATE = "a photo of a {class}."
PROMPTS = class_prompts(NAMES, TEMPLATE, {"Road": ["asphalt seen from above", "a grey {class}"]})
#: Enough to separate classes with very different texts, such as those of `text_file`.
LEARNING = {"encoder_rate": 1.0, "width": 16, "epochs": 40, "learning_rate": 0.005}


def small_method(name: str, folder: Path, **options: Any) -> Any:
    """`method_helpers.make` with sizes that train in a fraction of a second."""
    return make(name, folder, **{**SMALL[name], **options})


def text_file(
    folder: Path,
    classes: Mapping[str, object] | None = None,
    *,
    array: np.ndarray | None = None,
    listed: object = tuple("abcdef"),
    **fields: object,
) -> str:
    """A ``precomputed:`` tower of six random vectors, by default for the classes of `method_helpers.small_data`."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = np.random.default_rng(0).normal(size=(6, 12)).astype(np.float32)
    np.save(folder / "vectors.npy", vectors if array is None else array, allow_pickle=True)
    (folder / "names.json").write_text(json.dumps(listed))
    classes = classes or {"class 1": "e", "class 2": ["a", "b"], "class 3": "f", "class 4": "d"}
    fields = {"vectors": "vectors.npy", "names": "names.json", "classes": classes, **fields}
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
