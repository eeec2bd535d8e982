"""Fixtures of the tests of CLIP and DiffCLIP."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tiny_clip import register_tiny_models, tiny_weights
from safetensors.torch import save_file


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint of a tiny CLIP, whose architecture is registered with open_clip."""
    register_tiny_models(tmp_path, monkeypatch)
    save_file(tiny_weights(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"
