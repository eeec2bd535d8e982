"""``doctor``: it passes on this machine, finds defects, and names what is absent with its remedy."""

from __future__ import annotations

import io
import itertools
import json
import re
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.module_cases import CASES

from mmrs_bench import _torchvision_guard as guard
from mmrs_bench.cli import main
from mmrs_bench.doctor import diagnosis, machine, selftest, timing
from mmrs_bench.doctor.modules import TINY_MODULES, tiny_batch
from mmrs_bench.methods.cnn.module import CnnModule
from mmrs_bench.plugins import EXTRAS, install_command
from mmrs_bench.scenes.windows import WindowGatherer

CNN = next(tiny for tiny in TINY_MODULES if tiny.name == "CnnModule")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, dict[str, Any]]:
    """Exit status, output and JSON of a whole run."""
    file, text = tmp_path_factory.mktemp("doctor") / "found.json", io.StringIO()
    with redirect_stdout(text):
        status = main(["doctor", "--device", "cpu", "--no-timing", "--json", str(file)])
    return status, text.getvalue(), json.loads(file.read_text())


def test_every_module_passes_on_a_cpu(run: tuple[int, str, dict[str, Any]]) -> None:
    status, text, found = run
    assert status == 0
    assert "all is well: every check passed" in text
    assert found["failures"] == []
    for row, tiny in zip(found["modules"], TINY_MODULES, strict=True):
        assert row == {"module": tiny.name, "title": tiny.title, "step": "ok", "again": "ok", "bf16": "ok"}
    assert all(float(row["difference"]) < 1e-5 for row in found["kernels"])


def test_the_file_holds_what_is_shown(run: tuple[int, str, dict[str, Any]]) -> None:
    _, text, found = run
    parts = {"machine", "packages", "devices", "files", "modules", "kernels", "notes", "failures"}
    assert set(found) == parts, "--no-timing leaves out the times"
    assert {row["item"]: row["value"] for row in found["machine"]}["device of the self-tests"] == "cpu"
    for part in ("Machine", "Packages", "Devices", "Files", "Self-test of modules on cpu"):
        assert re.search(rf"^{part}$", text, re.MULTILINE)
    packages = {row["package"]: row["version"] for row in found["packages"]}
    assert packages["torch"] == torch.__version__
    assert {row["name"]: row["command"] for row in found["files"]}["trento"] in (None, "mmrs-bench data fetch trento")


def test_the_table_holds_every_module_of_the_suite() -> None:
    assert {tiny.module_class() for tiny in TINY_MODULES} == {case.module for case in CASES}


def test_a_broken_module_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no kernel\nfor this device")

    monkeypatch.setattr(selftest, "TINY_MODULES", (CNN,))
    monkeypatch.setattr(CnnModule, "training_step", broken)
    assert main(["doctor", "--device", "cpu", "--no-timing"]) == 1
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("FAILED")]
    assert failed == ["FAILED  CnnModule (CNN): one step: raised RuntimeError: no kernel for this device"]
    assert lines[-1] == "1 check failed"


def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Failures of the self-test of the CNN."""
    monkeypatch.setattr(selftest, "TINY_MODULES", (CNN,))
    return selftest.check_modules("cpu", tmp_path).failures


def test_a_step_that_differs_when_repeated_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, counter = CnnModule.training_step, itertools.count(1)
    monkeypatch.setattr(CnnModule, "training_step", lambda *given: step(*given) * next(counter))
    (fault,) = faults(tmp_path, monkeypatch)
    assert re.match(r"CnnModule \(CNN\): the step repeated: \d+ tensors differ, such as network", fault)


def test_a_loss_that_is_not_finite_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = CnnModule.training_step
    monkeypatch.setattr(CnnModule, "training_step", lambda *given: step(*given) * float("nan"))
    (fault,) = faults(tmp_path, monkeypatch)
    assert "loss is nan" in fault


@pytest.mark.parametrize("tiny", TINY_MODULES, ids=lambda tiny: tiny.title)
def test_outputs_and_gradients_are_compared(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here with the CPU itself, once undisturbed and once with another input for the second device."""
    trial = selftest._Trial(tiny, "cpu", tmp_path)
    assert (trial._difference(0), trial._difference(1)) == (0, 0)
    batches = iter((tiny_batch(), reversed_samples(tiny_batch())))
    monkeypatch.setattr(selftest, "tiny_batch", lambda: next(batches))
    trial = selftest._Trial(tiny, "cpu", tmp_path)
    assert min(trial._difference(0), trial._difference(1)) > selftest.LIMIT


def reversed_samples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: reversed_samples(part) for name, part in value.items()}
    return value.flip(0) if value.is_floating_point() else value


def test_a_wrong_kernel_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    scan, attend, gather = selftest.selective_scan, selftest.attend, WindowGatherer.gather
    monkeypatch.setattr(
        selftest, "selective_scan", lambda u, *others, reverse: scan(u, *others, reverse=reverse) + 0.01 * u
    )
    monkeypatch.setattr(selftest, "attend", lambda packed, heads, bias: attend(packed, heads, 0.9 * bias))
    monkeypatch.setattr(WindowGatherer, "gather", lambda gatherer, pixels: gather(gatherer, pixels.roll(1)))
    failures = selftest.check_kernels("cpu").failures
    assert [failure.partition(" on cpu: ")[0].partition(" (")[0] for failure in failures] == [
        "selective scan",
        "selective scan in float64",
        "attention",
        "windows",
    ]
    assert all("the difference is" in failure for failure in failures)


def test_absent_extras_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda package: None)
    rows = {row["package"]: row["state"] for row in machine.packages().table.rows}
    assert rows["torchvision"] == "absent; not needed"
    for package, extra in EXTRAS.items():
        assert rows[package.replace("_", "-")] == f"absent; {install_command(extra)}"


@pytest.mark.parametrize(
    ("mismatched", "installed", "state", "note"),
    [
        (False, False, "matches torch", ""),
        (True, True, "made to work at each start of Python", ""),
        (True, False, "works because mmrs_bench is imported first", "or run make setup"),
    ],
)
def test_a_torchvision_for_cuda_is_recognised(
    mismatched: bool, installed: bool, state: str, note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "guard.pth"
    if installed:
        file.touch()
    monkeypatch.setattr(guard, "mismatched", lambda: mismatched)
    monkeypatch.setattr(guard, "startup_file", lambda folder: file)
    monkeypatch.setattr(machine, "import_module", lambda name: None)
    part = machine.packages()
    found = {row["package"]: row["state"] for row in part.table.rows}["torchvision"]
    assert str(found).endswith(state)
    assert len(part.notes) == bool(note)
    assert all(line.endswith(note) for line in part.notes)


def test_little_memory_and_disk_is_noted_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.machine("cpu", tmp_path / "new").notes == ()
    monkeypatch.setattr(machine, "LEAST_MEMORY", 1 << 60)
    monkeypatch.setattr(machine, "LEAST_DISK", 1 << 60)
    memory, *disks = machine.machine("cpu", tmp_path / "new").notes
    assert memory.endswith("of memory are free; use fewer --workers, or end other programs")
    remedies = ("MMRS_BENCH_CACHE", "--results", "TMPDIR")
    assert all(line.endswith(remedy) for line, remedy in zip(disks, remedies, strict=True))


def test_a_gpu_without_a_cuda_build_of_torch_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n")
    monkeypatch.setattr(machine, "_DRIVER", driver)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine._driver() == "535.104.05"
    assert "install a CUDA build of torch" in machine.devices().notes[-1]


def test_a_gpu_without_its_kernel_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    card = SimpleNamespace(name="NVIDIA H200", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (1 << 30, 3 << 29))
    monkeypatch.setattr(machine, "scan_backend", lambda device: "numba" if device == "cpu" else "torch")
    monkeypatch.setattr(machine, "find_spec", lambda package: None)
    part = machine.devices()
    assert part.table.texts(part.table.rows[1])[:3] == ["cuda:0", "NVIDIA H200, capability 9.0", "1.0 GiB of 1.5 GiB"]
    (note,) = part.notes
    assert note.endswith(f"install it with: {install_command('cuda')}")


def test_a_gpu_that_computes_other_numbers_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "TINY_MODULES", (CNN,))
    monkeypatch.setattr(selftest._Trial, "_trained", lambda *_: {})
    monkeypatch.setattr(selftest._Trial, "_difference", lambda _, number: 1e-5 if number == 0 else 0.002)
    part = selftest.check_modules("cuda", tmp_path)
    assert part.failures == ("CnnModule (CNN): gradient: the difference is 0.002, expected at most 0.001",)
    assert part.table.texts(part.table.rows[0])[2:] == ["ok", "ok", "ok", "1.0e-05", "FAILED"]


def test_cuda_is_refused_where_there_is_none(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["doctor", "--device", "cuda"]) == 2
    assert "--device cuda: torch" in capsys.readouterr().err


def test_a_defect_in_a_part_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("no steps")

    monkeypatch.setattr(selftest, "TINY_MODULES", ())
    monkeypatch.setattr(diagnosis, "time_paths", broken)
    *_, last = diagnosis.diagnose("cpu", tmp_path)
    assert last.failures == ("timing: ZeroDivisionError: no steps",)


def test_every_hot_path_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that advances by one second each time it is read."""
    monkeypatch.setattr(timing, "PIXELS", timing.PIXELS[:4])
    monkeypatch.setattr(timing, "BATCH", {"cpu": 2})
    monkeypatch.setattr(timing, "STEPS", {"cpu": 1})
    monkeypatch.setattr(timing, "PRECISIONS", ("32-true",))
    monkeypatch.setattr(timing, "perf_counter", itertools.count().__next__)
    rows = {str(row["path"]): row for row in timing.time_paths("cpu", tmp_path).table.rows}
    found = {path.split(" (")[0]: (row["count"], row["milliseconds"], row["rate"]) for path, row in rows.items()}
    assert found == {
        "windows": (128, 1000, 128),
        "selective scan": (64, 1000, 64),
        "DiffCLIP stage 1, step": (2, 1000, 2),
        "BDGF stage 1, step": (2, 1000, 2),
        "MSFMamba, step": (2, 1000, 2),
        "CNN, scene": (4, 1000, 4),
        "DiffCLIP, scene": (4, 1000, 4),
    }
