"""All parts of the diagnosis in order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.doctor import machine, selftest
from mmrs_bench.doctor.files import files
from mmrs_bench.doctor.part import Part, make_table
from mmrs_bench.doctor.timing import time_paths
from mmrs_bench.errors import BenchError
from mmrs_bench.texts import one_line


def diagnose(device: str, results: Path, *, timing: bool = True) -> Iterator[Part]:
    """Examine the machine; each part is yielded when it is finished.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``, for self-tests and times.
        results: Folder of the records.
        timing: Whether to time the hot paths.

    Raises:
        ConfigError: If the device is not available.
    """
    place = ExecutionConfig.of(device=device).resolved().device
    yield machine.machine(place, results)
    yield machine.packages()
    yield machine.devices()
    yield _found("files", files)
    with tempfile.TemporaryDirectory() as folder:
        yield selftest.check_modules(place, Path(folder))
        yield selftest.check_kernels(place)
        if timing:
            yield _found("timing", lambda: time_paths(place, Path(folder)))


def _found(name: str, run: Callable[[], Part]) -> Part:
    """The part; an exception is a failure of it."""
    try:
        return run()
    except Exception as error:  # noqa: BLE001 - a defect in one part must not hide the others
        fault = str(error) if isinstance(error, BenchError) else one_line(f"{type(error).__name__}: {error}")
        return Part(name, make_table(name.capitalize(), (), ()), failures=(f"{name}: {fault}",))


def plain(parts: Sequence[Part]) -> dict[str, Any]:
    """The diagnosis as plain data, for JSON."""
    return {
        **{part.name: part.table.plain_rows() for part in parts},
        "notes": [note for part in parts for note in part.notes],
        "failures": [failure for part in parts for failure in part.failures],
    }
