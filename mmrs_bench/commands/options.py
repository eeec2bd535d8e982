"""Conversion of command-line options that several commands have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell, Suite
from mmrs_bench.evaluation.run.session import check_and_run
from mmrs_bench.reading import parse_yaml

#: Values that are no texts: numbers, booleans, null. YAML itself would also convert ``on`` and ``1:30``.
_PLAIN_VALUE = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?|true|false|null")


def make_suite(options: dict[str, Any]) -> Suite:
    """Create a suite from options by name."""
    return Suite.of(options)


def make_execution(device: str, precision: str, **options: Any) -> ExecutionConfig:
    """Create the execution settings from options."""
    return ExecutionConfig.of(device=device, precision=precision, **options)


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """Convert ``NAME=VALUE`` texts to a dictionary.

    A value that begins with ``[``, ``{`` or a quote is YAML, for example ``slurm_setup=["module load cuda"]``. Numbers
    and ``true``, ``false`` and ``null`` are converted; every other value is a text, also ``1:30:00`` and ``on``.

    Raises:
        ConfigError: If a text has no ``=``, a name is given twice, or a value is not valid YAML.
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ConfigError(f"executor option {text!r}: write it as NAME=VALUE, e.g. slurm_partition=gpu")
        if name in options:
            raise ConfigError(f"executor option {name} is given twice; keep one")
        options[name] = _option_value(name, value.strip())
    return options


def _option_value(name: str, text: str) -> Any:
    if text.startswith(("[", "{", "'", '"')) or _PLAIN_VALUE.fullmatch(text):
        return parse_yaml(
            text,
            where=f"executor option {name}",
            error=ConfigError,
            advice=f"write e.g. {name}=2, {name}=1.5, {name}='[\"one\", \"two\"]' or {name}='{{name: value}}'",
        )
    return text


def compute(
    cells: Sequence[Cell],
    results: Path,
    *,
    device: str,
    precision: str,
    executor_options: Iterable[str],
    training: Mapping[str, Any] | None = None,
    **options: Any,
) -> int:
    """Call `check_and_run` with the execution options of the command line; ``training`` are those of long trainings."""
    execution, settings = make_execution(device, precision, **(training or {})), parse_options(executor_options)
    return check_and_run(cells, results, execution, executor_options=settings, **options)
