"""The guard makes a CUDA torchvision importable with a CPU torch, and does nothing if they match."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest
from helpers.new_process import in_new_process, run_python

from mmrs_bench import _torchvision_guard as guard

CPU_TORCH = "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n"
CUDA_TORCH = "__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\n"
CUDA_VISION = "__version__ = '0.28.0+cu130'\n"
CPU_VISION = "__version__ = '0.28.0+cpu'\n"


@pytest.mark.parametrize(
    ("torch_text", "vision_text"),
    [(CPU_TORCH, CPU_VISION), (CUDA_TORCH, CUDA_VISION), (CPU_TORCH, ""), ("", CUDA_VISION)],
)
def test_the_guard_is_needed_only_for_a_cpu_torch_with_a_cuda_torchvision(torch_text: str, vision_text: str) -> None:
    assert guard.needed(CPU_TORCH, CUDA_VISION)
    assert not guard.needed(torch_text, vision_text)


@pytest.mark.slow
def test_the_real_mismatch_fails_without_the_guard_and_works_with_it() -> None:
    if not guard.needed(guard._version_text("torch"), guard._version_text("torchvision")):
        pytest.skip("torch and torchvision match in this environment")
    # -S: without what set-up may have installed for each start of Python.
    bare = f"import sys; sys.path.append({sysconfig.get_path('purelib')!r}); import torchvision"
    assert "torchvision::nms does not exist" in run_python("-S", "-W", "ignore", "-c", bare).stderr
    code = "import mmrs_bench, torchvision, lightning; print(torchvision.__name__)"
    assert in_new_process(code) == "torchvision"


def test_importing_the_package_does_not_import_torch() -> None:
    assert in_new_process("import sys, mmrs_bench; print('torch' in sys.modules)") == "False"


def pretend(monkeypatch: pytest.MonkeyPatch, torch_text: str, vision_text: str) -> None:
    """Pretend that these versions are installed and torchvision is not imported."""
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(guard, "_version_text", {"torch": torch_text, "torchvision": vision_text}.__getitem__)


def test_no_import_hook_is_installed_if_the_versions_match(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, CPU_TORCH, CPU_VISION)
    before = list(sys.meta_path)
    assert guard.install() is False
    assert sys.meta_path == before


def test_the_import_hook_declares_the_schemas_once_and_removes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(guard, "declare_schemas", lambda: calls.append(1))
    pretend(monkeypatch, CPU_TORCH, CUDA_VISION)
    assert guard.install() is True
    finder = sys.meta_path[0]
    assert finder.find_spec("something_else", None) is None
    assert calls == []
    assert finder.find_spec("torchvision", None) is None
    assert calls == [1]
    assert finder not in sys.meta_path


def test_set_up_makes_lightning_importable_before_this_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, CPU_TORCH, CUDA_VISION)
    assert "makes them work together" in guard.install_at_startup(tmp_path)
    (file,) = tmp_path.iterdir()
    code = f"import site, sys; site.addsitedir({str(tmp_path)!r}); print('mmrs_bench' in sys.modules)"
    assert in_new_process(f"{code}; import lightning") == "True"
    pretend(monkeypatch, CPU_TORCH, CPU_VISION)
    assert guard.install_at_startup(tmp_path) == "torch and torchvision match"
    assert not file.exists()
