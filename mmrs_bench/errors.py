"""Errors a user can act on.

Each message says what was wrong, what was expected and what to do, in that order. The command line prints it
as one line and exits with 2; anything that is not a `BenchError` is a defect of the suite and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Base of all errors caused by input, files or settings rather than by the suite itself."""


class ConfigError(BenchError):
    """A setting, an argument or a config file asks for something that cannot be done."""


class ManifestError(BenchError):
    """A manifest does not describe a scene; the message names file, field and fix."""


class DataError(BenchError):
    """A data file is missing, corrupt, or disagrees with its manifest."""


class FetchError(DataError):
    """A data file could not be fetched; the message gives address, hash, size and where to put it by hand."""


class SplitError(BenchError):
    """A split with the asked-for shots, window or protocol does not exist on this scene."""


class RecordError(BenchError):
    """A record of results is corrupt, of another schema, or could not be written."""


class TrainingError(BenchError):
    """A training produced something that is not a result (a NaN loss, say)."""


class Deferred(Exception):  # noqa: N818 - no error: nothing is wrong
    """A cell would have to wait for what another process computes, and its worker has other cells to do first."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """An error for a name that is not registered, with the nearest known names.

    Args:
        kind: What the name stands for (``"method"``, ``"dataset"``).
        name: The name as given.
        known: All names that would have been accepted.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return ConfigError(f"unknown {kind} {name!r}: {hint}Known: {', '.join(names) or 'none'}.")
