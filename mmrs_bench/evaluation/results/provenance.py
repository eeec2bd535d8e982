"""Where a number comes from: code commit, library versions, machine, memory, time."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from mmrs_bench.evaluation.results.schema import Measured, Provenance
from mmrs_bench.paths import REPOSITORY

#: Packages whose release can change a number.
PACKAGES = (
    "diffusers",
    "lightning",
    "mamba-ssm",
    "numba",
    "numpy",
    "open_clip_torch",
    "peft",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "torch",
    "torchmetrics",
)

_GIT_SECONDS = 20.0


class GitState(NamedTuple):
    """Commit of a checkout and whether its files differ from it; both None outside a checkout."""

    commit: str | None
    dirty: bool | None


def git_state(folder: Path = REPOSITORY) -> GitState:
    """State of the checkout whose top folder is ``folder``; untracked files that are not ignored count as dirty.

    An installation inside somebody else's repository is not a checkout of the suite: the commit of a folder above
    would say nothing about this code.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain")
    if top is None or commit is None or status is None or Path(top).resolve() != folder.resolve():
        return GitState(None, None)
    return GitState(commit, bool(status))


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command, None if git is absent, slow or refuses (no checkout)."""
    git = shutil.which("git")
    if git is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603
            [git, "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
            # Reading the state must not take the index lock of a checkout that somebody works in.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def package_versions() -> dict[str, str]:
    """Versions of the installed ones among `PACKAGES`, read from metadata: nothing is imported."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


@cache
def provenance() -> Provenance:
    """What produces numbers in this process; gathered once, so that all its records agree."""
    state = git_state()
    return Provenance(
        commit=state.commit, dirty=state.dirty, python=platform.python_version(), packages=package_versions()
    )


def utc_now() -> str:
    """The time now, UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def peak_memory_mib() -> float:
    """Highest resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: Linux hands its figure down to children, so a worker would report its parent's peak.
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS reports bytes


def measured(seconds: Mapping[str, float]) -> Measured:
    """The clock readings of a cell with memory, host and time as they are now."""
    return Measured(
        seconds=dict(seconds),
        peak_memory_mib=round(peak_memory_mib(), 1),
        host=platform.node(),
        finished_at=utc_now(),
    )
