"""Tiny CLIP models of open_clip with random weights, for tests that need a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from huggingface_hub import constants
from open_clip import factory
from torch import Tensor

TEXT_CONFIG = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "tiny-quickgelu": {"quick_gelu": True},
    "tiny-short": {"text_cfg": {**TEXT_CONFIG, "context_length": 64}},
    "tiny-deep": {"text_cfg": {**TEXT_CONFIG, "layers": 2}},
    "tiny-custom": {"custom_text": True},
    "tiny-hf": {"text_cfg": {"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base"}},
    "tiny-large-image": {"vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "patch_size": 4}},
}


def register_tiny_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Register tiny models with open_clip for one test, with an empty Hugging Face cache.

    Images are 8 x 8 pixels, embeddings 8 wide.
    """
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    vision = {"image_size": 8, "layers": 1, "width": 64, "patch_size": 4}
    configs = folder / "configs"
    configs.mkdir()
    for name, changes in CONFIGS.items():
        config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": TEXT_CONFIG, **changes}
        (configs / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(configs)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))


def tiny_network(model: str = "tiny", seed: int = 0) -> open_clip.CLIP:
    """A tiny model with random weights."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        network = open_clip.CLIP(**open_clip.get_model_config(model))  # type: ignore[arg-type]
        for parameter in network.parameters():  # large enough for GELU and QuickGELU to differ
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return network.eval()


def tiny_weights(model: str = "tiny", seed: int = 0) -> dict[str, Tensor]:
    """The weights of a `tiny_network`."""
    return tiny_network(model, seed).state_dict()


def in_the_hub_cache(repository: str, file: Path, name: str) -> Path:
    """Copy a checkpoint to the Hugging Face cache of a repository; returns its path."""
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    cached = folder / "snapshots" / "abc" / name
    cached.parent.mkdir(parents=True)
    shutil.copy(file, cached)
    return cached
