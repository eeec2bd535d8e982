"""Provenance of a result: code commit, library versions, host, memory, time."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from mmrs_bench.evaluation.results.schema import Measured, Provenance
from mmrs_bench.paths import CHECKOUT

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

#: Folders of a checkout in which a new file can change a number.
_CODE = ("mmrs_bench", "benchmarks/methods", "data_manifests")

_GIT_SECONDS = 20.0
#: Variables that let git read another repository than that of the folder; set inside git hooks, for example.
_GIT_VARIABLES = {"GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"}


class GitState(NamedTuple):
    """Commit of a checkout and whether its files differ from it; both None outside a checkout."""

    commit: str | None
    dirty: bool | None


def git_state(folder: Path | None = CHECKOUT) -> GitState:
    """State of the checkout whose top folder is ``folder``.

    Changed files count as dirty, and so do new ones among code, cards and manifests that git does not ignore. New
    files elsewhere, such as results, do not.

    An installed package (``folder`` None) has no state, whatever repository contains it or the current folder.
    """
    if folder is None:
        return GitState(None, None)
    top = _git(folder, "rev-parse", "--show-toplevel")
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    new = _git(folder, "ls-files", "--others", "--exclude-standard", "--", *_CODE)
    # The commit of a repository that only contains the folder does not describe this code.
    if top is None or commit is None or changed is None or new is None or Path(top).resolve() != folder.resolve():
        return GitState(None, None)
    return GitState(commit, bool(changed or new))


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command; None if git is not installed, fails or takes too long."""
    # Without optional locks, reading the state cannot block a git command that runs at the same time.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    own = {name: value for name, value in os.environ.items() if name not in _GIT_VARIABLES}
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True, env=own
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def package_versions() -> dict[str, str]:
    """Versions of the installed packages in `PACKAGES`, read from metadata without importing them."""
    versions = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


@cache
def provenance() -> Provenance:
    """Provenance of results of this process; determined once, so that all its records agree."""
    state = git_state()
    return Provenance(
        commit=state.commit, dirty=state.dirty, python=platform.python_version(), packages=package_versions()
    )


def utc_now() -> str:
    """The current UTC time in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def peak_memory_mib() -> float:
    """Peak resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # On Linux, getrusage in a worker would report the peak of its parent process.
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS reports bytes


def measured(seconds: Mapping[str, float], pretraining: Mapping[str, float | None] | None = None) -> Measured:
    """The seconds of a cell's stages and of its pretraining, with the current peak memory, host and time."""
    return Measured(
        seconds=dict(seconds),
        pretraining=None if pretraining is None else dict(pretraining),
        peak_memory_mib=round(peak_memory_mib(), 1),
        host=platform.node(),
        finished_at=utc_now(),
    )
