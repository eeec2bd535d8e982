"""Provenance: commit, state, versions, memory, time."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from helpers.git_checkout import git, make_checkout
from helpers.new_process import in_new_process

from mmrs_bench.evaluation.results import provenance as module
from mmrs_bench.evaluation.results.provenance import (
    GitState,
    git_state,
    measured,
    package_versions,
    peak_memory_mib,
    provenance,
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path)


def test_a_clean_and_a_dirty_checkout(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout) == GitState(commit, False)
    (checkout / "results").mkdir()
    (checkout / "results" / "record.json").write_text("{}")
    assert git_state(checkout) == GitState(commit, False), "ignored files do not count"
    (checkout / "code.py").write_text("x = 2\n")
    assert git_state(checkout) == GitState(commit, True)
    git(checkout, "checkout", "code.py")
    (checkout / "demo").mkdir()
    (checkout / "demo" / "map.png").write_text("")
    assert git_state(checkout) == GitState(commit, False), "results beside the code do not count"
    (checkout / "mmrs_bench").mkdir()
    (checkout / "mmrs_bench" / "method.py").write_text("")
    assert git_state(checkout) == GitState(commit, True), "a new file among the code counts"


def test_outside_a_checkout_there_is_no_state(tmp_path: Path, checkout: Path) -> None:
    assert git_state(tmp_path) == GitState(None, None)
    assert git_state(tmp_path / "absent") == GitState(None, None)
    inside = checkout / "site-packages"
    inside.mkdir()
    assert git_state(inside) == GitState(None, None), "the state of another repository"


def test_an_installed_package_has_no_state_wherever_it_is_used(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    assert git_state(None) == GitState(None, None)
    monkeypatch.setenv("GIT_DIR", str(checkout / ".git"))  # as inside a git hook
    assert git_state(None) == git_state(tmp_path) == GitState(None, None)
    assert git_state(checkout).commit == git(checkout, "rev-parse", "HEAD")


def test_without_git_there_is_no_state(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_state(checkout) == GitState(None, None)


def test_versions_are_read_without_imports() -> None:
    found = package_versions()
    assert found["numpy"] == version("numpy") == np.__version__
    assert {"diffusers", "open_clip_torch", "peft"} <= set(found) <= set(module.PACKAGES)
    code = (
        "import sys; from mmrs_bench.evaluation.results.provenance import provenance; "
        "p = provenance(); print('torch' in p.packages, 'torch' in sys.modules)"
    )
    assert in_new_process(code) == "True False"


def test_provenance_is_determined_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    first = provenance()
    monkeypatch.setattr(module, "git_state", lambda: pytest.fail("second call"))
    assert provenance() is first
    assert first.python == ".".join(map(str, sys.version_info[:3]))


def test_peak_memory_is_in_mib_and_does_not_fall() -> None:
    # In a new process, because the peak of this one includes all earlier tests.
    code = (
        "import numpy as np; from mmrs_bench.evaluation.results.provenance import peak_memory_mib as peak; "
        "before = peak(); block = np.ones(200 * 2**20, np.uint8); after = peak(); del block; "
        "print(before, after, peak())"
    )
    before, after, later = map(float, in_new_process(code).split())
    assert 10 < before < 500
    assert 150 < after - before < 250
    assert later >= after - 1  # the kernel's count is not exact
    assert peak_memory_mib() > 10


def test_measurements_contain_seconds_and_host() -> None:
    found = measured({"fit": 1.5})
    assert found.seconds == {"fit": 1.5}
    assert found.host
