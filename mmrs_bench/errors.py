"""Errors that a user can fix.

A message states what is wrong, what is expected and what to do. The command line prints it as one line and exits with
2; any other exception is a bug of the package and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Base class: an error in input, files or settings."""


class ConfigError(BenchError):
    """A setting, an argument or a config file is invalid."""


class ManifestError(BenchError):
    """A manifest is invalid."""


class DataError(BenchError):
    """A data file is missing, corrupt, or differs from its manifest."""


class FetchError(DataError):
    """A data file cannot be downloaded; the message contains the address, hash, size and destination."""


class SplitError(BenchError):
    """The scene has no split with these shots, window or protocol."""


class RecordError(BenchError):
    """A record is corrupt, has another schema, or cannot be written."""


class TrainingError(BenchError):
    """A training failed, for example with a NaN loss."""


class Deferred(Exception):  # noqa: N818 - a signal, not an error
    """A cell needs a result that another process is computing; its worker should run other cells first."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """A `ConfigError` for an unknown name, with the nearest ``known`` names; ``kind`` is for example ``"method"``."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return ConfigError(f"unknown {kind} {name!r}: {hint}Known: {', '.join(names) or 'none'}.")
