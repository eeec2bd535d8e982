"""Command-line options that several commands share, as values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Suite


def make_suite(options: dict[str, Any]) -> Suite:
    """The suite that command-line options describe."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
    return Suite(**values)


def parse_options(texts: Iterable[str]) -> dict[str, str]:
    """``NAME=VALUE`` texts as a dictionary.

    Raises:
        ConfigError: If a text has no ``=``.
    """
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ConfigError(f"executor option {text!r}: write it as NAME=VALUE, e.g. slurm_partition=gpu")
        options[name] = value
    return options
