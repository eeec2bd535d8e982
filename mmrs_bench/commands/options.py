"""Conversion of command-line options that several commands have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell, Suite
from mmrs_bench.evaluation.run.session import run_cells, worker_count


def make_suite(options: dict[str, Any]) -> Suite:
    """Create a suite from options by name."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
    return Suite(**values)


def make_execution(device: str, precision: str) -> ExecutionConfig:
    """Create the execution settings from options."""
    return ExecutionConfig.model_validate({"device": device, "precision": precision})


def parse_options(texts: Iterable[str]) -> dict[str, str]:
    """Convert ``NAME=VALUE`` texts to a dictionary; a `ConfigError` names a text without ``=``."""
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ConfigError(f"executor option {text!r}: write it as NAME=VALUE, e.g. slurm_partition=gpu")
        options[name] = value
    return options


def compute(
    cells: Sequence[Cell],
    results: Path,
    *,
    workers: int | None,
    device: str,
    precision: str,
    executor_options: Iterable[str],
    **options: Any,
) -> int:
    """Call `run_cells` with the execution options of the command line."""
    return run_cells(
        cells,
        results,
        make_execution(device, precision),
        workers=worker_count(workers, device),
        executor_options=parse_options(executor_options),
        **options,
    )
