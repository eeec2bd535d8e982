"""Scripts in ``benchmarks/studies`` that make scenes and committed tables."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmrs_bench.errors import ConfigError
from mmrs_bench.paths import REPOSITORY
from mmrs_bench.scenes.catalogue import load_scene

STUDIES = REPOSITORY / "benchmarks" / "studies"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STUDIES)


def test_a_coarse_scene_has_the_means_and_majorities_of_squares(tmp_path: Path, printed: Callable[..., str]) -> None:
    import_module("coarse_scene").main("simulated", 6, tmp_path, least=20)
    manifest = tmp_path / "simulated-x6.yaml"
    printed("data", "fetch", manifest, "--from", tmp_path)
    coarse, fine = load_scene(str(manifest)), load_scene("simulated")
    assert (coarse.height, coarse.width) == (128 // 6, 160 // 6)
    assert coarse.manifest.title.startswith("SIMULATED: ")
    names = {c.name for c in coarse.manifest.classes}
    assert 2 < len(names) < len(fine.manifest.classes), "this factor leaves few labels to some classes"
    for y in range(coarse.height):
        for x in range(coarse.width):
            square = np.s_[6 * y : 6 * y + 6, 6 * x : 6 * x + 6]
            for name, image in fine.images.items():
                assert_allclose(coarse.images[name][y, x], image[square].mean(axis=(0, 1), dtype=np.float64), rtol=1e-6)
            counts = np.bincount(fine.ground_truth[square].ravel(), minlength=11)[1:]
            major = fine.manifest.classes[counts.argmax()].name if counts.max() > 18 else ""
            label = coarse.ground_truth[y, x]
            assert (coarse.manifest.classes[label - 1].name if label else "") == (major if major in names else "")


@pytest.mark.parametrize(
    ("factor", "message"),
    [(1, "from 2 to the scene's 128"), (129, "from 2 to"), (40, r"leaves \d classes with at least 15")],
)
def test_a_scene_that_would_have_no_classes_is_refused(factor: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        import_module("coarse_scene").main("simulated", factor, tmp_path)
    assert not list(tmp_path.glob("*.yaml"))


def test_a_committed_table_states_its_command_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = import_module("committed")
    monkeypatch.setattr(committed, "STUDIES", tmp_path)
    monkeypatch.setattr(sys, "argv", ["somewhere/pairs.py", "--shots", "[2, 5]"])
    committed.write_table("pairs", ["| a |", "|---|", "| 1 |"], simulated=True)
    table, caption = (tmp_path / "pairs.md").read_text().split("\n\n")
    assert table == "| a |\n|---|\n| 1 |"
    command = re.escape("`python benchmarks/studies/pairs.py --shots '[2, 5]'`")
    assert re.fullmatch(rf"SIMULATED\. {command}; code \w+.*; .+, torch .+; \d{{4}}-\d\d-\d\d\.\n", caption)


@pytest.mark.parametrize("script", ["bdgf_balance", "unidiff_drift"])
def test_tables_of_committed_numbers_are_up_to_date(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(import_module("committed"), "STUDIES", tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "tables"])
    import_module(script).tables()
    written = sorted(tmp_path.glob("*.md"))
    assert written
    for path in written:
        assert path.read_text() == (REPOSITORY / "benchmarks" / "results" / "studies" / path.name).read_text()
