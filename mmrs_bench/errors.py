"""Errors that a user can fix.

A message states what is wrong, what is expected and what to do. The command line prints it as one line and exits with
2; any other exception is a bug of the package and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from mmrs_bench.texts import one_line


class BenchError(Exception):
    """Base class: an error in input, files or settings. Its text is one line without control characters."""

    def __str__(self) -> str:
        return one_line(super().__str__())


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


class NotPretrainedError(BenchError):
    """The cache has no such pretraining."""


class RunError(BenchError):
    """Cells of a run failed."""


class PreflightError(BenchError):
    """A run cannot start; ``faults`` has one line per reason."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class Deferred(Exception):  # noqa: N818 - a signal, not an error
    """A cell needs a result that another process is computing; its worker should run other cells first."""


def unknown_name(kind: str, name: str, known: Iterable[str], *, advice: str = "") -> ConfigError:
    """A `ConfigError` for an unknown name that suggests the nearest known ones.

    Args:
        kind: What the name stands for, for example ``"method"``.
        name: What the user gave.
        known: All names; a mapping from name to title also finds names by the words of their titles.
        advice: A sentence about what else the user can give.
    """
    names = sorted(known)
    titles = {key: text for key, text in known.items() if isinstance(text, str)} if isinstance(known, Mapping) else {}
    parts = name.replace(",", " ").split()
    if "," in name and any(part in names for part in parts):
        hint = f": separate names by blanks: {' '.join(parts)}."
    else:
        near = nearest(name, names, titles)
        hint = f": did you mean {' or '.join(near)}?" if near else "."
    further = f" {advice}" if advice else ""
    return ConfigError(f"unknown {kind} {name!r}{hint}{further} Known: {', '.join(names) or 'none'}.")


def nearest(name: str, names: Iterable[str], titles: Mapping[str, str] | None = None) -> list[str]:
    """Up to three names that are similar to a name, the most similar first.

    Similar are names with a few other letters, names that contain the given one or are contained in it, abbreviations
    (``rf`` for ``random-forest``), and names whose title has similar words.
    """
    scores = {known: _similarity(name, known, (titles or {}).get(known, "")) for known in names}
    best = sorted((known for known, score in scores.items() if score), key=lambda known: (-scores[known], known))
    if best and scores[best[0]] >= _CERTAIN:
        least = 1.0 if scores[best[0]] == 1.0 else _CERTAIN
        best = [known for known in best if scores[known] >= least]
    return best[:3]


#: Similarity from which less similar names are not suggested.
_CERTAIN = 0.85
#: Smallest ratio of common letters of similar names.
_SIMILAR = 0.6


def _similarity(name: str, known: str, title: str) -> float:
    given, other = _letters(name), _letters(known)
    if not given or not other:
        return 0.0
    if given == other:
        return 1.0
    words = [_letters(word) for word in re.split(r"[^\w]+", title) if _letters(word)]
    ratio = difflib.SequenceMatcher(None, given, other).ratio()
    if ratio >= _CERTAIN or other == "".join(word[0] for word in re.split(r"[\W_]+", name.lower()) if word):
        return max(ratio, 0.95)
    if len(given) > 2 and given in other:
        return 0.88
    # Runs of words of the title, written as one: the first run counts more, so that plain variants come first.
    runs = [(first, "".join(words[first:last])) for first in range(len(words)) for last in range(first + 1, first + 4)]
    for first, run in runs:
        if len(given) > 2 and difflib.SequenceMatcher(None, given, run).ratio() >= _CERTAIN:
            return (0.9 if first == 0 else _CERTAIN) + 0.01 / len(other)
    if len(other) > 2 and other in given:
        return 0.7
    return ratio if ratio >= _SIMILAR else 0.0


def _letters(text: str) -> str:
    """Lower-case letters and digits only."""
    return re.sub(r"[\W_]+", "", text.lower())
