"""What this machine has: processor, memory, disks, packages, GPUs."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from mmrs_bench import _torchvision_guard as guard
from mmrs_bench.config import usable_cores
from mmrs_bench.doctor.part import GIB, Part, make_table, size_text
from mmrs_bench.evaluation.report.tables import Column, Value
from mmrs_bench.evaluation.results.provenance import git_state
from mmrs_bench.models.selective_scan import scan_backend
from mmrs_bench.paths import cache_root
from mmrs_bench.plugins import EXTRAS, install_command
from mmrs_bench.version import __version__

#: Less memory or disk than this is reported.
LEAST_MEMORY, LEAST_DISK = 2 * GIB, 5 * GIB
_DRIVER = Path("/proc/driver/nvidia/version")

Row = dict[str, Value]


def machine(device: str, results: Path) -> Part:
    """Processor, memory, and the disks of cache, results and temporary files.

    Args:
        device: Device of the self-tests.
        results: Folder of the records.
    """
    memory, notes = _free_memory(), []
    rows: list[Row] = [
        {"item": "device of the self-tests", "value": device},
        {"item": "system", "value": platform.platform()},
        {"item": "processor", "value": processor()},
        {"item": "cores", "value": f"{usable_cores()} usable of {os.cpu_count() or 1}", "number": usable_cores()},
        {"item": "free memory", "value": size_text(memory), "number": memory},
    ]
    if memory is not None and memory < LEAST_MEMORY:
        notes.append(f"only {size_text(memory)} of memory are free; use fewer --workers, or end other programs")
    folders = {"cache": cache_root(), "results": results, "temporary files": Path(tempfile.gettempdir())}
    for name, folder in folders.items():
        above = _existing(folder)
        free = shutil.disk_usage(above).free
        rows.append({"item": f"free disk, {name}", "value": f"{size_text(free)} at {folder}", "number": free})
        if free < LEAST_DISK:
            notes.append(
                f"only {size_text(free)} are free for {name} at {folder}; free some space, or {_elsewhere(name)}"
            )
        if not os.access(above, os.W_OK):
            notes.append(f"{above} is not writable, where {name} should be; change its rights, or {_elsewhere(name)}")
    columns = (Column("item", "machine"), Column("value", "found"), Column("number", kind="number"))
    return Part("machine", make_table("Machine", columns, rows), tuple(notes))


def packages() -> Part:
    """This package, Python, torch and the optional packages."""
    state = git_state()
    changed = " with changed files" if state.dirty else ""
    commit = f"commit {state.commit[:10]}{changed}" if state.commit else "installed package"
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    rows: list[Row] = [
        {"package": "mmrs-bench", "version": __version__, "state": commit},
        {"package": "Python", "version": platform.python_version(), "state": sys.prefix},
        {"package": "torch", "version": torch.__version__, "state": build},
        {"package": "lightning", "version": _version("lightning"), "state": None},
    ]
    state_of_torchvision, notes = _torchvision()
    rows.append({"package": "torchvision", "version": _version("torchvision"), "state": state_of_torchvision})
    for package, extra in EXTRAS.items():
        name = package.replace("_", "-")
        found = find_spec(package) is not None
        command = f"absent; {install_command(extra)}"
        rows.append({"package": name, "version": _version(name), "state": f"extra {extra}" if found else command})
    columns = (Column("package", "package", fixed=True), Column("version", "version"), Column("state", "state"))
    return Part("packages", make_table("Packages", columns, rows), tuple(notes))


def devices() -> Part:
    """The CPU and the CUDA devices."""
    rows: list[Row] = [
        {
            "device": "cpu",
            "name": processor(),
            "bf16": _cpu_bf16(),
            "scan": scan_backend("cpu"),
        }
    ]
    rows += list(_cuda_rows())
    columns = (
        Column("device", "device", fixed=True),
        Column("name", "name"),
        Column("memory", "free memory"),
        Column("driver", "driver"),
        Column("bf16", "bfloat16"),
        Column("scan", "selective scan"),
    )
    return Part("devices", make_table("Devices", columns, rows), tuple(_device_notes()))


def _cuda_rows() -> Iterator[Row]:
    driver = _driver()
    for number in range(torch.cuda.device_count()):
        properties: Any = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        hardware = properties.major >= 8  # older ones emulate it
        yield {
            "device": f"cuda:{number}",
            "name": f"{properties.name}, capability {properties.major}.{properties.minor}",
            "memory": f"{size_text(free)} of {size_text(total)}",
            "driver": driver,
            "bf16": "in hardware" if hardware else "emulated: slow",
            "scan": scan_backend("cuda"),
        }


def _device_notes() -> Iterator[str]:
    if scan_backend("cpu") == "torch":
        yield f"selective scans on the CPU are slow without numba; install it with: {install_command('fast')}"
    if not torch.cuda.is_available():
        if _DRIVER.exists() and torch.version.cuda is None:
            yield "there is an NVIDIA driver, but torch is built without CUDA; install a CUDA build of torch"
        elif torch.version.cuda is not None:
            yield (
                "torch is built for CUDA, but finds no device; check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES"
            )
        return
    if scan_backend("cuda") == "torch":
        command = install_command("cuda")
        if find_spec("mamba_ssm") is None:
            yield f"selective scans on CUDA are slow without mamba-ssm; install it with: {command}"
        else:
            yield f"mamba-ssm cannot be imported, so selective scans on CUDA are slow; install it again with: {command}"


def _torchvision() -> tuple[str | None, list[str]]:
    """How torchvision fits torch, and what to do about it."""
    if find_spec("torchvision") is None:
        return "absent; not needed", []
    try:
        import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:
        return f"cannot be imported: {error}", [
            f"torchvision cannot be imported ({error}); uninstall it, or install the version for torch "
            f"{torch.__version__}"
        ]
    if not guard.mismatched():
        return "matches torch", []
    if guard.startup_file(Path(sysconfig.get_path("purelib"))).is_file():
        return "built for CUDA, unlike torch; made to work at each start of Python", []
    return "built for CUDA, unlike torch; works because mmrs_bench is imported first", [
        "torchvision is built for CUDA and torch is not: import mmrs_bench before lightning, or run make setup"
    ]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _elsewhere(name: str) -> str:
    return {
        "cache": "choose another folder with MMRS_BENCH_CACHE",
        "results": "choose another folder with --results",
    }.get(name, "choose another folder with TMPDIR")


def _proc(path: str, pattern: str) -> str | None:
    """The first group of a pattern in a file of Linux; None if there is no such file or text."""
    file = Path(path)
    found = re.search(pattern, file.read_text(errors="replace"), re.MULTILINE) if file.is_file() else None
    return found[1] if found else None


def processor() -> str:
    """Name of the processor."""
    return _proc("/proc/cpuinfo", r"^model name\s*:\s*(.+)$") or platform.processor() or platform.machine()


def _cpu_bf16() -> str:
    flags = (_proc("/proc/cpuinfo", r"^flags\s*:\s*(.+)$") or "").split()
    return next((f"in hardware ({flag})" for flag in ("amx_bf16", "avx512_bf16") if flag in flags), "emulated: slow")


def _driver() -> str | None:
    return _proc(str(_DRIVER), r"Kernel Module\D*?(\d+\.[\d.]+)")


def _free_memory() -> int | None:
    """Bytes of memory that this process can still use; None where the system does not say."""
    available = _proc("/proc/meminfo", r"^MemAvailable:\s*(\d+) kB")
    limit = _proc("/sys/fs/cgroup/memory.max", r"^(\d+)$")
    used = _proc("/sys/fs/cgroup/memory.current", r"^(\d+)$")
    free = [1024 * int(available)] if available else []
    if limit and used:
        free.append(max(0, int(limit) - int(used)))
    return min(free, default=None)
