"""The Python examples of the methods' pages run."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.adm_reference import SMALL, random_state
from helpers.tiny import striped_map, tiny_scene, with_colours

from mmrs_bench.methods.unidiff import adm
from mmrs_bench.methods.unidiff.adm_checkpoint import checkpoint_file
from mmrs_bench.paths import REPOSITORY
from mmrs_bench.scenes.scene import Scene

#: In place of the public network.
TWELVE_BLOCKS = replace(SMALL, blocks=3, image_size=64)


def scene() -> Scene:
    """One tile of 64 pixels with a few hundred labels."""
    truth = striped_map(64, 64)
    truth[12:], truth[:, 48:] = 0, 0
    return with_colours(tiny_scene(truth, bands={"hsi": 12, "lidar": 2}))


#: Pages of networks, with one Python example each.
PAGES = (
    "bdgf",
    "coupled-cnn",
    "diffclip",
    "endnet",
    "exvit",
    "hct",
    "lds2ae",
    "mft",
    "mivit",
    "msfmamba",
    "s2enet",
    "unidiff",
)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.slow
def test_the_example_of_the_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPOSITORY / "docs" / "methods" / f"{page}.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    quick = {"fast_dev_run": True, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    monkeypatch.setattr(L, "Trainer", partial(L.Trainer, **quick))
    monkeypatch.setattr(adm, "ADM_64", TWELVE_BLOCKS)
    checkpoint_file().parent.mkdir(parents=True)
    torch.save(random_state(TWELVE_BLOCKS), checkpoint_file())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page, "scene": scene()}
    exec(re.sub('"(simulated|augsburg)"', "scene", example), names)  # noqa: S102 - our own page
    assert "test/OA" in names["trainer"].callback_metrics
