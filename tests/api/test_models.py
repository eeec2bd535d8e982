"""``load_pretrained``, and the page about models."""

from __future__ import annotations

import re
import shlex
from glob import glob
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.stored_scene import store_scene

import mmrs_bench
from mmrs_bench.cli import main
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError, NotPretrainedError
from mmrs_bench.evaluation.cells import Suite, build_cells
from mmrs_bench.evaluation.run.runner import fit_cell
from mmrs_bench.paths import REPOSITORY


@pytest.mark.parametrize("method", ["diffclip", "bdgf", "unidiff-tiny"])
@pytest.mark.slow
def test_a_pretrained_module_is_that_of_the_runner(tmp_path: Path, method: str) -> None:
    manifest = store_scene(tmp_path / "scene")
    options: dict[str, Any] = {"scene": manifest, "budget": "smoke", "progress": False}
    with pytest.raises(NotPretrainedError, match=rf"make it with load_pretrained.*mmrs-bench run .*--methods {method}"):
        mmrs_bench.load_pretrained(method, **options)
    (cell,) = build_cells(Suite.of({"datasets": manifest, "methods": method, "draws": 1, "budget": "smoke"}))
    fitted = fit_cell(cell, ExecutionConfig(), tmp_path / "results", lambda stage, done: None)
    entries = sorted((tmp_path / "cache-root" / "pretraining").glob("*.safetensors"))
    module = mmrs_bench.load_pretrained(method, **options)
    again = mmrs_bench.load_pretrained(method, **options, train=True)
    assert sorted((tmp_path / "cache-root" / "pretraining").glob("*.safetensors")) == entries
    for name, tensor in fitted.method.pretrained.state_dict().items():
        assert torch.equal(tensor, module.state_dict()[name])
        assert torch.equal(tensor, again.state_dict()[name])
    assert not module.training


def test_what_has_no_pretraining_is_refused() -> None:
    with pytest.raises(ConfigError, match="cnn does not pretrain"):
        mmrs_bench.load_pretrained("cnn")
    with pytest.raises(ConfigError, match="draws: load_pretrained loads one module"):
        mmrs_bench.load_pretrained("diffclip", draws=3)


@pytest.mark.slow
def test_the_commands_and_the_code_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (REPOSITORY / "docs" / "models.md").read_text()
    scope: dict[str, Any] = {}
    for language, block in re.findall(r"```(bash|python)\n(.*?)```", text, re.DOTALL):
        if language == "python":
            exec(block, scope)  # noqa: S102 - our own page
            continue
        for line in block.splitlines():
            parts = shlex.split(line.replace("/NAME", "/*"))
            words = [word for part in parts for word in (sorted(glob(part)) or [part])]
            assert main(words[1:]) == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"map.npy", "map.png", "cnn.ckpt"}
    assert scope["features"].ndim == 2
